//! The control block of a VM: what the controller has applied and freed, and which generation reigns.
//!
//! Written by the controller only, polled by the hosts. Since layout 5 all of it is there twice: whoever meets a damaged
//! word reads the other one, and the controller writes it anew.

use std::sync::atomic::Ordering;

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::guarded_word::{self, WordError};
use crate::header::{Closing, Header, HeaderError, OPEN, Preamble, ReadHeaderError};
use crate::mem::{AccessError, PoolRead, PoolWrite};
use crate::numbers::{Epoch, Generation, Offset, PAGE_SIZE};
use crate::planted::{self, Laid, PlantedBug};

/// Length of a control block.
pub const CONTROL_BYTES: u64 = PAGE_SIZE;

const APPLIED_AT: Offset = Offset::new(64);
const FREED_AT: Offset = Offset::new(128);
const GENERATION_AT: Offset = Offset::new(192);
const WORD_BYTES: u64 = 8;

/// Where the second copy of header and words lies.
const COPY_AT: u64 = PAGE_SIZE / 2;

const fn copy_of(at: Offset) -> Offset {
    Offset::new(at.get() + COPY_AT)
}

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
    const UNCHECKED: PlantedBug = PlantedBug::ControlHeaderCrc;
}

impl ControlHeader {
    /// All there is to it: every block has the same.
    fn bytes() -> Vec<u8> {
        Self { preamble: Self::preamble(), reserved: [0; 40], closing: OPEN }.sealed_bytes()
    }
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
    /// When no copy of its header is whole, or it is something else.
    pub fn open(memory: M) -> Result<Self, ControlError> {
        // What is wrong with the first one is told.
        if let Err(error) = ControlHeader::load(&memory, Offset::ZERO)
            && ControlHeader::load(&memory, copy_of(Offset::ZERO)).is_err()
        {
            return Err(error.into());
        }
        Ok(Self { memory })
    }

    /// What is damaged while another copy of it is whole, or not: the first of it. In a pool of a layout before 5, which has
    /// one copy only, the missing ones.
    #[must_use]
    pub fn damage(&self) -> Option<ControlError> {
        let headers = [Offset::ZERO, copy_of(Offset::ZERO)];
        let words = [APPLIED_AT, FREED_AT, GENERATION_AT].into_iter().flat_map(|at| [at, copy_of(at)]);
        let header = |at| ControlHeader::load(&self.memory, at).err().map(ControlError::from);
        headers.into_iter().find_map(header).or_else(|| words.into_iter().find_map(|at| self.decode(at).err()))
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
        // The copy is stored after the word: at the worst it is as late as a word that a reader has polled just before.
        self.decode(at).or_else(|damaged| self.decode(copy_of(at)).map_err(|_| damaged))
    }

    fn decode(&self, at: Offset) -> Result<u64, ControlError> {
        Ok(unsealed(self.raw(at)?)?)
    }

    fn raw(&self, at: Offset) -> Result<u64, AccessError> {
        self.memory.load_u64(at, Ordering::Acquire)
    }
}

fn unsealed(raw: u64) -> Result<u64, WordError> {
    guarded_word::decode_unsealed(raw, PlantedBug::ControlWordCrc)
}

impl<M: PoolWrite> ControlBlock<M> {
    /// Lays out a control block at epoch 0 and generation 0, and opens it.
    ///
    /// # Errors
    /// When the memory is too short.
    pub fn format(memory: M) -> Result<Self, ControlError> {
        let control = Self { memory };
        for at in [Offset::ZERO, copy_of(Offset::ZERO)] {
            control.memory.write(at, &ControlHeader::bytes())?;
        }
        for at in [APPLIED_AT, FREED_AT, GENERATION_AT] {
            control.store(at, 0)?;
        }
        planted::settle(&control.memory, Offset::ZERO, CONTROL_BYTES, Laid::ControlBlock)?;
        Ok(control)
    }

    /// Writes damaged copies anew from those that are whole, durably, and says what was damaged: the first of it. For the
    /// controller alone; its other threads may store words meanwhile.
    ///
    /// # Errors
    /// When both copies of the applied epoch or of the generation are damaged, or the pool refuses.
    pub fn mend(&self) -> Result<Option<ControlError>, ControlError> {
        let damaged = self.damage();
        let mut is_new = damaged.is_some();
        for at in [APPLIED_AT, FREED_AT, GENERATION_AT] {
            is_new |= self.mend_word(at)?;
        }
        for at in [Offset::ZERO, copy_of(Offset::ZERO)] {
            if ControlHeader::load(&self.memory, at).is_err() {
                self.memory.write(at, &ControlHeader::bytes())?;
            }
        }
        if is_new {
            planted::settle(&self.memory, Offset::ZERO, CONTROL_BYTES, Laid::ControlMend)?;
        }
        Ok(damaged)
    }

