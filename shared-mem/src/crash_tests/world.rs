//! A small VM's partition in lossy memory, the history that is played on it, and the check against that history.

use crate::apply::{ApplyError, ApplyParts, ApplyTargets, apply_record, no_step};
use crate::commit_word::PublishError;
use crate::console::{ConsoleReadError, ConsoleRing, console_file_bytes};
use crate::control::{CONTROL_BYTES, ControlBlock};
use crate::journal::{
    AllReserved, JournalError, JournalGeometry, JournalReader, JournalWriter, Record, RecordLimits, SpillError,
    SpillSpace, format_journal,
};
use crate::lossy::{LossyCache, LossyMemory};
use crate::mem::PoolRead;
use crate::numbers::{
    BlockIndex, ConsolePosition, Epoch, Generation, Offset, PAGE_BYTES, PAGE_SIZE, PageIndex, PagePlace, len_u64,
};
use crate::redo::{RedoArea, load_to_apply};
use crate::state_area::StateArea;

pub(super) const GENERATION: Generation = Generation::new(1);
pub(super) const EPOCHS: u64 = 5;
const PAGES: u64 = 4;
const BLOCKS: u64 = 2;
const CONSOLE_BYTES: usize = 1500;

pub(super) const GEOMETRY: JournalGeometry =
    JournalGeometry { slots: 2, slot_bytes: 8 * PAGE_SIZE, reserved_bytes: 8 * PAGE_SIZE };

pub(super) const LIMITS: RecordLimits = RecordLimits { image_pages: PAGES, disk_blocks: BLOCKS, meta_bytes_max: 8192 };

/// Something that must never happen.
#[derive(Debug)]
#[expect(dead_code, reason = "read by whoever reads a failing test")]
pub(super) struct Violation(String);

pub(super) type Held<T = ()> = Result<T, Violation>;

pub(super) fn violation(what: impl std::fmt::Debug) -> Violation {
    Violation(format!("{what:?}"))
}

/// Fails with a message unless the condition holds.
pub(super) fn hold(condition: bool, what: impl FnOnce() -> String) -> Held {
    if condition { Ok(()) } else { Err(Violation(what())) }
}

fn mixed(epoch: u64, salt: u64) -> u8 {
    (epoch.wrapping_mul(131).wrapping_add(salt.wrapping_mul(17)) % 251).to_le_bytes()[0]
}

/// The pages, and the block of the disk, that an epoch writes, ascending.
fn pages_of(epoch: u64) -> Vec<PageIndex> {
    let mut pages = vec![PageIndex::new(epoch % PAGES), PageIndex::new((epoch * 2 + 1) % PAGES)];
    pages.sort_unstable();
    pages.dedup();
    if !epoch.is_multiple_of(3) {
        pages.push(PageIndex::of_block(BlockIndex::new(epoch % BLOCKS)));
    }
    pages
}

fn page_content(epoch: u64, page: PageIndex) -> [u8; PAGE_BYTES] {
    let mut content = [mixed(epoch, page.get() % 1_009); PAGE_BYTES];
    content[..8].copy_from_slice(&epoch.to_le_bytes());
    content[PAGE_BYTES - 8..].copy_from_slice(&epoch.to_le_bytes());
    content
}

pub(super) fn state_of(epoch: u64) -> Vec<u8> {
    vec![mixed(epoch, 99); 200]
}

fn console_of(epoch: u64) -> Vec<u8> {
    vec![mixed(epoch, 55); CONSOLE_BYTES]
}

fn console_start(epoch: u64) -> ConsolePosition {
    ConsolePosition::new((epoch - 1) * len_u64(CONSOLE_BYTES))
}

fn parts(epoch: u64, scratch: &mut (Vec<u8>, Vec<u8>)) -> ApplyParts<'_> {
    *scratch = (state_of(epoch), console_of(epoch));
    ApplyParts { machine_state: &scratch.0, console_start: console_start(epoch), console: &scratch.1 }
}

/// The memories of the partition.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) image: LossyMemory,
    pub(super) disk: LossyMemory,
    pub(super) redo: LossyMemory,
    pub(super) state: LossyMemory,
    pub(super) console: LossyMemory,
    pub(super) control: LossyMemory,
    pub(super) journal: LossyMemory,
}

impl World {
    /// A fresh partition, laid out durably.
    pub(super) fn new() -> Self {
        let cache = LossyCache::new();
        let world = Self {
            image: LossyMemory::new(PAGES * PAGE_SIZE, &cache),
            disk: LossyMemory::new(BLOCKS * PAGE_SIZE, &cache),
            redo: LossyMemory::new(GEOMETRY.slot_bytes, &cache),
            state: LossyMemory::new(2 * PAGE_SIZE, &cache),
            console: LossyMemory::new(console_file_bytes(PAGE_SIZE), &cache),
            control: LossyMemory::new(CONTROL_BYTES, &cache),
            journal: LossyMemory::new(GEOMETRY.file_bytes(), &cache),
        };
        ConsoleRing::format(&world.console, PAGE_SIZE).unwrap();
        ControlBlock::format(&world.control).unwrap();
        format_journal(&world.journal, GENERATION, &GEOMETRY, Epoch::ZERO).unwrap();
        world
    }

