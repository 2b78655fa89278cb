//! One VM's part of the pool, as the controller uses it.

mod begin;

pub(super) use begin::LogLoss;

use super::applier::{Applier, CONSOLE, CONTROL, DrainJob, Event, Job, Journal, Redo, STATE, Target};
use super::damage::Damage;
use super::generations::{GenerationKeeper, Generations, Life, release_slots_of};
use super::log_drain::LogDrain;
use super::space_keeper::SpaceKeeper;
use super::stable_state::{known_console, restore};
use crate::failpoint;
use crate::wake::WakingSender;
use ft_protocol::controller::{Left, LeftWord, LostFiles, Recovered, VmRecord, Word};
use ft_protocol::spec::VmSpec;
use ft_protocol::{Epoch, Generation, VmId};
use nix::sys::stat::{SFlag, fstat};
use shared_mem::commit_word::CommitWordError;
use shared_mem::record_log::log_file_bytes;
use shared_mem::{
    Access, ApplyLimit, ConsolePosition, ConsoleRing, ControlBlock, Extent, JournalGeometry, JournalReader, LogReader,
    Mapping, NewVm, Pool, PoolError, PoolRead, ReadOnly, ReadWrite, RecordLimits, StateArea, VmGeometry, VmName,
    VmPartition, load_to_apply,
};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Largest file that a guest may be booted from.
const BOOT_BYTES_MAX: u64 = 1 << 30;

/// Largest meta part of a commit record that makes sense: machine state, console output of one epoch.
const META_BYTES_MAX: u64 = 8 << 20;

/// Ring of the console: what a reader may lag behind before the guest has to wait for it.
pub(crate) const CONSOLE_BYTES: u64 = 1 << 20;

/// One of the two slots for machine state; a flat guest's takes some KiB.
const STATE_SLOT_BYTES: u64 = 256 << 10;

/// Generations that have a journal: that of the guest, and the next one, which a takeover should not have to make.
const GENERATIONS_AT_ONCE: usize = 2;

/// Files that nobody can be counted on to go on without once they are cut off, not even who has them open. The console's reader may lack some of
/// it; what a guest was booted from, and the copy of a record, are made no use of in most takeovers.
const WHOLE_AT_TAKEOVER: [&str; 4] = ["image", "disk", "state", "control"];

pub(super) struct Partition {
    vm: VmId,
    parts: VmPartition,
    files: Arc<Generations>,
    geometry: JournalGeometry,
    limits: RecordLimits,
    limit: Arc<ApplyLimit>,
    control: ControlBlock<Mapping<ReadWrite>>,
    state: StateArea<Mapping<ReadOnly>>,
    log_bytes: u64,
    /// Pages of the pool.
    page_bytes: u64,
    /// The generation whose log a thread of the controller reads.
    draining: Cell<Option<Generation>>,
    journals: BTreeMap<Generation, Arc<Journal>>,
    redo: Redo,
    console: ConsoleRing<Mapping<ReadOnly>>,
    applier: Applier,
}

impl Partition {
    /// Opens what was just made. Its disk is all zero.
    pub(super) fn open_new(vm: VmId, parts: VmPartition, wake: &WakingSender<Event>) -> Result<Self, Failure> {
        let geometry = parts.geometry().journal;
        Ok(Self::open(vm, parts, geometry, wake)?.0)
    }

