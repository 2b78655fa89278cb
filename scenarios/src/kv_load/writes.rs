//! Writes by the numbers that they were acknowledged with: one count, that never goes back.

use super::look::Held;
use ft_protocol::Time;
use std::collections::BTreeMap;

/// A write that the guest said is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcknowledgedWrite {
    /// On which key.
    pub key: String,
    /// The new value; `None`: it was removed.
    pub value: Option<String>,
    /// The number that the guest gave it.
    pub version: u64,
    /// When it was asked for.
    pub invoked: Time,
    /// When it was acknowledged.
    pub returned: Time,
}

/// What is wrong with the numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteViolation {
    /// One number for two writes: the first of them was forgotten.
    #[error("write {version} was acknowledged twice, for `{first}` and `{second}`")]
    Twice {
        /// The number.
        version: u64,
        /// The key of one.
        first: String,
        /// The key of the other.
        second: String,
    },
    /// A write that was invoked after another was acknowledged has a smaller number.
    #[error("write {later} of `{key}` was asked for after write {earlier} was acknowledged")]
    Order {
        /// The number that was acknowledged before.
        earlier: u64,
        /// The number that came after.
        later: u64,
        /// Its key.
        key: String,
    },
    /// A write has a number that another one had before all this.
    #[error("write {version} of `{key}` was acknowledged behind {counted_before} earlier writes")]
    Old {
        /// Writes that the store had counted before.
        counted_before: u64,
        /// The number.
        version: u64,
        /// Its key.
        key: String,
    },
    /// The store counts other writes than were acknowledged or may have happened.
    #[error(
        "the store counts {counted} more writes; {acknowledged} were acknowledged, {unanswered} more may have happened"
    )]
    Count {
        /// What the store says: how many more than before.
        counted: u64,
        /// Acknowledged ones.
        acknowledged: u64,
        /// Those without an answer.
        unanswered: u64,
    },
    /// A key does not have what was written to it last.
    #[error("`{key}` has {found:?}, but write {version} of {expected:?} was acknowledged")]
    Lost {
        /// The key.
        key: String,
        /// The number of the last acknowledged write.
        version: u64,
        /// What that wrote.
        expected: Option<String>,
        /// What is there.
        found: Option<(u64, String)>,
    },
    /// A key that nobody wrote to does not have what it had before.
    #[error("`{key}` had {before:?} before, and has {found:?} though nobody wrote to it")]
    Changed {
        /// The key.
        key: String,
        /// What was there.
        before: Option<(u64, String)>,
        /// What is there.
        found: Option<(u64, String)>,
    },
}

/// A store before writes and after them.
pub(super) struct Store<'a> {
    /// How many writes it had counted before.
    pub(super) counted_before: u64,
    /// What every key had.
    pub(super) before: &'a Held,
    /// How many it has counted in the end.
    pub(super) counted: u64,
    /// What every key has then.
    pub(super) finally: &'a Held,
}

/// Checks the writes to a store against what it holds in the end, and against what it held and counted before them.
pub(super) fn check(writes: &[AcknowledgedWrite], store: &Store<'_>, unanswered: u64) -> Result<(), WriteViolation> {
    let Store { counted_before, counted, finally, .. } = *store;
    let mut by_version: Vec<&AcknowledgedWrite> = writes.iter().collect();
    by_version.sort_by_key(|write| write.version);
    if let Some(pair) = by_version.windows(2).find(|pair| pair[0].version == pair[1].version) {
        let (first, second) = (pair[0].key.clone(), pair[1].key.clone());
        return Err(WriteViolation::Twice { version: pair[0].version, first, second });
    }
    check_order(&by_version)?;
    if let Some(write) = by_version.first().filter(|write| write.version <= counted_before) {
        let (key, version) = (write.key.clone(), write.version);
        return Err(WriteViolation::Old { counted_before, version, key });
    }
    let acknowledged = writes.len() as u64;
    // Behind the last number: the count never goes back.
    let last = by_version.last().map_or(counted_before, |write| write.version);
    let more = counted.saturating_sub(counted_before);
    if counted < last || more < acknowledged || more > acknowledged + unanswered {
        let counted = more;
        return Err(WriteViolation::Count { counted, acknowledged, unanswered });
    }
    let last_of_key: BTreeMap<&str, &AcknowledgedWrite> =
        by_version.iter().map(|write| (write.key.as_str(), *write)).collect();
    last_of_key.values().try_for_each(|write| check_finally(write, finally, unanswered))?;
    let untouched = finally.keys().filter(|key| !last_of_key.contains_key(key.as_str()));
    untouched.into_iter().try_for_each(|key| check_untouched(key, store, unanswered))
}

