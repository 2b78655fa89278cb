//! The side of everybody who reads the record log, and of the controller who seals it.

use thiserror::Error;

use super::copy::LogRange;
use super::entry::{ENTRY_HEADER_BYTES, EntryError, LogEntry, claimed_payload, entry_bytes};
use super::layout::{LogHeader, LogTail, TAIL_AT, TailError, WORD_BYTES, is_log_size, log_file_bytes, run};
use crate::guarded_word;
use crate::header::{Header, ReadHeaderError};
use crate::mem::{AccessError, PoolRead, PoolWrite, check_bounds};
use crate::numbers::{Generation, LogPosition, Offset, len_u64};
use crate::planted::{self, PlantedBug, planted};

/// An entry could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReadLogError {
    /// The writer has gone round the ring since.
    #[error("log entry at {position} is overwritten: the log ends at {tail}")]
    Overwritten {
        /// Position asked for.
        position: LogPosition,
        /// Where the log ends.
        tail: LogPosition,
    },
    /// There is no sound entry at the position.
    #[error("log entry at {position} is refused")]
    Entry {
        /// Position asked for.
        position: LogPosition,
        /// What is wrong.
        source: EntryError,
    },
    /// The entry is not the successor of the one before.
    #[error("log entry at {position} has number {found}, expected {expected}")]
    Sequence {
        /// Where it lies.
        position: LogPosition,
        /// Number in the entry.
        found: u64,
        /// Number of the one before, plus one.
        expected: u64,
    },
    /// The tail is damaged.
    #[error("cannot read the tail")]
    Tail(#[from] TailError),
    /// The pool refused.
    #[error("cannot read the record log")]
    Access(#[from] AccessError),
}

/// Reads entries.
#[derive(Debug)]
pub struct LogReader<M> {
    memory: M,
    ring_bytes: u64,
}

impl<M: PoolRead> LogReader<M> {
    /// A reader of a log with a ring of `ring_bytes`, a number from the VM directory.
    ///
    /// # Errors
    /// When the size does not fit the memory.
    pub fn new(memory: M, ring_bytes: u64) -> Result<Self, AccessError> {
        assert!(is_log_size(ring_bytes), "the VM directory is checked when it is read");
        check_bounds(Offset::ZERO, log_file_bytes(ring_bytes), memory.len())?;
        Ok(Self { memory, ring_bytes })
    }

    /// Size of the ring.
    #[must_use]
    pub fn ring_bytes(&self) -> u64 {
        self.ring_bytes
    }

    /// What the log's own header says: whose log it is, and where it began.
    ///
    /// # Errors
    /// When the header is damaged or something else.
    pub fn header(&self) -> Result<(Generation, LogPosition), ReadHeaderError> {
        let header = LogHeader::load(&self.memory, Offset::ZERO)?;
        Ok((Generation::new(header.generation.get()), LogPosition::new(header.base.get())))
    }

    /// Where the log ends now.
    ///
    /// # Errors
    /// When the tail is damaged or out of reach.
    pub fn tail(&self) -> Result<LogTail, TailError> {
        LogTail::load(&self.memory)
    }

    /// What the next generation's log begins with, when a commit covers this one up to `covered`; and what is wrong with the
    /// tail, if that cannot say where the entries end.
    #[must_use]
    pub fn range_after(&self, covered: LogPosition) -> (LogRange, Option<TailError>) {
        let tail = self.tail();
        let to = match &tail {
            // A commit is published after the entries that it covers; a tail before it has been tampered with.
            Ok(tail) if tail.position >= covered && tail.position.get() - covered.get() <= self.ring_bytes => {
                tail.position
            }
            // The entries themselves say how far they go.
            Ok(_) | Err(_) => covered.plus(self.ring_bytes),
        };
        (LogRange { from: covered, to, after_sequence: None }, tail.err())
    }

    /// Copies the entry at `position` into `buffer` and checks the copy. `None`: the log ends there.
    ///
    /// # Errors
    /// When the entry is overwritten or damaged, or the pool refuses.
    pub fn read<'buffer>(
        &self,
        position: LogPosition,
        buffer: &'buffer mut Vec<u8>,
    ) -> Result<Option<LogEntry<'buffer>>, ReadLogError> {
        let tail = self.tail()?.position;
        self.read_before(position, tail, buffer)
    }

    fn read_before<'buffer>(
        &self,
        position: LogPosition,
        tail: LogPosition,
        buffer: &'buffer mut Vec<u8>,
    ) -> Result<Option<LogEntry<'buffer>>, ReadLogError> {
        let refused = |source| ReadLogError::Entry { position, source };
        if position >= tail {
            return Ok(None);
        }
        let available = tail.get() - position.get();
        if available > self.ring_bytes {
            return Err(ReadLogError::Overwritten { position, tail });
        }
        let mut header = [0; ENTRY_HEADER_BYTES];
        let short = |needed| EntryError::Short { needed, found: available };
        if available < len_u64(ENTRY_HEADER_BYTES) {
            return Err(refused(short(len_u64(ENTRY_HEADER_BYTES))));
        }
        self.copy(position.get(), &mut header)?;
        let payload_bytes = claimed_payload(&header).map_err(refused)?;
        let needed = entry_bytes(payload_bytes);
        if needed > available {
            return Err(refused(short(needed)));
        }
        let length = ENTRY_HEADER_BYTES + usize::try_from(payload_bytes).map_err(|_| refused(short(needed)))?;
        buffer.resize(length, 0);
        buffer[..ENTRY_HEADER_BYTES].copy_from_slice(&header);
        let payload_at = position.get() + len_u64(ENTRY_HEADER_BYTES);
        self.copy(payload_at, &mut buffer[ENTRY_HEADER_BYTES..])?;
        LogEntry::parse(buffer, position).map(Some).map_err(refused)
    }

    fn copy(&self, position: u64, into: &mut [u8]) -> Result<(), AccessError> {
        let mut done = 0;
        while done < into.len() {
            let (at, count) = run(self.ring_bytes, position + len_u64(done), into.len() - done);
            self.memory.read(at, &mut into[done..done + count])?;
            done += count;
        }
        Ok(())
    }

    /// Walks the entries from `from` to the tail as it is now, checking that their numbers follow each other.
    ///
    /// # Errors
    /// When the tail is damaged or out of reach.
    pub fn entries(&self, from: LogPosition) -> Result<LogEntries<'_, M>, TailError> {
        Ok(self.entries_within(LogRange { from, to: self.tail()?.position, after_sequence: None }))
    }

    /// Walks the entries of a range, checking that their numbers follow each other.
    #[must_use]
    pub fn entries_within(&self, range: LogRange) -> LogEntries<'_, M> {
        let expected = range.after_sequence.map(|before| before.saturating_add(1));
        LogEntries { log: self, position: range.from, tail: range.to, expected, buffer: Vec::new() }
    }

    /// Copies whole entries of a range into `into`, which is emptied first, as they are stored and each checked: as many
    /// as fit in `bytes_max`, and at least one if there is one. Memory is bounded by the larger of `bytes_max` and the
    /// largest entry.
    ///
    /// # Errors
    /// When the first entry is overwritten, damaged or out of sequence, or the pool refuses. A bad entry further on ends
    /// the chunk before it.
    pub fn read_chunk(&self, range: LogRange, bytes_max: usize, into: &mut Vec<u8>) -> Result<LogChunk, ReadLogError> {
        into.clear();
        let mut chunk = LogChunk { next: range.from, entries: 0, last_sequence: range.after_sequence };
        let mut entries = self.entries_within(range);
        loop {
            let entry = match entries.next_entry() {
                Ok(Some(entry)) => entry,
                Ok(None) => return Ok(chunk),
                Err(ReadLogError::Access(error)) => return Err(error.into()),
                Err(error) if chunk.entries == 0 => return Err(error),
                Err(_) => return Ok(chunk),
            };
            let stored_bytes = entry.stored_bytes();
            let room = len_u64(bytes_max).saturating_sub(len_u64(into.len()));
            if chunk.entries > 0 && stored_bytes > room {
                return Ok(chunk);
            }
            entry.encode_into(into);
            chunk.entries += 1;
            chunk.last_sequence = Some(entry.sequence);
            chunk.next = chunk.next.plus(stored_bytes);
        }
    }
}

