//! CRC-32 of what lies in the pool: computed where it is written, checked where it is read.

use crate::planted::{PlantedBug, planted};

/// Computes a CRC piece by piece.
pub(crate) use crc32fast::Hasher as Digest;

/// Bytes that are not those whose CRC was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// The CRC in the pool.
    pub(crate) found: u32,
    /// That of the bytes.
    pub(crate) computed: u32,
}

/// The CRC of bytes.
pub(crate) fn of(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Compares the CRC in the pool with that of the bytes, unless this check is planted as missing.
pub(crate) fn check(found: u32, computed: u32, bug: PlantedBug) -> Result<(), Mismatch> {
    if found == computed || planted(bug) { Ok(()) } else { Err(Mismatch { found, computed }) }
}
