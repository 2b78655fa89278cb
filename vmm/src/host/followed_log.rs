//! The record log of a primary, as its secondary reads it while it grows.

use super::record::Found;
use crate::machine::MachineState;
use crate::machine::history::{HistoryError, HistorySource};
use ft_protocol::record::{Entry, EntryBody, EntrySource, Extent as Reach};
use shared_mem::{Extent, LogPosition, LogReader, Mapping, ReadOnly};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// Entries that are read ahead, to know how far the primary has come.
const AHEAD_MAX: usize = 256;

/// The entries behind an epoch.
pub(super) struct FollowedLog {
    log: LogReader<Mapping<ReadOnly>>,
    /// Where the next one lies that has not been read.
    position: LogPosition,
    ahead: VecDeque<Entry<'static>>,
    /// All entries of exits up to this one are known.
    complete_to: u64,
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
            ahead: VecDeque::new(),
            complete_to: state.exits().0,
            end: None,
            buffer: Vec::new(),
        })
    }

    fn fill(&mut self) -> Result<(), HistoryError> {
        while self.ahead.len() < AHEAD_MAX && self.end.is_none_or(|found| self.position < found.end) {
            let Some(entry) = self.log.read(self.position, &mut self.buffer)? else { break };
            let next = self.position.plus(entry.stored_bytes());
            let entry = Entry::decode(entry.tag, entry.exit_counter, entry.payload)?.into_owned();
            let complete_to = match entry.body {
                EntryBody::Mark | EntryBody::Commit(_) => entry.at_exit,
                // More of the same exit may follow.
                _ => entry.at_exit.saturating_sub(1),
            };
            self.complete_to = self.complete_to.max(complete_to);
            self.position = next;
            self.ahead.push_back(entry);
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

    /// Whether all that was read is part of the log of the next generation, which ends there.
    pub(super) fn is_within(&self, found: &Found) -> bool {
        self.lock().position <= found.end
    }

    /// Whether a commit is known that was made at this exit and has not been come to: what stands before it is all that was
    /// delivered there.
    pub(super) fn has_commit_at(&self, exit: u64) -> bool {
        let commit = |entry: &Entry<'_>| entry.at_exit == exit && matches!(entry.body, EntryBody::Commit(_));
        self.lock().ahead.iter().any(commit)
    }

    /// The log has ended; what is left is read from the one that the next generation begins with.
    pub(super) fn ends(&self, log: LogReader<Mapping<ReadOnly>>, found: Found) {
        let mut own = self.lock();
        own.log = log;
        own.end = Some(found);
    }
}

impl EntrySource for SharedLog {
    type Error = HistoryError;

    fn next_entry(&mut self) -> Result<Option<Entry<'static>>, HistoryError> {
        let mut log = self.lock();
        log.fill()?;
        Ok(log.ahead.pop_front())
    }

    fn extent(&self) -> Reach {
        let mut log = self.lock();
        // What cannot be read is met again by whoever asks for the next entry.
        let _ = log.fill();
        log.end.map_or(Reach::Growing { complete_to: log.complete_to }, |found| found.extent())
    }
}

impl HistorySource for SharedLog {}
