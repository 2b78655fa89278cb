//! The reading end of a VM's console: every byte once, none lost.

use super::RunError;
use shared_mem::{ConsolePosition, ConsoleRing, Extent, Mapping, ReadOnly};

/// Bytes copied out of the ring at one time.
const CHUNK_BYTES: usize = 16 * 1024;

/// Reads a console ring from the guest's birth on.
#[derive(Debug)]
pub(super) struct ConsoleTap {
    ring: ConsoleRing<Mapping<ReadOnly>>,
    /// The next byte to read.
    position: u64,
    /// The position that the controller was told.
    reported: u64,
}

impl ConsoleTap {
    pub(super) fn open(extent: &Extent) -> Result<Self, RunError> {
        let mapping = Mapping::read_only(extent).map_err(RunError::ConsoleMapping)?;
        let ring = ConsoleRing::open(mapping).map_err(RunError::Console)?;
        Ok(Self { ring, position: 0, reported: 0 })
    }

    /// Appends what is there, at most about `max` bytes; says how many came.
    pub(super) fn read(&mut self, into: &mut Vec<u8>, max: usize) -> Result<usize, RunError> {
        let mut chunk = [0; CHUNK_BYTES];
        let mut total = 0;
        while total < max {
            let want = CHUNK_BYTES.min(max - total);
            let position = ConsolePosition::new(self.position);
            let count = self.ring.read(position, &mut chunk[..want]).map_err(RunError::ConsoleRead)?;
            into.extend_from_slice(&chunk[..count]);
            self.position += count as u64;
            total += count;
            if count < want {
                break;
            }
        }
        Ok(total)
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The position to tell the controller, when it is time to: it only needs to know before the ring has wrapped.
    pub(super) fn take_due_report(&mut self) -> Option<u64> {
        let due = self.position - self.reported >= self.ring.ring_bytes() / 8;
        due.then(|| {
            self.reported = self.position;
            self.position
        })
    }
}
