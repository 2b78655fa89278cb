//! The controller's own copy of the commit record that it is applying.
//!
//! A controller that dies in the middle of applying leaves image and disk between two epochs, and only the whole record
//! makes them whole again. The record in the journal is its writer's: a fenced or hostile one can change it, or a bit can
//! flip. So the record is copied to memory that only the controller writes, durably, before the first page is touched, and
//! the next controller goes on from the copy, whatever has become of the journal.
//!
//! ```text
//!   record checked ─▶ body durable ─▶ header durable ─▶ pages ... applied := E    (the copy of E stays until that of E + 1)
//!                                          │
//!                                          └─▶ crash: the copy is whole and of epoch applied + 1: apply it again
//!   crash before that:        the header is damaged, or of an epoch that is applied: no page was touched
//! ```
//! The header says that the record was begun, so it comes when the body is there: under one fence with it, a crash could leave
//! the header alone, and a record of which no page was written yet, damaged in the journal, would cost the VM.
//!
//! The copy is as large as the record, but only while it is applied: beyond the reserved part its space is taken before and
//! given back after. When the pool has none left the record is applied without a copy ([`Kept::No`]): waiting could
//! last for ever, because the space that is missing may be the record's own. Its header is kept all the same, and says to
//! the next controller that image and disk may hold a part of the record, and of which: without it they are lost, and
//! another one that a fenced writer has put into its place, however sound, does not make them whole.

use std::cell::Cell;
use std::fmt;

use crate::commit_word::CommitWordError;
use crate::journal::{
    JournalReader, LoadError, Record, RecordCrcs, RecordError, RecordHeader, RecordLimits, SpillError, SpillSpace,
    checked_bytes, generation_in, is_header_of, load_slot,
};
use crate::mem::{AccessError, PoolRead, PoolWrite, check_bounds};
use crate::numbers::{Epoch, Generation, Offset, PAGE_SIZE, len_u64, round_up};
use crate::planted::{self, PlantedBug, planted};

const HEADER_BYTES: usize = size_of::<RecordHeader>();

/// The copy of what was applied last cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is none, or it is damaged.
    #[error("the copy of its commit record cannot be used")]
    Load(#[from] LoadError),
    /// Its end may have been given back, and the pool has no space to look.
    #[error("there is no space for the copy of a commit record of {needed} bytes")]
    NoSpace {
        /// Its bytes.
        needed: u64,
    },
}

/// Whether a copy was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is durable.
    Yes,
    /// There was no space for it.
    No,
}

/// Makes copies of records, for [`apply_record`](crate::apply_record).
pub trait KeepRecord: fmt::Debug {
    /// Copies a record durably.
    ///
    /// # Errors
    /// When the pool refuses.
    fn keep(&self, record: &Record<'_>) -> Result<Kept, AccessError>;
}

/// Where the copy lies: a memory with the shape of one journal slot.
#[derive(Debug)]
pub struct RedoArea<M, S> {
    memory: M,
    space: S,
    reserved_bytes: u64,
    /// The first bytes that have space.
    backed: Cell<u64>,
}

impl<M: PoolRead, S: SpillSpace> RedoArea<M, S> {
    /// The area in `memory`, of which `reserved_bytes` are to have their space always; `space` takes and gives back more.
    ///
    /// # Errors
    /// When the memory is shorter.
    pub fn new(memory: M, space: S, reserved_bytes: u64) -> Result<Self, AccessError> {
        check_bounds(Offset::ZERO, reserved_bytes, memory.len())?;
        // In a pool that was made before there were copies it may not have its space yet.
        let backed = if space.reserve(Offset::ZERO, reserved_bytes).is_ok() { reserved_bytes } else { 0 };
        Ok(Self { memory, space, reserved_bytes, backed: Cell::new(backed) })
    }

