//! Where things lie in a journal.

use std::sync::atomic::Ordering;

use thiserror::Error;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::commit_word::CommitWord;
use crate::header::{Closing, Header, OPEN, Preamble};
use crate::mem::{AccessError, PoolWrite};
use crate::numbers::{Epoch, Generation, Offset, PAGE_SIZE, round_up};
use crate::planted::{self, Laid, PlantedBug};

/// Upper bound for the meta bytes of one record: machine state, console output, disk writes.
pub const META_BYTES_MAX: u64 = 16 << 20;

/// Where the commit word lies: a cache line of its own, so that pollers do not disturb anything else.
pub(crate) const WORD_AT: Offset = Offset::new(64);

/// Where the slots begin.
pub(super) const SLOTS_AT: Offset = Offset::new(PAGE_SIZE);

/// Where the pages begin within a slot, so that they lie on page boundaries.
pub(super) const PAGES_AT: u64 = PAGE_SIZE;

/// One entry of the page index.
pub(super) const INDEX_ENTRY_BYTES: u64 = 8;

/// What one page costs in a record.
pub const PAGE_COST: u64 = PAGE_SIZE + INDEX_ENTRY_BYTES;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct JournalHeader {
    pub(crate) preamble: Preamble,
    pub(crate) generation: U64,
    pub(crate) base_epoch: U64,
    pub(crate) slots: U32,
    pub(crate) flags: U32,
    pub(crate) slot_bytes: U64,
    pub(crate) reserved_bytes: U64,
    pub(crate) closing: Closing,
}

impl Header for JournalHeader {
    const MAGIC: [u8; 8] = *b"FTVMJRNL";
    const VERSION: u32 = 1;
    const UNCHECKED: PlantedBug = PlantedBug::JournalHeaderCrc;
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RecordHeader {
    pub(crate) preamble: Preamble,
    pub(crate) generation: U64,
    pub(crate) epoch: U64,
    pub(crate) page_count: U32,
    pub(crate) body_crc: U32,
    pub(crate) meta_bytes: U64,
    pub(crate) total_bytes: U64,
    pub(crate) closing: Closing,
}

impl Header for RecordHeader {
    const MAGIC: [u8; 8] = *b"FTVMRECD";
    const VERSION: u32 = VERSION_WITH_BLOCKS;
    const OLDEST: u32 = VERSION_WITHOUT_BLOCKS;
    const UNCHECKED: PlantedBug = PlantedBug::RecordHeaderCrc;
}

/// Version of a record that has pages only: still written, for controllers that know no other.
pub(crate) const VERSION_WITHOUT_BLOCKS: u32 = 1;

/// Version of a record that has blocks of the disk among its pages.
pub(crate) const VERSION_WITH_BLOCKS: u32 = 2;

// Both headers are one cache line.
const _: () = assert!(size_of::<JournalHeader>() == 64);
const _: () = assert!(size_of::<RecordHeader>() == 64);

/// The shape of a VM's journals. It comes from the VM directory, never from the journal itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalGeometry {
    /// Number of slots: how many commits the primary can be ahead of the controller.
    pub slots: u32,
    /// Address space of a slot.
    pub slot_bytes: u64,
    /// How much of each slot has its space from the beginning; what lies beyond is the spill part.
    pub reserved_bytes: u64,
}

/// A record's space is kept for the next one in its slot only while the pool has so many times as much left as all slots of
/// the journal would keep.
const KEPT_SHARE_MIN: u64 = 8;

impl JournalGeometry {
    /// Slots that can hold a record of every page of a guest with `memory_bytes`, of which `reserved` bytes
    /// each have their space from the beginning.
    #[must_use]
    pub const fn for_memory(memory_bytes: u64, slots: u32, reserved: u64) -> Self {
        let pages = memory_bytes.div_ceil(PAGE_SIZE);
        let slot_bytes = round_up(PAGES_AT + pages * PAGE_COST + META_BYTES_MAX, PAGE_SIZE);
        let reserved = round_up(reserved, PAGE_SIZE);
        Self { slots, slot_bytes, reserved_bytes: if reserved < slot_bytes { reserved } else { slot_bytes } }
    }

