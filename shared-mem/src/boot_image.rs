//! What a VM is booted from: bytes whose meaning is not the pool's, written once, read by the hosts.

use thiserror::Error;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::crc::{self, Mismatch};
use crate::header::{Closing, Header, HeaderError, OPEN, Preamble};
use crate::mem::{AccessError, PoolRead, PoolWrite, check_bounds};
use crate::numbers::{Offset, len_u64};
use crate::planted::{self, Laid, PlantedBug};

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct BootHeader {
    preamble: Preamble,
    length: U64,
    body_crc: U32,
    flags: U32,
    reserved: [u8; 24],
    closing: Closing,
}

impl Header for BootHeader {
    const MAGIC: [u8; 8] = *b"FTVMBOOT";
    const VERSION: u32 = 1;
    const UNCHECKED: PlantedBug = PlantedBug::BootHeaderCrc;
}

const HEADER_BYTES: u64 = 64;
const _: () = assert!(size_of::<BootHeader>() == 64);

/// A boot image could not be stored or loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BootImageError {
    /// The header is damaged or something else.
    #[error("the header of the boot image is refused")]
    Header(#[from] HeaderError),
    /// The content does not match its CRC.
    #[error("boot image CRC is {found:#010x}, computed {computed:#010x}")]
    Crc {
        /// In the header.
        found: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The pool refused, or the header names more bytes than there are.
    #[error("cannot reach the boot image")]
    Access(#[from] AccessError),
}

/// Length of the extent for a boot image of `bytes` bytes.
#[must_use]
pub const fn boot_file_bytes(bytes: u64) -> u64 {
    HEADER_BYTES + bytes
}

/// Writes a boot image durably.
///
/// # Errors
/// When the memory is too short.
pub fn store<M: PoolWrite>(memory: &M, image: &[u8]) -> Result<(), BootImageError> {
    let header = BootHeader {
        preamble: BootHeader::preamble(),
        length: U64::new(len_u64(image.len())),
        body_crc: U32::new(crc::of(image)),
        flags: U32::ZERO,
        reserved: [0; 24],
        closing: OPEN,
    };
    memory.write(Offset::new(HEADER_BYTES), image)?;
    memory.write(Offset::ZERO, &header.sealed_bytes())?;
    planted::settle(memory, Offset::ZERO, boot_file_bytes(len_u64(image.len())), Laid::BootImage)?;
    Ok(())
}

/// Copies out the first bytes of a boot image, at most so many. Nothing but their length is checked: that of the file, where
/// the header cannot say it. Whoever boots the guest loads all of it ([`load`]); a guest that has run once is not booted any
/// more, and does not lose its protection with this header.
///
/// # Errors
/// When the header names more bytes than there are.
pub fn load_start<M: PoolRead>(memory: &M, bytes: usize) -> Result<Vec<u8>, BootImageError> {
    let mut header = [0; size_of::<BootHeader>()];
    memory.read(Offset::ZERO, &mut header)?;
    let length = BootHeader::parse(&header).map_or(memory.len() - HEADER_BYTES, |header| header.length.get());
    let mut start = vec![0; bytes.min(usize::try_from(length).unwrap_or(usize::MAX))];
    memory.read(Offset::new(HEADER_BYTES), &mut start)?;
    Ok(start)
}

/// Copies a boot image out and checks it.
///
/// # Errors
/// When it is damaged or something else.
pub fn load<M: PoolRead>(memory: &M) -> Result<Vec<u8>, BootImageError> {
    let mut bytes = [0; size_of::<BootHeader>()];
    memory.read(Offset::ZERO, &mut bytes)?;
    let header = BootHeader::parse(&bytes)?;
    let (at, length) = (Offset::new(HEADER_BYTES), header.length.get());
    check_bounds(at, length, memory.len())?;
    let outside = AccessError::OutOfBounds { at, len: length, capacity: memory.len() };
    let mut image = vec![0; usize::try_from(length).map_err(|_| outside)?];
    memory.read(at, &mut image)?;
    match crc::check(header.body_crc.get(), crc::of(&image), PlantedBug::BootCrc) {
        Ok(()) => Ok(image),
        Err(Mismatch { found, computed }) => Err(BootImageError::Crc { found, computed }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lossy::{LossyCache, LossyMemory};

    #[test]
    fn an_image_comes_back_whole_or_not_at_all() {
        let memory = LossyMemory::new(boot_file_bytes(5), &LossyCache::new());
        assert!(matches!(load(&memory), Err(BootImageError::Header(_))));
        store(&memory, b"image").unwrap();
        assert_eq!(load(&memory), Ok(b"image".to_vec()));
        assert_eq!(load_start(&memory, 3), Ok(b"ima".to_vec()));
        assert_eq!(load_start(&memory, 9), Ok(b"image".to_vec()));
        memory.write(Offset::new(66), b"X").unwrap();
        assert!(matches!(load(&memory), Err(BootImageError::Crc { .. })));
        assert!(matches!(store(&memory, b"longer"), Err(BootImageError::Access(_))));
        memory.write(Offset::new(10), &[7]).unwrap();
        assert!(matches!(load(&memory), Err(BootImageError::Header(_))));
        assert_eq!(load_start(&memory, 9), Ok(b"imXge".to_vec()), "what only says what kind of guest it was");
    }
}