    /// Opens what an earlier controller made, and says how it was left.
    pub(super) fn reopen(
        pool: &Pool,
        record: &VmRecord,
        wake: &WakingSender<Event>,
    ) -> Result<(Self, Recovered), Failure> {
        let parts = pool.open_vm(pool.find_vm(&record.spec.name.parse::<VmName>()?)?)?;
        let geometry = parts.geometry().journal;
        let (mut partition, console_end) = Self::open(record.vm, parts, geometry, wake)?;
        let opened = Generation::new(partition.control.generation()?.get());
        let word = match partition.open_journal(record.generation) {
            Ok(journal) => match journal.reader.word() {
                Ok(word) => LeftWord::Whole(Word { epoch: Epoch::new(word.epoch.get()), sealed: word.sealed }),
                Err(CommitWordError::Word(_)) => LeftWord::Damaged,
                Err(error) => return Err(error.into()),
            },
            Err(error) => {
                if opened >= record.generation {
                    // It was given to a host, which may have cut it off.
                    tracing::warn!(
                        "{} {} has lost its journal: {}",
                        record.vm,
                        record.generation,
                        crate::chain(&*error)
                    );
                }
                LeftWord::Missing
            }
        };
        let applied = partition.control.applied()?;
        let reached = partition.reached(record.generation, applied)?;
        if reached > Epoch::new(applied.get()) {
            partition.check_begun(record.generation, applied.next())?;
        } else {
            // The copy of a large record is given back when it is applied.
            partition.redo.release_spill()?;
        }
        // An earlier controller may have died between applying a record and giving its slot back, or the word is lost.
        if partition.control.freed().ok().is_none_or(|freed| freed < applied) {
            if let Some(journal) = partition.journal(record.generation) {
                journal.reader.release_spill(applied, &journal.spill)?;
            }
            partition.control.set_freed(applied)?;
        }
        if record.ended.is_some() {
            partition.release_all_slots()?;
            partition.release_reserved()?;
        }
        let applied = Epoch::new(applied.get());
        let left = Left {
            opened,
            word,
            applied,
            reached,
            console_end: console_end.get(),
            console_ring_bytes: partition.console.ring_bytes(),
        };
        let found = Recovered::of(record, left);
        Ok((partition, found))
    }

    fn open(
        vm: VmId,
        parts: VmPartition,
        geometry: JournalGeometry,
        wake: &WakingSender<Event>,
    ) -> Result<(Self, ConsolePosition), Failure> {
        let writable = |extent: Result<Extent, PoolError>| -> Result<Mapping<ReadWrite>, Failure> {
            Ok(Mapping::read_write(&extent?)?)
        };
        let image = writable(parts.image(Access::ReadWrite))?;
        let disk = match parts.geometry().disk_bytes {
            0 => None,
            _ => Some(writable(parts.disk(Access::ReadWrite))?),
        };
        let limits = RecordLimits {
            image_pages: PoolRead::len(&image) / shared_mem::PAGE_SIZE,
            disk_blocks: parts.geometry().disk_bytes / shared_mem::PAGE_SIZE,
            meta_bytes_max: META_BYTES_MAX,
        };
        let state = StateArea::new(writable(parts.state(Access::ReadWrite))?);
        let control = ControlBlock::open(writable(parts.control(Access::ReadWrite))?)?;
        if let Some(error) = control.mend()? {
            tracing::warn!("the control block of {vm} is damaged, and written anew: {}", crate::chain(&error));
            wake.send(Event::Mended { vm, what: CONTROL });
        }
        let redo_area = redo(&parts)?;
        let writable_state = || Ok(StateArea::new(writable(parts.state(Access::ReadWrite))?));
        match restore(&state, writable_state, control.applied()?, &redo_area, &limits) {
            Ok(whole) if whole.mended => wake.send(Event::Mended { vm, what: STATE }),
            Ok(_) => {}
            // A primary that lives brings the next one. Who would have to go on from this one finds out by itself.
            Err(error) => tracing::error!("{vm}: {}", crate::chain(&*error)),
        }
        let log = LogDrain::new();
        let limit = Arc::new(ApplyLimit::default());
        let ring_bytes = parts.geometry().console_bytes;
        let console = ConsoleRing::of_size(writable(parts.console(Access::ReadWrite))?, ring_bytes)?;
        let rewound = match console.tail() {
            Ok(_) => false,
            // What the guest of the last applied epoch had written is out. What follows comes again, from the record that
            // is applied next or from the log behind that epoch.
            Err(damaged) => {
                console.restore(ConsolePosition::new(known_console(&state, control.applied()?).ok_or(damaged)?))?;
                true
            }
        };
        console.mend()?;
        let mut target = Target {
            console,
            keeps: true,
            limit: Arc::clone(&limit),
            redo: redo_area,
            limits,
            image,
            disk,
            log,
            ended_at: None,
            log_damage: None,
            state,
            control,
        };
        let control = ControlBlock::open(writable(parts.control(Access::ReadWrite))?)?;
        let generation = control.generation()?;
        if target.console.take_mended() || rewound {
            wake.send(Event::Mended { vm, what: CONSOLE });
        }
        let open_log =
            || Ok(LogReader::new(writable(parts.log(generation, Access::ReadWrite))?, parts.geometry().log_bytes)?);
        if rewound && let Err(error) = open_log().and_then(|log| target.catch_up(generation, &log)) {
            // What is missing comes with the next generation.
            tracing::warn!("the console of {vm} stays behind its log: {}", crate::chain(&*error));
        }
        if parts.journal(generation, Access::ReadWrite).is_err()
            && let Err(error) = target.finish(generation)
        {
            tracing::error!("what was begun for {vm} cannot be finished: {}", crate::chain(&*error));
        }
        // To whom more was shown than is known to be out will be shown no less.
        let console_end = if rewound { target.console.claimed()? } else { target.console.tail()? };
        let redo = redo(&parts)?;
        let applier = Applier::start(vm, target, wake.clone())?;
        let console = ConsoleRing::of_size(Mapping::read_only(&parts.console(Access::ReadOnly)?)?, ring_bytes)?;
        let state = StateArea::new(Mapping::read_only(&parts.state(Access::ReadOnly)?)?);
        let log_bytes = parts.geometry().log_bytes;
        let journals = BTreeMap::new();
        let page_bytes = parts.control(Access::ReadOnly)?.page_bytes()?;
        let draining = Cell::new(None);
        let files = Arc::new(Generations::new(parts.clone(), generation));
        let partition = Self {
            vm,
            parts,
            files,
            geometry,
            limits,
            limit,
            control,
            state,
            log_bytes,
            page_bytes,
            draining,
            journals,
            redo,
            console,
            applier,
        };
        Ok((partition, console_end))
    }

