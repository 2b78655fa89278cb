//! The controller's application of commit records: look, load, apply, free, each a step of its own.

use super::controller::{open_journal, pool_epoch};
use super::fault::{Point, Target};
use super::planted::{PlantedBug, planted};
use super::queue::Event;
use super::world::World;
use ft_protocol::Epoch;
use ft_protocol::commit_meta::{CommitMeta, GuestEnd};
use ft_protocol::controller::{ApplyOutcome, Input};
use ft_protocol::ids::{Generation, VmId};
use shared_mem::LogPosition;
use shared_mem::apply::{ApplyError, ApplyParts, ApplyTargets, apply_record, no_step};
use shared_mem::commit_word::CommitWordError;
use shared_mem::console::ConsoleRing;
use shared_mem::control::ControlBlock;
use shared_mem::journal::{LoadError, Record, RecordLimits};
use shared_mem::mem::PoolRead;
use shared_mem::numbers::{self, ConsolePosition};
use shared_mem::redo::load_to_apply;
use shared_mem::state_area::StateArea;
use std::convert::Infallible;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Load,
    Begin,
    Apply,
    Free,
}

/// A record on its way into the stable image.
#[derive(Debug)]
pub(crate) struct ApplyJob {
    generation: Generation,
    epoch: Epoch,
    console_floor: Option<u64>,
    stage: Stage,
    /// The record's private copy.
    bytes: Vec<u8>,
    done: Option<ApplyOutcome>,
}

impl ApplyJob {
    fn pool_generation(&self) -> numbers::Generation {
        numbers::Generation::new(self.generation.get())
    }

    /// The private copy, checked.
    fn record(&self, limits: &RecordLimits) -> Result<(Record<'_>, CommitMeta<'_>), ApplyOutcome> {
        let record = Record::parse(&self.bytes, self.pool_generation(), pool_epoch(self.epoch), limits)
            .map_err(|error| refused(self.epoch, &error))?;
        let meta = CommitMeta::decode(record.meta()).map_err(|error| refused(self.epoch, &error))?;
        Ok((record, meta))
    }
}

/// What a step of a job came to.
enum Progress {
    /// The next step is due.
    Next,
    /// The core is answered.
    Answer(ApplyOutcome),
    /// The controller cannot reach the pool: it is dying.
    Dead,
}

impl World {
    pub(crate) fn begin_apply(&mut self, vm: VmId, generation: Generation, epoch: Epoch, console_floor: Option<u64>) {
        let job = ApplyJob { generation, epoch, console_floor, stage: Stage::Load, bytes: Vec::new(), done: None };
        self.controller.jobs[usize::from(vm.get())] = Some(job);
        self.schedule_apply(vm);
    }

    fn schedule_apply(&mut self, vm: VmId) {
        let delay = self.takes(Target::Controller, self.plan.weather.apply_us);
        self.schedule(delay, Event::Apply(vm));
    }

    pub(crate) fn apply_step(&mut self, vm: VmId) {
        let Some(mut job) = self.controller.jobs[usize::from(vm.get())].take() else { return };
        let progress = match job.stage {
            Stage::Load => self.load_record(vm, &mut job),
            Stage::Begin => self.begin_loaded(vm, &mut job),
            Stage::Apply => self.apply_loaded(vm, &mut job),
            Stage::Free => self.free_slot(vm, &mut job),
        };
        match progress {
            Progress::Next => {
                self.controller.jobs[usize::from(vm.get())] = Some(job);
                self.schedule_apply(vm);
            }
            Progress::Answer(outcome) => {
                self.controller_input(Input::Applied { vm, generation: job.generation, outcome });
            }
            Progress::Dead => {}
        }
    }

    /// Nothing is applied that the commit word, made durable by the look at it, does not cover.
    fn load_record(&mut self, vm: VmId, job: &mut ApplyJob) -> Progress {
        let cache = self.controller.actor.cache.clone();
        let Some(partition) = self.pool.partition(vm) else { return Progress::Dead };
        let Some(journal) = open_journal(partition, job.generation, &cache) else { return Progress::Dead };
        let generation = job.pool_generation();
        let end = self.controller.limits[usize::from(vm.get())].end(generation);
        match end.map_or_else(|| journal.word().map(|word| word.epoch), Ok) {
            Ok(end) if pool_epoch(job.epoch) <= end => {}
            Ok(_) if planted(PlantedBug::BelieveDoorbell) => {}
            // A damaged word is found, and acted upon, by whoever looks at it next.
            Ok(_) | Err(CommitWordError::Word(_)) => return Progress::Answer(ApplyOutcome::NotCommitted),
            Err(CommitWordError::Access(_)) => return Progress::Dead,
        }
        let Some(redo) = partition.redo(&cache) else { return Progress::Dead };
        match load_to_apply(&journal, &redo, pool_epoch(job.epoch), &partition.limits, &mut job.bytes) {
            Ok(_) => {
                job.stage = Stage::Begin;
                self.reached(Point::RecordLoaded);
                Progress::Next
            }
            Err(LoadError::Access(_)) => Progress::Dead,
            Err(error @ LoadError::Record { .. }) => Progress::Answer(refused(job.epoch, &error)),
        }
    }

