//! The pool of a run: the memories behind the parts, and the descriptors that processes hold.

use super::planted::{PlantedBug, planted};
use super::weather::{CONSOLE_RING_BYTES, HOSTS_MAX, PAGE_SIZE};
use ft_protocol::controller::ControllerConfig;
use ft_protocol::ids::{Generation, HostId, VmId};
use ft_protocol::spec::{JournalShape, VmSpec};
use ft_protocol::wire::{Access, Grant, Part};
use shared_mem::blob_store::{BlobStore, total_bytes};
use shared_mem::console::{ConsoleRing, console_file_bytes};
use shared_mem::control::{CONTROL_BYTES, ControlBlock};
use shared_mem::heartbeat::HEARTBEAT_BYTES;
use shared_mem::journal::{AllReserved, JournalGeometry, RecordLimits, format_journal};
use shared_mem::lossy::{LossyCache, LossyMemory};
use shared_mem::mem::PoolRead;
use shared_mem::numbers;
use shared_mem::record_log::{copy_log, format_log, log_file_bytes};
use shared_mem::redo::RedoArea;
use shared_mem::state_area::StateArea;
use shared_mem::{LogPosition, LogReader};

/// Bytes that a copy of the cluster state may have.
const CLUSTER_BYTES: u64 = 4032;

/// Bytes of the machine state area: two pages, a slot each.
const STATE_BYTES: u64 = 2 * PAGE_SIZE;

/// Most meta bytes of a record: machine state and at most a ring of console output.
const META_BYTES: u64 = CONSOLE_RING_BYTES + PAGE_SIZE;

/// What a process got by SCM_RIGHTS: a part of the pool, and what it may do there. It stays good when the part is
/// unlinked.
#[derive(Clone, Debug)]
pub(crate) struct Descriptor {
    pub(crate) grant: Grant,
    memory: LossyMemory,
}

impl Descriptor {
    /// The part as the owner of `cache` reads it.
    pub(crate) fn reader(&self, cache: &LossyCache) -> LossyMemory {
        self.memory.through(cache)
    }

    /// The part as the owner of `cache` writes it, if the descriptor lets it.
    pub(crate) fn writer(&self, cache: &LossyCache) -> Option<LossyMemory> {
        (self.grant.access == Access::ReadWrite).then(|| self.memory.through(cache))
    }
}

/// One generation's journal.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    pub(crate) generation: Generation,
    pub(crate) memory: LossyMemory,
    /// The record log of the same generation.
    pub(crate) log: LossyMemory,
    /// Its space is reserved, but it was not opened yet.
    pub(crate) reserved: bool,
}

/// A VM's part of the pool.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) image: LossyMemory,
    redo: LossyMemory,
    pub(crate) state: LossyMemory,
    pub(crate) control: LossyMemory,
    pub(crate) console: LossyMemory,
    boot: LossyMemory,
    /// The journals that exist, as files under their final names do.
    pub(crate) journals: Vec<Journal>,
    pub(crate) geometry: JournalGeometry,
    pub(crate) limits: RecordLimits,
    /// Bytes of the ring of a record log.
    pub(crate) log_bytes: u64,
}

/// All memories.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) cluster: LossyMemory,
    pub(crate) heartbeats: Vec<LossyMemory>,
    pub(crate) partitions: Vec<Option<Partition>>,
    /// There is no space for new journals.
    pub(crate) full: bool,
}

/// The cluster state's place in its memory.
pub(crate) fn cluster_store<M: PoolRead>(memory: M) -> BlobStore<M> {
    BlobStore::new(memory, numbers::Offset::ZERO, CLUSTER_BYTES).expect("the memory was made for it")
}

/// The shape of the journal of a guest with so many pages.
pub(crate) fn journal_shape(pages: u64, slots: u32) -> JournalShape {
    let slot_bytes = (PAGE_SIZE + pages * (PAGE_SIZE + 8) + META_BYTES).next_multiple_of(PAGE_SIZE);
    JournalShape { slots, slot_bytes, reserved_bytes: slot_bytes }
}

impl Pool {
    /// An empty pool, laid out by the controller.
    pub(crate) fn new(cache: &LossyCache, config: &ControllerConfig) -> Self {
        let cluster = LossyMemory::new(total_bytes(CLUSTER_BYTES), cache);
        cluster_store(cluster.clone()).format().expect("a new pool can be laid out");
        let heartbeats = (0..HOSTS_MAX).map(|_| LossyMemory::new(HEARTBEAT_BYTES, cache)).collect();
        let partitions = (0..config.vms_max).map(|_| None).collect();
        Self { cluster, heartbeats, partitions, full: false }
    }

    pub(crate) fn partition(&self, vm: VmId) -> Option<&Partition> {
        self.partitions.get(usize::from(vm.get()))?.as_ref()
    }

    pub(crate) fn partition_mut(&mut self, vm: VmId) -> Option<&mut Partition> {
        self.partitions.get_mut(usize::from(vm.get()))?.as_mut()
    }

    pub(crate) fn heartbeat(&self, host: HostId) -> Option<&LossyMemory> {
        self.heartbeats.get(usize::from(host.get()))
    }

    /// What a grant is good for, if the part exists.
    pub(crate) fn open(&self, grant: Grant) -> Option<Descriptor> {
        let memory = match grant.part {
            Part::Heartbeat(host) => self.heartbeat(host)?,
            Part::Image(vm) => &self.partition(vm)?.image,
            Part::State(vm) => &self.partition(vm)?.state,
            Part::Control(vm) => &self.partition(vm)?.control,
            Part::Boot(vm) => &self.partition(vm)?.boot,
            Part::Console(vm) => &self.partition(vm)?.console,
            Part::Journal(vm, generation) => &self.partition(vm)?.journal(generation)?.memory,
            Part::Log(vm, generation) => &self.partition(vm)?.journal(generation)?.log,
            Part::Disk(..) | Part::Upload | Part::UploadedDisk => return None,
        };
        Some(Descriptor { grant, memory: memory.clone() })
    }
}