    /// Whether a copy of the word was to be written anew.
    fn mend_word(&self, at: Offset) -> Result<bool, ControlError> {
        let (word, copy) = (self.raw(at)?, self.raw(copy_of(at))?);
        // Whoever stores meanwhile stores both: what is not as it was just now is whole.
        match (unsealed(word), unsealed(copy)) {
            // It follows from what is applied, which is all that a controller that starts needs to know.
            (Err(_), Err(_)) if at == FREED_AT => return Ok(false),
            (Err(damaged), Err(_)) => return Err(damaged.into()),
            (Err(_), Ok(_)) => self.memory.compare_exchange_u64(at, word, copy).map(drop)?,
            (Ok(_), Err(_)) => self.memory.compare_exchange_u64(copy_of(at), copy, word).map(drop)?,
            // Who stored it has died in between.
            (Ok(said), Ok(copied)) if copied < said => {
                self.memory.compare_exchange_u64(copy_of(at), copy, word).map(drop)?;
            }
            (Ok(_), Ok(_)) => return Ok(false),
        }
        Ok(true)
    }

    /// Says durably that `epoch` is applied. The last step of applying a record.
    ///
    /// # Errors
    /// When the pool refuses.
    pub fn set_applied(&self, epoch: Epoch) -> Result<(), ControlError> {
        self.store(APPLIED_AT, epoch.get())?;
        planted::flush(&self.memory, APPLIED_AT, WORD_BYTES, PlantedBug::AppliedFlush)?;
        planted::flush(&self.memory, copy_of(APPLIED_AT), WORD_BYTES, PlantedBug::AppliedCopyFlush)?;
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
        planted::flush(&self.memory, copy_of(GENERATION_AT), WORD_BYTES, PlantedBug::GenerationCopyFlush)?;
        planted::fence(&self.memory, PlantedBug::GenerationFence)?;
        Ok(())
    }

    fn store(&self, at: Offset, value: u64) -> Result<(), ControlError> {
        let word = guarded_word::encode(value);
        self.memory.store_u64(at, word, Ordering::Release)?;
        Ok(self.memory.store_u64(copy_of(at), word, Ordering::Release)?)
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
        assert_eq!(reader.applied(), Ok(Epoch::new(5)));
        for at in [FREED_AT, copy_of(FREED_AT)] {
            memory.fetch_or_u64(at, 1 << 20).unwrap();
        }
        assert!(control.mend().unwrap().is_some());
        assert_eq!((reader.applied(), reader.freed().is_err()), (Ok(Epoch::new(5)), true));
        control.set_freed(Epoch::new(5)).unwrap();
        assert_eq!((reader.freed(), reader.damage()), (Ok(Epoch::new(5)), None));
        for at in [APPLIED_AT, copy_of(APPLIED_AT)] {
            memory.fetch_or_u64(at, 1 << 20).unwrap();
        }
        assert!(matches!(reader.applied(), Err(ControlError::Word(_))));
        assert!(matches!(control.mend(), Err(ControlError::Word(_))));
    }

    #[test]
    fn no_flip_costs_anything_and_each_is_mended() {
        let memory = LossyMemory::new(CONTROL_BYTES, &LossyCache::new());
        let control = ControlBlock::format(&memory).unwrap();
        let said = || {
            let reader = ControlBlock::open(&memory).unwrap();
            (reader.applied(), reader.freed(), reader.generation())
        };
        let all = || {
            let mut bytes = vec![0; usize::try_from(CONTROL_BYTES).unwrap()];
            memory.read(Offset::ZERO, &mut bytes).unwrap();
            bytes
        };
        control.set_applied(Epoch::new(70_000)).unwrap();
        control.set_freed(Epoch::new(69_999)).unwrap();
        control.set_generation(Generation::new(3)).unwrap();
        let (whole, words) = (all(), said());
        for at in (0..CONTROL_BYTES).filter(|at| at % COPY_AT < GENERATION_AT.get() + WORD_BYTES) {
            for bit in 0..8 {
                let index = usize::try_from(at).unwrap();
                memory.write(Offset::new(at), &[whole[index] ^ (1 << bit)]).unwrap();
                assert_eq!(said(), words, "byte {at} bit {bit}");
                let is_used = [0, 64, 128, 192].iter().any(|line| {
                    let len = if *line == 0 { 64 } else { WORD_BYTES };
                    (*line..line + len).contains(&(at % COPY_AT))
                });
                assert_eq!(control.damage().is_some(), is_used, "byte {at} bit {bit}");
                assert_eq!(control.mend().unwrap().is_some(), is_used, "byte {at} bit {bit}");
                memory.write(Offset::new(at), &whole[index..=index]).unwrap();
                assert!(all() == whole, "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn what_was_stored_once_is_stored_twice_when_it_is_mended() {
        let memory = LossyMemory::new(CONTROL_BYTES, &LossyCache::new());
        let control = ControlBlock::format(&memory).unwrap();
        control.set_applied(Epoch::new(9)).unwrap();
        let mut whole = vec![0; usize::try_from(CONTROL_BYTES).unwrap()];
        memory.read(Offset::ZERO, &mut whole).unwrap();
        let now = || {
            let mut bytes = whole.clone();
            memory.read(Offset::ZERO, &mut bytes).unwrap();
            bytes
        };
        // As layouts before 5 had it.
        memory.write(Offset::new(COPY_AT), &whole[..2048].iter().map(|_| 0).collect::<Vec<u8>>()).unwrap();
        assert!(control.mend().unwrap().is_some());
        assert!(now() == whole);
        // As it is when the controller dies between the two.
        memory.store_u64(copy_of(APPLIED_AT), guarded_word::encode(8), Ordering::Relaxed).unwrap();
        assert_eq!((control.damage(), control.mend()), (None, Ok(None)));
        assert!(now() == whole);
    }
}
