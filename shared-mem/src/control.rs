//! The control block of a VM: what the controller has applied and freed, and which generation reigns.
//!
//! Written by the controller only, polled by the hosts.

use std::sync::atomic::Ordering;

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::guarded_word::{self, WordError};
use crate::header::{Closing, Header, HeaderError, OPEN, Preamble, ReadHeaderError};
use crate::mem::{AccessError, PoolRead, PoolWrite};
use crate::numbers::{Epoch, Generation, Offset, PAGE_SIZE};
use crate::planted::{self, PlantedBug};

/// Length of a control block.
pub const CONTROL_BYTES: u64 = PAGE_SIZE;

const APPLIED_AT: Offset = Offset::new(64);
const FREED_AT: Offset = Offset::new(128);
const GENERATION_AT: Offset = Offset::new(192);
const WORD_BYTES: u64 = 8;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ControlHeader {
    preamble: Preamble,
    reserved: [u8; 40],
    closing: Closing,
}

impl Header for ControlHeader {
    const MAGIC: [u8; 8] = *b"FTVMCTRL";
    const VERSION: u32 = 1;
}

const _: () = assert!(size_of::<ControlHeader>() == 64);

/// The control block cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ControlError {
    /// The header is damaged or something else.
    #[error("the header of the control block is refused")]
    Header(#[from] HeaderError),
    /// One of its words is damaged.
    #[error("a word of the control block is damaged")]
    Word(#[from] WordError),
    /// The pool refused.
    #[error("cannot reach the control block")]
    Access(#[from] AccessError),
}

impl From<ReadHeaderError> for ControlError {
    fn from(error: ReadHeaderError) -> Self {
        match error {
            ReadHeaderError::Access(error) => Self::Access(error),
            ReadHeaderError::Header(error) => Self::Header(error),
        }
    }
}

/// A VM's control block.
#[derive(Debug, Clone)]
pub struct ControlBlock<M> {
    memory: M,
}

impl<M: PoolRead> ControlBlock<M> {
    /// Opens a control block.
    ///
    /// # Errors
    /// When it is damaged or something else.
    pub fn open(memory: M) -> Result<Self, ControlError> {
        ControlHeader::load(&memory, Offset::ZERO)?;
        Ok(Self { memory })
    }

    /// The epoch that the stable image, the machine state and the console are at.
    ///
    /// # Errors
    /// When the word is damaged or out of reach.
    pub fn applied(&self) -> Result<Epoch, ControlError> {
        Ok(Epoch::new(self.load(APPLIED_AT)?))
    }

    /// The last epoch whose journal slot may be written again.
    ///
    /// # Errors
    /// When the word is damaged or out of reach.
    pub fn freed(&self) -> Result<Epoch, ControlError> {
        Ok(Epoch::new(self.load(FREED_AT)?))
    }

    /// The generation that reigns, or the last one that did.
    ///
    /// # Errors
    /// When the word is damaged or out of reach.
    pub fn generation(&self) -> Result<Generation, ControlError> {
        Ok(Generation::new(self.load(GENERATION_AT)?))
    }

    fn load(&self, at: Offset) -> Result<u64, ControlError> {
        let raw = self.memory.load_u64(at, Ordering::Acquire)?;
        Ok(guarded_word::decode_unsealed(raw)?)
    }
}

impl<M: PoolWrite> ControlBlock<M> {
    /// Lays out a control block at epoch 0 and generation 0, and opens it.
    ///
    /// # Errors
    /// When the memory is too short.
    pub fn format(memory: M) -> Result<Self, ControlError> {
        let header = ControlHeader { preamble: ControlHeader::preamble(), reserved: [0; 40], closing: OPEN };
        memory.write(Offset::ZERO, &header.sealed_bytes())?;
        for at in [APPLIED_AT, FREED_AT, GENERATION_AT] {
            memory.store_u64(at, guarded_word::encode(0), Ordering::Release)?;
        }
        planted::settle(&memory, Offset::ZERO, CONTROL_BYTES)?;
        Ok(Self { memory })
    }

    /// Says durably that `epoch` is applied. The last step of applying a record.
    ///
    /// # Errors
    /// When the pool refuses.
    pub fn set_applied(&self, epoch: Epoch) -> Result<(), ControlError> {
        self.store(APPLIED_AT, epoch.get())?;
        planted::flush(&self.memory, APPLIED_AT, WORD_BYTES, PlantedBug::AppliedFlush)?;
        planted::fence(&self.memory, PlantedBug::AppliedFence)?;
        Ok(())
    }

    /// Gives the journal slots of all epochs up to `epoch` back to the primary. Only after they are applied, durably,
    /// and their spill space is released. A controller that has just started does this for the applied epoch, since
    /// its predecessor may have died in between.
    ///
    /// # Errors
    /// When the pool refuses, or the word for what is applied is damaged.
    ///
    /// # Panics
    /// When `epoch` is not applied: its record would be lost.
    pub fn set_freed(&self, epoch: Epoch) -> Result<(), ControlError> {
        assert!(epoch <= self.applied()?, "only applied epochs are freed");
        // No flush: should the word be lost with the controller, the next one stores it again.
        self.store(FREED_AT, epoch.get())
    }

    /// Says durably which generation reigns from now on.
    ///
    /// # Errors
    /// When the pool refuses, or the word is damaged.
    ///
    /// # Panics
    /// When the generation goes back.
    pub fn set_generation(&self, generation: Generation) -> Result<(), ControlError> {
        assert!(generation >= self.generation()?, "generations only grow");
        self.store(GENERATION_AT, generation.get())?;
        planted::flush(&self.memory, GENERATION_AT, WORD_BYTES, PlantedBug::GenerationFlush)?;
        planted::fence(&self.memory, PlantedBug::GenerationFence)?;
        Ok(())
    }

    fn store(&self, at: Offset, value: u64) -> Result<(), ControlError> {
        let word = guarded_word::encode(value);
        Ok(self.memory.store_u64(at, word, Ordering::Release)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lossy::{LossyCache, LossyMemory};

    #[test]
    fn words_are_kept_apart_and_damage_is_noticed() {
        let memory = LossyMemory::new(CONTROL_BYTES, &LossyCache::new());
        assert!(ControlBlock::open(&memory).is_err());
        let control = ControlBlock::format(&memory).unwrap();
        control.set_applied(Epoch::new(5)).unwrap();
        control.set_freed(Epoch::new(4)).unwrap();
        control.set_generation(Generation::new(2)).unwrap();
        let reader = ControlBlock::open(&memory).unwrap();
        assert_eq!(reader.applied(), Ok(Epoch::new(5)));
        assert_eq!(reader.freed(), Ok(Epoch::new(4)));
        assert_eq!(reader.generation(), Ok(Generation::new(2)));
        memory.fetch_or_u64(APPLIED_AT, 1 << 20).unwrap();
        assert!(matches!(reader.applied(), Err(ControlError::Word(_))));
    }
}
