//! The heartbeat page of a host: written by the host, sampled by everybody else.
//!
//! Two lines take turns, each with its own CRC. Whatever happens to the line being written (its writer dies, the
//! reader looks at the wrong moment), the other one still holds the beat before.

use thiserror::Error;
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::header::{Closing, Header, HeaderError, OPEN, Preamble};
use crate::mem::{AccessError, PoolRead, PoolWrite};
use crate::numbers::{Offset, PAGE_SIZE};
use crate::planted::PlantedBug;

/// Length of a heartbeat page.
pub const HEARTBEAT_BYTES: u64 = PAGE_SIZE;

const LINE_BYTES: usize = 64;
const LINES: usize = 2;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct BeatLine {
    preamble: Preamble,
    count: U64,
    at_ns: U64,
    incarnation: U64,
    flags: U64,
    reserved: U64,
    closing: Closing,
}

impl Header for BeatLine {
    const MAGIC: [u8; 8] = *b"FTVMBEAT";
    const VERSION: u32 = 1;
    const UNCHECKED: PlantedBug = PlantedBug::HeartbeatCrc;
}

const _: () = assert!(size_of::<BeatLine>() == LINE_BYTES);

/// One beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// Beats so far in this incarnation, from 1.
    pub count: u64,
    /// The host's own clock at the beat. Comparable only with other beats of the same host.
    pub at_ns: u64,
    /// Which life of the host this is.
    pub incarnation: u64,
    /// What the host says of itself; meaning is the protocol's.
    pub flags: u64,
}

/// No beat can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeartbeatError {
    /// Neither line holds a sound beat: the host has never beaten, or the page is damaged.
    #[error("neither line of the heartbeat page holds a beat")]
    NoBeat {
        /// What is wrong with the first line.
        first: HeaderError,
        /// What is wrong with the second line.
        second: HeaderError,
    },
    /// The pool refused.
    #[error("cannot reach the heartbeat page")]
    Access(#[from] AccessError),
}

/// Parses the two lines of a private copy of a heartbeat page and returns the newer beat.
///
/// # Errors
/// When neither line is sound.
pub fn parse_page(bytes: &[u8]) -> Result<Beat, HeartbeatError> {
    let parse = |line: usize| -> Result<Beat, HeaderError> {
        let line = BeatLine::parse(bytes.get(line * LINE_BYTES..).unwrap_or_default())?;
        Ok(Beat {
            count: line.count.get(),
            at_ns: line.at_ns.get(),
            incarnation: line.incarnation.get(),
            flags: line.flags.get(),
        })
    };
    match (parse(0), parse(1)) {
        (Ok(first), Ok(second)) => Ok(newer(first, second)),
        (Ok(beat), Err(_)) | (Err(_), Ok(beat)) => Ok(beat),
        (Err(first), Err(second)) => Err(HeartbeatError::NoBeat { first, second }),
    }
}

fn newer(first: Beat, second: Beat) -> Beat {
    let age = |beat: &Beat| (beat.incarnation, beat.count);
    if age(&first) >= age(&second) { first } else { second }
}

/// A host's own heartbeat.
#[derive(Debug)]
pub struct HeartbeatWriter<M> {
    memory: M,
    incarnation: u64,
    count: u64,
    flags: u64,
}

impl<M: PoolWrite> HeartbeatWriter<M> {
    /// A heartbeat that begins with the next beat. Each life of a host has a larger incarnation than the one before.
    #[must_use]
    pub fn new(memory: M, incarnation: u64) -> Self {
        Self { memory, incarnation, count: 0, flags: 0 }
    }

    /// What the host says of itself from the next beat on.
    pub fn set_flags(&mut self, flags: u64) {
        self.flags = flags;
    }

    /// Beats once.
    ///
    /// # Errors
    /// When the pool refuses: the host is cut off.
    pub fn beat(&mut self, now_ns: u64) -> Result<(), HeartbeatError> {
        self.count += 1;
        let line = BeatLine {
            preamble: BeatLine::preamble(),
            count: U64::new(self.count),
            at_ns: U64::new(now_ns),
            incarnation: U64::new(self.incarnation),
            flags: U64::new(self.flags),
            reserved: U64::ZERO,
            closing: OPEN,
        };
        let at = if self.count % 2 == 1 { 0 } else { crate::mem::LINE_BYTES };
        let at = Offset::new(at);
        // No flush: coherence shows the beat to everybody, and none of them needs it to outlive its host.
        Ok(self.memory.write(at, &line.sealed_bytes())?)
    }
}

/// Another host's heartbeat.
#[derive(Debug)]
pub struct HeartbeatReader<M> {
    memory: M,
}

impl<M: PoolRead> HeartbeatReader<M> {
    /// A reader of a heartbeat page.
    #[must_use]
    pub fn new(memory: M) -> Self {
        Self { memory }
    }

    /// The newest whole beat.
    ///
    /// # Errors
    /// When there is none, or the pool refuses.
    pub fn sample(&self) -> Result<Beat, HeartbeatError> {
        let mut lines = [0; LINE_BYTES * LINES];
        self.memory.read(Offset::ZERO, &mut lines)?;
        parse_page(&lines)
    }

    /// What the primary of a VM says on this host ([`crate::activity`]); zero when nothing was ever said.
    ///
    /// # Errors
    /// When the page has no word for the VM, or the pool refuses.
    pub fn activity(&self, vm: u16) -> Result<u64, AccessError> {
        crate::activity::activity(&self.memory, vm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lossy::{LossyCache, LossyMemory};

    #[test]
    fn the_newest_whole_beat_is_read_whatever_happens_to_the_other() {
        let memory = LossyMemory::new(HEARTBEAT_BYTES, &LossyCache::new());
        let reader = HeartbeatReader::new(&memory);
        assert!(matches!(reader.sample(), Err(HeartbeatError::NoBeat { .. })));
        let mut writer = HeartbeatWriter::new(&memory, 7);
        for count in 1..=5 {
            writer.set_flags(count);
            writer.beat(count * 10).unwrap();
            let beat = reader.sample().unwrap();
            assert_eq!((beat.count, beat.at_ns, beat.incarnation, beat.flags), (count, count * 10, 7, count));
        }
        memory.write(Offset::new(20), &[0xff]).unwrap();
        assert_eq!(reader.sample().unwrap().count, 4);
        let mut next_life = HeartbeatWriter::new(&memory, 8);
        next_life.beat(1).unwrap();
        assert_eq!(reader.sample().unwrap().incarnation, 8);
    }
}