    /// Copies the record out, if that of `epoch` is kept, and checks it.
    ///
    /// # Errors
    /// When the area holds no sound record of that epoch.
    pub fn load<'buffer>(
        &self,
        generation: Generation,
        epoch: Epoch,
        limits: &RecordLimits,
        buffer: &'buffer mut Vec<u8>,
    ) -> Result<Record<'buffer>, LoadError> {
        let slot = (Offset::ZERO, self.memory.len());
        load_slot(&self.memory, slot, (generation, epoch), limits, buffer, RecordCrcs::Redo)
    }

    /// The same, under whatever generation it was committed: what was applied last is kept until the next one is begun.
    ///
    /// # Errors
    /// When the area holds no sound record of that epoch, or the pool has no space for the part of it that may be gone.
    pub fn load_epoch<'buffer>(
        &self,
        epoch: Epoch,
        limits: &RecordLimits,
        buffer: &'buffer mut Vec<u8>,
    ) -> Result<Record<'buffer>, CopyError> {
        let mut header = [0; HEADER_BYTES];
        self.memory.read(Offset::ZERO, &mut header).map_err(LoadError::from)?;
        let generation = generation_in(&header);
        let total_bytes =
            checked_bytes(&header, generation, epoch, limits).map_err(|source| LoadError::Record { epoch, source })?;
        // The end of a large record may have been given back: to look at it takes space, like writing there.
        if !self.has_space(total_bytes.min(self.memory.len())) {
            return Err(CopyError::NoSpace { needed: total_bytes });
        }
        Ok(self.load(generation, epoch, limits, buffer)?)
    }

    /// Whether the record of `epoch` is kept.
    ///
    /// # Errors
    /// When the area is out of reach.
    pub fn holds(
        &self,
        generation: Generation,
        epoch: Epoch,
        limits: &RecordLimits,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, AccessError> {
        match self.load(generation, epoch, limits, buffer) {
            Ok(_) => Ok(true),
            Err(LoadError::Record { .. }) => Ok(false),
            Err(LoadError::Access(error)) => Err(error),
        }
    }

    /// Whether the application of `epoch` may have begun: its header is kept, with or without the rest of the record.
    ///
    /// # Errors
    /// When the area is out of reach.
    pub fn is_begun(&self, generation: Generation, epoch: Epoch, limits: &RecordLimits) -> Result<bool, AccessError> {
        Ok(self.begun(generation, epoch, limits)?.is_some())
    }

    /// The header of the record of `epoch`, if its application may have begun.
    fn begun(
        &self,
        generation: Generation,
        epoch: Epoch,
        limits: &RecordLimits,
    ) -> Result<Option<[u8; HEADER_BYTES]>, AccessError> {
        let mut header = [0; HEADER_BYTES];
        self.memory.read(Offset::ZERO, &mut header)?;
        Ok(is_header_of(&header, generation, epoch, limits).then_some(header))
    }

    /// The epoch that image and disk are at, or on their way to: no generation may end before it.
    ///
    /// # Errors
    /// When the area is out of reach.
    pub fn reached(&self, generation: Generation, applied: Epoch, limits: &RecordLimits) -> Result<Epoch, AccessError> {
        let next = applied.next();
        let begun = self.is_begun(generation, next, limits)? && !planted(PlantedBug::RedoForgottenAtSeal);
        Ok(if begun { next } else { applied })
    }

    /// Where a generation ends: after its commit word was closed with the result given beside its journal, at the last
    /// published epoch, or, if the word is damaged, at the last one whose record is whole; without a journal at the applied
    /// one. Never before `begun`, the last epoch whose application has begun ([`ApplyLimit`](crate::ApplyLimit)), nor
    /// before what an earlier controller has begun.
    ///
    /// # Errors
    /// When the pool is out of reach.
    pub fn end_of<J: PoolRead>(
        &self,
        generation: Generation,
        closed: Option<(&JournalReader<J>, Result<Epoch, CommitWordError>)>,
        (applied, begun): (Epoch, Epoch),
        limits: &RecordLimits,
    ) -> Result<Epoch, AccessError> {
        let reached = self.reached(generation, applied, limits)?.max(begun);
        match closed {
            // It was never made, or is lost. What its primary publishes there, nobody reads.
            None => Ok(reached),
            Some((_, Ok(published))) => Ok(published.max(reached)),
            Some((journal, Err(CommitWordError::Word(_)))) => journal.last_whole(reached, limits),
            Some((_, Err(CommitWordError::Access(error)))) => Err(error),
        }
    }

    /// Gives back what a large record has taken. To be called when it is applied, and by a controller that has just
    /// started.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn release_spill(&self) -> Result<(), SpillError> {
        self.release_spill_beyond(0)
    }

    /// The same, but the first `keep` bytes keep their space, for the next record.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn release_spill_beyond(&self, keep: u64) -> Result<(), SpillError> {
        let kept = round_up(keep, PAGE_SIZE).max(self.reserved_bytes);
        let len = self.memory.len();
        if len > kept {
            self.space.release(Offset::new(kept), len - kept)?;
            self.backed.set(self.backed.get().min(kept));
        }
        Ok(())
    }

    fn has_space(&self, needed: u64) -> bool {
        let backed = self.backed.get();
        if needed > backed {
            if self.space.reserve(Offset::new(backed), needed - backed).is_err() {
                return false;
            }
            self.backed.set(needed);
        }
        true
    }
}

