//! How far the records of a generation are applied: what those who seal it and those who apply its records agree on.
//!
//! Both judge by memory that the generation's writer can change under their hands: the commit word and the records. With a
//! damaged word the sealer counts the records that are whole; a record that is damaged just then would not count, while
//! the applier may have its private copy of it in hand already. So one lock decides which of the two came first:
//!
//! ```text
//!   applier:  look at the word ─▶ copy and check the record ─▶ begin E ─▶ keep, pages ... applied := E
//!                                                                 │
//!                                                        one lock │ refused: E is past the end
//!                                                                 │
//!   sealer:   close the word ─────────────────────────────────▶ seal: the end, at least what was begun
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::numbers::{Epoch, Generation};
use crate::planted::{PlantedBug, planted};

/// The limit of one VM, shared by the thread that seals its generations and the one that applies their records.
#[derive(Debug, Default)]
pub struct ApplyLimit {
    reign: Mutex<Reign>,
}

/// What is known of the latest generation.
#[derive(Debug, Default)]
struct Reign {
    generation: Generation,
    /// The last epoch whose application has begun.
    begun: Epoch,
    /// Where the generation ended.
    end: Option<Epoch>,
}

impl Reign {
    /// Forgets what was known of an older generation.
    fn turn_to(&mut self, generation: Generation) {
        if generation > self.generation {
            *self = Self { generation, begun: Epoch::ZERO, end: None };
        }
    }
}

impl ApplyLimit {
    /// Where a generation ended, if it is sealed.
    #[must_use]
    pub fn end(&self, generation: Generation) -> Option<Epoch> {
        let reign = self.reign();
        reign.end.filter(|_| reign.generation == generation)
    }

    /// Begins to apply an epoch, whose record is checked. `false`: its generation is over, and ended before it; nothing of
    /// the record may be applied.
    #[must_use]
    pub fn begin(&self, generation: Generation, epoch: Epoch) -> bool {
        let mut reign = self.reign();
        reign.turn_to(generation);
        let over = generation < reign.generation || reign.end.is_some_and(|end| epoch > end);
        if over && !planted(PlantedBug::BegunPastEnd) {
            return false;
        }
        reign.begun = reign.begun.max(epoch);
        true
    }

    /// Ends a generation whose word is closed. `find` says where, given the last epoch whose application has begun: that
    /// one is not taken back. Until it answers nothing is begun.
    ///
    /// # Errors
    /// Those of `find`; the generation is not ended then.
    pub fn seal<E>(&self, generation: Generation, find: impl FnOnce(Epoch) -> Result<Epoch, E>) -> Result<Epoch, E> {
        let mut reign = self.reign();
        reign.turn_to(generation);
        let begun = if planted(PlantedBug::BegunForgottenAtSeal) { Epoch::ZERO } else { reign.begun };
        let end = find(begun)?.max(begun);
        if reign.generation == generation {
            reign.end = Some(end);
        }
        Ok(end)
    }

    fn reign(&self) -> MutexGuard<'_, Reign> {
        // Each change is a single assignment: a panic elsewhere leaves nothing half done.
        self.reign.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Generation = Generation::new(1);
    const SECOND: Generation = Generation::new(2);

    fn at(epoch: u64) -> impl FnOnce(Epoch) -> Result<Epoch, ()> {
        move |_| Ok(Epoch::new(epoch))
    }

    #[test]
    fn who_comes_first_decides() {
        let limit = ApplyLimit::default();
        assert!(limit.begin(FIRST, Epoch::new(4)));
        assert_eq!(limit.end(FIRST), None);
        assert_eq!(limit.seal(FIRST, at(3)), Ok(Epoch::new(4)));
        assert!(limit.begin(FIRST, Epoch::new(4)));
        assert!(!limit.begin(FIRST, Epoch::new(5)));
        assert_eq!(limit.seal(FIRST, at(3)), Ok(Epoch::new(4)));
        assert_eq!(limit.end(FIRST), Some(Epoch::new(4)));
    }

    #[test]
    fn a_new_generation_begins_afresh_and_the_old_one_stays_over() {
        let limit = ApplyLimit::default();
        assert_eq!(limit.seal(FIRST, at(7)), Ok(Epoch::new(7)));
        assert!(limit.begin(SECOND, Epoch::new(8)));
        assert!(!limit.begin(FIRST, Epoch::new(7)));
        assert_eq!((limit.end(FIRST), limit.end(SECOND)), (None, None));
        assert_eq!(limit.seal(SECOND, at(6)), Ok(Epoch::new(8)));
    }

    #[test]
    fn what_cannot_be_found_ends_nothing() {
        let limit = ApplyLimit::default();
        assert_eq!(limit.seal(FIRST, |_| Err("the pool is gone")), Err("the pool is gone"));
        assert_eq!(limit.end(FIRST), None);
        assert!(limit.begin(FIRST, Epoch::new(1)));
    }
}