    /// Whether the numbers make sense together; asked of what the VM directory says.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.slots >= 1
            && self.slots <= 4096
            && self.slot_bytes >= PAGES_AT
            && self.slot_bytes <= 1 << 44
            && self.slot_bytes.is_multiple_of(PAGE_SIZE)
            && self.reserved_bytes.is_multiple_of(PAGE_SIZE)
            && self.reserved_bytes >= PAGES_AT
            && self.reserved_bytes <= self.slot_bytes
    }

    /// Length of the journal file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        SLOTS_AT.get() + self.slot_bytes * u64::from(self.slots)
    }

    /// What the journal costs the pool as long as nothing spills.
    #[must_use]
    pub fn reserved_total(&self) -> u64 {
        SLOTS_AT.get() + self.reserved_bytes * u64::from(self.slots)
    }

    /// What the largest record takes beyond the reserved part of its slot.
    #[must_use]
    pub fn spill_bytes_max(&self) -> u64 {
        self.slot_bytes - self.reserved_bytes
    }

    /// The part of an epoch's slot that has space only while a record needs it: where it begins, and its length.
    #[must_use]
    pub fn spill_range(&self, epoch: Epoch) -> (Offset, u64) {
        (self.slot_at(epoch).plus(self.reserved_bytes), self.spill_bytes_max())
    }

    /// Where the slot of an epoch begins.
    #[must_use]
    pub fn slot_at(&self, epoch: Epoch) -> Offset {
        SLOTS_AT.plus(epoch.get() % u64::from(self.slots) * self.slot_bytes)
    }

    /// The parts of the file that have their space from the beginning.
    pub fn reserved_ranges(&self) -> impl Iterator<Item = (Offset, u64)> + use<> {
        let geometry = *self;
        let slots = (0..u64::from(geometry.slots)).map(move |slot| {
            let at = SLOTS_AT.plus(slot * geometry.slot_bytes);
            (at, geometry.reserved_bytes)
        });
        std::iter::once((Offset::ZERO, SLOTS_AT.get())).chain(slots)
    }

    /// Whether the slot of `epoch` is free when everything up to `freed` was applied and given back.
    #[must_use]
    pub fn is_free(&self, epoch: Epoch, freed: Epoch) -> bool {
        epoch.get() <= freed.get().saturating_add(u64::from(self.slots))
    }

    /// What the pool must have left for slots to keep the space of records of so many bytes.
    #[must_use]
    pub fn plenty_bytes(&self, record_bytes: u64) -> u64 {
        record_bytes.saturating_mul(self.slots.into()).saturating_mul(KEPT_SHARE_MIN)
    }
}

/// A journal could not be laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FormatJournalError {
    /// The geometry makes no sense.
    #[error("journal geometry {0:?} is not sound")]
    Geometry(JournalGeometry),
    /// The memory is shorter than the geometry says.
    #[error("cannot write the journal header")]
    Access(#[from] AccessError),
}

/// Lays out an empty journal for `generation`, whose first commit goes from `base` to the epoch after it.
///
/// # Errors
/// When the geometry makes no sense or does not fit the memory.
pub fn format_journal<M: PoolWrite>(
    memory: &M,
    generation: Generation,
    geometry: &JournalGeometry,
    base: Epoch,
) -> Result<(), FormatJournalError> {
    if !geometry.is_sound() {
        return Err(FormatJournalError::Geometry(*geometry));
    }
    crate::mem::check_bounds(Offset::ZERO, geometry.file_bytes(), memory.len())?;
    let header = JournalHeader {
        preamble: JournalHeader::preamble(),
        generation: U64::new(generation.get()),
        base_epoch: U64::new(base.get()),
        slots: U32::new(geometry.slots),
        flags: U32::ZERO,
        slot_bytes: U64::new(geometry.slot_bytes),
        reserved_bytes: U64::new(geometry.reserved_bytes),
        closing: OPEN,
    };
    memory.write(Offset::ZERO, &header.sealed_bytes())?;
    memory.store_u64(WORD_AT, CommitWord::open(base).encode(), Ordering::Release)?;
    planted::settle(memory, Offset::ZERO, SLOTS_AT.get(), Laid::Journal)?;
    Ok(())
}
