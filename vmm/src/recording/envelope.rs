//! The file's head and the envelope of each chunk.

use super::reader::ReadError;
use std::io::{self, Read};

const MAGIC: [u8; 8] = *b"FTVMRECD";
/// The version of the format that is written. 2: a recording that begins with a boot file has its disk behind that, and hashes of
/// disk blocks.
pub const FORMAT_VERSION: u32 = 2;
/// The oldest version that is read.
pub(super) const FORMAT_VERSION_MIN: u32 = 1;
/// Bytes of the file's head.
pub(super) const FILE_HEAD_BYTES: usize = 16;
/// Bytes of a chunk's envelope.
pub(super) const ENVELOPE_BYTES: usize = 32;
/// Longest content of a chunk.
pub const PLAIN_BYTES_MAX: usize = 4 << 20;
/// Content shorter than this is not compressed.
const COMPRESSED_FROM: usize = 128;

const ENCODING_PLAIN: u32 = 0;
const ENCODING_LZ4: u32 = 1;

/// What a chunk holds; the numbers stand in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ChunkKind {
    /// What is recorded: machine, guest, versions. The first chunk.
    Machine = 1,
    /// A part of the file that the guest is booted from.
    Boot = 2,
    /// Entries of the record log.
    Entries = 3,
    /// Pages that belong to the next commit.
    Pages = 4,
    /// Hashes of pages that belong to the next commit.
    Hashes = 5,
    /// A commit.
    Commit = 6,
    /// The recording's end. The last chunk.
    End = 7,
    /// Blocks of the disk that a guest with a boot file begins with.
    Disk = 8,
}

impl ChunkKind {
    const ALL: [Self; 8] =
        [Self::Machine, Self::Boot, Self::Entries, Self::Pages, Self::Hashes, Self::Commit, Self::End, Self::Disk];
}

/// The head of a file.
pub(super) fn file_head() -> [u8; FILE_HEAD_BYTES] {
    let mut head = [0; FILE_HEAD_BYTES];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    let crc = crc32fast::hash(&head[..12]);
    head[12..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// Checks the head of a file.
pub(super) fn check_file_head(head: &[u8; FILE_HEAD_BYTES]) -> Result<(), ReadError> {
    if head[..8] != MAGIC {
        return Err(ReadError::Magic);
    }
    let (expected, got) = (number(head, 12), crc32fast::hash(&head[..12]));
    if expected != got {
        return Err(ReadError::HeadCrc { expected, got });
    }
    match number(head, 8) {
        FORMAT_VERSION_MIN..=FORMAT_VERSION => Ok(()),
        got => Err(ReadError::Version { got }),
    }
}

/// A chunk as it stands in a file: envelope and content.
pub(super) fn seal(kind: ChunkKind, sequence: u64, plain: &[u8]) -> Vec<u8> {
    assert!(plain.len() <= PLAIN_BYTES_MAX, "chunks are closed before they grow that long");
    let compressed = (plain.len() >= COMPRESSED_FROM).then(|| lz4_flex::block::compress(plain));
    let (encoding, stored) = match &compressed {
        Some(compressed) if compressed.len() < plain.len() => (ENCODING_LZ4, compressed.as_slice()),
        _ => (ENCODING_PLAIN, plain),
    };
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("bounded above").to_le_bytes();
    let mut chunk = Vec::with_capacity(ENVELOPE_BYTES + stored.len());
    chunk.extend((kind as u32).to_le_bytes());
    chunk.extend(encoding.to_le_bytes());
    chunk.extend(sequence.to_le_bytes());
    chunk.extend(length(stored));
    chunk.extend(length(plain));
    chunk.extend(crc32fast::hash(stored).to_le_bytes());
    let crc = crc32fast::hash(&chunk);
    chunk.extend(crc.to_le_bytes());
    chunk.extend_from_slice(stored);
    chunk
}

/// A chunk's content, out of its envelope.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) kind: ChunkKind,
    pub(super) plain: Vec<u8>,
    /// Bytes that the chunk has in the file.
    pub(super) stored_bytes: u64,
}

/// Reads the next chunk, which must have this sequence number; `None` where the file ends between two chunks.
pub(super) fn open(from: &mut impl Read, sequence: u64) -> Result<Option<Opened>, ReadError> {
    let mut envelope = [0; ENVELOPE_BYTES];
    match read_fully(from, &mut envelope)? {
        0 => return Ok(None),
        ENVELOPE_BYTES => {}
        got => return Err(ReadError::CutOff { expected: ENVELOPE_BYTES, got }),
    }
    let (expected, got) = (number(&envelope, 28), crc32fast::hash(&envelope[..28]));
    if expected != got {
        return Err(ReadError::EnvelopeCrc { expected, got });
    }
    let number_of_kind = number(&envelope, 0);
    let kind = ChunkKind::ALL.into_iter().find(|kind| *kind as u32 == number_of_kind);
    let kind = kind.ok_or(ReadError::Kind { got: number_of_kind })?;
    let got = u64::from_le_bytes(envelope[8..16].try_into().expect("eight bytes"));
    if got != sequence {
        return Err(ReadError::Sequence { expected: sequence, got });
    }
    let (stored_length, plain_length) = (length(&envelope, 16), length(&envelope, 20));
    if stored_length > PLAIN_BYTES_MAX || plain_length > PLAIN_BYTES_MAX {
        return Err(ReadError::Length { stored: stored_length, plain: plain_length });
    }
    let mut stored = vec![0; stored_length];
    let got = read_fully(from, &mut stored)?;
    if got < stored_length {
        return Err(ReadError::CutOff { expected: stored_length, got });
    }
    let (expected, got) = (number(&envelope, 24), crc32fast::hash(&stored));
    if expected != got {
        return Err(ReadError::ContentCrc { expected, got });
    }
    let plain = match number(&envelope, 4) {
        ENCODING_PLAIN if stored_length == plain_length => stored,
        ENCODING_LZ4 => lz4_flex::block::decompress(&stored, plain_length)
            .ok()
            .filter(|plain| plain.len() == plain_length)
            .ok_or(ReadError::Compression)?,
        got => return Err(ReadError::Encoding { got }),
    };
    Ok(Some(Opened { kind, plain, stored_bytes: (ENVELOPE_BYTES + stored_length) as u64 }))
}

/// Reads until the buffer is full or there is no more; says how much came.
pub(super) fn read_fully(from: &mut impl Read, into: &mut [u8]) -> Result<usize, ReadError> {
    let mut filled = 0;
    while filled < into.len() {
        match from.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ReadError::File(error)),
        }
    }
    Ok(filled)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn length(bytes: &[u8], at: usize) -> usize {
    usize::try_from(number(bytes, at)).expect("usize has 64 bits")
}