/// A key without an acknowledged write has what it had, or what a write without an answer has made of it.
fn check_untouched(key: &str, store: &Store<'_>, unanswered: u64) -> Result<(), WriteViolation> {
    let of = |held: &Held| held.get(key).cloned().flatten();
    let (before, found) = (of(store.before), of(store.finally));
    let is_newer = found.as_ref().is_none_or(|(version, _)| *version > store.counted_before);
    if before == found || unanswered > 0 && is_newer {
        return Ok(());
    }
    Err(WriteViolation::Changed { key: key.to_owned(), before, found })
}

/// Numbers follow the order in which writes happened, as far as anybody outside can tell.
fn check_order(by_version: &[&AcknowledgedWrite]) -> Result<(), WriteViolation> {
    // From the last number down: the earliest acknowledgement among the larger numbers.
    let mut earliest: Option<&AcknowledgedWrite> = None;
    for write in by_version.iter().rev() {
        if let Some(larger) = earliest
            && larger.returned < write.invoked
        {
            let (earlier, later) = (larger.version, write.version);
            return Err(WriteViolation::Order { earlier, later, key: write.key.clone() });
        }
        if earliest.is_none_or(|larger| write.returned < larger.returned) {
            earliest = Some(write);
        }
    }
    Ok(())
}