impl Partition {
    /// Makes and lays out a VM's part.
    pub(crate) fn make(cache: &LossyCache, spec: &VmSpec) -> Result<Self, PartitionError> {
        let JournalShape { slots, slot_bytes, reserved_bytes } = spec.journal;
        let partition = Self {
            image: LossyMemory::new(spec.memory_bytes, cache),
            redo: LossyMemory::new(slot_bytes, cache),
            state: LossyMemory::new(STATE_BYTES, cache),
            control: LossyMemory::new(CONTROL_BYTES, cache),
            console: LossyMemory::new(console_file_bytes(CONSOLE_RING_BYTES), cache),
            boot: LossyMemory::new(PAGE_SIZE, cache),
            journals: Vec::new(),
            geometry: JournalGeometry { slots, slot_bytes, reserved_bytes },
            limits: RecordLimits {
                image_pages: spec.memory_bytes / PAGE_SIZE,
                disk_blocks: 0,
                meta_bytes_max: META_BYTES,
            },
            log_bytes: spec.log_bytes,
        };
        ControlBlock::format(partition.control.clone()).map_err(|_| PartitionError)?;
        ConsoleRing::format(partition.console.clone(), CONSOLE_RING_BYTES).map_err(|_| PartitionError)?;
        Ok(partition)
    }

    /// The controller's own copy of the record that it applies.
    pub(crate) fn redo(&self, cache: &LossyCache) -> Option<RedoArea<LossyMemory, AllReserved>> {
        RedoArea::new(self.redo.through(cache), AllReserved, self.geometry.reserved_bytes).ok()
    }

    pub(crate) fn journal(&self, generation: Generation) -> Option<&Journal> {
        self.journals.iter().find(|journal| journal.generation == generation)
    }

    /// Reserves the space of a generation to come, as an empty journal that nobody has.
    pub(crate) fn reserve_journal(&mut self, cache: &LossyCache, generation: Generation) -> Result<(), PartitionError> {
        self.journals.retain(|journal| journal.generation != generation);
        let memory = LossyMemory::new(self.geometry.file_bytes(), cache);
        self.lay_out(&memory, generation, numbers::Epoch::ZERO)?;
        let log = LossyMemory::new(log_file_bytes(self.log_bytes), cache);
        // The file gets its final name when it is whole.
        self.journals.push(Journal { generation, memory, log, reserved: true });
        Ok(())
    }

    /// Opens the journal of a generation. What was reserved for it, or left by an earlier try, is laid out anew: nobody
    /// has it yet.
    pub(crate) fn open_journal(
        &mut self,
        cache: &LossyCache,
        generation: Generation,
        base: numbers::Epoch,
    ) -> Result<(), PartitionError> {
        if self.journal(generation).is_none() {
            self.reserve_journal(cache, generation)?;
        }
        let Some(journal) = self.journals.iter_mut().find(|journal| journal.generation == generation) else {
            return Err(PartitionError);
        };
        let (memory, log) = (journal.memory.through(cache), journal.log.through(cache));
        journal.reserved = false;
        self.lay_out(&memory, generation, base)?;
        self.open_log(cache, &log, generation, base)
    }

    /// Lays out the log of a new generation: it begins with what the one before has for the time after `base`.
    fn open_log(
        &self,
        cache: &LossyCache,
        log: &LossyMemory,
        generation: Generation,
        base: numbers::Epoch,
    ) -> Result<(), PartitionError> {
        let number = numbers::Generation::new(generation.get());
        let from = self.logged_to(cache, base);
        let reigned = ControlBlock::open(self.control.through(cache)).and_then(|control| control.generation());
        let reigned = Generation::new(reigned.map_err(|_| PartitionError)?.get());
        let before = self.log(reigned, cache).filter(|_| reigned < generation && !planted(PlantedBug::LogNotCarried));
        let Some(before) = before else {
            return format_log(log, number, self.log_bytes, from).map_err(|_| PartitionError);
        };
        let (range, _) = before.range_after(from);
        copy_log(&before, range, log, number).map(|_| ()).map_err(|_| PartitionError)
    }

    /// The record log of a generation that is open, or was.
    pub(crate) fn log(&self, generation: Generation, cache: &LossyCache) -> Option<LogReader<LossyMemory>> {
        let journal = self.journal(generation).filter(|journal| !journal.reserved)?;
        LogReader::new(journal.log.through(cache), self.log_bytes).ok()
    }

    /// Where in the log the inputs begin that came after an epoch.
    pub(crate) fn logged_to(&self, cache: &LossyCache, epoch: numbers::Epoch) -> LogPosition {
        if epoch == numbers::Epoch::ZERO {
            return LogPosition::ZERO;
        }
        let state = StateArea::new(self.state.through(cache)).read(epoch);
        LogPosition::new(state.map_or(0, |bytes| super::guest::log_position(&bytes)))
    }

    fn lay_out(
        &self,
        memory: &LossyMemory,
        generation: Generation,
        base: numbers::Epoch,
    ) -> Result<(), PartitionError> {
        let number = numbers::Generation::new(generation.get());
        format_journal(memory, number, &self.geometry, base).map_err(|_| PartitionError)
    }
}

/// The maker died in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pool went out of reach while a part was laid out")]
pub(crate) struct PartitionError;
