//! The frame that every header of the pool shares: magic, version, length in front, CRC at the end.

use thiserror::Error;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::crc::{self, Mismatch};
use crate::mem::{AccessError, PoolRead};
use crate::numbers::Offset;
use crate::planted::PlantedBug;

/// First 16 bytes of every header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Preamble {
    magic: [u8; 8],
    version: U32,
    length: U32,
}

impl Preamble {
    /// The version that the structure has.
    pub(crate) fn version(&self) -> u32 {
        self.version.get()
    }

    /// The same structure in another version.
    pub(crate) fn of_version(self, version: u32) -> Self {
        Self { version: U32::new(version), ..self }
    }
}

/// Last 8 bytes of every header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Closing {
    zero: U32,
    crc: U32,
}

const _: () = assert!(size_of::<Preamble>() == 16);
const _: () = assert!(size_of::<Closing>() == 8);
const CRC_BYTES: usize = 4;

/// A header that this version of the crate must not trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// The bytes are something else, or were never written.
    #[error("magic is {found:02x?}, expected {expected:02x?}")]
    Magic {
        /// Bytes in the pool.
        found: [u8; 8],
        /// Bytes of the structure looked for.
        expected: [u8; 8],
    },
    /// Another version of the layout.
    #[error("layout version {found}, this program knows {expected}")]
    Version {
        /// Version in the pool.
        found: u32,
        /// Version of this crate.
        expected: u32,
    },
    /// The header's own length is not that of its version.
    #[error("header length {found}, expected {expected}")]
    Length {
        /// Length in the pool.
        found: u32,
        /// Length of this version.
        expected: u32,
    },
    /// A damaged header.
    #[error("header CRC is {found:#010x}, computed {computed:#010x}")]
    Crc {
        /// CRC in the pool.
        found: u32,
        /// CRC of the bytes.
        computed: u32,
    },
    /// Fewer bytes than a header.
    #[error("{found} bytes are no header of {expected} bytes")]
    Short {
        /// Bytes given.
        found: usize,
        /// Bytes of a header.
        expected: usize,
    },
}

impl From<Mismatch> for HeaderError {
    fn from(Mismatch { found, computed }: Mismatch) -> Self {
        Self::Crc { found, computed }
    }
}

/// A header of the pool could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReadHeaderError {
    /// The memory refused.
    #[error("cannot read the header")]
    Access(#[from] AccessError),
    /// The bytes are refused.
    #[error("the header is refused")]
    Header(#[from] HeaderError),
}

/// A header of the layout: `repr(C)`, beginning with [`Preamble`] and ending with [`Closing`].
pub(crate) trait Header: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy {
    const MAGIC: [u8; 8];
    /// What this crate writes, and the youngest that it reads.
    const VERSION: u32;
    /// The oldest that it reads: headers of all versions in between have the same fields.
    const OLDEST: u32 = Self::VERSION;
    /// What a test plants that wants its CRC unchecked.
    const UNCHECKED: PlantedBug;

    fn preamble() -> Preamble {
        Preamble { magic: Self::MAGIC, version: U32::new(Self::VERSION), length: U32::new(Self::LENGTH) }
    }

    #[allow(clippy::cast_possible_truncation, reason = "headers have some hundred bytes")]
    const LENGTH: u32 = size_of::<Self>() as u32;

    /// The header's bytes with the CRC put in.
    fn sealed_bytes(&self) -> Vec<u8> {
        let mut bytes = self.as_bytes().to_vec();
        let body = bytes.len() - CRC_BYTES;
        let crc = crc::of(&bytes[..body]);
        bytes[body..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Checks magic, version, length and CRC of private bytes.
    fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        Self::parse_unless(bytes, Self::UNCHECKED)
    }

    /// As `parse`; the CRC is not checked if a test has planted the bug `unchecked`.
    fn parse_unless(bytes: &[u8], unchecked: PlantedBug) -> Result<Self, HeaderError> {
        let expected = size_of::<Self>();
        let short = HeaderError::Short { found: bytes.len(), expected };
        let bytes = bytes.get(..expected).ok_or(short)?;
        let (preamble, _) = Preamble::read_from_prefix(bytes).map_err(|_| short)?;
        check_preamble::<Self>(&preamble)?;
        let body = expected - CRC_BYTES;
        let found = U32::read_from_bytes(&bytes[body..]).map_err(|_| short)?.get();
        crc::check(found, crc::of(&bytes[..body]), unchecked)?;
        Self::read_from_bytes(bytes).map_err(|_| short)
    }

    /// Copies a header out of the pool and checks the copy.
    fn load<M: PoolRead>(memory: &M, at: Offset) -> Result<Self, ReadHeaderError> {
        let mut bytes = vec![0; size_of::<Self>()];
        memory.read(at, &mut bytes)?;
        Ok(Self::parse(&bytes)?)
    }
}

fn check_preamble<H: Header>(preamble: &Preamble) -> Result<(), HeaderError> {
    if preamble.magic != H::MAGIC {
        return Err(HeaderError::Magic { found: preamble.magic, expected: H::MAGIC });
    }
    if !(H::OLDEST..=H::VERSION).contains(&preamble.version.get()) {
        return Err(HeaderError::Version { found: preamble.version.get(), expected: H::VERSION });
    }
    if preamble.length.get() != H::LENGTH {
        return Err(HeaderError::Length { found: preamble.length.get(), expected: H::LENGTH });
    }
    Ok(())
}

/// The closing of a header whose CRC is not computed yet.
pub(crate) const OPEN: Closing = Closing { zero: U32::ZERO, crc: U32::ZERO };
