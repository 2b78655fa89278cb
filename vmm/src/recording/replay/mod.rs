//! Re-executes a recording, verifies every exit and every commit, and stops at any exit.
//!
//! ```text
//!   begin (boot file | state) ──> run to the exit of the next commit ──> verify memory and state ──> next epoch ...
//!                                     │                                   │
//!                                     │                                   └─ commit by a kick: history verified, then
//!                                     │                                      state and pages taken from the recording
//!                                     └─ the exit that was asked for, the end of the recording, a divergence: stop
//! ```

mod drive;
mod report;
mod tape;

pub use report::{BlockDifference, DivergenceReport, PageDifference, ReplayReport, Stopped};

use super::index::Index;
use super::page_hash::PageHashes;
use super::reader::{ReadError, RecordingReader};
use crate::machine::device::virtio::{Disk, DiskBase, DiskError, devices};
use crate::machine::flat::{self, FlatGuestError};
use crate::machine::history::Replayer;
use crate::machine::layout::{self, anonymous_memory};
use crate::machine::{
    DirtyPages, Machine, MachineConfig, MachineError, MemoryError, OpenKvmError, PageIndex, StateError, cpu_profile,
    open_kvm,
};
use ft_protocol::cpu::CpuMismatch;
use ft_protocol::record::OutputsLogged;
use ft_protocol::spec::{NetBackend, NetSpec};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tape::Tape;

/// Where a replay is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopAt {
    /// At the end.
    End,
    /// When this exit has been served.
    Exit(u64),
    /// When the commit that made this epoch has been verified.
    Epoch(u64),
}