    fn map(&self, reach: impl Fn(&LossyMemory) -> LossyMemory) -> Self {
        Self {
            image: reach(&self.image),
            disk: reach(&self.disk),
            redo: reach(&self.redo),
            state: reach(&self.state),
            console: reach(&self.console),
            control: reach(&self.control),
            journal: reach(&self.journal),
        }
    }

    pub(super) fn fork(&self) -> Self {
        let cache = LossyCache::new();
        self.map(|memory| memory.fork(&cache))
    }

    pub(super) fn through(&self, cache: &LossyCache) -> Self {
        self.map(|memory| memory.through(cache))
    }
}

/// The primary: commits the epochs of the history one after the other.
#[derive(Debug)]
pub(super) struct Primary {
    pub(super) cache: LossyCache,
    journal: JournalWriter<LossyMemory, AllReserved>,
    control: ControlBlock<LossyMemory>,
    next: u64,
    /// The last epoch whose outputs have left.
    pub(super) released: u64,
    /// The last epoch whose publish was tried.
    pub(super) tried: u64,
}

/// Why a primary stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    AllDone,
    SlotsFull,
    Dead,
    Fenced,
}

impl Primary {
    pub(super) fn new(world: &World) -> Self {
        let cache = LossyCache::new();
        let own = world.through(&cache);
        Self {
            cache,
            journal: JournalWriter::new(own.journal, AllReserved, GENERATION, GEOMETRY).unwrap(),
            control: ControlBlock::open(own.control).unwrap(),
            next: 1,
            released: 0,
            tried: 0,
        }
    }

    /// Commits one epoch.
    pub(super) fn step(&mut self) -> Held<Option<Stop>> {
        if self.next > EPOCHS {
            return Ok(Some(Stop::AllDone));
        }
        match self.commit() {
            Ok(()) => Ok(None),
            Err(_) if self.cache.is_dead() => Ok(Some(Stop::Dead)),
            Err(CommitError::Journal(JournalError::SlotBusy { .. })) => Ok(Some(Stop::SlotsFull)),
            Err(CommitError::Publish(PublishError::Sealed { .. })) => Ok(Some(Stop::Fenced)),
            Err(error) => Err(violation(error)),
        }
    }

    /// Commits until something stops it.
    pub(super) fn run(&mut self) -> Held<Stop> {
        loop {
            if let Some(stop) = self.step()? {
                return Ok(stop);
            }
        }
    }

