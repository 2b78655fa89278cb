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

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// Whether a recording is good to its end, and has one. Gives its length.
///
/// # Errors
/// It is not; or it cannot be read.
pub fn check_whole(path: &Path) -> Result<u64, RecordError> {
    let ends_early = |good_bytes: u64, why: String| RecordError::EndsEarly { path: path.to_owned(), good_bytes, why };
    let file = File::open(path).map_err(|error| ends_early(0, error.to_string()))?;
    let index = Index::read(BufReader::new(file)).map_err(|error| ends_early(0, crate::chain(&error)))?;
    match (&index.damage, &index.end) {
        (Some(damage), _) => Err(ends_early(index.good_bytes, crate::chain(damage))),
        (None, None) => Err(ends_early(index.good_bytes, "nobody closed it".to_owned())),
        (None, Some(_)) => Ok(index.good_bytes),
    }
}

/// Looks through a recording that is in memory, as a replay does before it begins. Any bytes will do.
///
/// # Errors
/// The bytes do not begin like a recording. What is damaged further on is part of the index.
pub fn parse(bytes: &[u8]) -> Result<Index, ReadError> {
    Index::read(bytes)
}