/// Why there is no replay, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no recording.
    #[error("{path} cannot be replayed")]
    Unreadable {
        /// Where.
        path: PathBuf,
        /// Why.
        source: ReadError,
    },
    /// Nothing of the recording is left that a replay could begin with.
    #[error("{path} has nothing to begin with: {why}")]
    NoBeginning {
        /// Where.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The recording does not reach that far.
    #[error("the recording has no {what} {asked}; it goes from {first} to {last}")]
    OutOfReach {
        /// Exit or epoch.
        what: &'static str,
        /// Which.
        asked: u64,
        /// The first there is.
        first: u64,
        /// The last there is.
        last: u64,
    },
    /// KVM cannot be used.
    #[error(transparent)]
    Kvm(#[from] OpenKvmError),
    /// The guest was shown another processor.
    #[error("this machine cannot show the guest the processor that it was recorded on: {0}")]
    Cpu(CpuMismatch),
    /// There is no memory for the guest.
    #[error("no memory for the guest")]
    Memory(#[from] MemoryError),
    /// There is no disk for the guest.
    #[error("no disk for the guest")]
    Disk(#[from] DiskError),
    /// The boot file is no guest.
    #[error("the recorded guest cannot be started")]
    Guest(#[from] FlatGuestError),
    /// The machine failed.
    #[error("the machine failed")]
    Machine(#[from] MachineError),
    /// The file has changed since it was looked through.
    #[error("the recording has changed while it was replayed")]
    Changed(#[from] ReadError),
    /// As above.
    #[error("a state in the recording has changed while it was replayed")]
    State(#[from] StateError),
    /// Nobody takes the console's bytes.
    #[error("cannot write the guest's console")]
    Console(#[source] io::Error),
}

/// How far a replay is, for those who watch it from another thread.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    bytes_in_all: AtomicU64,
    entries: AtomicU64,
    exit: AtomicU64,
}

impl Progress {
    /// The last exit that is known to have been come to.
    #[must_use]
    pub fn exit(&self) -> u64 {
        self.exit.load(Ordering::Relaxed)
    }

    /// Percent of the file.
    #[must_use]
    pub fn percent(&self) -> u64 {
        let all = self.bytes_in_all.load(Ordering::Relaxed).max(1);
        self.bytes.load(Ordering::Relaxed).min(all) * 100 / all
    }

    fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    fn read_to(&self, position: u64) {
        self.bytes.store(position, Ordering::Relaxed);
    }

    fn entry_taken(&self) {
        self.entries.fetch_add(1, Ordering::Relaxed);
    }
}

/// A replay that is ready to begin.
pub struct Replay {
    index: Index,
    machine: Machine,
    disk: Option<Arc<Mutex<Disk>>>,
    tape: Tape,
    /// What the recording says of memory.
    hashes: PageHashes,
    dirty: DirtyPages,
    /// Hashes of the blocks of the disk that the recorded guest wrote since the last commit.
    blocks: BTreeMap<u64, u64>,
    progress: Arc<Progress>,
    /// The last exit and epoch at which everything agreed.
    agreed: (u64, Option<u64>),
    verified: u64,
    taken: u64,
}

impl Replay {
    /// Looks through a recording and makes a machine for it.
    ///
    /// # Errors
    /// No such file, no recording, no KVM, a processor that cannot show what the recorded one did.
    pub fn open(path: &Path) -> Result<Self, ReplayError> {
        let open = || open_regular(path).map_err(|source| ReplayError::Open { path: path.to_owned(), source });
        let unreadable = |source| ReplayError::Unreadable { path: path.to_owned(), source };
        let index = Index::read(BufReader::new(open()?)).map_err(unreadable)?;
        if !index.has_beginning() {
            let why =
                index.damage.as_ref().map_or_else(|| "it ends too early".to_owned(), |damage| crate::chain(damage));
            return Err(ReplayError::NoBeginning { path: path.to_owned(), why });
        }
        let kvm = open_kvm()?;
        // A flat guest's instructions do not reach what hosts say beside.
        cpu_profile(&kvm)?.can_run(&index.machine.cpu.of_processor()).map_err(ReplayError::Cpu)?;
        let progress = Arc::new(Progress::default());
        progress.bytes_in_all.store(index.good_bytes, Ordering::Relaxed);
        let reader = RecordingReader::new(BufReader::new(open()?)).map_err(unreadable)?;
        let tape = Tape::new(reader, index.good_bytes, Arc::clone(&progress));
        let recorded = &index.machine;
        let net = |mac: &[u8; 6]| NetSpec { mac: *mac, backend: NetBackend::Segment(String::new()) };
        let nets: Vec<NetSpec> = recorded.macs.iter().map(net).collect();
        let disk = match recorded.disk_bytes {
            0 => None,
            bytes => Some(Arc::new(Mutex::new(Disk::new(DiskBase::Zeroes, bytes)?))),
        };
        let config = MachineConfig {
            inputs: Box::new(Replayer::new(tape.clone(), OutputsLogged::Yes)),
            mmio_devices: devices(&nets, disk.clone()),
            cpu: Some(recorded.cpu.clone()),
            linux: None,
        };
        let machine = Machine::prepare(&kvm, anonymous_memory(recorded.memory_bytes)?, config)?;
        let pages = usize::try_from(recorded.memory_bytes).expect("usize has 64 bits") / super::chunk::PAGE_BYTES;
        let mut replay = Self {
            hashes: PageHashes::new(pages),
            dirty: DirtyPages::new(recorded.memory_bytes),
            blocks: BTreeMap::new(),
            index,
            machine,
            disk,
            tape,
            progress,
            agreed: (0, None),
            verified: 0,
            taken: 0,
        };
        replay.boot()?;
        Ok(replay)
    }

    /// What the recording holds.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Writes all of the guest's memory, as its image has it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn dump_memory(&self, to: &mut dyn Write) -> io::Result<()> {
        let pages = self.machine.ram_bytes() / layout::PAGE_SIZE;
        let mut content = [0; super::chunk::PAGE_BYTES];
        (0..pages).try_for_each(|number| {
            super::live::read_page(&self.machine, PageIndex(number), &mut content);
            to.write_all(&content)
        })
    }

    /// Replays until there is a reason to stop; what the guest writes to its console goes to `console`.
    ///
    /// # Errors
    /// The recording does not reach as far as was asked, the machine failed, or nobody takes the console's bytes.
    pub fn run(&mut self, stop: StopAt, console: &mut dyn Write) -> Result<ReplayReport, ReplayError> {
        self.check_reach(stop)?;
        let stopped = self.drive(stop, console)?;
        self.report(stopped)
    }

    fn boot(&mut self) -> Result<(), ReplayError> {
        if let Some(elf) = &self.index.boot {
            let entry = flat::load(self.machine.memory(), elf, &self.index.machine.args)?;
            self.machine.enter(&entry)?;
            while let Some(blocks) = self.tape.next_of_disk()? {
                blocks.iter().try_for_each(|(number, block)| self.take_page(*number, block))?;
            }
            self.blocks_agree(0);
        }
        Ok(())
    }

    /// Only a recording that is good to its end can say that something is not in it; of a damaged one, all there is is
    /// replayed.
    fn check_reach(&self, stop: StopAt) -> Result<(), ReplayError> {
        let first = self.index.commits.first().map(|commit| commit.head).filter(|_| self.index.boot.is_none());
        let last = self.index.commits.last().map(|commit| commit.head);
        let (what, asked, first, last) = match stop {
            StopAt::End => return Ok(()),
            StopAt::Exit(exit) => ("exit", exit, first.map_or(0, |head| head.exits), self.index.last_exit()),
            StopAt::Epoch(epoch) => {
                ("epoch", epoch, first.map_or(1, |head| head.epoch), last.map_or(0, |head| head.epoch))
            }
        };
        let is_beyond = asked > last && self.index.damage.is_none();
        if asked < first || is_beyond { Err(ReplayError::OutOfReach { what, asked, first, last }) } else { Ok(()) }
    }
}

/// Opens a recording. It is read twice, so it must be a file: nobody waits for what comes out of a pipe.
fn open_regular(path: &Path) -> io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    File::open(path)
}
