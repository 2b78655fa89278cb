//! A pool of known content, for tests.

use super::*;
use ft_protocol::commit_meta::CommitMeta;
use ft_protocol::spec::{JournalShape, Mode, VmSpec};
use ft_protocol::{HostId, Span, VmId};
use shared_mem::journal::SpillError;
use shared_mem::redo::KeepRecord as _;
use shared_mem::vm_directory::VmGeometry;
use shared_mem::{
    Access, ApplyParts, ApplyTargets, ConsolePosition, ConsoleRing, ControlBlock, Epoch, Generation, HeartbeatWriter,
    HostSlot, JournalGeometry, JournalReader, JournalWriter, Kept, Mapping, Offset, PageIndex, PoolConfig,
    RecordLimits, RedoArea, SpillSpace, StateArea, VmPartition, apply_record, no_step,
};
use std::fs;
use std::os::unix::fs::FileExt as _;

/// A machine state as hosts save it.
pub(super) const STATE: &[u8] = include_bytes!("../machine/state/golden-v1.bin");
pub(super) const MEMORY_BYTES: u64 = 1 << 20;
pub(super) const DISK_BYTES: u64 = 64 << 10;
pub(super) const SLOTS: u32 = 4;
const DEVICE_BYTES: u64 = 256 << 20;

/// What the guest of [`STATE`] had written.
pub(super) fn console_bytes() -> u64 {
    crate::machine::MachineState::decode(STATE).unwrap().console_position()
}

pub(crate) fn geometry() -> VmGeometry {
    VmGeometry {
        memory_bytes: MEMORY_BYTES,
        journal: JournalGeometry::for_memory(MEMORY_BYTES, SLOTS, 256 << 10),
        log_bytes: 64 << 10,
        console_bytes: 64 << 10,
        disk_bytes: DISK_BYTES,
        state_slot_bytes: 256 << 10,
        sparse: false,
    }
}

pub(crate) struct World {
    pub(super) dir: tempfile::TempDir,
    /// The pool: the directory, or a device in it.
    pub(super) path: PathBuf,
    /// `None` once its controller is dead.
    pub(crate) pool: Option<Pool>,
    pub(crate) parts: VmPartition,
}

impl World {
    /// A pool with one VM that has committed four epochs, two of which are applied, and one host that has beaten.
    pub(crate) fn new() -> Self {
        Self::on(|dir| dir.to_owned())
    }

    /// The same on a device; a file is one.
    pub(super) fn on_device() -> Self {
        Self::on(|dir| {
            let path = dir.join("device");
            fs::File::create(&path).unwrap().set_len(DEVICE_BYTES).unwrap();
            path
        })
    }

    fn on(place: impl FnOnce(&Path) -> PathBuf) -> Self {
        let dir = tempfile::Builder::new().prefix("ftvm-inspect-").tempdir_in("/dev/shm").unwrap();
        let path = place(dir.path());
        let pool = Pool::create(&path, &PoolConfig { vm_slots: 4, host_slots: 3, cluster_bytes: 4096 }).unwrap();
        let parts = pool.create_vm(&"guest".parse().unwrap(), &geometry()).unwrap();
        parts.store_boot(b"what the guest is booted from").unwrap();
        pool.cluster().store(&state(1, None).encode()).unwrap();
        parts.create_journal(Generation::new(1), Epoch::ZERO).unwrap();
        let world = Self { dir, path, pool: Some(pool), parts };
        world.control().set_generation(Generation::new(1)).unwrap();
        for epoch in 1..=4 {
            world.commit(epoch);
        }
        world.apply(1);
        world.apply(2);
        let page = world.pool.as_ref().unwrap().heartbeat(HostSlot::new(0), Access::ReadWrite).unwrap();
        HeartbeatWriter::new(Mapping::read_write(&page).unwrap(), 7).beat(1).unwrap();
        world
    }

    /// Removes a file of the VM.
    pub(super) fn lose(&self, file: &str) {
        fs::remove_file(self.path.join("vm-0").join(file)).unwrap();
    }

    pub(super) fn control(&self) -> ControlBlock<Mapping<shared_mem::ReadWrite>> {
        ControlBlock::open(Mapping::read_write(&self.parts.control(Access::ReadWrite).unwrap()).unwrap()).unwrap()
    }

    pub(super) fn commit(&self, epoch: u64) {
        let extent = self.parts.journal(Generation::new(1), Access::ReadWrite).unwrap();
        let memory = Mapping::read_write(&extent).unwrap();
        let journal = JournalWriter::new(memory, extent, Generation::new(1), geometry().journal).unwrap();
        let freed = self.control().freed().unwrap();
        let mut record = journal.begin(Epoch::new(epoch), freed).unwrap();
        record.push_page_bytes(PageIndex::new(epoch % 8), &[u8::try_from(epoch % 251).unwrap(); 4096]).unwrap();
        let console = vec![b'x'; usize::try_from(console_bytes()).unwrap()];
        let (console_start, console) = if epoch == 1 { (0, &console[..]) } else { (console_bytes(), &[][..]) };
        let meta = CommitMeta { console_start, console, machine_state: STATE, ended: None }.encode();
        journal.publish(record.finish(&meta).unwrap()).unwrap();
    }

