//! The core of a secondary that follows its primary: what it does where the primary has made a commit, and whether it can
//! go on from where it is when it takes over.
//!
//! ```text
//!  executes ---- the log has a commit here ----> stands
//!     ^                                            | not published yet: looks later
//!     |<-- never published, or come to before -----|
//!     |<-- compared, and all is the same ----------| made at an exit: compares
//!     |<-- applied, and loaded --------------------| made elsewhere: stands still, and adopts
//! ```

use crate::controller::Word;
use crate::ids::{Epoch, Generation};
use crate::planted::{PlantedBug, planted};
use crate::record::CommitPoint;

/// What is to be done where the primary has made a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// Go on as if there were none.
    Pass,
    /// Nothing yet: look again a little later.
    Later,
    /// Hold memory and machine state against the commit record of this epoch.
    Compare(Epoch),
    /// Say that the stable image may go on, wait until the record is applied, and load it.
    Adopt(Epoch),
    /// The log holds what no sane primary writes: follow no more.
    Broken,
}

/// The core. One per order to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follower {
    generation: Generation,
    reached: Epoch,
    /// Events may stand behind the last commit that are to be delivered there.
    deliver: bool,
    /// Between its word that the stable image may go on and the loaded record it is nowhere.
    adopting: bool,
}

impl Follower {
    /// Follows this generation from the end of an epoch on.
    #[must_use]
    pub fn new(generation: Generation, base: Epoch) -> Self {
        Self { generation, reached: base, deliver: true, adopting: false }
    }

    /// The last epoch that it has come to.
    #[must_use]
    pub fn reached(&self) -> Epoch {
        self.reached
    }

    /// Whether the stable image still is what its view needs, given what was freed last: what nobody waited for with, it may
    /// have seen as of another epoch.
    #[must_use]
    pub fn is_awaited(&self, freed: Epoch) -> bool {
        freed <= self.reached
    }

    /// The guest stands at a commit in the log; the commit word says this, if it can be read.
    pub fn at_commit(&mut self, point: CommitPoint, word: Option<Word>) -> Stand {
        assert!(!self.adopting, "a record is adopted first");
        if point.generation != self.generation || point.epoch <= self.reached {
            return Stand::Pass;
        }
        if point.epoch != self.reached.next() {
            return Stand::Broken;
        }
        self.stands_before_commit();
        match word {
            Some(word) if word.epoch >= point.epoch => {}
            Some(_) if planted(PlantedBug::FollowerRunsOn) => return Stand::Pass,
            // Never published: the guest goes on as if it had not been made.
            Some(word) if word.sealed => return Stand::Pass,
            // Of a word that is damaged the controller hears, too.
            Some(_) | None => return Stand::Later,
        }
        if point.kicked {
            self.adopting = true;
            Stand::Adopt(point.epoch)
        } else {
            Stand::Compare(point.epoch)
        }
    }

    /// It has come to the end of this epoch, by comparing or by loading it.
    pub fn reach(&mut self, epoch: Epoch) {
        assert_eq!(epoch, self.reached.next(), "epochs are followed one by one");
        (self.reached, self.deliver, self.adopting) = (epoch, true, false);
    }

    /// The primary has made a commit at this exit: events may stand behind it, also if it was never published.
    pub fn stands_before_commit(&mut self) {
        self.deliver = !planted(PlantedBug::NothingBehindCommit);
    }

    /// Whether events are to be delivered before the guest runs on; asked once.
    pub fn take_delivery(&mut self) -> bool {
        std::mem::take(&mut self.deliver)
    }

    /// Whether it can go on as the primary of the next generation, from where it is: it must have come to just the epoch
    /// that one begins with, and have had no input that the new log, which ends at `log_end`, does not have.
    #[must_use]
    pub fn fits(&self, base: Epoch, read_to: u64, log_end: u64) -> bool {
        !self.adopting && self.reached == base && base > Epoch::ZERO && read_to <= log_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERATION: Generation = Generation::FIRST;

    fn point(epoch: u64, kicked: bool) -> CommitPoint {
        CommitPoint { generation: GENERATION, epoch: Epoch::new(epoch), kicked }
    }

    fn word(epoch: u64, sealed: bool) -> Option<Word> {
        Some(Word { epoch: Epoch::new(epoch), sealed })
    }

    #[test]
    fn it_waits_for_the_publication_and_compares_or_adopts() {
        let mut core = Follower::new(GENERATION, Epoch::new(3));
        assert_eq!(core.at_commit(point(3, false), word(3, false)), Stand::Pass);
        assert_eq!(core.at_commit(point(4, false), word(3, false)), Stand::Later);
        assert_eq!(core.at_commit(point(4, false), None), Stand::Later);
        assert_eq!(core.at_commit(point(4, false), word(4, false)), Stand::Compare(Epoch::new(4)));
        core.reach(Epoch::new(4));
        assert_eq!(core.at_commit(point(5, true), word(5, true)), Stand::Adopt(Epoch::new(5)));
        assert!(!core.fits(Epoch::new(4), 0, 0), "it stands where nothing can be executed from");
        core.reach(Epoch::new(5));
        assert!(core.take_delivery());
        assert_eq!(core.at_commit(point(6, false), word(5, true)), Stand::Pass, "never published");
        assert!(core.take_delivery(), "events may stand behind it all the same");
        assert!(!core.take_delivery(), "asked once");
        assert_eq!(core.at_commit(point(8, false), word(9, false)), Stand::Broken);
    }

    #[cfg(feature = "planted-bugs")]
    #[test]
    fn events_behind_an_unpublished_commit_are_missed_with_the_bug() {
        let mut core = Follower::new(GENERATION, Epoch::new(5));
        assert!(core.take_delivery());
        crate::planted::plant(Some(PlantedBug::NothingBehindCommit));
        let stand = core.at_commit(point(6, false), word(5, true));
        crate::planted::plant(None);
        assert_eq!((stand, core.take_delivery()), (Stand::Pass, false), "the planted bug does nothing");
    }

    #[test]
    fn it_goes_on_only_from_just_the_base_and_with_inputs_that_are_known() {
        let core = Follower::new(GENERATION, Epoch::new(3));
        assert!(
            core.fits(Epoch::new(3), 40, 40) && !core.fits(Epoch::new(3), 48, 40) && !core.fits(Epoch::new(4), 0, 40)
        );
        assert!(!Follower::new(GENERATION, Epoch::ZERO).fits(Epoch::ZERO, 0, 0));
        assert!(core.is_awaited(Epoch::new(3)) && !core.is_awaited(Epoch::new(4)));
    }
}