fn check_finally(write: &AcknowledgedWrite, finally: &Held, unanswered: u64) -> Result<(), WriteViolation> {
    let found = finally.get(&write.key).cloned().flatten();
    let fits = match (&found, &write.value) {
        (Some((version, value)), Some(expected)) if *version == write.version => value == expected,
        // Something later, which can only be a write without an answer.
        (Some((version, _)), _) => *version > write.version && unanswered > 0,
        (None, None) => true,
        (None, Some(_)) => unanswered > 0,
    };
    if fits {
        return Ok(());
    }
    let (key, version, expected) = (write.key.clone(), write.version, write.value.clone());
    Err(WriteViolation::Lost { key, version, expected, found })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &str, value: Option<&str>, version: u64, (invoked, returned): (u64, u64)) -> AcknowledgedWrite {
        let at = Time::from_ns;
        let (key, value) = (key.to_owned(), value.map(str::to_owned));
        AcknowledgedWrite { key, value, version, invoked: at(invoked), returned: at(returned) }
    }

    fn held(entries: &[(&str, Option<(u64, &str)>)]) -> Held {
        let own = |held: (u64, &str)| (held.0, held.1.to_owned());
        entries.iter().map(|(key, held)| ((*key).to_owned(), held.map(own))).collect()
    }

    /// The writes to an empty store, or to one of which only the count is known.
    fn checked(
        writes: &[AcknowledgedWrite],
        finally: &Held,
        (counted_before, counted): (u64, u64),
        unanswered: u64,
    ) -> Result<(), WriteViolation> {
        check(writes, &Store { counted_before, before: &Held::new(), counted, finally }, unanswered)
    }

    /// What the store counts is wrong, and by how many writes it says that it has grown.
    fn miscounted(result: Result<(), WriteViolation>) -> Option<u64> {
        match result {
            Err(WriteViolation::Count { counted, .. }) => Some(counted),
            _ => None,
        }
    }

    #[test]
    fn a_store_that_lost_nothing_passes() {
        let writes = [
            write("a", Some("1"), 1, (0, 10)),
            write("b", Some("2"), 3, (5, 30)),
            write("a", None, 2, (6, 31)),
            write("b", Some("3"), 4, (40, 50)),
        ];
        let finally = held(&[("a", None), ("b", Some((4, "3")))]);
        assert_eq!(checked(&writes, &finally, (0, 4), 0), Ok(()));
        // One more without an answer, that happened.
        let finally = held(&[("a", Some((5, "9"))), ("b", Some((4, "3")))]);
        assert_eq!(checked(&writes, &finally, (0, 5), 1), Ok(()));
    }

    /// Two writes, one after the other, into a store that had so many before; and what it holds then.
    fn two_writes_behind(before: u64) -> ([AcknowledgedWrite; 2], Held) {
        let (a, b) = (before + 1, before + 2);
        let writes = [write("a", Some("1"), a, (0, 10)), write("b", Some("2"), b, (20, 30))];
        (writes, held(&[("a", Some((a, "1"))), ("b", Some((b, "2")))]))
    }

    #[test]
    fn every_kind_of_loss_is_found() {
        let (writes, whole) = two_writes_behind(0);
        assert_eq!(checked(&writes, &whole, (0, 2), 0), Ok(()));
        for (counted, unanswered) in [(1, 0), (4, 1)] {
            assert_eq!(miscounted(checked(&writes, &whole, (0, counted), unanswered)), Some(counted));
        }
        for b in [None, Some((1, "2")), Some((2, "1")), Some((3, "2"))] {
            let finally = held(&[("a", Some((1, "1"))), ("b", b)]);
            let found = checked(&writes, &finally, (0, 2), 0);
            assert!(matches!(found, Err(WriteViolation::Lost { version: 2, .. })), "{b:?}: {found:?}");
        }
        let twice = [writes[0].clone(), write("b", Some("2"), 1, (20, 30))];
        assert!(matches!(checked(&twice, &whole, (0, 2), 0), Err(WriteViolation::Twice { version: 1, .. })));
        // The later write has the smaller number: the count went back.
        let back = [write("a", Some("1"), 7, (0, 10)), write("b", Some("2"), 6, (20, 30))];
        assert!(matches!(checked(&back, &whole, (0, 7), 9), Err(WriteViolation::Order { earlier: 7, later: 6, .. })));
    }

    #[test]
    fn what_was_written_before_does_not_count() {
        let (writes, finally) = two_writes_behind(7);
        assert_eq!(checked(&writes, &finally, (7, 9), 0), Ok(()));
        for (counted, unanswered, more) in [(10, 0, 3), (8, 1, 1)] {
            assert_eq!(miscounted(checked(&writes, &finally, (7, counted), unanswered)), Some(more));
        }
        assert_eq!(miscounted(checked(&[], &held(&[]), (7, 6), 9)), Some(0));
        assert!(matches!(checked(&writes, &finally, (8, 9), 9), Err(WriteViolation::Old { version: 8, .. })));
    }

    /// A key that only an earlier load had written was gone in the end, and nobody looked.
    #[test]
    fn what_was_written_before_is_still_there() {
        let (writes, _) = two_writes_behind(7);
        let written = |c| held(&[("a", Some((8, "1"))), ("b", Some((9, "2"))), ("c", c)]);
        let before = |c| held(&[("a", Some((3, "0"))), ("c", c)]);
        let found = |c, then, unanswered| {
            let (before, finally) = (before(c), written(then));
            let store = Store { counted_before: 7, before: &before, counted: 9, finally: &finally };
            check(&writes, &store, unanswered)
        };
        let (old, older) = (Some((5, "old")), Some((4, "older")));
        assert_eq!(found(old, old, 0), Ok(()));
        assert_eq!(found(None, None, 0), Ok(()));
        for (c, then) in [(old, None), (old, older), (old, Some((5, "else"))), (None, older), (old, Some((9, "new")))] {
            let found = found(c, then, 0);
            assert!(matches!(found, Err(WriteViolation::Changed { .. })), "{c:?}, {then:?}: {found:?}");
        }
        // Without an answer it may have been removed or written to, but not have become older.
        assert_eq!(found(old, None, 1), Ok(()));
        assert_eq!(found(old, Some((9, "new")), 1), Ok(()));
        assert!(matches!(found(old, older, 1), Err(WriteViolation::Changed { .. })));
    }
}