    pub(super) fn parts(&self) -> &VmPartition {
        &self.parts
    }

    /// Has console and control block made whole if they are damaged.
    pub(super) fn look_after(&self) {
        if self.console.check().is_err() || self.control.damage().is_some() {
            self.applier.mend();
        }
    }

    /// What somebody has removed of the VM's files, or cut off.
    pub(super) fn gone(&self) -> Option<LostFiles> {
        let (gone, cut_off) = (self.parts.gone(), self.parts.cut_off());
        let gone_line = (!gone.is_empty()).then(|| format!("its {}", gone.join(", ")));
        let cut_line = (!cut_off.is_empty()).then(|| format!("a part of its {}", cut_off.join(", ")));
        let lost: Vec<_> = gone_line.into_iter().chain(cut_line).collect();
        let to_all = cut_off.iter().any(|part| WHOLE_AT_TAKEOVER.contains(part));
        (!lost.is_empty()).then(|| LostFiles { what: format!("the pool has lost {}", lost.join(" and ")), to_all })
    }

    pub(super) fn apply(&self, job: Job) {
        self.applier.apply(job);
    }

    pub(super) fn drain(&self, job: DrainJob) {
        self.draining.set(Some(job.generation));
        self.applier.drain(job);
    }

    /// What was asked by [`Self::drain`] is done.
    pub(super) fn drained(&self) {
        self.draining.set(None);
    }

    pub(super) fn journal(&self, generation: Generation) -> Option<Arc<Journal>> {
        self.journals.get(&generation).cloned()
    }

    /// The last epoch published under a generation that has a journal.
    pub(super) fn committed(&self, generation: Generation) -> Option<Result<Epoch, CommitWordError>> {
        let word = self.journals.get(&generation)?.reader.word();
        Some(word.map(|word| Epoch::new(word.epoch.get())))
    }

    /// Has journal and log of a generation to come made, with their space; they are laid out when the generation is opened.
    /// Says whether the pool has as much.
    pub(super) fn reserve_generation(
        &self,
        generation: Generation,
        space: &SpaceKeeper,
        keeper: &GenerationKeeper,
    ) -> Result<(), PoolError> {
        space.check_beside(self.generation_bytes())?;
        keeper.reserve(self.vm, Arc::clone(&self.files), shared_mem::Generation::new(generation.get()));
        Ok(())
    }

    /// Whether a generation is the next to come.
    pub(super) fn awaits(&self, generation: Generation) -> bool {
        self.files.turn().awaits(shared_mem::Generation::new(generation.get()))
    }

    /// What journal and log of a generation take, as long as nothing spills.
    fn generation_bytes(&self) -> u64 {
        generation_bytes(&self.geometry, self.log_bytes, self.page_bytes)
    }

