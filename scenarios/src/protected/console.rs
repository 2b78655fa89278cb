//! The reading end of a VM's console: every byte once, none lost.

use super::RunError;
use ft_protocol::VmId;
use ft_protocol::wire::{ExtentTag, Part};
use shared_mem::console::{ConsoleError, ConsoleReadError};
use shared_mem::mem::survive_truncation;
use shared_mem::{ConsolePosition, ConsoleRing, Extent, Mapping, ReadOnly};
use std::time::{Duration, Instant};

/// Bytes copied out of the ring at one time.
const CHUNK_BYTES: usize = 16 * 1024;

/// How long a damaged console is waited for: its controller looks more often than that.
const MENDED_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at a damaged console.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Where reading a console begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleStart {
    /// With the oldest byte that the pool still has.
    Oldest,
    /// With this byte, counted from the guest's birth.
    At(u64),
    /// With what the guest says from now on.
    End,
}

/// Reads a console ring.
#[derive(Debug)]
pub(crate) struct ConsoleTap {
    ring: ConsoleRing<Mapping<ReadOnly>>,
    /// The next byte to read.
    position: u64,
    /// The position that the controller was told.
    reported: u64,
}

impl ConsoleTap {
    /// The console among the descriptors of an answer to a request to read it. The controller is told to let nothing be
    /// overwritten before this: so what is the oldest byte now stays.
    pub(crate) fn open(vm: VmId, extents: &[(ExtentTag, Extent)], start: ConsoleStart) -> Result<Self, RunError> {
        let console = extents.iter().find(|(tag, _)| tag.grant.part == Part::Console(vm)).ok_or(RunError::NoConsole)?;
        // Its file may be cut off while it is read; that is told then, and ends nobody.
        survive_truncation().map_err(RunError::Wait)?;
        let map = || Mapping::read_only(&console.1).map_err(RunError::ConsoleMapping);
        let ring = patiently(|| ConsoleRing::open(map()?).map_err(RunError::Console))?;
        let tail = patiently(|| ring.tail().map_err(RunError::Console))?.get();
        let position = match start {
            ConsoleStart::At(position) if position > tail => return Err(RunError::ConsoleAhead { position, tail }),
            ConsoleStart::At(position) => position,
            ConsoleStart::End => tail,
            ConsoleStart::Oldest => oldest(&ring)?,
        };
        Ok(Self { ring, position, reported: 0 })
    }

    /// Appends what is there, at most about `max` bytes; says how many came.
    pub(crate) fn read(&mut self, into: &mut Vec<u8>, max: usize) -> Result<usize, RunError> {
        let mut chunk = [0; CHUNK_BYTES];
        let mut total = 0;
        while total < max {
            let want = CHUNK_BYTES.min(max - total);
            let position = ConsolePosition::new(self.position);
            let count = patiently(|| self.ring.read(position, &mut chunk[..want]).map_err(RunError::ConsoleRead))?;
            into.extend_from_slice(&chunk[..count]);
            self.position += count as u64;
            total += count;
            if count < want {
                break;
            }
        }
        Ok(total)
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The position to tell the controller, when it is time to: it only needs to know before the ring has wrapped.
    pub(crate) fn take_due_report(&mut self) -> Option<u64> {
        let due = self.position - self.reported >= self.ring.ring_bytes() / 8;
        due.then(|| {
            self.reported = self.position;
            self.position
        })
    }
}

/// The oldest byte that is left.
fn oldest(ring: &ConsoleRing<Mapping<ReadOnly>>) -> Result<u64, RunError> {
    match patiently(|| ring.read(ConsolePosition::new(0), &mut []).map_err(RunError::ConsoleRead)) {
        Ok(_) => Ok(0),
        Err(RunError::ConsoleRead(ConsoleReadError::Overwritten { oldest, .. })) => Ok(oldest.get()),
        Err(error) => Err(error),
    }
}

/// A controller that lives writes a damaged console anew within a moment: that is waited for.
fn patiently<T>(mut look: impl FnMut() -> Result<T, RunError>) -> Result<T, RunError> {
    let until = Instant::now() + MENDED_WITHIN;
    loop {
        match look() {
            Err(error) if is_damage(&error) && Instant::now() < until => std::thread::sleep(LOOK_INTERVAL),
            found => return found,
        }
    }
}

fn is_damage(error: &RunError) -> bool {
    let damaged = |error: &ConsoleError| {
        matches!(error, ConsoleError::Header(_) | ConsoleError::RingSize { .. } | ConsoleError::Word(_))
    };
    match error {
        RunError::Console(error) | RunError::ConsoleRead(ConsoleReadError::Console(error)) => damaged(error),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_mem::guarded_word::WordError;

    #[test]
    fn damage_is_waited_out_and_nothing_else() {
        let damage = || RunError::Console(ConsoleError::Word(WordError { raw: 0 }));
        let mut looks = 0;
        let found = patiently(|| {
            looks += 1;
            if looks < 4 { Err(damage()) } else { Ok(looks) }
        });
        assert_eq!(found.unwrap(), 4);
        let (mut looks, position) = (0, ConsolePosition::new(1));
        let found: Result<(), RunError> = patiently(|| {
            looks += 1;
            Err(RunError::ConsoleRead(ConsoleReadError::Overwritten { from: position, oldest: position }))
        });
        assert!(found.is_err() && looks == 1);
    }
}
