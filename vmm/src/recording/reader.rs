//! Reads a recording, chunk by chunk.

use super::chunk::{Chunk, ChunkError};
use super::envelope::{self, FILE_HEAD_BYTES, FORMAT_VERSION, FORMAT_VERSION_MIN, PLAIN_BYTES_MAX};
use std::io::{self, Read};

/// Why a recording cannot be read, or not any further.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file failed.
    #[error("the file cannot be read")]
    File(#[source] io::Error),
    /// Shorter than a file's head, or another file.
    #[error("not a recording")]
    Magic,
    /// The head was changed.
    #[error("the file's head has CRC {got:#010x}, expected {expected:#010x}")]
    HeadCrc {
        /// What the head says.
        expected: u32,
        /// What it adds up to.
        got: u32,
    },
    /// A version that this program does not know.
    #[error("a recording of format version {got}, this program knows {FORMAT_VERSION_MIN} to {FORMAT_VERSION}")]
    Version {
        /// Its version.
        got: u32,
    },
    /// The file ends within a chunk.
    #[error("the file ends after {got} of {expected} bytes of a chunk")]
    CutOff {
        /// Bytes that should be there.
        expected: usize,
        /// Bytes that are.
        got: usize,
    },
    /// A chunk's envelope was changed.
    #[error("a chunk's envelope has CRC {got:#010x}, expected {expected:#010x}")]
    EnvelopeCrc {
        /// What the envelope says.
        expected: u32,
        /// What it adds up to.
        got: u32,
    },
    /// A chunk's content was changed.
    #[error("a chunk's content has CRC {got:#010x}, expected {expected:#010x}")]
    ContentCrc {
        /// What the envelope says.
        expected: u32,
        /// What it adds up to.
        got: u32,
    },
    /// A chunk of an unknown kind.
    #[error("a chunk of unknown kind {got}")]
    Kind {
        /// The kind.
        got: u32,
    },
    /// A chunk is missing, or there twice.
    #[error("chunk {got} where chunk {expected} belongs")]
    Sequence {
        /// The number that would be next.
        expected: u64,
        /// The number that is there.
        got: u64,
    },
    /// Longer than any chunk.
    #[error("a chunk of {stored} bytes for {plain}, at most {PLAIN_BYTES_MAX} are allowed")]
    Length {
        /// Bytes in the file.
        stored: usize,
        /// Bytes of content.
        plain: usize,
    },
    /// An encoding that no chunk has.
    #[error("a chunk of unknown encoding {got}")]
    Encoding {
        /// The encoding.
        got: u32,
    },
    /// The content does not come out of its compression.
    #[error("a chunk's content cannot be decompressed")]
    Compression,
    /// The content makes no sense.
    #[error("chunk {sequence} is refused")]
    Chunk {
        /// Its number.
        sequence: u64,
        /// Why.
        source: ChunkError,
    },
    /// A chunk where none of its kind belongs.
    #[error("chunk {sequence} is out of place: {what}")]
    Place {
        /// Its number.
        sequence: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// Reads the chunks of a recording, in order, each checked.
#[derive(Debug)]
pub struct RecordingReader<R> {
    from: R,
    sequence: u64,
    position: u64,
}

impl<R: Read> RecordingReader<R> {
    /// Begins at the beginning of a file.
    ///
    /// # Errors
    /// It is no recording, or one of another version.
    pub fn new(mut from: R) -> Result<Self, ReadError> {
        let mut head = [0; FILE_HEAD_BYTES];
        if envelope::read_fully(&mut from, &mut head)? < FILE_HEAD_BYTES {
            return Err(ReadError::Magic);
        }
        envelope::check_file_head(&head)?;
        Ok(Self { from, sequence: 0, position: FILE_HEAD_BYTES as u64 })
    }

    /// The next chunk; `None` where the file ends between two.
    ///
    /// # Errors
    /// It is damaged or cut off.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>, ReadError> {
        let Some(opened) = envelope::open(&mut self.from, self.sequence)? else { return Ok(None) };
        let sequence = self.sequence;
        let chunk = Chunk::decode(opened.kind, opened.plain).map_err(|source| ReadError::Chunk { sequence, source })?;
        self.sequence += 1;
        self.position += opened.stored_bytes;
        Ok(Some(chunk))
    }

    /// Where the next chunk begins in the file.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The number of the next chunk.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}