    fn commit(&mut self) -> Result<(), CommitError> {
        let epoch = self.next;
        let freed = self.control.freed().map_err(|_| CommitError::Control)?;
        let mut record = self.journal.begin(Epoch::new(epoch), freed)?;
        for page in pages_of(epoch) {
            record.push_page_bytes(page, &page_content(epoch, page))?;
        }
        let finished = record.finish(&state_of(epoch))?;
        self.tried = epoch;
        self.journal.publish(finished)?;
        self.released = epoch;
        self.next += 1;
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum CommitError {
    #[error("control")]
    Control,
    #[error("journal")]
    Journal(#[from] JournalError),
    #[error("publish")]
    Publish(#[from] PublishError),
}

/// What the pool has for copies of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopySpace {
    /// Enough.
    Plenty,
    /// A page: enough for a header.
    HeaderOnly,
}

impl CopySpace {
    fn reserved_bytes(self) -> u64 {
        match self {
            Self::Plenty => GEOMETRY.reserved_bytes,
            Self::HeaderOnly => PAGE_SIZE,
        }
    }
}

impl SpillSpace for CopySpace {
    fn reserve(&self, at: Offset, len: u64) -> Result<(), SpillError> {
        let has_it = at.get() + len <= self.reserved_bytes();
        if has_it { Ok(()) } else { Err(SpillError::NoSpace { needed: len, available: 0 }) }
    }
    fn release(&self, _: Offset, _: u64) -> Result<(), SpillError> {
        Ok(())
    }
    fn available(&self) -> Result<u64, SpillError> {
        Ok(0)
    }
}

/// One life of the controller.
#[derive(Debug)]
pub(super) struct Controller {
    pub(super) cache: LossyCache,
    world: World,
    pub(super) journal: JournalReader<LossyMemory>,
    pub(super) redo: RedoArea<LossyMemory, CopySpace>,
}

impl Controller {
    pub(super) fn new(world: &World) -> Self {
        Self::with(world, CopySpace::Plenty)
    }

    pub(super) fn with(world: &World, space: CopySpace) -> Self {
        let cache = LossyCache::new();
        let world = world.through(&cache);
        let journal = JournalReader::new(world.journal.clone(), GENERATION, GEOMETRY).unwrap();
        let redo = RedoArea::new(world.redo.clone(), space, space.reserved_bytes()).unwrap();
        Self { cache, journal, redo, world }
    }

    pub(super) fn applied(&self) -> Held<u64> {
        let control = ControlBlock::open(&self.world.control).map_err(violation)?;
        Ok(control.applied().map_err(violation)?.get())
    }

    /// Applies what is published.
    pub(super) fn poll(&self) -> Held {
        match self.journal.word() {
            Ok(word) => self.apply_up_to(word.epoch.get()),
            Err(_) if self.cache.is_dead() => Ok(()),
            Err(error) => Err(violation(error)),
        }
    }

    /// Closes the generation, applies the rest, and checks that nothing released is missing.
    pub(super) fn take_over(&self, primary: &Primary) -> Held<u64> {
        let last = self.journal.seal().map_err(violation)?.get();
        let (released, tried, applied) = (primary.released, primary.tried, self.applied()?);
        hold(released <= last && last <= tried && applied <= last, || {
            format!("sealed at {last}: released {released}, tried {tried}, applied {applied}")
        })?;
        self.check_whole()?;
        self.apply_up_to(last)?;
        self.check_history(last)?;
        Ok(last)
    }

    pub(super) fn apply_up_to(&self, last: u64) -> Held {
        match self.try_apply_up_to(last) {
            Err(_) if self.cache.is_dead() => Ok(()),
            result => result,
        }
    }

    fn try_apply_up_to(&self, last: u64) -> Held {
        let control = ControlBlock::open(&self.world.control).map_err(violation)?;
        let mut buffer = Vec::new();
        let applied = control.applied().map_err(violation)?;
        control.set_freed(applied).map_err(violation)?;
        for epoch in self.applied()? + 1..=last {
            let number = Epoch::new(epoch);
            let record = load_to_apply(&self.journal, &self.redo, number, &LIMITS, &mut buffer).map_err(violation)?;
            hold(record.meta() == state_of(epoch), || format!("meta of epoch {epoch}"))?;
            self.apply_copy(&record)?;
            control.set_freed(number).map_err(violation)?;
        }
        Ok(())
    }

    /// Applies a record that is checked.
    pub(super) fn apply_copy(&self, record: &Record<'_>) -> Held {
        let state = StateArea::new(&self.world.state);
        let console = ConsoleRing::open(&self.world.console).map_err(violation)?;
        let control = ControlBlock::open(&self.world.control).map_err(violation)?;
        let targets = ApplyTargets {
            image: &self.world.image,
            disk: Some(&self.world.disk),
            redo: &self.redo,
            state: &state,
            console: &console,
            control: &control,
        };
        let mut scratch = Default::default();
        let parts = parts(record.epoch().get(), &mut scratch);
        let result: Result<_, ApplyError> = apply_record(record, &parts, &targets, &mut no_step);
        result.map_err(violation).map(drop)
    }

    /// What must hold at any moment, recovered or not: the applied epoch's machine state is there, and console bytes
    /// that the ring claims to have are those of the history.
    pub(super) fn check_whole(&self) -> Held {
        let applied = self.applied()?;
        if applied > 0 {
            let state = StateArea::new(&self.world.state).read(Epoch::new(applied));
            hold(state == Ok(state_of(applied)), || format!("state of epoch {applied}: {state:?}"))?;
        }
        self.check_console().map(|_| ())
    }

    /// Compares every byte that the ring offers with the history; returns the tail.
    fn check_console(&self) -> Held<u64> {
        let console = ConsoleRing::open(&self.world.console).map_err(violation)?;
        let tail = console.tail().map_err(violation)?.get();
        let mut from = tail.saturating_sub(console.ring_bytes());
        let mut copy = vec![0; 2 * PAGE_BYTES];
        let count = match console.read(ConsolePosition::new(from), &mut copy) {
            Err(ConsoleReadError::Overwritten { oldest, .. }) => {
                from = oldest.get();
                console.read(oldest, &mut copy).map_err(violation)?
            }
            result => result.map_err(violation)?,
        };
        for (position, byte) in (from..).zip(&copy[..count]) {
            let epoch = position / len_u64(CONSOLE_BYTES) + 1;
            hold(*byte == mixed(epoch, 55), || format!("console byte {position} of {tail}"))?;
        }
        Ok(tail)
    }

    /// All is as the history says after `epoch`.
    pub(super) fn check_history(&self, epoch: u64) -> Held {
        hold(self.applied()? == epoch, || format!("applied is not {epoch}"))?;
        let blocks = (0..BLOCKS).map(|block| PageIndex::of_block(BlockIndex::new(block)));
        for page in (0..PAGES).map(PageIndex::new).chain(blocks) {
            let mut found = [0; PAGE_BYTES];
            match page.place() {
                PagePlace::Image(page) => self.world.image.read(page.offset(), &mut found).map_err(violation)?,
                PagePlace::Disk(block) => self.world.disk.read(block.offset(), &mut found).map_err(violation)?,
            }
            let writer = (1..=epoch).rev().find(|epoch| pages_of(*epoch).contains(&page));
            let expected = writer.map_or([0; PAGE_BYTES], |epoch| page_content(epoch, page));
            hold(found == expected, || format!("page {page} after epoch {epoch}"))?;
        }
        self.check_whole()?;
        let tail = self.check_console()?;
        let expected = epoch * len_u64(CONSOLE_BYTES);
        hold(tail == expected, || format!("console ends at {tail}, expected {expected}"))
    }
}
