//! Writes by the numbers that they were acknowledged with: one count, that never goes back.

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
}

/// Checks the writes to a store against what it holds in the end, and against what it counted before them and then.
pub(super) fn check(
    writes: &[AcknowledgedWrite],
    finally: &BTreeMap<String, Option<(u64, String)>>,
    (counted_before, counted): (u64, u64),
    unanswered: u64,
) -> Result<(), WriteViolation> {
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
    last_of_key.into_values().try_for_each(|write| check_finally(write, finally, unanswered))
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

fn check_finally(
    write: &AcknowledgedWrite,
    finally: &BTreeMap<String, Option<(u64, String)>>,
    unanswered: u64,
) -> Result<(), WriteViolation> {
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

    fn held(entries: &[(&str, Option<(u64, &str)>)]) -> BTreeMap<String, Option<(u64, String)>> {
        let own = |held: (u64, &str)| (held.0, held.1.to_owned());
        entries.iter().map(|(key, held)| ((*key).to_owned(), held.map(own))).collect()
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
        assert_eq!(check(&writes, &finally, (0, 4), 0), Ok(()));
        // One more without an answer, that happened.
        let finally = held(&[("a", Some((5, "9"))), ("b", Some((4, "3")))]);
        assert_eq!(check(&writes, &finally, (0, 5), 1), Ok(()));
    }

    /// Two writes, one after the other, into a store that had so many before; and what it holds then.
    fn two_writes_behind(before: u64) -> ([AcknowledgedWrite; 2], BTreeMap<String, Option<(u64, String)>>) {
        let (a, b) = (before + 1, before + 2);
        let writes = [write("a", Some("1"), a, (0, 10)), write("b", Some("2"), b, (20, 30))];
        (writes, held(&[("a", Some((a, "1"))), ("b", Some((b, "2")))]))
    }

    #[test]
    fn every_kind_of_loss_is_found() {
        let (writes, whole) = two_writes_behind(0);
        assert_eq!(check(&writes, &whole, (0, 2), 0), Ok(()));
        assert!(matches!(check(&writes, &whole, (0, 1), 0), Err(WriteViolation::Count { counted: 1, .. })));
        assert!(matches!(check(&writes, &whole, (0, 4), 1), Err(WriteViolation::Count { counted: 4, .. })));
        for b in [None, Some((1, "2")), Some((2, "1")), Some((3, "2"))] {
            let finally = held(&[("a", Some((1, "1"))), ("b", b)]);
            assert!(
                matches!(check(&writes, &finally, (0, 2), 0), Err(WriteViolation::Lost { version: 2, .. })),
                "{b:?}"
            );
        }
        let twice = [writes[0].clone(), write("b", Some("2"), 1, (20, 30))];
        assert!(matches!(check(&twice, &whole, (0, 2), 0), Err(WriteViolation::Twice { version: 1, .. })));
        // The later write has the smaller number: the count went back.
        let back = [write("a", Some("1"), 7, (0, 10)), write("b", Some("2"), 6, (20, 30))];
        assert!(matches!(check(&back, &whole, (0, 7), 9), Err(WriteViolation::Order { earlier: 7, later: 6, .. })));
    }

    #[test]
    fn what_was_written_before_does_not_count() {
        let (writes, finally) = two_writes_behind(7);
        assert_eq!(check(&writes, &finally, (7, 9), 0), Ok(()));
        assert!(matches!(check(&writes, &finally, (7, 10), 0), Err(WriteViolation::Count { counted: 3, .. })));
        assert!(matches!(check(&writes, &finally, (7, 8), 1), Err(WriteViolation::Count { counted: 1, .. })));
        assert!(matches!(check(&writes, &finally, (8, 9), 9), Err(WriteViolation::Old { version: 8, .. })));
        assert!(matches!(check(&[], &held(&[]), (7, 6), 9), Err(WriteViolation::Count { counted: 0, .. })));
    }
}
