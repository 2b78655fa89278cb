//! Machine state of a VM as of the last two applied epochs, in two slots by the epoch's parity.
//!
//! The slot of the epoch being applied is never the slot of the epoch that is applied, so there is always a whole one.

use thiserror::Error;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::crc::{self, Mismatch};
use crate::header::{Closing, Header, HeaderError, OPEN, Preamble};
use crate::mem::{AccessError, PoolRead, PoolWrite};
use crate::numbers::{Epoch, Offset, PAGE_SIZE, len_u64};
use crate::planted::{self, PlantedBug, planted};

/// Bytes of one slot that a new VM gets: header and machine state. Reserved as they are used.
pub const STATE_SLOT_BYTES: u64 = 4 << 20;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct StateHeader {
    preamble: Preamble,
    epoch: U64,
    length: U64,
    body_crc: U32,
    flags: U32,
    reserved: [u8; 16],
    closing: Closing,
}

impl Header for StateHeader {
    const MAGIC: [u8; 8] = *b"FTVMSTAT";
    const VERSION: u32 = 1;
    const UNCHECKED: PlantedBug = PlantedBug::StateHeaderCrc;
}

const HEADER_BYTES: u64 = 64;
const _: () = assert!(size_of::<StateHeader>() == 64);

/// Machine state could not be written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StateError {
    /// More state than a slot holds.
    #[error("machine state of {found} bytes, a slot holds {capacity}")]
    TooLarge {
        /// Bytes given, or named by the header.
        found: u64,
        /// Bytes a slot holds.
        capacity: u64,
    },
    /// The slot's header is damaged or something else.
    #[error("the header of the machine state is refused")]
    Header(#[from] HeaderError),
    /// The slot holds another epoch.
    #[error("machine state of epoch {found}, expected {expected}")]
    Epoch {
        /// In the slot.
        found: Epoch,
        /// Looked for.
        expected: Epoch,
    },
    /// The content does not match its CRC.
    #[error("machine state CRC is {found:#010x}, computed {computed:#010x}")]
    Crc {
        /// In the header.
        found: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The pool refused.
    #[error("cannot reach the machine state")]
    Access(#[from] AccessError),
}

/// The two slots. Their size follows from the extent.
#[derive(Debug, Clone)]
pub struct StateArea<M> {
    memory: M,
    slot_bytes: u64,
}

impl<M: PoolRead> StateArea<M> {
    /// The state area in an extent. Slots that were never written hold nothing and need no layout.
    #[must_use]
    pub fn new(memory: M) -> Self {
        let slot_bytes = memory.len() / 2 / PAGE_SIZE * PAGE_SIZE;
        Self { memory, slot_bytes }
    }

    /// How much machine state a slot holds.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.slot_bytes.saturating_sub(HEADER_BYTES)
    }

    fn slot_at(&self, epoch: Epoch) -> Offset {
        let parity = if planted(PlantedBug::ApplyStateInPlace) { 0 } else { epoch.get() % 2 };
        Offset::new(parity * self.slot_bytes)
    }

    /// The machine state of `epoch`, copied out and checked.
    ///
    /// # Errors
    /// When the slot holds another epoch, nothing, or damaged bytes.
    pub fn read(&self, epoch: Epoch) -> Result<Vec<u8>, StateError> {
        let at = self.slot_at(epoch);
        let mut bytes = [0; size_of::<StateHeader>()];
        self.memory.read(at, &mut bytes)?;
        let header = StateHeader::parse(&bytes)?;
        let found = Epoch::new(header.epoch.get());
        if found != epoch {
            return Err(StateError::Epoch { found, expected: epoch });
        }
        let length = header.length.get();
        let too_large = StateError::TooLarge { found: length, capacity: self.capacity() };
        if length > self.capacity() {
            return Err(too_large);
        }
        let mut state = vec![0; usize::try_from(length).map_err(|_| too_large)?];
        self.memory.read(at.plus(HEADER_BYTES), &mut state)?;
        match crc::check(header.body_crc.get(), crc::of(&state), PlantedBug::StateCrc) {
            Ok(()) => Ok(state),
            Err(Mismatch { found, computed }) => Err(StateError::Crc { found, computed }),
        }
    }
}

impl<M: PoolWrite> StateArea<M> {
    /// Stores the machine state of `epoch` durably, in place of that of two epochs ago.
    ///
    /// # Errors
    /// When it is too large or the pool refuses.
    pub fn write(&self, epoch: Epoch, state: &[u8]) -> Result<(), StateError> {
        self.check_fits(state)?;
        let header = StateHeader {
            preamble: StateHeader::preamble(),
            epoch: U64::new(epoch.get()),
            length: U64::new(len_u64(state.len())),
            body_crc: U32::new(crc::of(state)),
            flags: U32::ZERO,
            reserved: [0; 16],
            closing: OPEN,
        };
        let at = self.slot_at(epoch);
        self.memory.write(at.plus(HEADER_BYTES), state)?;
        self.memory.write(at, &header.sealed_bytes())?;
        let total = HEADER_BYTES + len_u64(state.len());
        planted::flush(&self.memory, at, total, PlantedBug::ApplyStateFlush)?;
        planted::fence(&self.memory, PlantedBug::ApplyStateFence)?;
        Ok(())
    }

    /// Refuses state that [`write`](Self::write) would refuse.
    ///
    /// # Errors
    /// When it is too large.
    pub fn check_fits(&self, state: &[u8]) -> Result<(), StateError> {
        let (found, capacity) = (len_u64(state.len()), self.capacity());
        if found > capacity {
            return Err(StateError::TooLarge { found, capacity });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lossy::{LossyCache, LossyMemory};

    #[test]
    fn the_last_two_epochs_are_there_and_damage_is_refused() {
        let memory = LossyMemory::new(4 * PAGE_SIZE, &LossyCache::new());
        let area = StateArea::new(&memory);
        assert!(matches!(area.read(Epoch::new(1)), Err(StateError::Header(_))));
        for epoch in 1..=3u8 {
            area.write(Epoch::new(epoch.into()), &[epoch; 100]).unwrap();
        }
        assert_eq!(area.read(Epoch::new(3)), Ok(vec![3; 100]));
        assert_eq!(area.read(Epoch::new(2)), Ok(vec![2; 100]));
        assert!(matches!(area.read(Epoch::new(1)), Err(StateError::Epoch { .. })));
        let capacity = usize::try_from(area.capacity()).unwrap();
        area.write(Epoch::new(4), &vec![4; capacity]).unwrap();
        assert!(matches!(area.write(Epoch::new(4), &vec![4; capacity + 1]), Err(StateError::TooLarge { .. })));
        assert_eq!(area.read(Epoch::new(3)), Ok(vec![3; 100]));
        memory.write(Offset::new(200), &[9]).unwrap();
        assert!(matches!(area.read(Epoch::new(4)), Err(StateError::Crc { .. })));
    }
}
