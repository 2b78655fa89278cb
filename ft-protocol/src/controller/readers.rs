//! Lossless readers of a console: what they have read, and what is kept for those that are away for a while.
//!
//! A reader is away when its connection has closed, when the controller that knew it has died, and before it has attached
//! to a VM that was just made. Until it is back, or [`READER_GRACE`] is over, nothing that it may not have read yet is
//! overwritten: otherwise a broken connection would cost it bytes that the guest has printed (I4).

use crate::ids::LinkId;
use crate::time::{Span, Time};
use std::collections::BTreeMap;

/// How long a console is kept for a reader that is away. Long enough to start a controller again, short enough that a VM
/// whose reader is gone for good does not wait like a dead one.
pub const READER_GRACE: Span = Span::from_ms(3_000);

/// A reader that is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Away {
    position: u64,
    since: Time,
}

/// The readers of one console.
#[derive(Debug, Default)]
pub(super) struct Readers {
    attached: BTreeMap<LinkId, u64>,
    away: Vec<Away>,
}

impl Readers {
    /// As many readers as an earlier controller knew, or as are to come; how much they have read is not known.
    pub(super) fn expected(count: u16, now: Time) -> Self {
        let away = (0..count).map(|_| Away { position: 0, since: now }).collect();
        Self { attached: BTreeMap::new(), away }
    }

    /// A reader is here. What it has read it will say; until then nothing is overwritten, so whoever it was that came
    /// back, it is safe to forget the one that has read most.
    pub(super) fn attach(&mut self, link: LinkId) {
        self.attached.insert(link, 0);
        if let Some((index, _)) = self.away.iter().enumerate().max_by_key(|(_, away)| away.position) {
            self.away.swap_remove(index);
        }
    }

    /// A reader says how far it is; `false` when it is none.
    pub(super) fn consumed(&mut self, link: LinkId, position: u64, console_end: u64) -> bool {
        let Some(consumed) = self.attached.get_mut(&link) else { return false };
        *consumed = position.clamp(*consumed, console_end);
        true
    }

    /// A connection closed; says whether it was a reader's.
    pub(super) fn leave(&mut self, link: LinkId, now: Time) -> bool {
        let Some(position) = self.attached.remove(&link) else { return false };
        self.away.push(Away { position, since: now });
        true
    }

    /// Gives up on readers that were away for too long; says whether there were any.
    pub(super) fn give_up(&mut self, now: Time) -> bool {
        let before = self.away.len();
        self.away.retain(|away| now.since(away.since) <= READER_GRACE);
        self.away.len() < before
    }

    /// Connections of those that are here.
    pub(super) fn links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.attached.keys().copied()
    }

    /// The position of the slowest; `None` without any.
    pub(super) fn floor(&self) -> Option<u64> {
        self.attached.values().copied().chain(self.away.iter().map(|away| away.position)).min()
    }

    /// How many there are, here and away.
    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.attached.len() + self.away.len()).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: LinkId = LinkId::new(1);
    const SECOND: LinkId = LinkId::new(2);

    #[test]
    fn a_reader_that_is_away_keeps_its_place_for_a_while() {
        let mut readers = Readers::expected(1, Time::ZERO);
        assert_eq!(readers.floor(), Some(0), "nothing is lost before it attaches");
        readers.attach(FIRST);
        assert!(readers.consumed(FIRST, 70, 100));
        assert_eq!((readers.floor(), readers.count()), (Some(70), 1));
        assert!(readers.leave(FIRST, Time::ZERO));
        assert_eq!((readers.floor(), readers.count()), (Some(70), 1));
        assert!(!readers.give_up(Time::ZERO + READER_GRACE));
        assert!(readers.give_up(Time::ZERO + READER_GRACE + Span::from_ns(1)));
        assert_eq!((readers.floor(), readers.count()), (None, 0));
    }

    #[test]
    fn of_two_that_are_away_the_slower_one_loses_nothing() {
        let mut readers = Readers::default();
        for (link, position) in [(FIRST, 50), (SECOND, 90)] {
            readers.attach(link);
            readers.consumed(link, position, 100);
            readers.leave(link, Time::ZERO);
        }
        readers.attach(SECOND);
        readers.consumed(SECOND, 90, 100);
        assert_eq!(readers.floor(), Some(50));
        assert!(!readers.consumed(FIRST, 60, 100), "it is not here");
    }
}