    pub(super) fn apply(&self, epoch: u64) {
        let map = |extent: Result<shared_mem::Extent, PoolError>| Mapping::read_write(&extent.unwrap()).unwrap();
        let rw = Access::ReadWrite;
        let memory = map(self.parts.journal(Generation::new(1), rw));
        let reader = JournalReader::new(memory, Generation::new(1), geometry().journal).unwrap();
        let limits =
            RecordLimits { image_pages: MEMORY_BYTES / 4096, disk_blocks: DISK_BYTES / 4096, meta_bytes_max: 1 << 20 };
        let mut buffer = Vec::new();
        let record = reader.load(Epoch::new(epoch), &limits, &mut buffer).unwrap();
        let meta = CommitMeta::decode(record.meta()).unwrap();
        let parts = ApplyParts {
            machine_state: meta.machine_state,
            console_start: ConsolePosition::new(meta.console_start),
            console: meta.console,
        };
        let control = self.control();
        let targets = ApplyTargets {
            image: &map(self.parts.image(rw)),
            disk: Some(&map(self.parts.disk(rw))),
            redo: &self.redo(),
            state: &StateArea::new(map(self.parts.state(rw))),
            console: &ConsoleRing::open(map(self.parts.console(rw))).unwrap(),
            control: &control,
        };
        apply_record(&record, &parts, &targets, &mut no_step).unwrap();
        control.set_freed(Epoch::new(epoch)).unwrap();
    }

    /// Has the application of an epoch begin, with or without space for a copy of its record.
    pub(crate) fn begin(&self, epoch: u64, kept: Kept) -> Kept {
        let memory = Mapping::read_only(&self.parts.journal(Generation::new(1), Access::ReadOnly).unwrap()).unwrap();
        let reader = JournalReader::new(memory, Generation::new(1), geometry().journal).unwrap();
        let limits =
            RecordLimits { image_pages: MEMORY_BYTES / 4096, disk_blocks: DISK_BYTES / 4096, meta_bytes_max: 1 << 20 };
        let mut buffer = Vec::new();
        let record = reader.load(Epoch::new(epoch), &limits, &mut buffer).unwrap();
        if kept == Kept::Yes {
            return self.redo().keep(&record).unwrap();
        }
        let redo = Mapping::read_write(&self.parts.redo(Access::ReadWrite).unwrap()).unwrap();
        RedoArea::new(redo, FirstPage, 4096).unwrap().keep(&record).unwrap()
    }

    pub(super) fn redo(&self) -> RedoArea<Mapping<shared_mem::ReadWrite>, shared_mem::Extent> {
        let extent = self.parts.redo(Access::ReadWrite).unwrap();
        RedoArea::new(Mapping::read_write(&extent).unwrap(), extent, geometry().journal.reserved_bytes).unwrap()
    }

    pub(super) fn inspect(&self) -> PoolReport {
        check(&self.path).unwrap()
    }

    /// Flips a bit of a file of the pool's directory, or of the device itself.
    pub(crate) fn flip(&self, file: &str, at: u64) {
        let path = self.dir.path().join(file);
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }
}

/// All the space that there is.
#[derive(Debug)]
struct FirstPage;

impl SpillSpace for FirstPage {
    fn reserve(&self, at: Offset, len: u64) -> Result<(), SpillError> {
        if at.get() + len <= 4096 { Ok(()) } else { Err(SpillError::NoSpace { needed: len, available: 0 }) }
    }
    fn release(&self, _: Offset, _: u64) -> Result<(), SpillError> {
        Ok(())
    }
    fn available(&self) -> Result<u64, SpillError> {
        Ok(0)
    }
}

pub(crate) fn state(generation: u64, primary: Option<u16>) -> ClusterState {
    let journal = geometry().journal;
    let spec = VmSpec {
        name: "guest".to_owned(),
        memory_bytes: MEMORY_BYTES,
        mode: Mode::Checkpoint,
        epoch_interval: Span::from_ms(10),
        args: Vec::new(),
        journal: JournalShape {
            slots: journal.slots,
            slot_bytes: journal.slot_bytes,
            reserved_bytes: journal.reserved_bytes,
        },
        console_lossless: true,
        working_set_bytes_max: None,
        policy: ft_protocol::policy::Policy::default(),
        nets: Vec::new(),
        disk_bytes: 0,
        log_bytes: ft_protocol::spec::LOG_BYTES_DEFAULT,
    };
    ClusterState {
        hosts: vec![HostRecord { name: "a".to_owned(), draining: false }],
        vms: vec![VmRecord {
            vm: VmId::new(0),
            spec,
            generation: ft_protocol::Generation::new(generation),
            primary: primary.map(HostId::new),
            takeovers: 0,
            switchovers: 0,
            home: None,
            moving_to: None,
            cpu: ft_protocol::cpu::CpuProfile::default(),
            diverged: None,
            state_version: None,
            writes: None,
            base: ft_protocol::ids::Epoch::ZERO,
            ended: None,
        }],
        ..ClusterState::default()
    }
}

pub(super) fn lines(report: &PoolReport) -> Vec<String> {
    report.findings.iter().map(ToString::to_string).collect()
}
