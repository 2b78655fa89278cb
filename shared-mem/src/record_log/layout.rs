//! Where things lie in a record log.

use std::sync::atomic::Ordering;

use thiserror::Error;
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::guarded_word::{self, WordError};
use crate::header::{Closing, Header, OPEN, Preamble};
use crate::mem::{AccessError, PoolRead, PoolWrite, check_bounds};
use crate::numbers::{Generation, LogPosition, Offset, PAGE_SIZE};
use crate::planted::{self, Laid, PlantedBug};

/// Largest payload of an entry.
pub const PAYLOAD_BYTES_MAX: u64 = 1 << 20;

pub(crate) const TAIL_AT: Offset = Offset::new(64);
pub(super) const RING_AT: u64 = PAGE_SIZE;
pub(super) const WORD_BYTES: u64 = 8;
const RING_BYTES_MAX: u64 = 1 << 40;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct LogHeader {
    pub(super) preamble: Preamble,
    pub(super) generation: U64,
    pub(super) base: U64,
    pub(super) ring_bytes: U64,
    pub(super) reserved: [u8; 16],
    pub(super) closing: Closing,
}

impl Header for LogHeader {
    const MAGIC: [u8; 8] = *b"FTVMRLOG";
    const VERSION: u32 = 1;
    const UNCHECKED: PlantedBug = PlantedBug::LogHeaderCrc;
}

const _: () = assert!(size_of::<LogHeader>() == 64);

/// Whether the ring of a log may have this size.
#[must_use]
pub const fn is_log_size(ring_bytes: u64) -> bool {
    ring_bytes >= PAGE_SIZE && ring_bytes <= RING_BYTES_MAX && ring_bytes.is_multiple_of(PAGE_SIZE)
}

/// Length of the log's file for a ring size.
#[must_use]
pub const fn log_file_bytes(ring_bytes: u64) -> u64 {
    RING_AT + ring_bytes
}

/// The tail word taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogTail {
    /// Where the log ends.
    pub position: LogPosition,
    /// Whether it is closed.
    pub sealed: bool,
}

/// The tail cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TailError {
    /// The word is damaged. A seal has taken effect all the same.
    #[error("the tail of the record log is damaged")]
    Word(#[from] WordError),
    /// The pool refused.
    #[error("cannot reach the record log")]
    Access(#[from] AccessError),
}

impl LogTail {
    pub(super) fn decode(raw: u64) -> Result<Self, WordError> {
        let word = guarded_word::decode(raw, PlantedBug::LogTailCrc)?;
        Ok(Self { position: LogPosition::new(word.value), sealed: word.sealed })
    }

    pub(super) fn load<M: PoolRead>(memory: &M) -> Result<Self, TailError> {
        Ok(Self::decode(memory.load_u64(TAIL_AT, Ordering::Acquire)?)?)
    }
}

/// A log could not be laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FormatLogError {
    /// The size makes no sense.
    #[error("a record log cannot have a ring of {ring_bytes} bytes")]
    Size {
        /// The size.
        ring_bytes: u64,
    },
    /// No entry can lie there.
    #[error("a record log cannot begin at {base}")]
    Base {
        /// Where it was to begin.
        base: LogPosition,
    },
    /// The memory is too short.
    #[error("cannot write the header of the record log")]
    Access(#[from] AccessError),
}

/// Lays out an empty log whose first entry will be at `base`, a multiple of 8.
///
/// # Errors
/// When the size or the position makes no sense or the log does not fit the memory.
pub fn format_log<M: PoolWrite>(
    memory: &M,
    generation: Generation,
    ring_bytes: u64,
    base: LogPosition,
) -> Result<(), FormatLogError> {
    if !is_log_position(base) {
        return Err(FormatLogError::Base { base });
    }
    check_log(memory, ring_bytes)?;
    memory.write(Offset::ZERO, &header_bytes(generation, ring_bytes, base))?;
    memory.store_u64(TAIL_AT, guarded_word::encode(base.get()), Ordering::Release)?;
    planted::settle(memory, Offset::ZERO, RING_AT, Laid::RecordLog)?;
    Ok(())
}

/// Whether an entry can lie at the position.
#[must_use]
pub fn is_log_position(position: LogPosition) -> bool {
    position.get().is_multiple_of(8) && position.get() <= guarded_word::VALUE_MAX
}

/// Whether a log of this size can be laid out in the memory.
pub(super) fn check_log<M: PoolRead>(memory: &M, ring_bytes: u64) -> Result<(), FormatLogError> {
    if !is_log_size(ring_bytes) {
        return Err(FormatLogError::Size { ring_bytes });
    }
    check_bounds(Offset::ZERO, log_file_bytes(ring_bytes), memory.len())?;
    Ok(())
}

pub(super) fn header_bytes(generation: Generation, ring_bytes: u64, base: LogPosition) -> Vec<u8> {
    LogHeader {
        preamble: LogHeader::preamble(),
        generation: U64::new(generation.get()),
        base: U64::new(base.get()),
        ring_bytes: U64::new(ring_bytes),
        reserved: [0; 16],
        closing: OPEN,
    }
    .sealed_bytes()
}

/// Where a position lies in the ring, and how many of `wanted` bytes lie there without wrapping.
pub(super) fn run(ring_bytes: u64, position: u64, wanted: usize) -> (Offset, usize) {
    let start = position % ring_bytes;
    let until_wrap = usize::try_from(ring_bytes - start).unwrap_or(usize::MAX);
    (Offset::new(RING_AT + start), wanted.min(until_wrap))
}
