//! The primary's side of a journal.
//!
//! ```text
//! begin ─▶ RecordWriter ──close──▶ UnchecksummedRecord ──checksum──▶ FinishedRecord ──publish──▶ committed
//!          push_page*               (guest may run on)                │
//!            │                                                        └─▶ refused: sealed, this host is fenced
//!            └─▶ dropped: nothing has happened
//! ```
//! Only a record whose bytes are durable can be published: the types carry that order. The CRC is computed from private
//! copies on the way into the slot, never from the slot: what changes there afterwards, by whatever fault, is noticed.

use std::sync::{Mutex, MutexGuard};

use thiserror::Error;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;
use zerocopy::byteorder::little_endian::{U32, U64};

use super::layout::{
    INDEX_ENTRY_BYTES, JournalGeometry, META_BYTES_MAX, PAGE_COST, PAGES_AT, RecordHeader, VERSION_WITH_BLOCKS,
    VERSION_WITHOUT_BLOCKS, WORD_AT,
};
use super::spill::{SPILL_STEP, SpillError, SpillSpace};
use crate::commit_word::{CommitWord, CommitWordError, PublishError};
use crate::crc;
use crate::header::{Header, OPEN};
use crate::mem::{AccessError, PoolWrite, check_bounds};
use crate::numbers::{DISK_PAGE_BASE, Epoch, Generation, Offset, PAGE_BYTES, PAGE_SIZE, PageIndex, len_u64};
use crate::planted::{self, PlantedBug, planted};

/// A slot is made ready ahead only while the pool has so many times its space left: what others need goes first.
const PREPARED_SHARE_MIN: u64 = 4;

/// The first pages of a record stay in the caches, where the controller finds them at once; with many more, fetching lines
/// only to overwrite them takes a third of the time for which the guest stands still. The crash enumeration's are short.
const CACHED_PAGES: usize = if cfg!(test) { 1 } else { 64 };

/// What is taken for machine state and console output with the room for a record's pages.
const ROOM_BESIDE_PAGES: u64 = 512 << 10;

/// A commit record could not be written.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The slot still holds a record that the controller has not given back: wait for it.
    #[error("the slot of epoch {epoch} is not free: epochs up to {freed} are")]
    SlotBusy {
        /// Epoch to be written.
        epoch: Epoch,
        /// Last epoch whose slot is free again.
        freed: Epoch,
    },
    /// The record does not fit the slot.
    #[error("a record of {needed} bytes does not fit a slot of {slot_bytes} bytes")]
    RecordTooLarge {
        /// Length of the record.
        needed: u64,
        /// Length of a slot.
        slot_bytes: u64,
    },
    /// More meta bytes than a record may carry.
    #[error("{found} meta bytes in a commit record, at most {META_BYTES_MAX} are allowed")]
    MetaTooLarge {
        /// Bytes given.
        found: u64,
    },
    /// No space for the part of a record beyond what is reserved.
    #[error("cannot write a large commit record")]
    Spill(#[from] SpillError),
    /// The pool refused.
    #[error("cannot write to the journal")]
    Access(#[from] AccessError),
}

/// Writes commit records and publishes them.
#[derive(Debug)]
pub struct JournalWriter<M, S> {
    memory: M,
    spill: S,
    generation: Generation,
    geometry: JournalGeometry,
    prepared: Mutex<Prepared>,
}

/// The slot of the next epoch, as far as it has been made ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Prepared {
    epoch: Epoch,
    /// Bytes from its start that have space.
    bytes: u64,
}

impl<M: PoolWrite, S: SpillSpace> JournalWriter<M, S> {
    /// A writer for the journal of `generation`. `spill` takes space beyond the reserved part of a slot.
    ///
    /// # Errors
    /// When the geometry does not fit the memory.
    pub fn new(memory: M, spill: S, generation: Generation, geometry: JournalGeometry) -> Result<Self, JournalError> {
        assert!(geometry.is_sound(), "the VM directory is checked when it is read");
        check_bounds(Offset::ZERO, geometry.file_bytes(), memory.len())?;
        Ok(Self { memory, spill, generation, geometry, prepared: Mutex::default() })
    }

    /// The shape of this journal.
    #[must_use]
    pub fn geometry(&self) -> &JournalGeometry {
        &self.geometry
    }