    /// The files that its generations are still to have on a device: a guest has the journal and log of its own, and those
    /// of the next one ahead.
    pub(super) fn files_to_come(&self) -> Result<Vec<u64>, Failure> {
        // Not while one is being made.
        let turn = self.files.turn();
        let missing = GENERATIONS_AT_ONCE.saturating_sub(self.parts.journal_generations()?.len());
        drop(turn);
        Ok(self.generation_files().repeat(missing))
    }

    /// Journal and log of a generation, as long as they are as files.
    pub(super) fn generation_files(&self) -> [u64; 2] {
        [self.geometry.file_bytes(), log_file_bytes(self.log_bytes)]
    }

    /// What the VM's first generation is still to take.
    pub(super) fn space_unopened(&self) -> u64 {
        if self.journals.is_empty() { self.generation_bytes() } else { 0 }
    }

    /// What the pool must have left for this VM to get on, whatever its guest does, and whoever dies.
    pub(super) fn space_wanted(&self) -> u64 {
        space_wanted(&self.geometry, self.log_bytes, self.page_bytes)
    }

    /// The same of a VM that is to be made ([`space_wanted`](Self::space_wanted), [`space_unopened`](Self::space_unopened)).
    pub(super) fn space_of(geometry: &VmGeometry, page_bytes: u64) -> (u64, u64) {
        let (journal, log_bytes) = (&geometry.journal, geometry.log_bytes);
        (space_wanted(journal, log_bytes, page_bytes), generation_bytes(journal, log_bytes, page_bytes))
    }

    /// Gives back what all slots have beyond their reserved parts: all records are applied, and none follows.
    pub(super) fn release_all_slots(&self) -> Result<(), Failure> {
        self.journals.values().try_for_each(|journal| release_slots_of(journal))
    }

    /// Gives back what was reserved for a generation that will not come: the guest's life is over.
    pub(super) fn release_reserved(&self) -> Result<(), Failure> {
        let mut turn = self.files.turn();
        turn.life = Life::Ended;
        self.files.remove(&turn, |found| found > turn.reigns)
    }

    fn open_journal(&mut self, generation: Generation) -> Result<Arc<Journal>, Failure> {
        let raw = shared_mem::Generation::new(generation.get());
        let extent = self.parts.journal(raw, Access::ReadWrite)?;
        let reader = JournalReader::new(Mapping::read_write(&extent)?, raw, self.geometry)?;
        let log = LogReader::new(Mapping::read_write(&self.parts.log(raw, Access::ReadWrite)?)?, self.log_bytes)?;
        let journal = Arc::new(Journal { reader, spill: extent, log });
        self.journals.insert(generation, Arc::clone(&journal));
        Ok(journal)
    }

    /// Forgets a generation that is over and applied, and all before it.
    pub(super) fn close_generation(&mut self, generation: Generation, keeper: &GenerationKeeper) {
        let before = shared_mem::Generation::new(generation.get()).next();
        let over = self.forget_before(before);
        keeper.remove_before(self.vm, Arc::clone(&self.files), before, over);
    }

    /// Forgets the generations before this one, which are over and applied. What was open of them is still to be given
    /// back.
    fn forget_before(&mut self, generation: shared_mem::Generation) -> Vec<Arc<Journal>> {
        let kept = self.journals.split_off(&Generation::new(generation.get()));
        std::mem::replace(&mut self.journals, kept).into_values().collect()
    }

    /// Ends a generation: nothing can be published under it any more.
    pub(super) fn seal(&mut self, generation: Generation) -> Result<Epoch, Failure> {
        // First the log, then the word: which of the two is closed first does not matter, that both are does.
        if let Some(journal) = self.journals.get(&generation)
            && let Err(error) = journal.log.seal()
        {
            tracing::warn!("the record log of {generation} is sealed, but {}", crate::chain(&error));
        }
        failpoint::pass("controller.takeover.log-closed");
        let raw = shared_mem::Generation::new(generation.get());
        let journal = self.journals.get(&generation);
        let word = journal.map(|journal| journal.reader.seal());
        if let Some(Err(CommitWordError::Word(error))) = &word {
            tracing::warn!("{generation} is sealed, but its commit word is damaged: {error}");
        }
        failpoint::pass("controller.takeover.word-closed");
        // Whatever else is damaged, nothing can be published any more.
        let applied = self.control.applied()?;
        let closed = journal.map(|journal| &journal.reader).zip(word);
        let final_epoch =
            self.limit.seal(raw, |begun| self.redo.end_of(raw, closed, (applied, begun), &self.limits))?;
        Ok(Epoch::new(final_epoch.get()))
    }

