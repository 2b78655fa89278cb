//! The record log of a primary, as its secondary reads it while it grows.

use super::record::Found;
use crate::machine::MachineState;
use crate::machine::history::{HistoryError, HistorySource};
use ft_protocol::record::{Ahead, Entry, EntrySource, Extent as Reach};
use shared_mem::{Extent, LogPosition, LogReader, Mapping, ReadOnly};
use std::sync::{Arc, Mutex, MutexGuard};

/// The entries behind an epoch.
pub(super) struct FollowedLog {
    log: LogReader<Mapping<ReadOnly>>,
    /// Where the next one lies that has not been read.
    position: LogPosition,
    ahead: Ahead,
    /// Where it ends, once it has.
    end: Option<Found>,
    buffer: Vec<u8>,
}

impl FollowedLog {
    /// Reads on from where a machine state left the log.
    pub(super) fn new(log: Extent, ring_bytes: u64, state: &MachineState) -> Result<Self, HistoryError> {
        Ok(Self {
            log: LogReader::new(Mapping::read_only(&log)?, ring_bytes)?,
            position: LogPosition::new(state.log_position()),
            ahead: Ahead::new(state.exits().0),
            end: None,
            buffer: Vec::new(),
        })
    }

    fn fill(&mut self) -> Result<(), HistoryError> {
        while self.ahead.has_room() && self.end.is_none_or(|found| self.position < found.end) {
            let Some(entry) = self.log.read(self.position, &mut self.buffer)? else { break };
            let next = self.position.plus(entry.stored_bytes());
            self.ahead.push(Entry::decode(entry.tag, entry.exit_counter, entry.payload)?.into_owned());
            self.position = next;
        }
        Ok(())
    }
}

/// A handle, for the machine's source of inputs and for who drives it.
#[derive(Clone)]
pub(super) struct SharedLog(Arc<Mutex<FollowedLog>>);

impl SharedLog {
    pub(super) fn new(log: FollowedLog) -> Self {
        Self(Arc::new(Mutex::new(log)))
    }

    fn lock(&self) -> MutexGuard<'_, FollowedLog> {
        self.0.lock().expect("nothing panics under this lock")
    }

    /// Up to where it was read.
    pub(super) fn read_to(&self) -> LogPosition {
        self.lock().position
    }

    /// The log has ended; what is left is read from the one that the next generation begins with.
    pub(super) fn ends(&self, log: LogReader<Mapping<ReadOnly>>, found: Found) {
        let mut own = self.lock();
        own.log = log;
        own.end = Some(found);
        own.ahead.ends(found.extent());
    }
}

impl SharedLog {
    /// Whether a commit is known that was made at this exit and has not been come to: what stands before it is all that was
    /// delivered there.
    pub(super) fn has_commit_at(&self, exit: u64) -> bool {
        self.lock().ahead.has_commit_at(exit)
    }
}

impl EntrySource for SharedLog {
    type Error = HistoryError;

    fn next_entry(&mut self) -> Result<Option<Entry<'static>>, HistoryError> {
        let mut log = self.lock();
        log.fill()?;
        Ok(log.ahead.pop())
    }

    fn extent(&self) -> Reach {
        let mut log = self.lock();
        // What cannot be read is met again by whoever asks for the next entry.
        let _ = log.fill();
        log.ahead.extent()
    }

    fn knows_all_of(&self, exit: u64) -> bool {
        let mut log = self.lock();
        let _ = log.fill();
        log.ahead.knows_all_of(exit)
    }
}

impl HistorySource for SharedLog {}
