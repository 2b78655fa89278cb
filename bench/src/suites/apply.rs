//! How fast the controller applies commit records, and how soon a restarted controller goes on.

use super::super::baseline::Memcpy;
use super::super::lab::{Guest, Lab};
use super::super::row::{Row, Unit};
use super::super::{BenchOptions, Failure};
use ft_protocol::Span;
use ft_protocol::spec::Mode;
use scenarios::cluster::{CONTROLLER, HostName, HostSignal};
use scenarios::event::What;
use scenarios::units::ByteCount;
use shared_mem::apply::{Outcome, no_step};
use shared_mem::{
    Access, ApplyParts, ApplyTargets, ConsolePosition, ConsoleRing, ControlBlock, Epoch, Extent, Generation,
    JournalGeometry, JournalReader, JournalWriter, Mapping, PAGE_BYTES, PAGE_SIZE, PageIndex, Pool, PoolConfig,
    ReadWrite, RecordLimits, RedoArea, StateArea, VmGeometry, VmPartition, apply_record, load_to_apply,
};
use std::time::Instant;
use vmm::clock::monotonic;

const GENERATION: Generation = Generation::new(1);
const META_BYTES_MAX: u64 = 4096;
const STATE: [u8; 2048] = [9; 2048];
/// Longest wait for a controller that was killed.
const PATIENCE: Span = Span::from_ms(30_000);

pub(super) fn measure(options: &BenchOptions, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let rounds = if options.quick { 8 } else { 40 };
    for pages in [16, 1_000, 10_000] {
        let mut bench = Bench::new(options, pages)?;
        let memcpy = Memcpy::new(&options.pool_parent, pages)?;
        let (mut applied, mut copied, mut steps) = (Vec::new(), Vec::new(), [const { Vec::new() }; 3]);
        bench.round(&mut steps)?;
        steps = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            applied.push(bench.round(&mut steps)?);
            copied.push(memcpy.once()?);
        }
        let bytes = (pages * PAGE_SIZE) as f64;
        let throughput = |ns: &[f64]| -> Vec<f64> { ns.iter().map(|ns| bytes * 1e9 / ns).collect() };
        let [read, written, freed] = &steps;
        rows.push(
            Row::new(format!("apply of a record of {pages} pages"), Unit::Ns, &applied)
                .against("memcpy", &copied)
                .part("read and check", read)
                .part("keep a copy, write, note as applied", written)
                .part("give space back", freed),
        );
        rows.push(
            Row::new(format!("throughput, records of {pages} pages"), Unit::BytesPerSecond, &throughput(&applied))
                .against("memcpy", &throughput(&copied)),
        );
    }
    if options.no_kvm.is_none() {
        rows.push(restarts(options)?);
    }
    Ok(())
}

/// A VM's partition, as the controller has it.
struct Bench {
    // The pool's files are in it.
    _directory: tempfile::TempDir,
    writer: JournalWriter<Mapping<ReadWrite>, Extent>,
    reader: JournalReader<Mapping<ReadWrite>>,
    spill: Extent,
    image: Mapping<ReadWrite>,
    redo: RedoArea<Mapping<ReadWrite>, Extent>,
    state: StateArea<Mapping<ReadWrite>>,
    console: ConsoleRing<Mapping<ReadWrite>>,
    control: ControlBlock<Mapping<ReadWrite>>,
    limits: RecordLimits,
    epoch: Epoch,
    pages: u64,
    buffer: Vec<u8>,
}

