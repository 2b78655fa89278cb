//! The record log as a host uses it: its writer, shared between the machine's input source and the vCPU's thread, and
//! what a successor reads of it.

use crate::failpoint;
use crate::machine::ExitNumber;
use crate::machine::history::{HistoryError, HistorySink, HistorySource};
use ft_protocol::Epoch;
use ft_protocol::record::{Entry, EntryBody, EntrySource, Extent, LogEnd, LogSpace};
use shared_mem::record_log::{AppendError, LogRange, ResumeLogError};
use shared_mem::{LogPosition, LogReader, LogWriter, Mapping, PoolRead, ReadOnly, ReadWrite};
use std::sync::{Arc, Mutex, MutexGuard};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A handle of the log's writer. All handles are of one log.
#[derive(Clone)]
pub(super) struct RecordLog(Arc<Mutex<Writing>>);

struct Writing {
    writer: LogWriter<Mapping<ReadWrite>>,
    space: LogSpace,
    payload: Vec<u8>,
}

impl RecordLog {
    /// Goes on behind the entries that the log of a new generation begins with.
    pub(super) fn open(log: Mapping<ReadWrite>, ring_bytes: u64, found: &Found) -> Result<Self, ResumeLogError> {
        let writer = LogWriter::resume(log, ring_bytes, found.end, found.last_sequence.unwrap_or(0))?;
        let space = LogSpace::new(ring_bytes);
        Ok(Self(Arc::new(Mutex::new(Writing { writer, space, payload: Vec::new() }))))
    }

    fn lock(&self) -> MutexGuard<'_, Writing> {
        self.0.lock().expect("nothing panics under this lock")
    }

    pub(super) fn record(&self, recording: bool) {
        self.lock().space.record(recording);
    }

    /// Has the guest pause at its next exit, or no more.
    pub(super) fn pause(&self, pausing: bool) {
        self.lock().space.pause(pausing);
    }

    /// Whether the guest is to pause at its next exit.
    pub(super) fn is_pausing(&self) -> bool {
        self.lock().space.is_pausing()
    }

    /// Appends what is not an input.
    pub(super) fn note(&mut self, at: ExitNumber, digest: u32, body: EntryBody<'_>) -> Result<(), HistoryError> {
        self.append(&Entry { at_exit: at.0, digest, body })
    }

    /// Where the inputs begin that come from now on.
    pub(super) fn tail(&self) -> LogPosition {
        self.lock().writer.tail()
    }

    /// The record of `epoch` says that the log of the time after it begins here.
    pub(super) fn mark(&self, epoch: Epoch) {
        let mut log = self.lock();
        let tail = log.writer.tail();
        log.space.mark(epoch, tail.get());
    }

    /// What came before `applied` is in the stable image and will not be replayed again.
    pub(super) fn free(&self, applied: Epoch) {
        let mut log = self.lock();
        if let Some(position) = log.space.free(applied) {
            log.writer.free_before(LogPosition::new(position));
        }
    }

    /// Whether a commit would free something once it is applied.
    pub(super) fn grew_since_mark(&self) -> bool {
        let log = self.lock();
        log.space.grew_since_mark(log.writer.tail().get())
    }

    /// The log was closed: this host reigns no more.
    pub(super) fn is_sealed(&self) -> bool {
        self.lock().space.is_sealed()
    }
}

impl HistorySink for RecordLog {
    fn append(&mut self, entry: &Entry<'_>) -> Result<(), HistoryError> {
        let mut log = self.lock();
        let Writing { writer, space, payload } = &mut *log;
        if !space.is_recording() {
            return Ok(());
        }
        failpoint::pass("host.log.appending");
        payload.clear();
        entry.encode_payload(payload);
        let written = || failpoint::pass("host.log.written");
        match writer.append_stepwise(entry.tag(), entry.at_exit, payload, written) {
            Ok(_) => {
                failpoint::pass("host.log.appended");
                Ok(())
            }
            Err(error) => {
                if matches!(error, AppendError::Sealed { .. }) {
                    space.seal();
                }
                Err(error.into())
            }
        }
    }

    fn has_room(&self) -> bool {
        let log = self.lock();
        log.space.has_room(log.writer.free_space())
    }

    fn wants_marks(&self) -> bool {
        self.lock().space.is_recording()
    }
}

/// What the log of a new generation begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    from: LogPosition,
    pub(super) end: LogPosition,
    last_sequence: Option<u64>,
    log_end: LogEnd,
}

impl Found {
    /// Looks through the entries from where the base epoch left the log, and the console.
    pub(super) fn look<M: PoolRead>(
        log: &LogReader<M>,
        from: LogPosition,
        console_start: u64,
    ) -> Result<Self, Failure> {
        let end = log.tail()?.position;
        let mut found = Self { from, end, last_sequence: None, log_end: LogEnd::new(console_start) };
        let mut entries = log.entries_within(LogRange { from, to: end, after_sequence: None });
        while let Some(entry) = entries.next_entry()? {
            found.last_sequence = Some(entry.sequence);
            found.log_end.note(&Entry::decode(entry.tag, entry.exit_counter, entry.payload)?);
        }
        Ok(found)
    }

    pub(super) fn console_end(&self) -> u64 {
        self.log_end.console_end()
    }

    pub(super) fn last_exit(&self) -> u64 {
        self.log_end.last_exit()
    }

    pub(super) fn entries(&self) -> u64 {
        self.log_end.entries()
    }

    /// How far the log reaches, for the cursor.
    pub(super) fn extent(&self) -> Extent {
        self.log_end.extent()
    }
}

/// The entries that a successor replays: those of its own log, which the controller has checked and copied.
pub(super) struct Inherited {
    log: LogReader<Mapping<ReadOnly>>,
    found: Found,
    position: LogPosition,
    buffer: Vec<u8>,
}

impl Inherited {
    pub(super) fn new(log: LogReader<Mapping<ReadOnly>>, found: Found) -> Self {
        Self { log, found, position: found.from, buffer: Vec::new() }
    }
}

impl EntrySource for Inherited {
    type Error = HistoryError;

    fn next_entry(&mut self) -> Result<Option<Entry<'static>>, HistoryError> {
        // What is appended from now on is this host's own.
        if self.position >= self.found.end {
            return Ok(None);
        }
        let Some(entry) = self.log.read(self.position, &mut self.buffer)? else { return Ok(None) };
        let next = self.position.plus(entry.stored_bytes());
        let decoded = Entry::decode(entry.tag, entry.exit_counter, entry.payload)?.into_owned();
        self.position = next;
        Ok(Some(decoded))
    }

    fn extent(&self) -> Extent {
        self.found.extent()
    }
}

impl HistorySource for Inherited {
    fn exit_digest(&mut self, _at: ExitNumber) -> Result<Option<u32>, HistoryError> {
        Ok(None)
    }
}