    /// Image and disk may hold a part of the record of this epoch: without the whole of it nobody can go on from them.
    fn check_begun(&self, generation: Generation, epoch: shared_mem::Epoch) -> Result<(), Failure> {
        let (raw, mut buffer) = (shared_mem::Generation::new(generation.get()), Vec::new());
        let found = match self.journals.get(&generation) {
            Some(journal) => load_to_apply(&journal.reader, &self.redo, epoch, &self.limits, &mut buffer).map(drop),
            None => self.redo.load(raw, epoch, &self.limits, &mut buffer).map(drop),
        };
        found.map_err(|source| Damage::Torn { epoch, source }.into())
    }

    /// The epoch that image and disk are at, or on their way to.
    fn reached(&self, generation: Generation, applied: shared_mem::Epoch) -> Result<Epoch, Failure> {
        let raw = shared_mem::Generation::new(generation.get());
        Ok(Epoch::new(self.redo.reached(raw, applied, &self.limits)?.get()))
    }

    /// Ends all that works on its files: they can be removed.
    pub(super) fn close(self) {
        self.files.turn().life = Life::Deleted;
    }
}

/// What journal and log of a generation take, as long as nothing spills. Each part has pages of its own.
fn generation_bytes(journal: &JournalGeometry, log_bytes: u64, page_bytes: u64) -> u64 {
    let in_pages = |bytes: u64| bytes.next_multiple_of(page_bytes);
    let journal: u64 = journal.reserved_ranges().map(|(_, len)| in_pages(len)).sum();
    journal.saturating_add(in_pages(log_file_bytes(log_bytes)))
}

fn space_wanted(journal: &JournalGeometry, log_bytes: u64, page_bytes: u64) -> u64 {
    let record = journal.spill_bytes_max().next_multiple_of(page_bytes);
    record.max(generation_bytes(journal, log_bytes, page_bytes))
}

/// Takes a place in the pool for a VM, and makes nothing yet.
pub(super) fn new_part(pool: &Pool, spec: &VmSpec) -> Result<NewVm, Failure> {
    if spec.working_set_bytes_max.is_some() && pool.page_bytes()? > shared_mem::PAGE_SIZE {
        return Err("a working set cannot be bounded in a pool of huge pages: leave --working-set out".into());
    }
    Ok(pool.claim_vm(&spec.name.parse::<VmName>()?, &geometry(spec))?)
}

fn redo(parts: &VmPartition) -> Result<Redo, Failure> {
    let extent = parts.redo(Access::ReadWrite)?;
    Ok(Redo::new(Mapping::read_write(&extent)?, extent, parts.geometry().journal.reserved_bytes)?)
}

fn geometry(spec: &VmSpec) -> VmGeometry {
    let shape = spec.journal;
    VmGeometry {
        memory_bytes: spec.memory_bytes,
        journal: JournalGeometry {
            slots: shape.slots,
            slot_bytes: shape.slot_bytes,
            reserved_bytes: shape.reserved_bytes,
        },
        log_bytes: spec.log_bytes,
        console_bytes: CONSOLE_BYTES,
        disk_bytes: spec.disk_bytes,
        state_slot_bytes: STATE_SLOT_BYTES,
        sparse: false,
    }
}

/// How long the file is that a client passed. It must be a regular one: reading must not wait for anybody.
pub(super) fn upload_bytes(upload: &Extent) -> Result<u64, Failure> {
    let stat = fstat(upload.as_fd())?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err("the guest file is not a regular file".into());
    }
    let len = u64::try_from(stat.st_size)?;
    if len > BOOT_BYTES_MAX {
        return Err(format!("the guest file has {len} bytes, at most {BOOT_BYTES_MAX} are allowed").into());
    }
    Ok(len)
}

/// Reads it.
pub(super) fn read_upload(upload: &Extent) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; usize::try_from(upload_bytes(upload)?)?];
    let file = std::fs::File::from(upload.try_clone()?.into_fd());
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0)?;
    Ok(bytes)
}