    /// The generation this writer belongs to.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Begins the record that commits `epoch`, given the last epoch whose slot the controller has freed.
    ///
    /// # Errors
    /// When the slot is still in use.
    pub fn begin(&self, epoch: Epoch, freed: Epoch) -> Result<RecordWriter<'_, M, S>, JournalError> {
        assert!(epoch > Epoch::ZERO, "epoch 0 is never committed");
        if !self.geometry.is_free(epoch, freed) && !planted(PlantedBug::SlotReuseCheck) {
            return Err(JournalError::SlotBusy { epoch, freed });
        }
        let prepared = *self.prepared();
        let ready = if prepared.epoch == epoch { prepared.bytes } else { 0 };
        Ok(RecordWriter {
            journal: self,
            slot: self.geometry.slot_at(epoch),
            epoch,
            index: Vec::new(),
            copy: Box::new([0; PAGE_BYTES]),
            body_crc: crc::Digest::new(),
            spilled_to: self.geometry.reserved_bytes.max(ready),
        })
    }

    /// Makes the slot of an epoch ready for a record of so many bytes, before the guest has to stop for it: takes space, and
    /// has memory put behind it. Only for an epoch whose record is not begun. Goes on step by step while `go_on` says so.
    /// Says whether it came to the end; a slot that is not free, or a pool that is short of space, is left as it is.
    ///
    /// What is taken is given back when the epoch is applied, as if its record had taken it.
    pub fn prepare(&self, epoch: Epoch, freed: Epoch, bytes: u64, mut go_on: impl FnMut() -> bool) -> bool {
        if !self.geometry.is_free(epoch, freed) || bytes > self.geometry.slot_bytes {
            return false;
        }
        let slot = self.geometry.slot_at(epoch);
        let needed = crate::numbers::round_up(bytes, PAGE_SIZE);
        let mut done = 0;
        while done < needed {
            let step = SPILL_STEP.min(needed - done);
            let spills = done + step > self.geometry.reserved_bytes;
            let (at, spare) = (slot.plus(done), PREPARED_SHARE_MIN.saturating_mul(bytes));
            if !go_on() {
                return false;
            }
            let mut prepared = self.prepared();
            let taken_away = done > 0 && *prepared != Prepared { epoch, bytes: done };
            if taken_away || (spills && self.spill.reserve_spare(at, step, spare).is_err()) {
                return false;
            }
            self.memory.populate(at, step);
            done += step;
            *prepared = Prepared { epoch, bytes: done };
        }
        true
    }

    /// Gives back what free slots from that of epoch `next` on hold beyond their reserved parts: space that was kept for
    /// records to come, or taken by [`prepare`](Self::prepare). For when the pool is short of space. No record of these
    /// epochs may have been begun.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn release_free_slots(&self, next: Epoch, freed: Epoch) -> Result<(), SpillError> {
        let mut prepared = self.prepared();
        *prepared = Prepared::default();
        let spilled = self.geometry.slot_bytes - self.geometry.reserved_bytes;
        for ahead in 0..u64::from(self.geometry.slots) {
            let epoch = Epoch::new(next.get() + ahead);
            if spilled > 0 && self.geometry.is_free(epoch, freed) {
                self.spill.release(self.geometry.slot_at(epoch).plus(self.geometry.reserved_bytes), spilled)?;
            }
        }
        Ok(())
    }

    /// Whether the pool has little left beside what slots keep for records of so many bytes: what is kept is worth more to
    /// others then.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn is_pool_short(&self, record_bytes: u64) -> Result<bool, SpillError> {
        Ok(self.spill.available()? < self.geometry.plenty_bytes(record_bytes))
    }

    fn prepared(&self) -> MutexGuard<'_, Prepared> {
        self.prepared.lock().expect("nothing panics under this lock")
    }

    /// Writes the header, CRC included, and makes all of the record durable. May run on another thread.
    ///
    /// # Errors
    /// When the pool refuses.
    pub fn checksum(&self, record: &UnchecksummedRecord) -> Result<FinishedRecord, JournalError> {
        assert_eq!(record.generation, self.generation, "a record of another journal");
        let slot = self.geometry.slot_at(record.epoch);
        let body_bytes = record.total_bytes - PAGES_AT;
        planted::flush(&self.memory, slot.plus(PAGES_AT), body_bytes, PlantedBug::RecordBodyFlush)?;
        let version = if record.has_blocks { VERSION_WITH_BLOCKS } else { VERSION_WITHOUT_BLOCKS };
        let header = RecordHeader {
            preamble: RecordHeader::preamble().of_version(version),
            generation: U64::new(self.generation.get()),
            epoch: U64::new(record.epoch.get()),
            page_count: U32::new(record.page_count),
            body_crc: U32::new(record.body_crc),
            meta_bytes: U64::new(record.meta_bytes),
            total_bytes: U64::new(record.total_bytes),
            closing: OPEN,
        };
        let bytes = header.sealed_bytes();
        self.memory.write(slot, &bytes)?;
        planted::flush(&self.memory, slot, len_u64(bytes.len()), PlantedBug::RecordHeaderFlush)?;
        planted::fence(&self.memory, PlantedBug::RecordFence)?;
        Ok(FinishedRecord { epoch: record.epoch })
    }

    /// Commits a finished record. Only after success may the outputs that it covers leave.
    ///
    /// # Errors
    /// When this generation was sealed (the host is fenced), or the word is not at the epoch before.
    #[allow(clippy::needless_pass_by_value, reason = "a record is published once")]
    pub fn publish(&self, record: FinishedRecord) -> Result<Epoch, PublishError> {
        let from = record.epoch.previous().unwrap_or_default();
        CommitWord::publish(&self.memory, WORD_AT, from, record.epoch)?;
        Ok(record.epoch)
    }

    /// The commit word as it is now.
    ///
    /// # Errors
    /// When the word is damaged or out of reach.
    pub fn word(&self) -> Result<CommitWord, CommitWordError> {
        CommitWord::load(&self.memory, WORD_AT)
    }
}

