//! One entry of the record log.

use std::num::NonZeroU32;

use thiserror::Error;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::layout::PAYLOAD_BYTES_MAX;
use crate::crc::{self, Mismatch};
use crate::numbers::{LogPosition, len_u64, round_up};
use crate::planted::PlantedBug;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct EntryHeader {
    tag: U32,
    length: U32,
    sequence: U64,
    exit_counter: U64,
    position: U64,
    zero: U32,
    crc: U32,
}

pub(super) const ENTRY_HEADER_BYTES: usize = 40;
const CRC_AT: usize = 36;
const _: () = assert!(size_of::<EntryHeader>() == ENTRY_HEADER_BYTES);

/// An entry in private memory, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEntry<'bytes> {
    /// What kind of input; meaning is the replayer's.
    pub tag: NonZeroU32,
    /// Number of the entry in this log, from 1.
    pub sequence: u64,
    /// Exits of the guest before this input.
    pub exit_counter: u64,
    /// Where the entry begins.
    pub position: LogPosition,
    /// The input.
    pub payload: &'bytes [u8],
}

/// Bytes that are no sound entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Fewer bytes than the entry needs.
    #[error("a log entry of {needed} bytes in {found} bytes")]
    Short {
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The tag is zero: nothing was ever written here.
    #[error("a log entry with tag zero")]
    Tag,
    /// A number that no entry has.
    #[error("a log entry with number {found}")]
    Sequence {
        /// The number.
        found: u64,
    },
    /// A longer payload than any.
    #[error("a log entry with {found} bytes of payload")]
    Length {
        /// Length named.
        found: u64,
    },
    /// An entry of another position, such as one of an earlier round.
    #[error("a log entry of position {found} at {expected}")]
    Position {
        /// Position named.
        found: LogPosition,
        /// Where it lies.
        expected: LogPosition,
    },
    /// The content does not match its CRC.
    #[error("log entry CRC is {found:#010x}, computed {computed:#010x}")]
    Crc {
        /// In the entry.
        found: u32,
        /// Of the bytes.
        computed: u32,
    },
}

/// Space that an entry takes in the ring.
pub(super) const fn entry_bytes(payload_bytes: u64) -> u64 {
    round_up(len_u64(ENTRY_HEADER_BYTES) + payload_bytes, 8)
}

impl<'bytes> LogEntry<'bytes> {
    /// Parses a private copy of the bytes from an entry's start on.
    ///
    /// # Errors
    /// When they are no sound entry of that position.
    pub fn parse(bytes: &'bytes [u8], position: LogPosition) -> Result<Self, EntryError> {
        let found = len_u64(bytes.len());
        let short = |needed: u64| EntryError::Short { needed, found };
        let (header, rest) = EntryHeader::read_from_prefix(bytes).map_err(|_| short(len_u64(ENTRY_HEADER_BYTES)))?;
        let length = u64::from(header.length.get());
        let tag = NonZeroU32::new(header.tag.get()).ok_or(EntryError::Tag)?;
        if length > PAYLOAD_BYTES_MAX {
            return Err(EntryError::Length { found: length });
        }
        let named = LogPosition::new(header.position.get());
        if named != position {
            return Err(EntryError::Position { found: named, expected: position });
        }
        let payload = usize::try_from(length).ok().and_then(|length| rest.get(..length));
        let payload = payload.ok_or(short(entry_bytes(length)))?;
        let intact = crc::check(header.crc.get(), entry_crc(&header, payload), PlantedBug::LogCrc);
        intact.map_err(|Mismatch { found, computed }| EntryError::Crc { found, computed })?;
        let sequence = header.sequence.get();
        // The successor of an entry has a number, too.
        if sequence == 0 || sequence == u64::MAX {
            return Err(EntryError::Sequence { found: sequence });
        }
        Ok(Self { tag, sequence, exit_counter: header.exit_counter.get(), position, payload })
    }

    /// Space the entry takes in the log: the next one begins that much further on.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        entry_bytes(len_u64(self.payload.len()))
    }

    /// Appends the entry as stored, padding included.
    pub fn encode_into(&self, bytes: &mut Vec<u8>) {
        let mut header = EntryHeader {
            tag: U32::new(self.tag.get()),
            length: U32::new(u32::try_from(self.payload.len()).unwrap_or(u32::MAX)),
            sequence: U64::new(self.sequence),
            exit_counter: U64::new(self.exit_counter),
            position: U64::new(self.position.get()),
            zero: U32::ZERO,
            crc: U32::ZERO,
        };
        header.crc = U32::new(entry_crc(&header, self.payload));
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(self.payload);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
}

fn entry_crc(header: &EntryHeader, payload: &[u8]) -> u32 {
    let mut hasher = crc::Digest::new();
    hasher.update(&header.as_bytes()[..CRC_AT]);
    hasher.update(payload);
    hasher.finalize()
}

/// The length of the payload that a header claims: how much more to copy. Nothing else of it is trusted.
pub(super) fn claimed_payload(header: &[u8; ENTRY_HEADER_BYTES]) -> Result<u64, EntryError> {
    let header = EntryHeader::read_from_bytes(header).map_err(|_| EntryError::Tag)?;
    let found = u64::from(header.length.get());
    if found > PAYLOAD_BYTES_MAX {
        return Err(EntryError::Length { found });
    }
    Ok(found)
}