    /// The record is checked and there is room for what it prints: from here on it is applied, unless the generation has
    /// ended before it meanwhile.
    fn begin_loaded(&mut self, vm: VmId, job: &mut ApplyJob) -> Progress {
        let cache = self.controller.actor.cache.clone();
        let Some(partition) = self.pool.partition(vm) else { return Progress::Dead };
        let meta = match job.record(&partition.limits) {
            Ok((_, meta)) => meta,
            Err(refused) => return Progress::Answer(refused),
        };
        let Ok(console) = ConsoleRing::open(partition.console.through(&cache)) else { return Progress::Dead };
        let Ok(control) = ControlBlock::open(partition.control.through(&cache)) else { return Progress::Dead };
        let (Ok(applied), Some(log)) = (control.applied(), partition.log(job.generation, &cache)) else {
            return Progress::Dead;
        };
        // What left by the log comes before what the record brings.
        let drain = &mut self.controller.drains[usize::from(vm.get())].log;
        let Ok(()) = drain.read_log_of(job.generation, || Ok::<_, Infallible>(partition.logged_to(&cache, applied)));
        let logged_to = LogPosition::new(super::guest::log_position(meta.machine_state));
        match drain.drain(&log, Some(logged_to), &console, job.console_floor) {
            _ if cache.is_dead() => return Progress::Dead,
            Ok(true) => {}
            Ok(false) => return console_full(job, &console),
            Err(error) => return Progress::Answer(refused(job.epoch, &error)),
        }
        if let Some(floor) = job.console_floor {
            let Ok(free) = console.free_space(ConsolePosition::new(floor)) else { return Progress::Dead };
            if free < meta.console.len() as u64 && !planted(PlantedBug::OverrunReaders) {
                return console_full(job, &console);
            }
        }
        if !self.controller.limits[usize::from(vm.get())].begin(job.pool_generation(), pool_epoch(job.epoch)) {
            return Progress::Answer(ApplyOutcome::NotCommitted);
        }
        job.stage = Stage::Apply;
        self.reached(Point::RecordBegun);
        Progress::Next
    }

    fn apply_loaded(&mut self, vm: VmId, job: &mut ApplyJob) -> Progress {
        let cache = self.controller.actor.cache.clone();
        let Some(partition) = self.pool.partition(vm) else { return Progress::Dead };
        let (record, meta) = match job.record(&partition.limits) {
            Ok(checked) => checked,
            Err(refused) => return Progress::Answer(refused),
        };
        let Ok(console) = ConsoleRing::open(partition.console.through(&cache)) else { return Progress::Dead };
        let Ok(control) = ControlBlock::open(partition.control.through(&cache)) else { return Progress::Dead };
        let parts = ApplyParts {
            machine_state: meta.machine_state,
            console_start: ConsolePosition::new(meta.console_start),
            console: meta.console,
        };
        let word_is_sealed = planted(PlantedBug::PromoteBeforeDrained)
            && open_journal(partition, job.generation, &cache)
                .and_then(|journal| journal.peek_word().ok())
                .is_some_and(|word| word.sealed);
        let Some(redo) = partition.redo(&cache) else { return Progress::Dead };
        let image = partition.image.through(&cache);
        let state = StateArea::new(partition.state.through(&cache));
        let targets = ApplyTargets {
            image: &image,
            disk: None,
            redo: &redo,
            state: &state,
            console: &console,
            control: &control,
        };
        if word_is_sealed && planted(PlantedBug::PromoteBeforeDrained) {
            let (console_end, ended) = (meta.console_end(), meta.ended);
            return Progress::Answer(ApplyOutcome::Done { epoch: job.epoch, console_end, ended });
        }
        match apply_record(&record, &parts, &targets, &mut no_step) {
            Ok(_) => {}
            Err(error) if out_of_reach(&error) => return Progress::Dead,
            Err(error) => return Progress::Answer(refused(job.epoch, &error)),
        }
        let (console_end, ended): (u64, Option<GuestEnd>) = (meta.console_end(), meta.ended);
        job.done = Some(ApplyOutcome::Done { epoch: job.epoch, console_end, ended });
        job.stage = Stage::Free;
        self.reached(Point::RecordApplied);
        Progress::Next
    }

    fn free_slot(&mut self, vm: VmId, job: &mut ApplyJob) -> Progress {
        let cache = self.controller.actor.cache.clone();
        let Some(partition) = self.pool.partition(vm) else { return Progress::Dead };
        let Ok(control) = ControlBlock::open(partition.control.through(&cache)) else { return Progress::Dead };
        if control.set_freed(pool_epoch(job.epoch)).is_err() {
            return Progress::Dead;
        }
        self.reached(Point::SlotFreed);
        job.done.take().map_or(Progress::Dead, Progress::Answer)
    }
}

fn console_full<M: PoolRead>(job: &ApplyJob, console: &ConsoleRing<M>) -> Progress {
    let Ok(tail) = console.tail() else { return Progress::Dead };
    Progress::Answer(ApplyOutcome::ConsoleFull { epoch: job.epoch, console_end: tail.get() })
}

fn refused(epoch: Epoch, error: &dyn std::error::Error) -> ApplyOutcome {
    ApplyOutcome::Refused { epoch, reason: error.to_string() }
}

/// Whether an error says that this process can no longer reach the pool, rather than that a record is bad.
fn out_of_reach(error: &ApplyError) -> bool {
    use shared_mem::console::ConsoleError;
    use shared_mem::control::ControlError;
    use shared_mem::mem::AccessError::Unreachable;
    use shared_mem::state_area::StateError;
    matches!(
        error,
        ApplyError::Image(Unreachable)
            | ApplyError::Keep(Unreachable)
            | ApplyError::State(StateError::Access(Unreachable))
            | ApplyError::Console(ConsoleError::Access(Unreachable))
            | ApplyError::Control(ControlError::Access(Unreachable))
    )
}
