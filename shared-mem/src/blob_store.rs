//! A blob that is replaced whole or not at all: two copies and a word that says which one counts.
//!
//! ```text
//! selector word (64) | copy A: header (64), bytes | copy B: header (64), bytes
//! ```
//! The new blob goes into the copy that does not count; when it is durable, the selector moves on. The selector is the
//! sequence number of the blob that counts, its parity names the copy. Because the selector decides, a damaged blob is
//! an error and never silently the one before.
//!
//! What must survive a flipped bit is stored twice, one blob after the other ([`BlobStore::store_twice`]): then both copies
//! say the same but for the moment of a change, and [`BlobStore::mend`] can take whichever is whole, the newer one first,
//! whatever the selector says.

use std::sync::atomic::Ordering;

use thiserror::Error;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::crc::{self, Mismatch};
use crate::guarded_word::{self, WordError};
use crate::header::{Closing, Header, HeaderError, OPEN, Preamble};
use crate::mem::{AccessError, LINE_BYTES, PoolRead, PoolWrite, check_bounds};
use crate::numbers::{Offset, len_u64};
use crate::planted::{self, Laid, PlantedBug, planted};

const HEADER_BYTES: u64 = 64;

/// A reader that meets a writer tries again this often before it takes the blob for damaged.
const READ_ATTEMPTS_MAX: u32 = 100;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct BlobHeader {
    preamble: Preamble,
    sequence: U64,
    length: U64,
    body_crc: U32,
    flags: U32,
    reserved: [u8; 16],
    closing: Closing,
}

impl Header for BlobHeader {
    const MAGIC: [u8; 8] = *b"FTVMBLOB";
    const VERSION: u32 = 1;
    const UNCHECKED: PlantedBug = PlantedBug::BlobHeaderCrc;
}

const _: () = assert!(len_u64(size_of::<BlobHeader>()) == HEADER_BYTES);