/// A record being written. Dropping it leaves the slot as free as it was.
#[derive(Debug)]
pub struct RecordWriter<'journal, M, S> {
    journal: &'journal JournalWriter<M, S>,
    slot: Offset,
    epoch: Epoch,
    index: Vec<u64>,
    /// A private copy of the page at hand.
    copy: Box<[u8; PAGE_BYTES]>,
    /// Of what was pushed: pages come first in the body.
    body_crc: crc::Digest,
    spilled_to: u64,
}

impl<M: PoolWrite, S: SpillSpace> RecordWriter<'_, M, S> {
    /// Adds one page, copied into the slot by way of the first-level cache. Pages come in ascending order, blocks of the
    /// disk ([`PageIndex::of_block`]) after the pages of the image.
    ///
    /// # Errors
    /// When there is no space, or the pool refuses. The record can be dropped and begun anew.
    pub fn push_page<B: BitmapSlice>(
        &mut self,
        page: PageIndex,
        content: &VolatileSlice<'_, B>,
    ) -> Result<(), JournalError> {
        assert_eq!(content.len(), PAGE_BYTES, "a page is pushed whole");
        let at = self.next_page(page)?;
        content.copy_to(&mut self.copy[..]);
        self.body_crc.update(&self.copy[..]);
        store_page(&self.journal.memory, at, &self.copy[..], self.index.len())?;
        self.index.push(page.get());
        Ok(())
    }

    /// Adds one page from private memory.
    ///
    /// # Errors
    /// As for [`push_page`](Self::push_page).
    pub fn push_page_bytes(&mut self, page: PageIndex, content: &[u8]) -> Result<(), JournalError> {
        assert_eq!(len_u64(content.len()), PAGE_SIZE, "a page is pushed whole");
        let at = self.next_page(page)?;
        store_page(&self.journal.memory, at, content, self.index.len())?;
        self.body_crc.update(content);
        self.index.push(page.get());
        Ok(())
    }

    /// Takes the space for a record of so many pages, and what else it may have, before the first of them is added: all
    /// of it or nothing, so that one who waits for space holds none that others wait for.
    ///
    /// # Errors
    /// When there is no space.
    pub fn take_room(&mut self, pages: u64) -> Result<(), JournalError> {
        assert!(self.index.is_empty(), "room is taken beforehand");
        let needed = PAGES_AT.saturating_add(pages.saturating_mul(PAGE_COST)).saturating_add(ROOM_BESIDE_PAGES);
        let until = crate::numbers::round_up(needed.min(self.journal.geometry.slot_bytes), PAGE_SIZE);
        if until > self.spilled_to {
            let from = self.spilled_to;
            self.journal.spill.reserve(self.slot.plus(from), until - from)?;
            self.spilled_to = until;
        }
        Ok(())
    }

    /// How many pages were added.
    #[must_use]
    pub fn page_count(&self) -> usize {
        self.index.len()
    }

    /// The epoch this record commits.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Completes the record but for its header: cheap, after this the guest may run on.
    ///
    /// # Errors
    /// When the record is too large, there is no space, or the pool refuses.
    pub fn close(mut self, meta: &[u8]) -> Result<UnchecksummedRecord, JournalError> {
        let meta_bytes = len_u64(meta.len());
        if meta_bytes > META_BYTES_MAX {
            return Err(JournalError::MetaTooLarge { found: meta_bytes });
        }
        let index_at = PAGES_AT + len_u64(self.index.len()) * PAGE_SIZE;
        let meta_at = index_at + len_u64(self.index.len()) * INDEX_ENTRY_BYTES;
        let total_bytes = meta_at + meta_bytes;
        self.make_room(total_bytes)?;
        let memory = &self.journal.memory;
        let index: Vec<u8> = self.index.iter().flat_map(|page| page.to_le_bytes()).collect();
        memory.write(self.slot.plus(index_at), &index)?;
        memory.write(self.slot.plus(meta_at), meta)?;
        // Here and not with the flush, which another thread may do.
        planted::drain(memory, PlantedBug::RecordDrain);
        self.body_crc.update(&index);
        self.body_crc.update(meta);
        let too_large =
            JournalError::RecordTooLarge { needed: total_bytes, slot_bytes: self.journal.geometry.slot_bytes };
        Ok(UnchecksummedRecord {
            generation: self.journal.generation,
            epoch: self.epoch,
            page_count: u32::try_from(self.index.len()).map_err(|_| too_large)?,
            meta_bytes,
            total_bytes,
            body_crc: self.body_crc.finalize(),
            has_blocks: self.index.last().is_some_and(|last| *last >= DISK_PAGE_BASE),
        })
    }

    /// Completes the record and makes it durable.
    ///
    /// # Errors
    /// As for [`close`](Self::close).
    pub fn finish(self, meta: &[u8]) -> Result<FinishedRecord, JournalError> {
        let journal = self.journal;
        journal.checksum(&self.close(meta)?)
    }

    fn next_page(&mut self, page: PageIndex) -> Result<Offset, JournalError> {
        let ascending = self.index.last().is_none_or(|last| *last < page.get());
        assert!(ascending, "pages of a record ascend: {page} came late");
        let count = len_u64(self.index.len());
        self.make_room(PAGES_AT + (count + 1) * PAGE_COST)?;
        Ok(self.slot.plus(PAGES_AT + count * PAGE_SIZE))
    }

    /// Makes sure that the first `needed` bytes of the slot have space.
    fn make_room(&mut self, needed: u64) -> Result<(), JournalError> {
        let slot_bytes = self.journal.geometry.slot_bytes;
        if needed > slot_bytes {
            return Err(JournalError::RecordTooLarge { needed, slot_bytes });
        }
        if needed > self.spilled_to {
            let until = crate::numbers::round_up(needed, SPILL_STEP).min(slot_bytes);
            let from = self.spilled_to;
            self.journal.spill.reserve(self.slot.plus(from), until - from)?;
            self.spilled_to = until;
        }
        Ok(())
    }
}

/// Stores a record's page, the one after `before` others.
#[inline]
fn store_page<M: PoolWrite>(memory: &M, at: Offset, content: &[u8], before: usize) -> Result<(), AccessError> {
    if before < CACHED_PAGES { memory.write(at, content) } else { memory.stream(at, content) }
}

/// A record whose CRC is not in its header yet, and which is not durable. Plain data: it can go to another thread.
#[derive(Debug)]
pub struct UnchecksummedRecord {
    generation: Generation,
    epoch: Epoch,
    page_count: u32,
    meta_bytes: u64,
    total_bytes: u64,
    body_crc: u32,
    has_blocks: bool,
}

impl UnchecksummedRecord {
    /// The epoch this record commits.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Length of the record in its slot.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }
}

/// A record that is durable and may be published.
#[derive(Debug)]
pub struct FinishedRecord {
    epoch: Epoch,
}

impl FinishedRecord {
    /// The epoch this record commits.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}
