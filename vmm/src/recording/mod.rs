//! Recordings: a guest's whole history in a file, and its re-execution. docs/recording.md has the format, byte by byte.
//!
//! ```text
//!   recorded:  machine ──> Recorder ──> RecordingSink ──> RecordingWriter ──> file
//!   replayed:  file ──> Index (one look through all of it) ──> Tape ──> Replayer ──> machine, held against each commit
//! ```
//!
//! Files are untrusted: what is damaged or cut off ends a replay at the last good chunk, and is said.

mod chunk;
mod envelope;
mod index;
mod live;
mod page_hash;
mod reader;
pub mod replay;
#[cfg(test)]
mod tests;
mod writer;

pub use chunk::{Chunk, ChunkError, CommitHead, CommitKind, NumberedPage, RecordedEnd, RecordedMachine};
pub use envelope::{ChunkKind, FORMAT_VERSION, PLAIN_BYTES_MAX};
pub use index::{Index, IndexedCommit};
pub use live::LiveRecording;
pub use page_hash::{PageHashes, page_hash};
pub use reader::{ReadError, RecordingReader};
pub use writer::{RecordError, RecordingWriter};

/// Looks through a recording that is in memory, as a replay does before it begins. Any bytes will do.
///
/// # Errors
/// The bytes do not begin like a recording. What is damaged further on is part of the index.
pub fn parse(bytes: &[u8]) -> Result<Index, ReadError> {
    Index::read(bytes)
}
