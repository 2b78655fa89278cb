//! Carries entries over into the log of the next generation.
//!
//! ```text
//!   tail := none ─▶ entries, header ─▶ tail
//!      each durable before the next: a log whose copy was not finished has no tail, and is refused
//! ```
//! Positions and sequence numbers stay what they were, so that nobody who knows one has to learn another. What the writer
//! before has left is hostile: each entry is checked on the way, and written anew from what was checked.

use std::sync::atomic::Ordering;

use thiserror::Error;

use super::layout::{FormatLogError, RING_AT, TAIL_AT, WORD_BYTES, check_log, header_bytes, is_log_position, run};
use super::reader::{LogReader, ReadLogError};
use crate::guarded_word;
use crate::mem::{AccessError, PoolRead, PoolWrite};
use crate::numbers::{Generation, LogPosition, Offset, len_u64};
use crate::planted::{self, Laid, PlantedBug, planted};

/// Which entries are carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRange {
    /// Where the first of them begins: the position up to which the last commit covers the log.
    pub from: LogPosition,
    /// Where the last of them ends: the tail that the seal has told.
    pub to: LogPosition,
    /// Sequence number of the entry before the first; `None`: not known, then the first one's is believed.
    pub after_sequence: Option<u64>,
}

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopiedLog {
    /// Where the new log ends.
    pub end: LogPosition,
    /// How many entries it begins with.
    pub entries: u64,
    /// Sequence number of the last of them, or of the entry before the range if there is none.
    pub last_sequence: Option<u64>,
    /// Why the copy ends before the range does: what is wrong with the entry at `end`.
    pub stopped: Option<ReadLogError>,
}

/// A log could not be copied: the new one does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CopyLogError {
    /// Positions that no log can have.
    #[error("no entries lie from {from} to {to}")]
    Range {
        /// Where the entries are said to begin.
        from: LogPosition,
        /// Where they are said to end.
        to: LogPosition,
    },
    /// The new log cannot be laid out.
    #[error("the new record log cannot be laid out")]
    Format(#[from] FormatLogError),
    /// The pool refused.
    #[error("cannot copy the record log")]
    Access(#[from] AccessError),
}

/// Lays out the log of `generation` in `to`, with a ring of the same size, beginning with the entries of `from` in
/// `range`; a bad entry ends it early. Whatever `to` held is gone. Can be repeated: a copy that was not finished leaves a
/// log without a tail.
///
/// # Errors
/// When the range makes no sense, or the ring does not fit the memory, or the pool refuses.
pub fn copy_log<R: PoolRead, W: PoolWrite>(
    from: &LogReader<R>,
    range: LogRange,
    to: &W,
    generation: Generation,
) -> Result<CopiedLog, CopyLogError> {
    let ring_bytes = from.ring_bytes();
    // Where a commit left the log is what its writer said.
    if range.from > range.to || !is_log_position(range.from) || range.to.get() > guarded_word::VALUE_MAX {
        return Err(CopyLogError::Range { from: range.from, to: range.to });
    }
    check_log(to, ring_bytes)?;
    let none = if planted(PlantedBug::LogCopyTailFirst) { guarded_word::encode(range.to.get()) } else { 0 };
    to.store_u64(TAIL_AT, none, Ordering::Release)?;
    planted::flush(to, TAIL_AT, WORD_BYTES, PlantedBug::LogCopyClearFlush)?;
    planted::fence(to, PlantedBug::LogCopyClearFence)?;
    let mut copied = CopiedLog { end: range.from, entries: 0, last_sequence: range.after_sequence, stopped: None };
    // What lies before the range's end is never more than a ring: the walk refuses to begin then.
    let mut entries = from.entries_within(range);
    let mut stored = Vec::new();
    loop {
        let entry = match entries.next_entry() {
            Ok(None) => break,
            Ok(Some(entry)) => entry,
            Err(ReadLogError::Access(error)) => return Err(error.into()),
            Err(error) => {
                copied.stopped = Some(error);
                break;
            }
        };
        let stored_bytes = entry.stored_bytes();
        stored.clear();
        entry.encode_into(&mut stored);
        write_entry(to, ring_bytes, entry.position, &stored)?;
        copied.last_sequence = Some(entry.sequence);
        copied.entries += 1;
        copied.end = copied.end.plus(stored_bytes);
    }
    to.write(Offset::ZERO, &header_bytes(generation, ring_bytes, range.from))?;
    planted::flush(to, Offset::ZERO, RING_AT, PlantedBug::LogCopyHeaderFlush)?;
    planted::fence(to, PlantedBug::LogCopyFence)?;
    to.store_u64(TAIL_AT, guarded_word::encode(copied.end.get()), Ordering::Release)?;
    planted::settle(to, TAIL_AT, WORD_BYTES, Laid::LogCopyTail)?;
    Ok(copied)
}

fn write_entry<W: PoolWrite>(to: &W, ring_bytes: u64, position: LogPosition, stored: &[u8]) -> Result<(), AccessError> {
    let mut done = 0;
    while done < stored.len() {
        let (at, count) = run(ring_bytes, position.get() + len_u64(done), stored.len() - done);
        to.write(at, &stored[done..done + count])?;
        planted::flush(to, at, len_u64(count), PlantedBug::LogCopyEntryFlush)?;
        done += count;
    }
    Ok(())
}
