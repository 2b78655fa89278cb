//! A small pool with something in every structure, and a survey that reads all of it back.

use std::num::NonZeroU32;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use shared_mem::apply::{ApplyParts, ApplyTargets, apply_record, no_step};
use shared_mem::journal::AllReserved;
use shared_mem::superblock::{LAYOUT_VERSION, Superblock};
use shared_mem::{
    Access, Beat, BlockIndex, ConsolePosition, ConsoleRing, ControlBlock, Epoch, Generation, HeartbeatReader,
    HeartbeatWriter, HostSlot, JournalGeometry, JournalReader, JournalWriter, LogPosition, LogReader, LogWriter,
    Mapping, Offset, PAGE_BYTES, PageIndex, Pool, PoolConfig, PoolRead as _, ReadOnly, RecordLimits, RedoArea,
    StateArea, VmGeometry, VmPartition, boot_image,
};

pub(crate) type Anything<T> = Result<T, Box<dyn std::error::Error>>;

pub(crate) const CONFIG: PoolConfig = PoolConfig { vm_slots: 2, host_slots: 2, cluster_bytes: 4096 };

pub(crate) const GEOMETRY: VmGeometry = VmGeometry {
    memory_bytes: 4 << 12,
    journal: JournalGeometry { slots: 2, slot_bytes: 4 << 12, reserved_bytes: 4 << 12 },
    log_bytes: 4096,
    console_bytes: 4096,
    disk_bytes: 4096,
    state_slot_bytes: 4096,
    sparse: false,
};

const GENERATION: Generation = Generation::new(3);
const LIMITS: RecordLimits = RecordLimits { image_pages: 4, disk_blocks: 1, meta_bytes_max: 4096 };

/// Makes the pool: two epochs committed, one of them applied.
pub(crate) fn build(dir: &Path) -> Anything<()> {
    let pool = Pool::create(dir, &CONFIG)?;
    pool.cluster().store_twice(b"older state")?;
    pool.cluster().store_twice(b"cluster state")?;
    let mut heartbeat =
        HeartbeatWriter::new(Mapping::read_write(&pool.heartbeat(HostSlot::new(1), Access::ReadWrite)?)?, 9);
    heartbeat.set_flags(5);
    for beat in 1..=3 {
        heartbeat.beat(beat * 1000)?;
    }
    let vm = pool.create_vm(&"guest-1".parse()?, &GEOMETRY)?;
    vm.store_boot(b"what it boots from")?;
    vm.create_journal(GENERATION, Epoch::new(4))?;
    vm.create_log(GENERATION, LogPosition::new(4000))?;
    commit_two_epochs(&vm)?;
    fill_log(&vm)?;
    let superblock_at = pool.superblock_extent()?.offset().get();
    drop(pool);
    let superblock = Superblock {
        layout: LAYOUT_VERSION,
        pool_id: *b"one golden pool!",
        vm_slots: CONFIG.vm_slots,
        host_slots: CONFIG.host_slots,
        cluster_bytes: CONFIG.cluster_bytes,
    };
    let mut page = superblock.to_bytes();
    page.resize(PAGE_BYTES / 2, 0);
    page.extend_from_within(..);
    let file = if dir.is_dir() { dir.join("superblock") } else { dir.to_owned() };
    std::fs::File::options().write(true).open(file)?.write_all_at(&page, superblock_at)?;
    Ok(())
}

fn commit_two_epochs(vm: &VmPartition) -> Anything<()> {
    let memory = Mapping::read_write(&vm.journal(GENERATION, Access::ReadWrite)?)?;
    let writer = JournalWriter::new(&memory, AllReserved, GENERATION, GEOMETRY.journal)?;
    for epoch in [5u8, 6] {
        let mut record = writer.begin(Epoch::new(epoch.into()), Epoch::new(4))?;
        record.push_page_bytes(PageIndex::new(u64::from(epoch) - 4), &[epoch; PAGE_BYTES])?;
        if epoch == 6 {
            record.push_page_bytes(PageIndex::of_block(BlockIndex::new(0)), &[60; PAGE_BYTES])?;
        }
        writer.publish(record.finish(format!("meta of {epoch}").as_bytes())?)?;
    }
    let image = Mapping::read_write(&vm.image(Access::ReadWrite)?)?;
    let state = StateArea::new(Mapping::read_write(&vm.state(Access::ReadWrite)?)?);
    let console = ConsoleRing::open(Mapping::read_write(&vm.console(Access::ReadWrite)?)?)?;
    let control = ControlBlock::open(Mapping::read_write(&vm.control(Access::ReadWrite)?)?)?;
    let redo = vm.redo(Access::ReadWrite)?;
    let redo = RedoArea::new(Mapping::read_write(&redo)?, redo, GEOMETRY.journal.reserved_bytes)?;
    control.set_generation(GENERATION)?;
    control.set_applied(Epoch::new(4))?;
    let targets =
        ApplyTargets { image: &image, disk: None, redo: &redo, state: &state, console: &console, control: &control };
    let parts = ApplyParts {
        machine_state: b"registers",
        console_start: ConsolePosition::ZERO,
        console: b"hello from the guest\n",
    };
    let reader = JournalReader::new(&memory, GENERATION, GEOMETRY.journal)?;
    let mut buffer = Vec::new();
    let record = reader.load(Epoch::new(5), &LIMITS, &mut buffer)?;
    apply_record(&record, &parts, &targets, &mut no_step)?;
    control.set_freed(Epoch::new(5))?;
    Ok(())
}

