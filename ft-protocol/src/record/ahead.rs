//! Entries of a growing log that were read ahead, to know how far the primary has come.

use super::cursor::Extent;
use super::entry::{Entry, EntryBody};
use crate::planted::{PlantedBug, planted};
use std::collections::VecDeque;

/// Entries that are read ahead, unless the first of them can only be used when more are known.
const AHEAD_MAX: usize = 256;

/// Entries that are read ahead at most: more than the devices of a sound guest are given at one exit. Of a log that has more,
/// its follower gets no further.
const AHEAD_OF_EXIT_MAX: usize = 1 << 16;

/// The entries.
#[derive(Debug)]
pub struct Ahead {
    entries: VecDeque<Entry<'static>>,
    /// All entries of exits up to this one are known.
    complete_to: u64,
    /// How far the log reaches, once it has ended.
    end: Option<Extent>,
}

impl Ahead {
    /// Behind a commit that was made at this exit.
    #[must_use]
    pub fn new(at_exit: u64) -> Self {
        Self { entries: VecDeque::new(), complete_to: at_exit, end: None }
    }

    /// Whether more are to be read: the guest comes to an exit, and leaves it, when all of that is known, however much it is.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let is_blind = || self.entries.front().is_some_and(|first| self.complete_to <= first.at_exit);
        self.entries.len() < AHEAD_MAX || (self.entries.len() < AHEAD_OF_EXIT_MAX && is_blind())
    }

    /// The next entry was read.
    pub fn push(&mut self, entry: Entry<'static>) {
        let complete_to = match entry.body {
            EntryBody::Mark | EntryBody::Commit(_) => entry.at_exit,
            _ if planted(PlantedBug::HalfExitComplete) => entry.at_exit,
            // More of the same exit may follow.
            _ => entry.at_exit.saturating_sub(1),
        };
        self.complete_to = self.complete_to.max(complete_to);
        self.entries.push_back(entry);
    }

    /// The next entry is to be used.
    pub fn pop(&mut self) -> Option<Entry<'static>> {
        self.entries.pop_front()
    }

    /// The log has ended: nothing is added beyond this.
    pub fn ends(&mut self, end: Extent) {
        self.end = Some(end);
    }

    /// How far the log reaches.
    #[must_use]
    pub fn extent(&self) -> Extent {
        self.end.unwrap_or(Extent::Growing { complete_to: self.complete_to })
    }

    /// Whether all is known that the guest was given at this exit, or was until a commit there that has not been come to.
    #[must_use]
    pub fn knows_all_of(&self, exit: u64) -> bool {
        match self.extent() {
            Extent::Ended { .. } => true,
            Extent::Growing { complete_to } => complete_to > exit || self.has_commit_at(exit),
        }
    }

    /// Whether a commit is known that was made at this exit and has not been come to: what stands before it is all that was
    /// delivered there.
    #[must_use]
    pub fn has_commit_at(&self, exit: u64) -> bool {
        let commit = |entry: &Entry<'_>| entry.at_exit == exit && matches!(entry.body, EntryBody::Commit(_));
        self.entries.iter().any(commit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Generation};
    use crate::record::CommitPoint;

    /// As many packets as the queues of several network devices hold, at the end of one wait.
    #[test]
    fn the_end_of_an_exit_is_looked_for_behind_however_many_entries() {
        let mut ahead = Ahead::new(4);
        let packet =
            |at_exit| Entry { at_exit, digest: 0, body: EntryBody::Packet { nic: 0, frame: b"frame"[..].into() } };
        (0..3 * AHEAD_MAX).for_each(|_| {
            assert!(ahead.has_room(), "nobody knows whether these are all");
            ahead.push(packet(5));
        });
        ahead.push(packet(6));
        assert!(
            !ahead.knows_all_of(5) && ahead.has_room(),
            "the guest cannot leave exit 5 before all of exit 6 is known"
        );
        ahead.push(Entry { at_exit: 6, digest: 0, body: EntryBody::Mark });
        assert!(ahead.knows_all_of(5) && !ahead.has_room());
        (0..2 * AHEAD_MAX + 3).for_each(|_| assert!(ahead.pop().is_some()));
        assert!(ahead.has_room());
        // An exit without end is not kept.
        while ahead.pop().is_some() {}
        let endless = (0..).take_while(|_| {
            ahead.push(packet(7));
            ahead.has_room()
        });
        assert_eq!(endless.count(), AHEAD_OF_EXIT_MAX - 1);
    }

    #[test]
    fn an_exit_is_complete_when_something_says_so() {
        let mut ahead = Ahead::new(4);
        let entry = |at_exit, body| Entry { at_exit, digest: 0, body };
        assert_eq!(ahead.extent(), Extent::Growing { complete_to: 4 });
        ahead.push(entry(6, EntryBody::Clock(1)));
        assert_eq!(ahead.extent(), Extent::Growing { complete_to: 5 });
        ahead.push(entry(6, EntryBody::Mark));
        assert_eq!(ahead.extent(), Extent::Growing { complete_to: 6 });
        let point = CommitPoint { generation: Generation::FIRST, epoch: Epoch::new(2), kicked: false };
        ahead.push(entry(7, EntryBody::Commit(point)));
        assert!(ahead.has_commit_at(7) && !ahead.has_commit_at(6));
        // Behind a mark of exit 8 there may be more of it.
        ahead.push(entry(8, EntryBody::Mark));
        assert_eq!([6, 7, 8].map(|exit| ahead.knows_all_of(exit)), [true, true, false]);
        while ahead.pop().is_some() {}
        assert_eq!([6, 7, 8].map(|exit| ahead.knows_all_of(exit)), [true, true, false]);
        ahead.ends(Extent::Ended { last_exit: Some(7) });
        assert_eq!(ahead.extent(), Extent::Ended { last_exit: Some(7) });
    }
}
