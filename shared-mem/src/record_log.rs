//! The record log of one generation: a ring of non-deterministic inputs, one writer, many readers, no system call.
//!
//! ```text
//! file:  header (64) | tail word (at 64) | ... 4096 | ring
//! entry: tag, length, sequence, exit counter, position, CRC | payload, padded to 8 bytes
//! ```
//! An append writes the entry beyond the tail, makes it durable, then moves the tail by compare_exchange: the entry is
//! in, or it is not. The tail word can be SEALED, by one fetch_or, which stops the writer for ever. Positions
//! are never wrapped; an entry names its own, so that bytes of an earlier round are not taken for it.
//!
//! The log of the next generation begins with the entries that no commit covers yet: [`copy_log`] carries them over,
//! positions and numbers unchanged, and [`LogWriter::resume`] goes on behind them.

mod copy;
mod entry;
mod layout;
mod reader;
mod writer;

pub use copy::{CopiedLog, CopyLogError, LogRange, copy_log};
pub use entry::{EntryError, LogEntry};
pub(crate) use layout::TAIL_AT;
pub use layout::{
    FormatLogError, LogTail, PAYLOAD_BYTES_MAX, TailError, format_log, is_log_position, is_log_size, log_file_bytes,
};
pub use reader::{LogChunk, LogEntries, LogReader, ReadLogError};
pub use writer::{AppendError, LogWriter, ResumeLogError};

#[cfg(test)]
mod tests;