/// A blob could not be stored or loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BlobError {
    /// A larger blob than a copy can hold.
    #[error("a blob of {found} bytes, a copy holds {capacity}")]
    TooLarge {
        /// Bytes given, or named by the header.
        found: u64,
        /// Bytes that a copy holds.
        capacity: u64,
    },
    /// The selector is damaged or was never written.
    #[error("the selector of the blob is damaged")]
    Selector(#[from] WordError),
    /// The header of the copy that counts is damaged.
    #[error("the header of the blob is refused")]
    Header(#[from] HeaderError),
    /// The copy that counts is not the blob that the selector names.
    #[error("blob {found} lies where blob {expected} should")]
    Sequence {
        /// In the header.
        found: u64,
        /// In the selector.
        expected: u64,
    },
    /// The content does not match its CRC.
    #[error("blob CRC is {found:#010x}, computed {computed:#010x}")]
    Crc {
        /// In the header.
        found: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The pool refused.
    #[error("cannot reach the blob")]
    Access(#[from] AccessError),
}

/// Space of a blob store whose blobs have at most `capacity` bytes.
#[must_use]
pub const fn total_bytes(capacity: u64) -> u64 {
    LINE_BYTES + 2 * (HEADER_BYTES + capacity)
}

/// A place for one blob of at most `capacity` bytes within a memory.
#[derive(Debug, Clone)]
pub struct BlobStore<M> {
    memory: M,
    at: Offset,
    capacity: u64,
}

impl<M: PoolRead> BlobStore<M> {
    /// The blob store at `at`.
    ///
    /// # Errors
    /// When it does not lie within the memory.
    pub fn new(memory: M, at: Offset, capacity: u64) -> Result<Self, BlobError> {
        assert!(at.get().is_multiple_of(LINE_BYTES), "the selector is one line");
        assert!(capacity.is_multiple_of(LINE_BYTES), "copies are whole lines");
        check_bounds(at, total_bytes(capacity), memory.len())?;
        Ok(Self { memory, at, capacity })
    }

    /// The memory that it lies in.
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// The largest blob.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    fn copy_at(&self, sequence: u64) -> Offset {
        let parity = if planted(PlantedBug::BlobInPlace) { 0 } else { sequence % 2 };
        self.at.plus(LINE_BYTES + parity * (HEADER_BYTES + self.capacity))
    }

    fn selector(&self) -> Result<u64, BlobError> {
        let raw = self.memory.load_u64(self.at, Ordering::Acquire)?;
        Ok(guarded_word::decode_unsealed(raw, PlantedBug::BlobSelectorCrc)?)
    }

    /// The blob last stored, if there was one.
    ///
    /// # Errors
    /// When it is damaged, or the pool refuses.
    pub fn load(&self) -> Result<Option<Vec<u8>>, BlobError> {
        let mut sequence = self.selector()?;
        for _ in 0..READ_ATTEMPTS_MAX {
            let result = self.load_copy(sequence);
            // A writer may have stored twice meanwhile; what was read counts only if the selector stands.
            std::sync::atomic::fence(Ordering::Acquire);
            let now = self.selector()?;
            if now == sequence {
                return result;
            }
            sequence = now;
        }
        self.load_copy(sequence)
    }

    fn load_copy(&self, sequence: u64) -> Result<Option<Vec<u8>>, BlobError> {
        if sequence == 0 {
            return Ok(None);
        }
        let at = self.copy_at(sequence);
        let mut header = [0; size_of::<BlobHeader>()];
        self.memory.read(at, &mut header)?;
        let length = check_header(&header, sequence, self.capacity)?.0;
        let mut copy = vec![0; size_of::<BlobHeader>() + length];
        self.memory.read(at, &mut copy)?;
        parse(&copy, sequence, self.capacity).map(|blob| Some(blob.to_vec()))
    }
}

/// Checks the header of a copy: length and CRC of the blob.
fn check_header(bytes: &[u8], sequence: u64, capacity: u64) -> Result<(usize, u32), BlobError> {
    let header = BlobHeader::parse(bytes)?;
    let found = header.sequence.get();
    if found != sequence {
        return Err(BlobError::Sequence { found, expected: sequence });
    }
    let found = header.length.get();
    let too_large = BlobError::TooLarge { found, capacity };
    if found > capacity {
        return Err(too_large);
    }
    let length = usize::try_from(found).map_err(|_| too_large)?;
    Ok((length, header.body_crc.get()))
}

/// Parses a private copy of the copy that holds blob `sequence`: header and bytes.
///
/// # Errors
/// When the bytes are not that blob.
pub fn parse(bytes: &[u8], sequence: u64, capacity: u64) -> Result<&[u8], BlobError> {
    let (length, found) = check_header(bytes, sequence, capacity)?;
    let blob = bytes.get(size_of::<BlobHeader>()..).and_then(|rest| rest.get(..length));
    let blob = blob.ok_or(BlobError::TooLarge { found: len_u64(length), capacity: len_u64(bytes.len()) })?;
    match crc::check(found, crc::of(blob), PlantedBug::BlobCrc) {
        Ok(()) => Ok(blob),
        Err(Mismatch { found, computed }) => Err(BlobError::Crc { found, computed }),
    }
}

impl<M: PoolWrite> BlobStore<M> {
    /// Lays out a store that holds nothing.
    ///
    /// # Errors
    /// When the pool refuses.
    pub fn format(&self) -> Result<(), BlobError> {
        self.memory.store_u64(self.at, guarded_word::encode(0), Ordering::Release)?;
        planted::settle(&self.memory, self.at, LINE_BYTES, Laid::Blob)?;
        Ok(())
    }

    /// Replaces the blob, durably. A crash in between leaves the old one.
    ///
    /// # Errors
    /// When the blob is too large, the selector damaged, or the pool refuses.
    pub fn store(&self, blob: &[u8]) -> Result<(), BlobError> {
        let length = len_u64(blob.len());
        if length > self.capacity {
            return Err(BlobError::TooLarge { found: length, capacity: self.capacity });
        }
        let sequence = self.next_sequence()?;
        let header = BlobHeader {
            preamble: BlobHeader::preamble(),
            sequence: U64::new(sequence),
            length: U64::new(length),
            body_crc: U32::new(crc::of(blob)),
            flags: U32::ZERO,
            reserved: [0; 16],
            closing: OPEN,
        };
        let at = self.copy_at(sequence);
        let word = guarded_word::encode(sequence);
        if planted(PlantedBug::BlobSelectorFirst) {
            self.memory.store_u64(self.at, word, Ordering::Release)?;
        }
        self.memory.write(at.plus(HEADER_BYTES), blob)?;
        self.memory.write(at, &header.sealed_bytes())?;
        planted::flush(&self.memory, at, HEADER_BYTES + length, PlantedBug::BlobDataFlush)?;
        planted::fence(&self.memory, PlantedBug::BlobDataFence)?;
        self.memory.store_u64(self.at, word, Ordering::Release)?;
        planted::flush(&self.memory, self.at, LINE_BYTES, PlantedBug::BlobSelectorFlush)?;
        planted::fence(&self.memory, PlantedBug::BlobSelectorFence)?;
        Ok(())
    }
}

impl<M: PoolRead> BlobStore<M> {
    /// The blob last stored, for a store that is only ever written by [`store_twice`](Self::store_twice): that of the copy
    /// that counts or, should it or the selector be damaged, of the newest whole one. And what is wrong.
    ///
    /// # Errors
    /// When no copy is whole, with what is wrong with the one that counts; or when the pool refuses.
    pub fn load_twin(&self) -> Result<(Option<Vec<u8>>, Option<BlobError>), BlobError> {
        match self.load() {
            Ok(blob) => Ok((blob, None)),
            Err(error @ BlobError::Access(_)) => Err(error),
            Err(error) => match self.newest_whole()? {
                Some((_, blob)) => Ok((Some(blob), Some(error))),
                None if self.is_virgin()? => Ok((None, Some(error))),
                None => Err(error),
            },
        }
    }

    /// What is wrong with the copy that does not count, if one was stored. Of a store in use it may be about to be replaced,
    /// and after a crash it may be half of what was to come.
    ///
    /// # Errors
    /// When the pool refuses, or the selector is damaged.
    pub fn check_other(&self) -> Result<Option<BlobError>, BlobError> {
        let sequence = self.selector()?;
        if sequence < 2 {
            return Ok(None);
        }
        let other = self.whole(self.copy_at(sequence + 1), (sequence + 1) % 2);
        match other {
            Ok(_) => Ok(None),
            Err(error @ BlobError::Access(_)) => Err(error),
            Err(error) => Ok(Some(error)),
        }
    }

    /// What is wrong with the selector or a copy, of a store that is only ever written by
    /// [`store_twice`](Self::store_twice); for its one writer.
    ///
    /// # Errors
    /// When the pool refuses.
    pub fn damage(&self) -> Result<Option<BlobError>, BlobError> {
        match self.load() {
            Ok(_) => self.check_other(),
            Err(error @ BlobError::Access(_)) => Err(error),
            Err(error) => Ok(Some(error)),
        }
    }

    /// The newest whole blob of the two copies, whatever the selector says, with its sequence number.
    fn newest_whole(&self) -> Result<Option<(u64, Vec<u8>)>, BlobError> {
        let mut newest: Option<(u64, Vec<u8>)> = None;
        for parity in [0, 1] {
            match self.whole(self.copy_at(parity), parity) {
                Ok(found) if newest.as_ref().is_none_or(|(sequence, _)| *sequence < found.0) => newest = Some(found),
                Ok(_) => {}
                Err(error @ BlobError::Access(_)) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(newest)
    }

    /// The blob of one copy, if it is whole, with its sequence number.
    fn whole(&self, at: Offset, parity: u64) -> Result<(u64, Vec<u8>), BlobError> {
        let mut header = [0; size_of::<BlobHeader>()];
        self.memory.read(at, &mut header)?;
        let sequence = BlobHeader::parse(&header)?.sequence.get();
        if sequence % 2 != parity || sequence == 0 || sequence >= guarded_word::VALUE_MAX {
            return Err(BlobError::Sequence { found: sequence, expected: parity });
        }
        let length = check_header(&header, sequence, self.capacity)?.0;
        let mut copy = vec![0; size_of::<BlobHeader>() + length];
        self.memory.read(at, &mut copy)?;
        Ok((sequence, parse(&copy, sequence, self.capacity)?.to_vec()))
    }

    /// Whether no copy was ever begun.
    fn is_virgin(&self) -> Result<bool, BlobError> {
        let mut header = [0; size_of::<BlobHeader>()];
        for parity in [0, 1] {
            self.memory.read(self.copy_at(parity), &mut header)?;
            if header != [0; size_of::<BlobHeader>()] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The number of the next blob: it replaces the copy that does not count, or the one that should but is damaged.
    fn next_sequence(&self) -> Result<u64, BlobError> {
        let selected = match self.selector() {
            Ok(selected) => selected,
            Err(BlobError::Selector(_)) => return Ok(self.newest_whole()?.map_or(0, |(newest, _)| newest) + 1),
            Err(error) => return Err(error),
        };
        match self.load_copy(selected) {
            Ok(_) => Ok(selected + 1),
            Err(error @ BlobError::Access(_)) => Err(error),
            Err(_) => Ok(selected + 2),
        }
    }
}

/// What [`BlobStore::mend`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mended {
    /// Both copies are whole, and the same.
    Nothing,
    /// A writer was interrupted between the two copies.
    Unfinished,
    /// The copy that counts, or the selector, was damaged.
    Damage(BlobError),
    /// The other copy is not whole: damaged, or its writer was interrupted.
    Torn(BlobError),
}

impl<M: PoolWrite> BlobStore<M> {
    /// Replaces the blob in both copies, durably. A crash in between leaves the old one or the new one.
    ///
    /// # Errors
    /// As for [`store`](Self::store).
    pub fn store_twice(&self, blob: &[u8]) -> Result<(), BlobError> {
        self.store(blob)?;
        self.store(blob)
    }

    /// Sees to it that both copies are whole and the same: of a store that is only ever written by
    /// [`store_twice`](Self::store_twice), by its one writer.
    ///
    /// # Errors
    /// When no copy is whole, or the pool refuses.
    pub fn mend(&self) -> Result<Mended, BlobError> {
        let (blob, wrong) = self.load_twin()?;
        let Some(blob) = blob else {
            return match wrong {
                None => Ok(Mended::Nothing),
                Some(error) => self.format().map(|()| Mended::Damage(error)),
            };
        };
        let found = match wrong {
            Some(error) => Mended::Damage(error),
            None => self.compare_other(&blob)?,
        };
        if found != Mended::Nothing {
            self.store_twice(&blob)?;
        }
        Ok(found)
    }

    /// How the copy that does not count stands to the one that does.
    fn compare_other(&self, blob: &[u8]) -> Result<Mended, BlobError> {
        let sequence = self.selector()?;
        match self.whole(self.copy_at(sequence + 1), (sequence + 1) % 2) {
            Ok((other, twin)) if other + 1 == sequence && twin == blob => Ok(Mended::Nothing),
            Ok(_) => Ok(Mended::Unfinished),
            Err(error @ BlobError::Access(_)) => Err(error),
            // The first one ever.
            Err(_) if sequence == 1 => Ok(Mended::Unfinished),
            Err(error) => Ok(Mended::Torn(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lossy::{LossyCache, LossyMemory};

    #[test]
    fn the_last_blob_counts_and_damage_is_refused() {
        let memory = LossyMemory::new(4096, &LossyCache::new());
        let store = BlobStore::new(&memory, Offset::new(64), 512).unwrap();
        assert!(matches!(store.load(), Err(BlobError::Selector(_))));
        store.format().unwrap();
        assert_eq!(store.load(), Ok(None));
        for blob in [&b"first"[..], b"", b"third, and last"] {
            store.store(blob).unwrap();
            assert_eq!(store.load(), Ok(Some(blob.to_vec())));
        }
        assert!(matches!(store.store(&[0; 513]), Err(BlobError::TooLarge { .. })));
        let at = 64 + 64 + (64 + 512) + 64;
        memory.write(Offset::new(at), b"X").unwrap();
        assert!(matches!(store.load(), Err(BlobError::Crc { .. })));
    }

    fn flip(memory: &LossyMemory, bit: u64) {
        let mut byte = [0];
        memory.read(Offset::new(bit / 8), &mut byte).unwrap();
        memory.write(Offset::new(bit / 8), &[byte[0] ^ (1 << (bit % 8))]).unwrap();
    }

    #[test]
    fn what_is_stored_twice_survives_every_flipped_bit() {
        for stored in 0..4u8 {
            let memory = LossyMemory::new(total_bytes(64), &LossyCache::new());
            let store = BlobStore::new(&memory, Offset::ZERO, 64).unwrap();
            store.format().unwrap();
            (0..stored).for_each(|number| store.store_twice(&[number; 40]).unwrap());
            let expected = stored.checked_sub(1).map(|last| vec![last; 40]);
            assert_eq!(store.mend(), Ok(Mended::Nothing));
            for bit in 0..total_bytes(64) * 8 {
                // A dead pool: the next controller mends it.
                flip(&memory, bit);
                assert_eq!(store.load_twin().unwrap().0, expected, "bit {bit} of {stored}");
                let mended = store.mend().unwrap();
                assert_eq!(store.load(), Ok(expected.clone()), "bit {bit} of {stored}: {mended:?}");
                assert_eq!(store.mend(), Ok(Mended::Nothing), "bit {bit} of {stored}: {mended:?}");
                if mended == Mended::Nothing {
                    flip(&memory, bit);
                }
            }
            // A live one: whoever has the state writes it anew.
            for bit in 0..total_bytes(64) * 8 {
                flip(&memory, bit);
                let number = [u8::try_from(bit % 200).unwrap(); 40];
                store.store_twice(&number).unwrap();
                assert_eq!(store.load(), Ok(Some(number.to_vec())), "bit {bit}");
                assert_eq!(store.check_other(), Ok(None), "bit {bit}");
            }
        }
    }
}
