//! Records a machine that runs on this host alone: entries as they come, and a commit at an exit every so often.

use super::chunk::{CommitHead, CommitKind, PAGE_BYTES, RecordedEnd, RecordedMachine};
use super::page_hash::{PageHashes, page_hash};
use super::writer::{RecordError, RecordingWriter};
use crate::machine::device::virtio::{BLOCK_BYTES, Disk};
use crate::machine::history::{HistoryError, HistorySink};
use crate::machine::{DirtyPages, ExitNumber, InputError, Machine, MachineError, PageIndex};
use ft_protocol::record::Entry;
use shared_mem::DISK_PAGE_BASE;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vm_memory::Bytes;

/// Time between two commits.
const EPOCH: Duration = Duration::from_secs(1);

/// A recording in the making.
#[derive(Debug)]
pub struct LiveRecording {
    shared: Arc<Mutex<Shared>>,
    hashes: PageHashes,
    dirty: DirtyPages,
    epoch: u64,
}

#[derive(Debug)]
struct Shared {
    writer: RecordingWriter,
    due: Instant,
    /// The guest has come to an exit since the last commit was made or put off.
    fresh_exit: bool,
    payload: Vec<u8>,
}

/// Where the machine's [`Recorder`](crate::machine::history::Recorder) puts what comes. The guest pauses at the exit at
/// which a commit is due.
#[derive(Debug)]
pub struct RecordingSink(Arc<Mutex<Shared>>);

impl LiveRecording {
    /// Begins a recording. A file that is there is replaced.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path, machine: &RecordedMachine) -> Result<Self, RecordError> {
        let writer = RecordingWriter::create(path, machine)?;
        let shared = Shared { writer, due: Instant::now() + EPOCH, fresh_exit: false, payload: Vec::new() };
        let pages = usize::try_from(machine.memory_bytes).expect("usize has 64 bits") / PAGE_BYTES;
        Ok(Self {
            shared: Arc::new(Mutex::new(shared)),
            hashes: PageHashes::new(pages),
            dirty: DirtyPages::new(machine.memory_bytes),
            epoch: 0,
        })
    }

    /// What the machine's inputs are to be recorded with.
    #[must_use]
    pub fn sink(&self) -> RecordingSink {
        RecordingSink(Arc::clone(&self.shared))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }

    /// Records the state that the guest begins with, and its disk. Its memory must be all zeroes but for what was written
    /// through the machine.
    ///
    /// # Errors
    /// The machine failed, or its disk cannot be read.
    pub fn start(&mut self, machine: &mut Machine, disk: Option<Arc<Mutex<Disk>>>) -> Result<(), MachineError> {
        if let Some(disk) = disk {
            let disk = disk.lock().unwrap_or_else(PoisonError::into_inner);
            let mut shared = lock(&self.shared);
            let mut content = [0; PAGE_BYTES];
            for block in 0..disk.bytes() / BLOCK_BYTES as u64 {
                let failed = |source| InputError::Disk { at: ExitNumber(0), source: Box::new(source) };
                disk.read(block * BLOCK_BYTES as u64, &mut content).map_err(failed)?;
                if content.iter().any(|byte| *byte != 0) {
                    shared.writer.page(DISK_PAGE_BASE + block, &content);
                }
            }
        }
        self.write(machine, CommitKind::Start)
    }

    /// Makes a commit if the guest has paused for one.
    ///
    /// # Errors
    /// The machine failed.
    pub fn commit_if_due(&mut self, machine: &mut Machine) -> Result<(), MachineError> {
        if self.lock().has_room() {
            return Ok(());
        }
        if machine.is_at_exit() {
            self.epoch += 1;
            self.write(machine, CommitKind::Exit)?;
        }
        let mut shared = self.lock();
        shared.fresh_exit = false;
        if machine.is_at_exit() {
            shared.due = Instant::now() + EPOCH;
        }
        Ok(())
    }

    /// Records the end, and waits until all is safe. Says how many bytes the recording has.
    ///
    /// # Errors
    /// The machine failed. A recording that is not whole is the inner error.
    pub fn end(mut self, machine: &mut Machine, end: &RecordedEnd) -> Result<Result<u64, RecordError>, MachineError> {
        if matches!(end, RecordedEnd::Guest(_)) {
            self.epoch += 1;
            self.write(machine, CommitKind::End)?;
        }
        machine.replace_inputs(Box::new(crate::machine::LiveInputs::default()));
        let shared = Arc::into_inner(self.shared).expect("the machine's inputs held the only other handle");
        Ok(shared.into_inner().expect("nothing panics under this lock").writer.end(end))
    }

    fn write(&mut self, machine: &mut Machine, kind: CommitKind) -> Result<(), MachineError> {
        let state = machine.save()?;
        machine.harvest(&mut self.dirty)?;
        let mut shared = lock(&self.shared);
        if shared.writer.failure().is_some() {
            self.dirty.clear();
            return Ok(());
        }
        let mut content = [0; PAGE_BYTES];
        for page in self.dirty.iter() {
            read_page(machine, page, &mut content);
            let hash = page_hash(page.0, &content);
            assert!(self.hashes.set(page.0, hash), "only pages of the guest's memory get dirty");
            match kind.has_pages() {
                true => shared.writer.page(page.0, &content),
                false => shared.writer.hash(page.0, hash),
            }
        }
        self.dirty.clear();
        let memory = self.hashes.digest();
        let head = CommitHead { generation: 0, epoch: self.epoch, exits: state.exits().0, memory, kind };
        shared.writer.commit(&head, &state.encode());
        Ok(())
    }
}

/// Reads a page of a machine's memory.
pub(super) fn read_page(machine: &Machine, page: PageIndex, into: &mut [u8; PAGE_BYTES]) {
    machine.memory().read_slice(into, page.guest_address()).expect("only pages of the guest's memory get dirty");
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().expect("nothing panics under this lock")
}

impl Shared {
    fn has_room(&self) -> bool {
        !self.fresh_exit || Instant::now() < self.due
    }
}

impl HistorySink for RecordingSink {
    fn append(&mut self, entry: &Entry<'_>) -> Result<(), HistoryError> {
        let mut shared = lock(&self.0);
        let Shared { writer, payload, .. } = &mut *shared;
        payload.clear();
        entry.encode_payload(payload);
        writer.entry(entry.tag(), entry.at_exit, payload);
        Ok(())
    }

    fn has_room(&self) -> bool {
        lock(&self.0).has_room()
    }

    fn exit(&mut self, _at: ExitNumber, _digest: u32) -> Result<(), HistoryError> {
        lock(&self.0).fresh_exit = true;
        Ok(())
    }
}
