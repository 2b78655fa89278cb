//! The word that decides: which epoch is committed, and whether its writer may still commit.
//!
//! ```text
//!   E ──publish──▶ E+1 ──publish──▶ E+2        compare_exchange by the primary
//!                   │seal                      fetch_or by the controller
//!                   ▼
//!                E+1 SEALED  ──publish──▶ refused, for ever
//! ```
//! Both are single atomic read-modify-writes of one word, so either a publish comes before the seal and the sealer
//! learns its epoch, or it comes after and fails.

use std::sync::atomic::Ordering;

use thiserror::Error;

use crate::guarded_word::{self, WordError};
use crate::mem::{AccessError, PoolRead, PoolWrite};
use crate::numbers::{Epoch, Offset};
use crate::planted::{self, PlantedBug, planted};

const WORD_BYTES: u64 = 8;

/// A commit word taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitWord {
    /// Whether the generation is closed.
    pub sealed: bool,
    /// The last committed epoch.
    pub epoch: Epoch,
}

/// A commit did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PublishError {
    /// The generation is closed: this host is fenced and must release nothing.
    #[error("the generation is sealed at epoch {final_epoch}")]
    Sealed {
        /// Last epoch that was committed.
        final_epoch: Epoch,
    },
    /// The word holds another epoch: there is a second writer, or this one has lost count.
    #[error("the commit word is at epoch {found}, expected {expected}")]
    Unexpected {
        /// Epoch that the publisher took for the last.
        expected: Epoch,
        /// Epoch found.
        found: Epoch,
    },
    /// The word is damaged.
    #[error("the commit word is damaged")]
    Word(#[from] WordError),
    /// The pool refused.
    #[error("cannot reach the commit word")]
    Access(#[from] AccessError),
}

/// A commit word could not be read or sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CommitWordError {
    /// The word is damaged. A seal has taken effect all the same.
    #[error("the commit word is damaged")]
    Word(#[from] WordError),
    /// The pool refused.
    #[error("cannot reach the commit word")]
    Access(#[from] AccessError),
}

impl CommitWord {
    /// An open word at `epoch`.
    #[must_use]
    pub const fn open(epoch: Epoch) -> Self {
        Self { sealed: false, epoch }
    }

    /// The word as stored.
    #[must_use]
    pub fn encode(self) -> u64 {
        let word = guarded_word::encode(self.epoch.get());
        if self.sealed { word | guarded_word::SEALED } else { word }
    }

    /// Takes a stored word apart.
    ///
    /// # Errors
    /// When the word is damaged.
    pub fn decode(raw: u64) -> Result<Self, WordError> {
        let word = guarded_word::decode(raw, PlantedBug::CommitWordCrc)?;
        Ok(Self { sealed: word.sealed, epoch: Epoch::new(word.value) })
    }

    /// Reads the word: a hint, since what it says may not be durable yet.
    ///
    /// # Errors
    /// When the word is damaged or cannot be reached.
    pub fn load<M: PoolRead>(memory: &M, at: Offset) -> Result<Self, CommitWordError> {
        Ok(Self::decode(memory.load_u64(at, Ordering::Acquire)?)?)
    }

    /// Reads the word and makes durable what was read, so that acting on it is safe even if the publisher dies
    /// with the line in its cache.
    ///
    /// # Errors
    /// When the word is damaged or cannot be reached.
    pub fn observe<M: PoolWrite>(memory: &M, at: Offset) -> Result<Self, CommitWordError> {
        let word = Self::load(memory, at)?;
        planted::flush(memory, at, WORD_BYTES, PlantedBug::ObserveFlush)?;
        planted::fence(memory, PlantedBug::ObserveFence)?;
        Ok(word)
    }

    /// Commits: moves the word from `from` to `to` and makes that durable. Only after success may outputs leave.
    ///
    /// # Errors
    /// When the word is sealed, at another epoch, damaged or out of reach. None of them has committed anything.
    pub fn publish<M: PoolWrite>(memory: &M, at: Offset, from: Epoch, to: Epoch) -> Result<(), PublishError> {
        assert!(from < to, "a publish goes forward");
        if planted(PlantedBug::PublishUnconditional) {
            memory.store_u64(at, Self::open(to).encode(), Ordering::Release)?;
        } else {
            let swap = memory.compare_exchange_u64(at, Self::open(from).encode(), Self::open(to).encode())?;
            if let Err(raw) = swap {
                return Err(Self::explain_refusal(raw, from));
            }
        }
        planted::flush(memory, at, WORD_BYTES, PlantedBug::PublishFlush)?;
        planted::fence(memory, PlantedBug::PublishFence)?;
        Ok(())
    }

    fn explain_refusal(raw: u64, expected: Epoch) -> PublishError {
        match Self::decode(raw) {
            Ok(Self { sealed: true, epoch }) => PublishError::Sealed { final_epoch: epoch },
            Ok(Self { epoch, .. }) => PublishError::Unexpected { expected, found: epoch },
            Err(error) => PublishError::Word(error),
        }
    }

    /// Closes the word for its writer and returns the last committed epoch, durably both. Sealing again is harmless.
    ///
    /// # Errors
    /// When the word is damaged or out of reach. A damaged word is sealed nevertheless.
    pub fn seal<M: PoolWrite>(memory: &M, at: Offset) -> Result<Epoch, CommitWordError> {
        let raw = memory.fetch_or_u64(at, guarded_word::SEALED)?;
        planted::flush(memory, at, WORD_BYTES, PlantedBug::SealFlush)?;
        planted::fence(memory, PlantedBug::SealFence)?;
        Ok(Epoch::new(guarded_word::decode_before_seal(raw, PlantedBug::CommitWordCrc)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lossy::{LossyCache, LossyMemory};

    const AT: Offset = Offset::new(64);

    fn memory_at(epoch: u64) -> LossyMemory {
        let memory = LossyMemory::new(4096, &LossyCache::new());
        let word = CommitWord::open(Epoch::new(epoch)).encode();
        memory.store_u64(AT, word, Ordering::Relaxed).unwrap();
        memory
    }

    #[test]
    fn publish_moves_forward_until_the_seal() {
        let memory = memory_at(4);
        let epoch = Epoch::new;
        CommitWord::publish(&memory, AT, epoch(4), epoch(5)).unwrap();
        assert_eq!(
            CommitWord::publish(&memory, AT, epoch(4), epoch(5)),
            Err(PublishError::Unexpected { expected: epoch(4), found: epoch(5) })
        );
        assert_eq!(CommitWord::seal(&memory, AT), Ok(epoch(5)));
        assert_eq!(CommitWord::seal(&memory, AT), Ok(epoch(5)));
        assert_eq!(
            CommitWord::publish(&memory, AT, epoch(5), epoch(6)),
            Err(PublishError::Sealed { final_epoch: epoch(5) })
        );
        let word = CommitWord::load(&memory, AT).unwrap();
        assert_eq!((word.sealed, word.epoch), (true, epoch(5)));
    }

    #[test]
    fn a_damaged_seal_stops_the_writer_and_costs_no_epoch() {
        for bit in [46, 47, 63] {
            let memory = memory_at(4);
            memory.fetch_or_u64(AT, 1 << bit).unwrap();
            let refused = CommitWord::publish(&memory, AT, Epoch::new(4), Epoch::new(5));
            assert!(matches!(refused, Err(PublishError::Word(_))), "{refused:?}");
            assert!(matches!(CommitWord::load(&memory, AT), Err(CommitWordError::Word(_))));
            assert_eq!(CommitWord::seal(&memory, AT), Ok(Epoch::new(4)));
            assert_eq!(CommitWord::load(&memory, AT), Ok(CommitWord { sealed: true, epoch: Epoch::new(4) }));
        }
    }

    #[test]
    fn a_damaged_word_refuses_everybody_but_still_takes_the_seal() {
        let memory = memory_at(4);
        memory.fetch_or_u64(AT, 0x8).unwrap();
        assert!(matches!(CommitWord::publish(&memory, AT, Epoch::new(4), Epoch::new(5)), Err(PublishError::Word(_))));
        assert!(matches!(CommitWord::seal(&memory, AT), Err(CommitWordError::Word(_))));
        let raw = memory.load_u64(AT, Ordering::Acquire).unwrap();
        assert_eq!(raw & guarded_word::SEALED, guarded_word::SEALED);
    }
}