impl Bench {
    fn new(options: &BenchOptions, pages: u64) -> Result<Self, Failure> {
        let directory = tempfile::tempdir_in(&options.pool_parent)?;
        let config = PoolConfig { vm_slots: 1, host_slots: 1, cluster_bytes: 4096 };
        let pool = Pool::create(&directory.path().join("pool"), &config)?;
        let slot_bytes = (pages + 16) * (PAGE_SIZE + 8) / PAGE_SIZE * PAGE_SIZE + (1 << 20);
        // As a VM's creator asks for it.
        let reserved_bytes = slot_bytes.min(2 << 20);
        let geometry = VmGeometry {
            memory_bytes: pages * PAGE_SIZE,
            journal: JournalGeometry { slots: 4, slot_bytes, reserved_bytes },
            log_bytes: 4096,
            console_bytes: 4096,
            disk_bytes: 0,
            state_slot_bytes: 4096,
            sparse: false,
        };
        let vm = pool.create_vm(&"bench".parse()?, &geometry)?;
        vm.create_journal(GENERATION, Epoch::ZERO)?;
        let map = |extent: Extent| -> Result<Mapping<ReadWrite>, Failure> { Ok(Mapping::read_write(&extent)?) };
        let journal = |vm: &VmPartition| -> Result<Extent, Failure> { Ok(vm.journal(GENERATION, Access::ReadWrite)?) };
        let control = ControlBlock::open(map(vm.control(Access::ReadWrite)?)?)?;
        control.set_generation(GENERATION)?;
        let redo = vm.redo(Access::ReadWrite)?;
        Ok(Self {
            writer: JournalWriter::new(map(journal(&vm)?)?, journal(&vm)?, GENERATION, geometry.journal)?,
            reader: JournalReader::new(map(journal(&vm)?)?, GENERATION, geometry.journal)?,
            spill: journal(&vm)?,
            image: map(vm.image(Access::ReadWrite)?)?,
            redo: RedoArea::new(Mapping::read_write(&redo)?, redo, reserved_bytes)?,
            state: StateArea::new(map(vm.state(Access::ReadWrite)?)?),
            console: ConsoleRing::open(map(vm.console(Access::ReadWrite)?)?)?,
            control,
            limits: RecordLimits { image_pages: pages, disk_blocks: 0, meta_bytes_max: META_BYTES_MAX },
            epoch: Epoch::ZERO,
            pages,
            buffer: Vec::new(),
            _directory: directory,
        })
    }

    /// Commits an epoch that wrote every page, and applies it; says how long the latter took, in nanoseconds.
    fn round(&mut self, steps: &mut [Vec<f64>; 3]) -> Result<f64, Failure> {
        let before = self.epoch;
        self.epoch = before.next();
        let mut record = self.writer.begin(self.epoch, before)?;
        let content = [u8::try_from(self.epoch.get() % 251)?; PAGE_BYTES];
        for page in 0..self.pages {
            record.push_page_bytes(PageIndex::new(page), &content)?;
        }
        self.writer.publish(record.finish(b"meta")?)?;
        let begun = Instant::now();
        let record = load_to_apply(&self.reader, &self.redo, self.epoch, &self.limits, &mut self.buffer)?;
        let read = begun.elapsed();
        let parts = ApplyParts { machine_state: &STATE, console_start: ConsolePosition::ZERO, console: b"" };
        let targets = ApplyTargets {
            image: &self.image,
            disk: None,
            redo: &self.redo,
            state: &self.state,
            console: &self.console,
            control: &self.control,
        };
        let outcome = apply_record(&record, &parts, &targets, &mut no_step)?;
        if outcome != Outcome::Applied {
            return Err(format!("epoch {} had been applied before", self.epoch).into());
        }
        let written = begun.elapsed();
        self.redo.release_spill()?;
        self.reader.release_spill(self.epoch, &self.spill)?;
        self.control.set_freed(self.epoch)?;
        let freed = begun.elapsed();
        let spans = [read, written - read, freed - written];
        steps.iter_mut().zip(spans).for_each(|(step, span)| step.push(span.as_secs_f64() * 1e9));
        Ok(freed.as_secs_f64() * 1e9)
    }
}

/// The controller is killed; the guest runs on. How long until its output is seen again.
fn restarts(options: &BenchOptions) -> Result<Row, Failure> {
    let times = if options.quick { 5 } else { 50 };
    let mut lab = Lab::start(options, 2, false)?;
    let talker =
        Guest::new("counter", ByteCount::mib(64), Mode::Checkpoint, &["--lines", "1000000000", "--every-us", "1000"]);
    let place = lab.add(&talker, "talker")?;
    let (mut back, mut served) = (Vec::new(), Vec::new());
    let since = |killed| monotonic().since(killed).ns() as f64;
    for _ in 0..times {
        lab.pass(Span::from_ms(150))?;
        let killed = monotonic();
        lab.run.signal(&HostName::new(CONTROLLER), HostSignal::Kill)?;
        let (deadline, mut revived) = (killed + PATIENCE, false);
        loop {
            let events = lab.turn(deadline)?;
            let moved = |what: &What| matches!(what, What::ConsoleMoved { .. });
            if !revived && events.iter().any(|event| matches!(event.what, What::ControllerRevived { .. })) {
                revived = true;
                served.push(since(killed));
            }
            if revived && events.iter().any(|event| moved(&event.what)) {
                back.push(since(killed));
                break;
            }
            if monotonic() >= deadline {
                return Err("the guest's output did not come back with a new controller".into());
            }
        }
        lab.await_protected(place)?;
    }
    lab.run.shut_down_all()?;
    Ok(Row::new("controller killed and started again: until output is seen", Unit::Ns, &back)
        .part("a new controller serves", &served))
}
