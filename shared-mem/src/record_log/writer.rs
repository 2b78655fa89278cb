//! The primary's side of the record log.

use std::num::NonZeroU32;

use thiserror::Error;

use super::entry::{LogEntry, entry_bytes};
use super::layout::{
    LogHeader, LogTail, PAYLOAD_BYTES_MAX, TAIL_AT, TailError, WORD_BYTES, is_log_size, log_file_bytes, run,
};
use crate::guarded_word::{self, WordError};
use crate::header::{Header, ReadHeaderError};
use crate::mem::{AccessError, PoolWrite, check_bounds};
use crate::numbers::{LogPosition, Offset, len_u64};
use crate::planted::{self, PlantedBug, planted};

/// An entry is not in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The generation is closed: this host is fenced and must release nothing.
    #[error("the record log is sealed at {final_tail}")]
    Sealed {
        /// Where the log ends for ever.
        final_tail: LogPosition,
    },
    /// No room: commit, so that older entries become free.
    #[error("the record log is full: {needed} bytes needed, {free} free")]
    Full {
        /// Space the entry takes.
        needed: u64,
        /// Space there is.
        free: u64,
    },
    /// A larger payload than any entry has.
    #[error("a log entry with {found} bytes of payload, at most {PAYLOAD_BYTES_MAX} are allowed")]
    TooLarge {
        /// Bytes given.
        found: u64,
    },
    /// Somebody else moved the tail.
    #[error("the record log ends at {found}, expected {expected}")]
    Unexpected {
        /// Where the writer left it.
        expected: LogPosition,
        /// Where it is.
        found: LogPosition,
    },
    /// The tail is damaged.
    #[error("the tail of the record log is damaged")]
    Word(#[from] WordError),
    /// The pool refused.
    #[error("cannot write to the record log")]
    Access(#[from] AccessError),
}

/// A log cannot be gone on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ResumeLogError {
    /// The generation is closed.
    #[error("the record log is sealed at {final_tail}")]
    Sealed {
        /// Where the log ends for ever.
        final_tail: LogPosition,
    },
    /// The log does not end where the writer would go on.
    #[error("the record log ends at {found}, expected {expected}")]
    Unexpected {
        /// Where the writer would go on.
        expected: LogPosition,
        /// Where the log ends.
        found: LogPosition,
    },
    /// The log cannot hold all from its first position to its tail.
    #[error("a record log with a ring of {ring_bytes} bytes cannot reach from {base} to {tail}")]
    Base {
        /// Its first position.
        base: LogPosition,
        /// Where it ends.
        tail: LogPosition,
        /// Size of its ring.
        ring_bytes: u64,
    },
    /// The header is damaged.
    #[error("the header of the record log cannot be used")]
    Header(#[from] ReadHeaderError),
    /// The tail is damaged, or the pool refused.
    #[error("cannot read the tail")]
    Tail(#[from] TailError),
}

/// Appends entries.
#[derive(Debug)]
pub struct LogWriter<M> {
    memory: M,
    ring_bytes: u64,
    tail: LogPosition,
    /// The word of the tail, as it was written or found.
    tail_word: u64,
    free_before: LogPosition,
    sequence: u64,
    scratch: Vec<u8>,
}

impl<M: PoolWrite> LogWriter<M> {
    /// The writer of a log that has just been laid out with `ring_bytes`.
    ///
    /// # Errors
    /// When the size does not fit the memory or the tail is damaged.
    pub fn new(memory: M, ring_bytes: u64) -> Result<Self, TailError> {
        assert!(is_log_size(ring_bytes), "the VM directory is checked when it is read");
        check_bounds(Offset::ZERO, log_file_bytes(ring_bytes), memory.len())?;
        let tail = LogTail::load(&memory)?.position;
        let tail_word = guarded_word::encode(tail.get());
        Ok(Self { memory, ring_bytes, tail, tail_word, free_before: tail, sequence: 0, scratch: Vec::new() })
    }

    /// The writer of a log that begins with entries of the generation before (see [`copy_log`](super::copy_log)) and
    /// that nobody has written to since: it goes on at the tail `at`, after the entry with number `sequence`. All entries
    /// are kept until [`free_before`](Self::free_before) says otherwise.
    ///
    /// # Errors
    /// When the log does not end there, is sealed or damaged, or does not fit the memory.
    pub fn resume(memory: M, ring_bytes: u64, at: LogPosition, sequence: u64) -> Result<Self, ResumeLogError> {
        let mut writer = Self::new(memory, ring_bytes)?;
        let found = LogTail::load(&writer.memory)?;
        if found.sealed {
            return Err(ResumeLogError::Sealed { final_tail: found.position });
        }
        if found.position != at {
            return Err(ResumeLogError::Unexpected { expected: at, found: found.position });
        }
        let header = LogHeader::load(&writer.memory, Offset::ZERO)?;
        let base = LogPosition::new(header.base.get());
        if base > at || at.get() - base.get() > ring_bytes {
            return Err(ResumeLogError::Base { base, tail: at, ring_bytes });
        }
        writer.tail = at;
        writer.tail_word = guarded_word::encode(at.get());
        writer.free_before = base;
        writer.sequence = sequence;
        Ok(writer)
    }

    /// Number of the last entry.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Where the next entry goes.
    #[must_use]
    pub fn tail(&self) -> LogPosition {
        self.tail
    }

    /// Entries before `position` are covered by a commit; their space may be written again.
    pub fn free_before(&mut self, position: LogPosition) {
        assert!(position <= self.tail, "only what was written is freed");
        self.free_before = self.free_before.max(position);
    }

    /// Space for further entries.
    #[must_use]
    pub fn free_space(&self) -> u64 {
        self.ring_bytes.saturating_sub(self.tail.get() - self.free_before.get())
    }

    /// Appends an entry durably and returns the new tail. Only after success may an output leave that depends on it.
    ///
    /// # Errors
    /// When the log is sealed, full or damaged: the entry is not in then. When the pool refuses, it may be in, and may
    /// stay in; it is never written over.
    pub fn append(&mut self, tag: NonZeroU32, exit_counter: u64, payload: &[u8]) -> Result<LogPosition, AppendError> {
        self.append_stepwise(tag, exit_counter, payload, || {})
    }

    /// As [`append`](Self::append). `written` is called when the entry is durable, and in for nobody yet: for tests, in which
    /// the writer stops there.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    pub fn append_stepwise(
        &mut self,
        tag: NonZeroU32,
        exit_counter: u64,
        payload: &[u8],
        written: impl FnOnce(),
    ) -> Result<LogPosition, AppendError> {
        let length = len_u64(payload.len());
        if length > PAYLOAD_BYTES_MAX {
            return Err(AppendError::TooLarge { found: length });
        }
        let (needed, free) = (entry_bytes(length), self.free_space());
        if needed > free && !planted(PlantedBug::LogFullCheck) {
            return Err(AppendError::Full { needed, free });
        }
        // Where the numbers begin may be what another writer has left: the last of them is refused by every reader.
        let sequence = self.sequence.saturating_add(1);
        let entry = LogEntry { tag, sequence, exit_counter, position: self.tail, payload };
        self.scratch.clear();
        entry.encode_into(&mut self.scratch);
        let at = self.tail;
        let after = at.plus(needed);
        if planted(PlantedBug::LogTailFirst) {
            self.move_tail(after, sequence)?;
            self.write_entry(at)?;
        } else {
            self.write_entry(at)?;
            written();
            self.move_tail(after, sequence)?;
        }
        Ok(after)
    }

    fn write_entry(&self, entry_at: LogPosition) -> Result<(), AccessError> {
        let mut done = 0;
        while done < self.scratch.len() {
            let position = entry_at.get() + len_u64(done);
            let (at, count) = run(self.ring_bytes, position, self.scratch.len() - done);
            self.memory.write(at, &self.scratch[done..done + count])?;
            planted::flush(&self.memory, at, len_u64(count), PlantedBug::LogEntryFlush)?;
            done += count;
        }
        planted::fence(&self.memory, PlantedBug::LogEntryFence)
    }

    fn move_tail(&mut self, after: LogPosition, sequence: u64) -> Result<(), AppendError> {
        let word = guarded_word::encode(after.get());
        let swap = self.memory.compare_exchange_u64(TAIL_AT, self.tail_word, word)?;
        if let Err(raw) = swap {
            let found = LogTail::decode(raw)?;
            return Err(if found.sealed {
                AppendError::Sealed { final_tail: found.position }
            } else {
                AppendError::Unexpected { expected: self.tail, found: found.position }
            });
        }
        // Readers have the entry now: its place is taken, even where the pool refuses what is still to be done.
        (self.tail, self.tail_word, self.sequence) = (after, word, sequence);
        planted::flush(&self.memory, TAIL_AT, WORD_BYTES, PlantedBug::LogTailFlush)?;
        planted::fence(&self.memory, PlantedBug::LogTailFence)?;
        Ok(())
    }
}