fn fill_log(vm: &VmPartition) -> Anything<()> {
    let memory = Mapping::read_write(&vm.log(GENERATION, Access::ReadWrite)?)?;
    let mut log = LogWriter::new(memory, GEOMETRY.log_bytes)?;
    for number in 1..=4u8 {
        let tag = NonZeroU32::new(u32::from(number) * 7).ok_or("zero")?;
        log.append(tag, u64::from(number) * 100, &vec![number; usize::from(number) * 11])?;
    }
    Ok(())
}

/// What a pool says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Survey {
    pub(crate) superblock: Superblock,
    cluster: Option<Vec<u8>>,
    vms: String,
    numbers: [u64; 5],
    boot: Vec<u8>,
    machine_state: Vec<u8>,
    console: Vec<u8>,
    pub(crate) records: Vec<RecordSurvey>,
    /// The record whose copy the controller has kept, if it has applied one since pools have copies.
    pub(crate) kept: Option<RecordSurvey>,
    log: Vec<(u32, u64, Vec<u8>)>,
    pub(crate) beat: Beat,
}

/// Meta bytes and pages of a record.
pub(crate) type RecordSurvey = (Vec<u8>, Vec<(PageIndex, Vec<u8>)>);

/// Reads everything that carries a check. Image and disk do not: their bytes are the guest's own.
pub(crate) fn survey(dir: &Path) -> Anything<Survey> {
    let pool = Pool::inspect(dir)?;
    let vms = pool.vms()?;
    let (slot, _) = vms.first().ok_or("no VM")?;
    let vm = pool.open_vm(*slot)?;
    let control = ControlBlock::open(map(&vm.control(Access::ReadOnly)?)?)?;
    let applied = control.applied()?;
    let reader =
        JournalReader::new(map(&vm.journal(GENERATION, Access::ReadOnly)?)?, GENERATION, vm.geometry().journal)?;
    let word = reader.peek_word()?;
    if word.epoch < applied || word.epoch.get() > applied.get() + 2 {
        return Err("epochs contradict each other".into());
    }
    let console = ConsoleRing::open(map(&vm.console(Access::ReadOnly)?)?)?;
    let mut bytes = vec![0; PAGE_BYTES];
    let count = console.read(ConsolePosition::ZERO, &mut bytes)?;
    bytes.truncate(count);
    Ok(Survey {
        superblock: *pool.superblock(),
        cluster: pool.load_cluster()?,
        vms: format!("{vms:?}"),
        numbers: [
            applied.get(),
            control.freed()?.get(),
            control.generation()?.get(),
            word.epoch.get(),
            reader.check_journal_header()?.get(),
        ],
        boot: boot_image::load(&map(&vm.boot(Access::ReadOnly)?)?)?,
        machine_state: StateArea::new(map(&vm.state(Access::ReadOnly)?)?).read(applied)?,
        console: bytes,
        records: records(&reader, applied.get()..=word.epoch.get())?,
        kept: if pool.superblock().layout < 3 { None } else { kept(&vm)? },
        log: log_entries(&vm)?,
        beat: HeartbeatReader::new(map(&pool.heartbeat(HostSlot::new(1))?)?).sample()?,
    })
}

fn map(extent: &shared_mem::Extent) -> Anything<Mapping<ReadOnly>> {
    Ok(Mapping::read_only(extent)?)
}

fn records(
    reader: &JournalReader<Mapping<ReadOnly>>,
    epochs: std::ops::RangeInclusive<u64>,
) -> Anything<Vec<RecordSurvey>> {
    let mut found = Vec::new();
    let mut buffer = Vec::new();
    for epoch in epochs {
        let record = reader.load(Epoch::new(epoch), &LIMITS, &mut buffer)?;
        let pages = record.pages().map(|(page, content)| (page, content.to_vec())).collect();
        found.push((record.meta().to_vec(), pages));
    }
    Ok(found)
}

fn kept(vm: &VmPartition) -> Anything<Option<RecordSurvey>> {
    let area = RedoArea::new(map(&vm.redo(Access::ReadOnly)?)?, AllReserved, GEOMETRY.journal.reserved_bytes)?;
    let mut header = [0; 64];
    map(&vm.redo(Access::ReadOnly)?)?.read(Offset::ZERO, &mut header)?;
    if header == [0; 64] {
        return Ok(None);
    }
    let mut buffer = Vec::new();
    let record = area.load(GENERATION, Epoch::new(5), &LIMITS, &mut buffer)?;
    Ok(Some((record.meta().to_vec(), record.pages().map(|(page, content)| (page, content.to_vec())).collect())))
}

fn log_entries(vm: &VmPartition) -> Anything<Vec<(u32, u64, Vec<u8>)>> {
    let log = LogReader::new(map(&vm.log(GENERATION, Access::ReadOnly)?)?, vm.geometry().log_bytes)?;
    let (generation, base) = log.header()?;
    if generation != GENERATION {
        return Err("log of another generation".into());
    }
    let mut entries = log.entries(base)?;
    let mut found = Vec::new();
    while let Some(entry) = entries.next_entry()? {
        found.push((entry.tag.get(), entry.exit_counter, entry.payload.to_vec()));
    }
    Ok(found)
}

/// All files of the pool with their content, sorted, as (name, bytes).
pub(crate) fn files(dir: &Path) -> Anything<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut dirs = vec![(String::new(), dir.to_owned())];
    while let Some((prefix, dir)) = dirs.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                dirs.push((format!("{name}/"), entry.path()));
            } else {
                found.push((name, std::fs::read(entry.path())?));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A directory on tmpfs.
pub(crate) fn on_tmpfs() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("tmpfs at /dev/shm")
}