impl<M: PoolWrite + fmt::Debug, S: SpillSpace + fmt::Debug> KeepRecord for RedoArea<M, S> {
    fn keep(&self, record: &Record<'_>) -> Result<Kept, AccessError> {
        let (header, body_at, body) = record.stored();
        let total_bytes = body_at.get() + len_u64(body.len());
        if total_bytes > self.memory.len() || !self.has_space(total_bytes) {
            if self.backed.get() >= len_u64(header.len()) {
                self.keep_header(header)?;
            }
            return Ok(Kept::No);
        }
        if planted(PlantedBug::RedoHeaderFirst) {
            self.keep_header(header)?;
        }
        self.memory.write(body_at, body)?;
        planted::flush(&self.memory, body_at, len_u64(body.len()), PlantedBug::RedoFlush)?;
        planted::fence(&self.memory, PlantedBug::RedoFence)?;
        self.keep_header(header)?;
        Ok(Kept::Yes)
    }
}

impl<M: PoolWrite, S> RedoArea<M, S> {
    fn keep_header(&self, header: &[u8]) -> Result<(), AccessError> {
        self.memory.write(Offset::ZERO, header)?;
        planted::flush(&self.memory, Offset::ZERO, len_u64(header.len()), PlantedBug::RedoHeaderFlush)?;
        planted::fence(&self.memory, PlantedBug::RedoHeaderFence)
    }
}