impl<M: PoolWrite> LogReader<M> {
    /// The tail, durable as of now: what lies before it may be acted upon.
    ///
    /// # Errors
    /// When the tail is damaged or out of reach.
    pub fn durable_tail(&self) -> Result<LogTail, TailError> {
        let tail = self.tail()?;
        planted::flush(&self.memory, TAIL_AT, WORD_BYTES, PlantedBug::LogObserveFlush)?;
        planted::fence(&self.memory, PlantedBug::LogObserveFence)?;
        Ok(tail)
    }

    /// Closes the log for its writer and returns where it ends for ever. Sealing again is harmless.
    ///
    /// # Errors
    /// When the tail is damaged (it is sealed all the same) or out of reach.
    pub fn seal(&self) -> Result<LogPosition, TailError> {
        let raw = self.memory.fetch_or_u64(TAIL_AT, guarded_word::SEALED)?;
        planted::flush(&self.memory, TAIL_AT, WORD_BYTES, PlantedBug::LogSealFlush)?;
        planted::fence(&self.memory, PlantedBug::LogSealFence)?;
        Ok(LogPosition::new(guarded_word::decode_before_seal(raw, PlantedBug::LogTailCrc)?))
    }
}

/// Entries that were copied out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogChunk {
    /// Where the next entry begins.
    pub next: LogPosition,
    /// How many there are.
    pub entries: u64,
    /// Sequence number of the last of them, or of the entry before the range if there is none.
    pub last_sequence: Option<u64>,
}

/// Walks entries. Not an `Iterator`: each entry lives in the walker's buffer until the next call.
#[derive(Debug)]
pub struct LogEntries<'log, M> {
    log: &'log LogReader<M>,
    position: LogPosition,
    tail: LogPosition,
    expected: Option<u64>,
    buffer: Vec<u8>,
}

impl<M: PoolRead> LogEntries<'_, M> {
    /// The next entry; `None` at the tail. After an error the walk stays where it is.
    ///
    /// # Errors
    /// When the entry is overwritten, damaged or out of sequence, or the pool refuses.
    pub fn next_entry(&mut self) -> Result<Option<LogEntry<'_>>, ReadLogError> {
        let position = self.position;
        let Some(entry) = self.log.read_before(position, self.tail, &mut self.buffer)? else {
            return Ok(None);
        };
        let expected = self.expected.filter(|_| !planted(PlantedBug::LogSequenceCheck));
        if let Some(expected) = expected.filter(|expected| *expected != entry.sequence) {
            return Err(ReadLogError::Sequence { position, found: entry.sequence, expected });
        }
        self.expected = entry.sequence.checked_add(1);
        self.position = position.plus(entry.stored_bytes());
        Ok(Some(entry))
    }

    /// Where the next entry begins.
    #[must_use]
    pub fn position(&self) -> LogPosition {
        self.position
    }

    /// Looks at the tail again, to go on behind what was there before; returns where the log ends now.
    ///
    /// # Errors
    /// When the tail is damaged or out of reach.
    pub fn look_again(&mut self) -> Result<LogTail, TailError> {
        let tail = self.log.tail()?;
        self.tail = tail.position;
        Ok(tail)
    }
}
