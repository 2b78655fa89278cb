//! The console of a VM: a ring that keeps the last bytes, written by the controller, read by whoever shows them.
//!
//! Two words tell what is there. `tail` is how many bytes the console has had: all before it are out, for ever.
//! `claimed` runs ahead of it while an append overwrites the oldest bytes, so that a reader can tell that the bytes it
//! has just copied were overwritten meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use thiserror::Error;
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::guarded_word::{self, WordError};
use crate::header::{Closing, Header, HeaderError, OPEN, Preamble, ReadHeaderError};
use crate::mem::{AccessError, PoolRead, PoolWrite, check_bounds};
use crate::numbers::{ConsolePosition, Offset, PAGE_SIZE, len_u64};
use crate::planted::{self, Laid, PlantedBug, planted};

/// Ring size that a new VM gets.
pub const CONSOLE_RING_BYTES: u64 = 1 << 20;

const TAIL_AT: Offset = Offset::new(64);
const CLAIMED_AT: Offset = Offset::new(128);
const RING_AT: u64 = PAGE_SIZE;
const WORD_BYTES: u64 = 8;
const RING_BYTES_MAX: u64 = 1 << 32;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ConsoleHeader {
    preamble: Preamble,
    ring_bytes: U64,
    reserved: [u8; 32],
    closing: Closing,
}

impl Header for ConsoleHeader {
    const MAGIC: [u8; 8] = *b"FTVMCONS";
    const VERSION: u32 = 1;
    const UNCHECKED: PlantedBug = PlantedBug::ConsoleHeaderCrc;
}

const _: () = assert!(size_of::<ConsoleHeader>() == 64);