/// Loads the record of `epoch` to be applied: the copy, if there is one, since image and disk may hold a part of it; else
/// the one in the journal. If its application was begun without a copy, it must be the one that was begun.
///
/// # Errors
/// When there is no copy, and the journal's slot holds no sound record of that epoch, or another one.
pub fn load_to_apply<'buffer, J: PoolRead, M: PoolRead, S: SpillSpace>(
    journal: &JournalReader<J>,
    redo: &RedoArea<M, S>,
    epoch: Epoch,
    limits: &RecordLimits,
    buffer: &'buffer mut Vec<u8>,
) -> Result<Record<'buffer>, LoadError> {
    let generation = journal.generation();
    let begun = redo.begun(generation, epoch, limits)?;
    if begun.is_some() && redo.holds(generation, epoch, limits, buffer)? && !planted(PlantedBug::RedoIgnored) {
        return redo.load(generation, epoch, limits, buffer);
    }
    let record = journal.load(epoch, limits, buffer)?;
    let (header, ..) = record.stored();
    if begun.is_some_and(|begun| begun != header) && !planted(PlantedBug::RedoOtherRecord) {
        return Err(LoadError::Record { epoch, source: RecordError::NotBegun });
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{JournalGeometry, JournalWriter, format_journal};
    use crate::lossy::{LossyCache, LossyMemory};
    use crate::numbers::{PAGE_BYTES, PageIndex};

    const GENERATION: Generation = Generation::new(1);

    /// Space for the reserved part only.
    #[derive(Debug)]
    struct NoMore(u64);

    impl SpillSpace for NoMore {
        fn reserve(&self, at: Offset, len: u64) -> Result<(), SpillError> {
            if at.get() + len <= self.0 { Ok(()) } else { Err(SpillError::NoSpace { needed: len, available: 0 }) }
        }
        fn release(&self, _: Offset, _: u64) -> Result<(), SpillError> {
            Ok(())
        }
        fn available(&self) -> Result<u64, SpillError> {
            Ok(0)
        }
    }

    /// Image and disk may hold a part of a record that was not copied: the next controller must know.
    #[test]
    fn what_is_applied_without_a_copy_is_known_to_have_begun() {
        let cache = LossyCache::new();
        let geometry = JournalGeometry::for_memory(64 * PAGE_SIZE, 2, 4 * PAGE_SIZE);
        let journal = LossyMemory::new(geometry.file_bytes(), &cache);
        format_journal(&journal, GENERATION, &geometry, Epoch::ZERO).unwrap();
        let writer = JournalWriter::new(&journal, crate::journal::AllReserved, GENERATION, geometry).unwrap();
        let reader = JournalReader::new(&journal, GENERATION, geometry).unwrap();
        let memory = LossyMemory::new(geometry.slot_bytes, &cache);
        let redo = RedoArea::new(&memory, NoMore(geometry.reserved_bytes), geometry.reserved_bytes).unwrap();
        let limits = RecordLimits { image_pages: 64, disk_blocks: 1, meta_bytes_max: 4096 };
        let (mut buffer, mut other) = (Vec::new(), Vec::new());
        for (epoch, pages, kept) in [(1, 1, Kept::Yes), (2, 40, Kept::No)] {
            let number = Epoch::new(epoch);
            let mut record = writer.begin(number, Epoch::ZERO).unwrap();
            for page in 0..pages {
                record.push_page_bytes(PageIndex::new(page), &[7; PAGE_BYTES]).unwrap();
            }
            writer.publish(record.finish(b"").unwrap()).unwrap();
            let before = Epoch::new(epoch - 1);
            assert_eq!(redo.reached(GENERATION, before, &limits), Ok(before));
            let record = reader.load(number, &limits, &mut buffer).unwrap();
            assert_eq!(redo.keep(&record), Ok(kept));
            assert_eq!(redo.holds(GENERATION, number, &limits, &mut other), Ok(kept == Kept::Yes));
            assert_eq!(redo.is_begun(GENERATION, number, &limits), Ok(true));
            assert_eq!(redo.reached(GENERATION, before, &limits), Ok(number));
        }
    }

    /// What was applied last is there to be had again, whoever committed it; looking for it takes no space that others have.
    #[test]
    fn the_copy_of_an_epoch_is_found_under_any_generation() {
        let cache = LossyCache::new();
        let geometry = JournalGeometry::for_memory(64 * PAGE_SIZE, 2, 16 * PAGE_SIZE);
        let journal = LossyMemory::new(geometry.file_bytes(), &cache);
        let generation = Generation::new(7);
        format_journal(&journal, generation, &geometry, Epoch::ZERO).unwrap();
        let writer = JournalWriter::new(&journal, crate::journal::AllReserved, generation, geometry).unwrap();
        let reader = JournalReader::new(&journal, generation, geometry).unwrap();
        let memory = LossyMemory::new(geometry.slot_bytes, &cache);
        let limits = RecordLimits { image_pages: 64, disk_blocks: 1, meta_bytes_max: 4096 };
        let epoch = Epoch::new(1);
        let mut record = writer.begin(epoch, Epoch::ZERO).unwrap();
        for page in 0..8 {
            record.push_page_bytes(PageIndex::new(page), &[7; PAGE_BYTES]).unwrap();
        }
        writer.publish(record.finish(b"meta").unwrap()).unwrap();
        let (mut buffer, mut other) = (Vec::new(), Vec::new());
        let record = reader.load(epoch, &limits, &mut buffer).unwrap();
        let area = |space| RedoArea::new(&memory, NoMore(space), space).unwrap();
        assert!(matches!(area(16 * PAGE_SIZE).load_epoch(epoch, &limits, &mut other), Err(CopyError::Load(_))));
        assert_eq!(area(16 * PAGE_SIZE).keep(&record), Ok(Kept::Yes));
        let found = area(16 * PAGE_SIZE).load_epoch(epoch, &limits, &mut other).unwrap();
        assert_eq!((found.generation(), found.meta()), (generation, &b"meta"[..]));
        let refused = |loaded: Result<Record<'_>, CopyError>| match loaded {
            Err(CopyError::Load(LoadError::Record { source, .. })) => source,
            other => panic!("{other:?}"),
        };
        let next = refused(area(16 * PAGE_SIZE).load_epoch(Epoch::new(2), &limits, &mut other));
        assert!(matches!(next, RecordError::Epoch { .. }), "{next:?}");
        let full = area(4 * PAGE_SIZE).load_epoch(epoch, &limits, &mut other).map(|_| ());
        assert!(matches!(full, Err(CopyError::NoSpace { .. })), "{full:?}");
        memory.write(Offset::new(4096 + 100), &[0; 8]).unwrap();
        let spoilt = refused(area(16 * PAGE_SIZE).load_epoch(epoch, &limits, &mut other));
        assert!(matches!(spoilt, RecordError::BodyCrc { .. }), "{spoilt:?}");
    }
}
