//! The controller's side of a journal.

use thiserror::Error;

use super::layout::{JournalGeometry, JournalHeader, WORD_AT};
use super::record::{Record, RecordCrcs, RecordError, RecordLimits, check_header};
use super::spill::{SpillError, SpillSpace};
use crate::commit_word::{CommitWord, CommitWordError};
use crate::header::{Header, ReadHeaderError};
use crate::mem::{AccessError, PoolRead, PoolWrite, check_bounds};
use crate::numbers::{Epoch, Generation, Offset, PAGE_SIZE, round_up};

/// A journal does not fit what the VM directory says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OpenJournalError {
    /// The header is damaged or something else.
    #[error("the journal header is refused")]
    Header(#[from] ReadHeaderError),
    /// The file holds another generation or another geometry.
    #[error("the journal is of generation {found}, expected {expected}, or of another geometry")]
    Mismatch {
        /// In the header.
        found: Generation,
        /// Asked for.
        expected: Generation,
    },
    /// The file is shorter than the geometry says.
    #[error("the journal is too short")]
    Access(#[from] AccessError),
}

/// A record could not be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LoadError {
    /// The slot holds no record that may be applied.
    #[error("commit record of epoch {epoch} is refused")]
    Record {
        /// Epoch looked for.
        epoch: Epoch,
        /// What is wrong.
        source: RecordError,
    },
    /// The pool refused.
    #[error("cannot read the journal")]
    Access(#[from] AccessError),
}

/// Reads records, and seals.
#[derive(Debug)]
pub struct JournalReader<M> {
    memory: M,
    generation: Generation,
    geometry: JournalGeometry,
}

impl<M: PoolRead> JournalReader<M> {
    /// A reader for the journal of `generation`. The journal's own header is not consulted, since its writer may
    /// have changed it; see [`check_journal_header`](Self::check_journal_header).
    ///
    /// # Errors
    /// When the geometry does not fit the memory.
    pub fn new(memory: M, generation: Generation, geometry: JournalGeometry) -> Result<Self, OpenJournalError> {
        assert!(geometry.is_sound(), "the VM directory is checked when it is read");
        check_bounds(Offset::ZERO, geometry.file_bytes(), memory.len())?;
        Ok(Self { memory, generation, geometry })
    }

    /// Compares the journal's own header with what is known; returns the epoch the generation started from.
    ///
    /// # Errors
    /// When the header is damaged or says something else.
    pub fn check_journal_header(&self) -> Result<Epoch, OpenJournalError> {
        let header = JournalHeader::load(&self.memory, Offset::ZERO)?;
        let same = header.generation.get() == self.generation.get()
            && header.slots.get() == self.geometry.slots
            && header.slot_bytes.get() == self.geometry.slot_bytes
            && header.reserved_bytes.get() == self.geometry.reserved_bytes;
        if same {
            Ok(Epoch::new(header.base_epoch.get()))
        } else {
            Err(OpenJournalError::Mismatch {
                found: Generation::new(header.generation.get()),
                expected: self.generation,
            })
        }
    }

    /// The shape of this journal.
    #[must_use]
    pub fn geometry(&self) -> &JournalGeometry {
        &self.geometry
    }

    /// The generation this journal belongs to.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The commit word as it is now: a hint, it may not be durable yet.
    ///
    /// # Errors
    /// When the word is damaged or out of reach.
    pub fn peek_word(&self) -> Result<CommitWord, CommitWordError> {
        CommitWord::load(&self.memory, WORD_AT)
    }

    /// Copies the record of `epoch` into `buffer` and checks the copy, since the writer may scribble meanwhile.
    ///
    /// # Errors
    /// When the slot holds no sound record of that epoch.
    pub fn load<'buffer>(
        &self,
        epoch: Epoch,
        limits: &RecordLimits,
        buffer: &'buffer mut Vec<u8>,
    ) -> Result<Record<'buffer>, LoadError> {
        let slot = (self.geometry.slot_at(epoch), self.geometry.slot_bytes);
        load_slot(&self.memory, slot, (self.generation, epoch), limits, buffer, RecordCrcs::Journal)
    }

    /// The last epoch after `from` that the records themselves vouch for: each from there on is whole. There are no more than
    /// slots: a writer that is faster than its reader does not keep it looking.
    ///
    /// # Errors
    /// When the journal is out of reach.
    pub fn last_whole(&self, from: Epoch, limits: &RecordLimits) -> Result<Epoch, AccessError> {
        let mut buffer = Vec::new();
        let mut last = from;
        for _ in 0..self.geometry.slots {
            match self.load(last.next(), limits, &mut buffer) {
                Ok(_) => last = last.next(),
                Err(LoadError::Record { .. }) => break,
                Err(LoadError::Access(error)) => return Err(error),
            }
        }
        Ok(last)
    }

    /// Gives back the space that the record of `epoch` has taken beyond the reserved part of its slot. To be called
    /// after the record is applied and before its slot is freed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn release_spill(&self, epoch: Epoch, space: &impl SpillSpace) -> Result<(), SpillError> {
        self.release_spill_beyond(epoch, 0, space)
    }

    /// The same, but the first `keep` bytes of the slot keep their space, for the next record that is written there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn release_spill_beyond(&self, epoch: Epoch, keep: u64, space: &impl SpillSpace) -> Result<(), SpillError> {
        let kept = round_up(keep, PAGE_SIZE).max(self.geometry.reserved_bytes);
        if kept >= self.geometry.slot_bytes {
            return Ok(());
        }
        let at = self.geometry.slot_at(epoch).plus(kept);
        space.release(at, self.geometry.slot_bytes - kept)
    }
}

impl<M: PoolWrite> JournalReader<M> {
    /// The commit word, durable as of now: what it says may be acted upon.
    ///
    /// # Errors
    /// When the word is damaged or out of reach.
    pub fn word(&self) -> Result<CommitWord, CommitWordError> {
        CommitWord::observe(&self.memory, WORD_AT)
    }

    /// Closes the generation and returns its final epoch.
    ///
    /// # Errors
    /// When the word is damaged (it is sealed all the same) or out of reach.
    pub fn seal(&self) -> Result<Epoch, CommitWordError> {
        CommitWord::seal(&self.memory, WORD_AT)
    }
}

/// Copies the record of a generation and an epoch from a slot, given by its place and length, and checks the copy.
/// `crcs`: where the slot lies.
pub(crate) fn load_slot<'buffer, M: PoolRead>(
    memory: &M,
    (slot, slot_bytes): (Offset, u64),
    (generation, epoch): (Generation, Epoch),
    limits: &RecordLimits,
    buffer: &'buffer mut Vec<u8>,
    crcs: RecordCrcs,
) -> Result<Record<'buffer>, LoadError> {
    let refused = |source| LoadError::Record { epoch, source };
    let mut header = [0; size_of::<super::layout::RecordHeader>()];
    memory.read(slot, &mut header)?;
    let (_, lengths) = check_header(&header, generation, epoch, limits, crcs).map_err(refused)?;
    let too_long =
        RecordError::Length { pages: lengths.pages, meta_bytes: lengths.meta_bytes, total_bytes: lengths.total_bytes };
    if lengths.total_bytes > slot_bytes {
        return Err(refused(too_long));
    }
    let total = usize::try_from(lengths.total_bytes).map_err(|_| refused(too_long))?;
    if buffer.len() < total {
        buffer.resize(total, 0);
    }
    let copy = &mut buffer[..total];
    memory.read(slot, copy)?;
    // All of the copy is checked again, header included: the first look only told how much to copy.
    Record::parse_in(copy, generation, epoch, limits, crcs).map_err(refused)
}