/// The console cannot do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConsoleError {
    /// The header is damaged or something else.
    #[error("the console header is refused")]
    Header(#[from] HeaderError),
    /// The ring size makes no sense.
    #[error("a console ring cannot have {ring_bytes} bytes")]
    RingSize {
        /// Size named.
        ring_bytes: u64,
    },
    /// One of the two words is damaged.
    #[error("a word of the console is damaged")]
    Word(#[from] WordError),
    /// Bytes in between are missing.
    #[error("console bytes begin at {start}, but the console ends at {tail}")]
    Gap {
        /// Where the new bytes begin.
        start: ConsolePosition,
        /// Where the console ends.
        tail: ConsolePosition,
    },
    /// More bytes at once than the ring holds.
    #[error("{found} console bytes at once, the ring holds {ring_bytes}")]
    TooMany {
        /// Bytes given.
        found: u64,
        /// Bytes the ring holds.
        ring_bytes: u64,
    },
    /// The pool refused.
    #[error("cannot reach the console")]
    Access(#[from] AccessError),
}

/// Console bytes could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConsoleReadError {
    /// The reader was too slow.
    #[error("console bytes from {from} on are overwritten, the oldest left is {oldest}")]
    Overwritten {
        /// Where the reader wanted to begin.
        from: ConsolePosition,
        /// Where it can begin.
        oldest: ConsolePosition,
    },
    /// The console itself cannot be used.
    #[error("cannot read the console")]
    Console(#[from] ConsoleError),
}

impl From<ReadHeaderError> for ConsoleError {
    fn from(error: ReadHeaderError) -> Self {
        match error {
            ReadHeaderError::Access(error) => Self::Access(error),
            ReadHeaderError::Header(error) => Self::Header(error),
        }
    }
}

impl From<AccessError> for ConsoleReadError {
    fn from(error: AccessError) -> Self {
        Self::Console(ConsoleError::Access(error))
    }
}

/// Length of the console extent for a ring size.
#[must_use]
pub const fn console_file_bytes(ring_bytes: u64) -> u64 {
    RING_AT + ring_bytes
}

/// Whether a ring may have this size.
#[must_use]
pub const fn is_ring_size(ring_bytes: u64) -> bool {
    ring_bytes.is_power_of_two() && ring_bytes >= PAGE_SIZE && ring_bytes <= RING_BYTES_MAX
}

/// The console ring of a VM.
#[derive(Debug, Clone)]
pub struct ConsoleRing<M> {
    memory: M,
    ring_bytes: u64,
    own: Arc<Own>,
}

/// What the one writer knows of the words without reading them: a damaged one is written anew from here.
#[derive(Debug)]
struct Own {
    tail: AtomicU64,
    claimed: AtomicU64,
    /// Something was written anew, and nobody has asked yet.
    mended: AtomicBool,
}

/// Neither read nor written yet.
const UNKNOWN: u64 = u64::MAX;

impl Default for Own {
    fn default() -> Self {
        Self { tail: AtomicU64::new(UNKNOWN), claimed: AtomicU64::new(UNKNOWN), mended: AtomicBool::new(false) }
    }
}

impl<M: PoolRead> ConsoleRing<M> {
    /// Opens a console ring.
    ///
    /// # Errors
    /// When the header is damaged or does not fit the extent.
    pub fn open(memory: M) -> Result<Self, ConsoleError> {
        let header = ConsoleHeader::load(&memory, Offset::ZERO)?;
        let ring_bytes = header.ring_bytes.get();
        Self::of_size(memory, ring_bytes)
    }

    /// Opens a ring whose size is known from elsewhere, whatever its header and words say: [`check`](Self::check) looks
    /// at them.
    ///
    /// # Errors
    /// When the size makes no sense or does not fit the extent.
    pub fn of_size(memory: M, ring_bytes: u64) -> Result<Self, ConsoleError> {
        if !is_ring_size(ring_bytes) {
            return Err(ConsoleError::RingSize { ring_bytes });
        }
        check_bounds(Offset::new(RING_AT), ring_bytes, memory.len())?;
        Ok(Self { memory, ring_bytes, own: Arc::default() })
    }

    /// How many bytes the ring holds.
    #[must_use]
    pub fn ring_bytes(&self) -> u64 {
        self.ring_bytes
    }

    /// Where the console ends.
    ///
    /// # Errors
    /// When the word is damaged or out of reach.
    pub fn tail(&self) -> Result<ConsolePosition, ConsoleError> {
        self.word(TAIL_AT).map(ConsolePosition::new)
    }

    /// Up to where bytes were ever put: the end, or further, if the one that put them did not come to the end of it.
    ///
    /// # Errors
    /// When the word is damaged or out of reach.
    pub fn claimed(&self) -> Result<ConsolePosition, ConsoleError> {
        self.word(CLAIMED_AT).map(ConsolePosition::new)
    }

    /// Whether header and words are whole.
    ///
    /// # Errors
    /// When one of them is damaged or out of reach.
    pub fn check(&self) -> Result<(), ConsoleError> {
        let found = ConsoleHeader::load(&self.memory, Offset::ZERO)?.ring_bytes.get();
        if found != self.ring_bytes {
            return Err(ConsoleError::RingSize { ring_bytes: found });
        }
        self.word(CLAIMED_AT)?;
        self.tail().map(|_| ())
    }

    /// How many bytes an append may bring without overwriting what a reader that has consumed up to
    /// `consumed_up_to` still wants.
    ///
    /// # Errors
    /// When the word is damaged or out of reach.
    pub fn free_space(&self, consumed_up_to: ConsolePosition) -> Result<u64, ConsoleError> {
        let waiting = self.tail()?.get().saturating_sub(consumed_up_to.get());
        Ok(self.ring_bytes.saturating_sub(waiting))
    }

    /// Copies bytes from position `from` on; returns how many there were. 0: the reader is at the tail.
    ///
    /// # Errors
    /// When the bytes were overwritten, or the console cannot be used.
    pub fn read(&self, from: ConsolePosition, into: &mut [u8]) -> Result<usize, ConsoleReadError> {
        let available = self.tail()?.get().saturating_sub(from.get());
        self.check_not_overwritten(from)?;
        let count = usize::try_from(available).map_or(into.len(), |bytes| bytes.min(into.len()));
        let mut done = 0;
        while done < count {
            let (at, run) = self.run(from.get() + len_u64(done), count - done);
            self.memory.read(at, &mut into[done..done + run])?;
            done += run;
        }
        // An append may have begun in between.
        std::sync::atomic::fence(Ordering::Acquire);
        self.check_not_overwritten(from)?;
        Ok(count)
    }

    fn check_not_overwritten(&self, from: ConsolePosition) -> Result<(), ConsoleReadError> {
        let claimed = self.word(CLAIMED_AT)?;
        let oldest = ConsolePosition::new(claimed.saturating_sub(self.ring_bytes));
        if from < oldest {
            return Err(ConsoleReadError::Overwritten { from, oldest });
        }
        Ok(())
    }

    /// Where a position lies, and how many of `wanted` bytes lie there without wrapping.
    fn run(&self, position: u64, wanted: usize) -> (Offset, usize) {
        let start = position % self.ring_bytes;
        let until_wrap = usize::try_from(self.ring_bytes - start).unwrap_or(usize::MAX);
        (Offset::new(RING_AT + start), wanted.min(until_wrap))
    }

    fn word(&self, at: Offset) -> Result<u64, ConsoleError> {
        let raw = self.memory.load_u64(at, Ordering::Acquire)?;
        Ok(guarded_word::decode_unsealed(raw, PlantedBug::ConsoleWordCrc)?)
    }
}

impl<M: PoolWrite> ConsoleRing<M> {
    /// Lays out an empty console ring and opens it.
    ///
    /// # Errors
    /// When the size makes no sense or the memory is too short.
    pub fn format(memory: M, ring_bytes: u64) -> Result<Self, ConsoleError> {
        let ring = Self::of_size(memory, ring_bytes)?;
        ring.store(CLAIMED_AT, 0)?;
        ring.restore(ConsolePosition::ZERO)?;
        Ok(ring)
    }

    /// Writes header and words anew: for the one writer, who knows where the console ends, and between two appends.
    ///
    /// # Errors
    /// When the pool refuses.
    pub fn restore(&self, tail: ConsolePosition) -> Result<(), ConsoleError> {
        let header = ConsoleHeader {
            preamble: ConsoleHeader::preamble(),
            ring_bytes: U64::new(self.ring_bytes),
            reserved: [0; 32],
            closing: OPEN,
        };
        self.memory.write(Offset::ZERO, &header.sealed_bytes())?;
        // What an append has claimed is overwritten, whether it was finished or not.
        let claimed = self.own_claimed().map_or(tail.get(), |claimed| claimed.max(tail.get()));
        self.store(CLAIMED_AT, claimed)?;
        self.store(TAIL_AT, tail.get())?;
        planted::settle(&self.memory, Offset::ZERO, RING_AT, Laid::Console)?;
        self.own.tail.store(tail.get(), Ordering::Relaxed);
        self.own.claimed.store(claimed, Ordering::Relaxed);
        Ok(())
    }

    /// Where the next append goes: [`tail`](Self::tail) for the one writer, who writes a damaged word anew if it has once
    /// known it.
    ///
    /// # Errors
    /// When the word is damaged, and was from the first look on, or the pool refuses.
    pub fn own_tail(&self) -> Result<ConsolePosition, ConsoleError> {
        match self.tail() {
            Ok(tail) => {
                self.own.tail.store(tail.get(), Ordering::Relaxed);
                Ok(tail)
            }
            Err(damaged @ ConsoleError::Word(_)) => self.restore_own(damaged),
            Err(error) => Err(error),
        }
    }

    /// Looks at header and words, and writes them anew if one is damaged: for the one writer, between two appends.
    /// [`take_mended`](Self::take_mended) says whether that was so.
    ///
    /// # Errors
    /// When something was damaged from the first look on, or the pool refuses.
    pub fn mend(&self) -> Result<(), ConsoleError> {
        self.own_tail()?;
        let _known_from_now_on = self.own_claimed();
        self.check().or_else(|damaged| self.restore_own(damaged).map(|_| ()))
    }

    /// Whether something was written anew since this was asked last.
    #[must_use]
    pub fn take_mended(&self) -> bool {
        self.own.mended.swap(false, Ordering::Relaxed)
    }

    fn restore_own(&self, damaged: ConsoleError) -> Result<ConsolePosition, ConsoleError> {
        let tail = match self.own.tail.load(Ordering::Relaxed) {
            UNKNOWN => return Err(damaged),
            tail => ConsolePosition::new(tail),
        };
        self.restore(tail)?;
        self.own.mended.store(true, Ordering::Relaxed);
        Ok(tail)
    }

    /// Up to where bytes were put, by the word or, if that is damaged, by what is known of it.
    fn own_claimed(&self) -> Option<u64> {
        match self.word(CLAIMED_AT) {
            Ok(claimed) => {
                self.own.claimed.store(claimed, Ordering::Relaxed);
                Some(claimed)
            }
            Err(_) => Some(self.own.claimed.load(Ordering::Relaxed)).filter(|claimed| *claimed != UNKNOWN),
        }
    }

    /// Whether `append` would take these bytes; none is written.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    pub fn check_append(&self, start: ConsolePosition, bytes: &[u8]) -> Result<(), ConsoleError> {
        self.new_part(start, bytes).map(|_| ())
    }

    /// The part of `bytes` that the console does not have yet, and where it goes.
    fn new_part<'bytes>(
        &self,
        start: ConsolePosition,
        bytes: &'bytes [u8],
    ) -> Result<(u64, &'bytes [u8]), ConsoleError> {
        let found = len_u64(bytes.len());
        if found > self.ring_bytes {
            return Err(ConsoleError::TooMany { found, ring_bytes: self.ring_bytes });
        }
        let tail = self.own_tail()?;
        if planted(PlantedBug::ApplyConsoleNotIdempotent) {
            return Ok((tail.get(), bytes));
        }
        let Some(known) = tail.get().checked_sub(start.get()) else {
            return Err(ConsoleError::Gap { start, tail });
        };
        let known = usize::try_from(known).map_or(bytes.len(), |known| known.min(bytes.len()));
        Ok((tail.get(), &bytes[known..]))
    }

    /// Appends the bytes that begin at position `start`. What the console already has is skipped, so that an append
    /// can be repeated.
    ///
    /// # Errors
    /// When bytes before `start` are missing, there are too many at once, or the console cannot be used.
    pub fn append(&self, start: ConsolePosition, bytes: &[u8]) -> Result<(), ConsoleError> {
        let (tail, new) = self.new_part(start, bytes)?;
        if new.is_empty() {
            return Ok(());
        }
        let end = tail + len_u64(new.len());
        let claimed = match self.own_claimed() {
            Some(claimed) => claimed.max(end),
            None => self.word(CLAIMED_AT)?.max(end),
        };
        self.store(CLAIMED_AT, claimed)?;
        self.own.claimed.store(claimed, Ordering::Relaxed);
        planted::flush(&self.memory, CLAIMED_AT, WORD_BYTES, PlantedBug::ConsoleReserveFlush)?;
        planted::fence(&self.memory, PlantedBug::ConsoleReserveFence)?;
        if planted(PlantedBug::ApplyConsoleTailFirst) {
            self.store(TAIL_AT, end)?;
        }
        self.write_ring(tail, new)?;
        planted::fence(&self.memory, PlantedBug::ApplyConsoleDataFence)?;
        self.store(TAIL_AT, end)?;
        self.own.tail.store(end, Ordering::Relaxed);
        planted::flush(&self.memory, TAIL_AT, WORD_BYTES, PlantedBug::ApplyConsoleTailFlush)?;
        planted::fence(&self.memory, PlantedBug::ApplyConsoleTailFence)?;
        Ok(())
    }

    fn write_ring(&self, position: u64, bytes: &[u8]) -> Result<(), ConsoleError> {
        // Readers must see the claim before any byte of it.
        std::sync::atomic::fence(Ordering::Release);
        let mut done = 0;
        while done < bytes.len() {
            let (at, run) = self.run(position + len_u64(done), bytes.len() - done);
            self.memory.write(at, &bytes[done..done + run])?;
            planted::flush(&self.memory, at, len_u64(run), PlantedBug::ApplyConsoleDataFlush)?;
            done += run;
        }
        Ok(())
    }

    fn store(&self, at: Offset, value: u64) -> Result<(), ConsoleError> {
        let word = guarded_word::encode(value);
        Ok(self.memory.store_u64(at, word, Ordering::Release)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lossy::{LossyCache, LossyMemory};

    const RING: u64 = PAGE_SIZE;

    fn ring() -> ConsoleRing<LossyMemory> {
        let memory = LossyMemory::new(console_file_bytes(RING), &LossyCache::new());
        assert!(ConsoleRing::open(memory.clone()).is_err());
        ConsoleRing::format(memory.clone(), RING).unwrap();
        ConsoleRing::open(memory).unwrap()
    }

    fn at(position: u64) -> ConsolePosition {
        ConsolePosition::new(position)
    }

    #[test]
    fn whatever_flips_before_the_ring_its_writer_can_restore() {
        let ring = ring();
        ring.append(at(0), b"hello").unwrap();
        let mut copy = [0; 8];
        for byte in (0..32).chain(56..72).chain(128..136) {
            let mut found = [0];
            ring.memory.read(Offset::new(byte), &mut found).unwrap();
            ring.memory.write(Offset::new(byte), &[found[0] ^ 0x40]).unwrap();
            assert!(ring.check().is_err(), "byte {byte}");
            ring.restore(at(5)).unwrap();
            assert_eq!((ring.check(), ring.read(at(0), &mut copy)), (Ok(()), Ok(5)), "byte {byte}");
            assert_eq!(&copy[..5], b"hello");
        }
        ring.append(at(5), b" world").unwrap();
        assert_eq!(ConsoleRing::open(ring.memory.clone()).unwrap().tail(), Ok(at(11)));
    }

    #[test]
    fn appends_can_be_repeated_and_gaps_are_refused() {
        let ring = ring();
        ring.append(at(0), b"hello ").unwrap();
        ring.append(at(0), b"hello world").unwrap();
        ring.append(at(0), b"hel").unwrap();
        assert_eq!(ring.append(at(12), b"x"), Err(ConsoleError::Gap { start: at(12), tail: at(11) }));
        let mut copy = [0; 32];
        assert_eq!(ring.read(at(0), &mut copy), Ok(11));
        assert_eq!(&copy[..11], b"hello world");
        assert_eq!(ring.read(at(11), &mut copy), Ok(0));
    }

    #[test]
    fn the_writer_knows_where_it_is_whatever_the_words_say() {
        for damaged in [Offset::ZERO, CLAIMED_AT, TAIL_AT] {
            let ring = ring();
            ring.append(at(0), b"hello ").unwrap();
            assert!(!ring.take_mended());
            let flip = || ring.memory.store_u64(damaged, 7, Ordering::Relaxed).unwrap();
            let reader = ConsoleRing::of_size(ring.memory.clone(), RING).unwrap();
            flip();
            assert!(reader.check().is_err());
            // In the middle of its work, or when it looks.
            ring.append(at(0), b"hello world").unwrap();
            ring.mend().unwrap();
            assert_eq!((reader.check(), reader.tail(), reader.claimed()), (Ok(()), Ok(at(11)), Ok(at(11))));
            // The append has put its own words over a damaged claim.
            assert!(ring.take_mended() || damaged == CLAIMED_AT);
            flip();
            ring.mend().unwrap();
            assert_eq!((reader.check(), reader.tail(), reader.claimed()), (Ok(()), Ok(at(11)), Ok(at(11))));
            assert!(ring.take_mended() && !ring.take_mended());
            let mut copy = [0; 11];
            assert_eq!((ring.read(at(0), &mut copy), &copy), (Ok(11), b"hello world"));
            // Whoever comes anew cannot know: that is found out elsewhere.
            flip();
            let anew = ConsoleRing::of_size(ring.memory.clone(), RING).unwrap();
            assert_eq!(anew.mend().is_err(), damaged == TAIL_AT);
        }
    }

    #[test]
    fn the_ring_wraps_and_a_slow_reader_is_told() {
        let ring = ring();
        let bytes: Vec<u8> = (0..3000u32).map(|n| n.to_le_bytes()[0]).collect();
        ring.append(at(0), &bytes).unwrap();
        assert_eq!(ring.free_space(at(0)), Ok(RING - 3000));
        ring.append(at(3000), &bytes).unwrap();
        assert_eq!(ring.free_space(at(0)), Ok(0));
        let mut copy = vec![0; 4000];
        assert_eq!(
            ring.read(at(0), &mut copy),
            Err(ConsoleReadError::Overwritten { from: at(0), oldest: at(6000 - RING) })
        );
        assert_eq!(ring.read(at(3000), &mut copy), Ok(3000));
        assert_eq!(copy[..3000], bytes);
        assert!(matches!(ring.append(at(6000), &[0; 4097]), Err(ConsoleError::TooMany { .. })));
    }
}
