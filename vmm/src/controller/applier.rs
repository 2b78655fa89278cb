//! Application of commit records, one thread per VM: a large record of one VM delays no other, nor any takeover.

use super::damage::{Damage, damage_of};
use super::log_drain::LogDrain;
use super::maker::Removed;
use super::recording::{Due, PoolRecording};
use super::stable_state::{console_of, logged_to};
use super::worker::Worker;
use crate::failpoint;
use crate::machine::MachineState;
use crate::wake::WakingSender;
use ft_protocol::commit_meta::CommitMeta;
use ft_protocol::controller::{ApplyOutcome, DrainOutcome};
use ft_protocol::fence::FenceOutcome;
use ft_protocol::{Epoch, Generation, HostId, VmId};
use shared_mem::journal::SpillError;
use shared_mem::{
    ApplyLimit, ApplyParts, ApplyStep, ApplyTargets, ConsolePosition, ConsoleRing, ControlBlock, Extent, JournalReader,
    LogPosition, LogReader, Mapping, NewVm, PoolError, ReadWrite, Record, RecordLimits, RedoArea, StateArea,
    apply_record, load_to_apply,
};
use std::sync::{Arc, Mutex, PoisonError};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The controller's handle of a generation's journal.
pub(super) struct Journal {
    pub(super) reader: JournalReader<Mapping<ReadWrite>>,
    pub(super) spill: Extent,
    /// The generation's record log.
    pub(super) log: LogReader<Mapping<ReadWrite>>,
}

/// The controller's own copy of the record that is being applied.
pub(super) type Redo = RedoArea<Mapping<ReadWrite>, Extent>;

/// The parts of the pool that records are applied to.
pub(super) struct Target {
    pub(super) image: Mapping<ReadWrite>,
    pub(super) disk: Option<Mapping<ReadWrite>>,
    pub(super) redo: Redo,
    pub(super) state: StateArea<Mapping<ReadWrite>>,
    pub(super) control: ControlBlock<Mapping<ReadWrite>>,
    pub(super) console: ConsoleRing<Mapping<ReadWrite>>,
    pub(super) limits: RecordLimits,
    /// Whether the last record was copied before it was applied.
    pub(super) keeps: bool,
    pub(super) limit: Arc<ApplyLimit>,
    pub(super) log: LogDrain,
    /// Where the log stood when an epoch ended: the last one that was applied here.
    pub(super) ended_at: Option<(shared_mem::Epoch, LogPosition)>,
    /// What is wrong with the log before a record that was applied without it; to be told.
    pub(super) log_damage: Option<String>,
}

/// What is told of parts that are written anew.
pub(super) const CONSOLE: &str = "the console";
pub(super) const CONTROL: &str = "the control block";
pub(super) const STATE: &str = "the machine state";

enum Work {
    Apply(Job),
    Drain(DrainJob),
    Mend,
}

/// Console output to be moved from a record log to the ring.
pub(super) struct DrainJob {
    pub(super) generation: Generation,
    pub(super) journal: Arc<Journal>,
    pub(super) console_floor: Option<u64>,
}

/// One record to apply.
pub(super) struct Job {
    pub(super) generation: Generation,
    pub(super) journal: Arc<Journal>,
    pub(super) epoch: Epoch,
    pub(super) console_floor: Option<u64>,
    /// Where it is recorded, if it is.
    pub(super) recording: Option<Arc<Mutex<PoolRecording>>>,
}

/// What other threads tell the controller's.
pub(super) enum Event {
    /// What became of a record.
    Applied { vm: VmId, generation: Generation, outcome: ApplyOutcome },
    /// What became of console output in a log.
    Drained { vm: VmId, generation: Generation, outcome: DrainOutcome },
    /// A record was applied although the log before its end is damaged.
    LogDamaged { vm: VmId, generation: Generation, reason: String },
    /// A new VM's disk has its first content, or cannot have it.
    DiskFilled { vm: VmId, result: Result<(), String> },
    /// A new VM's files are made, or cannot be.
    PartMade { vm: VmId, result: Result<NewVm, Failure> },
    /// Files of a VM are removed, or cannot be.
    PartRemoved { vm: VmId, result: Removed },
    /// What a generation to come will need is reserved, or cannot be.
    Reserved { vm: VmId, generation: Generation, result: Result<(), PoolError> },
    /// A part of the VM was damaged, and is whole again.
    Mended { vm: VmId, what: &'static str },
    /// What a fence agent did.
    FenceTried { host: HostId, name: String, outcome: FenceOutcome },
    /// A host's process is dead.
    Died(HostId),
}

/// Handle of a VM's thread.
pub(super) struct Applier {
    worker: Worker<Work>,
}

impl Applier {
    pub(super) fn start(vm: VmId, mut target: Target, done: WakingSender<Event>) -> std::io::Result<Self> {
        let mut buffer = Vec::new();
        let worker = Worker::start(format!("apply-{vm}"), move |work| {
            if target.mend() {
                done.send(Event::Mended { vm, what: CONTROL });
            }
            match work {
                Work::Apply(job) => {
                    let (generation, outcome) = (job.generation, target.apply(&job, &mut buffer));
                    done.send(Event::Applied { vm, generation, outcome });
                    if let Some(reason) = target.log_damage.take() {
                        done.send(Event::LogDamaged { vm, generation, reason });
                    }
                }
                Work::Mend => {}
                Work::Drain(job) => {
                    let outcome = target.drain(&job);
                    done.send(Event::Drained { vm, generation: job.generation, outcome });
                }
            }
            if target.console.take_mended() {
                done.send(Event::Mended { vm, what: CONSOLE });
            }
            // A large record should not cost the controller its memory for ever.
            if buffer.len() > BUFFER_BYTES_KEPT {
                buffer = Vec::new();
            }
        })?;
        Ok(Self { worker })
    }

    pub(super) fn apply(&self, job: Job) {
        self.worker.hand_on(Work::Apply(job));
    }

    /// Has control block and console looked at, and made whole.
    pub(super) fn mend(&self) {
        self.worker.hand_on(Work::Mend);
    }

    pub(super) fn drain(&self, job: DrainJob) {
        self.worker.hand_on(Work::Drain(job));
    }
}

/// How much of a slot keeps its space when its record is applied: as much as the record took, for the next one there, since
/// fresh memory costs a guest that commits a lot more than the copy into it. A smaller record gives the rest back.
/// Nothing when the pool is short, or no record will follow.
fn space_to_keep(journal: &Journal, record_bytes: u64, ended: bool) -> u64 {
    let geometry = journal.reader.geometry();
    let large = record_bytes > geometry.reserved_bytes;
    // What cannot be asked is taken for nothing.
    let plenty = || journal.spill.available_bytes().unwrap_or(0) >= geometry.plenty_bytes(record_bytes);
    if large && !ended && plenty() { record_bytes } else { 0 }
}

/// Records up to this size are read into a buffer that is kept.
const BUFFER_BYTES_KEPT: usize = 32 << 20;

impl Target {
    fn apply(&mut self, job: &Job, buffer: &mut Vec<u8>) -> ApplyOutcome {
        let epoch = job.epoch;
        match self.try_apply(job, buffer) {
            Ok(outcome) => outcome,
            Err(error) => match damage_of(&*error) {
                Some(reason) => ApplyOutcome::Damaged { reason },
                None => ApplyOutcome::Refused { epoch, reason: crate::chain(&*error) },
            },
        }
    }

    /// Makes console and control block whole if they are damaged: only the controller writes them, so nobody else can. Says
    /// whether the control block was damaged; the ring says by itself whether it was.
    pub(super) fn mend(&self) -> bool {
        if let Err(error) = self.console.mend() {
            tracing::error!("the console is damaged, and cannot be written anew: {}", crate::chain(&error));
        }
        match self.control.mend() {
            Ok(None) => false,
            Ok(Some(error)) => {
                tracing::warn!("the control block is damaged, and written anew: {}", crate::chain(&error));
                true
            }
            Err(error) => {
                tracing::error!("the control block is damaged, and cannot be written anew: {}", crate::chain(&error));
                false
            }
        }
    }

    /// Moves what the log of a generation has for the console, which was set back, as far as it had come: what its readers
    /// may not have read yet is not overwritten.
    pub(super) fn catch_up(
        &mut self,
        generation: shared_mem::Generation,
        log: &LogReader<Mapping<ReadWrite>>,
    ) -> Result<(), Failure> {
        self.read_log_of(Generation::new(generation.get()), log)?;
        let floor = self.console.claimed()?.get().saturating_sub(self.console.ring_bytes());
        self.log.drain(log, None, &self.console, Some(floor))?;
        Ok(())
    }

    fn drain(&mut self, job: &DrainJob) -> DrainOutcome {
        if let Err(damage) = self.read_log_of(job.generation, &job.journal.log) {
            return DrainOutcome::Damaged { reason: crate::chain(&damage) };
        }
        let outcome = self.log.outcome(&job.journal.log, job.console_floor, &self.console);
        match self.console.own_tail() {
            Ok(_) => outcome,
            Err(error) => DrainOutcome::Damaged { reason: crate::chain(&error) },
        }
    }

    fn read_log_of(&mut self, generation: Generation, log: &LogReader<Mapping<ReadWrite>>) -> Result<(), Damage> {
        let (state, control) = (&self.state, &self.control);
        self.log.read_log_of(generation, || {
            // What is wrong with the control block says whoever uses it next.
            let Ok(applied) = control.applied() else { return Ok(LogPosition::ZERO) };
            let known = logged_to(state, applied).or_else(|| whole_log(log));
            known.ok_or_else(|| Damage::State {
                epoch: applied,
                source: "and its record log has gone on too far".into(),
            })
        })
    }

    fn try_apply(&mut self, job: &Job, buffer: &mut Vec<u8>) -> Result<ApplyOutcome, Failure> {
        let epoch = shared_mem::Epoch::new(job.epoch.get());
        let generation = shared_mem::Generation::new(job.generation.get());
        // Until the generation is sealed its commit word says what is committed. A damaged word is found, and acted upon,
        // by whoever looks at it next.
        let end = self.limit.end(generation).map_or_else(|| job.journal.reader.word().map(|word| word.epoch), Ok);
        if end.is_ok_and(|end| epoch > end) || end.is_err() {
            return Ok(ApplyOutcome::NotCommitted);
        }
        let record = match load_to_apply(&job.journal.reader, &self.redo, epoch, &self.limits, buffer) {
            Ok(record) => record,
            // Image and disk hold a part of it: the epoch before is not there any more to go on from.
            Err(source) if self.redo.is_begun(generation, epoch, &self.limits)? => {
                return Err(Damage::Torn { epoch, source }.into());
            }
            Err(error) => return Err(error.into()),
        };
        let meta = CommitMeta::decode(record.meta())?;
        // Refused here rather than by the host that would have to load it in the middle of a takeover.
        let state = MachineState::decode(meta.machine_state)?;
        // What left by the log comes before what the record brings.
        self.read_log_of(job.generation, &job.journal.log)?;
        let log_end = LogPosition::new(state.log_position());
        let applied = self.control.applied()?;
        let known = self.ended_at.filter(|(epoch, _)| *epoch == applied).map(|(_, position)| position);
        let known = known.or_else(|| logged_to(&self.state, applied));
        // Where nobody can tell, nothing is known to be behind the record.
        LogDrain::check(log_end, known.unwrap_or(LogPosition::ZERO))?;
        // The log of an epoch is never longer than its ring: it is freed only by what is applied.
        let is_near =
            known.is_some_and(|before| log_end.get().saturating_sub(before.get()) <= job.journal.log.ring_bytes());
        match self.log.drain(&job.journal.log, Some(log_end), &self.console, job.console_floor) {
            Ok(true) => {}
            Ok(false) => return self.console_full(job),
            // The record has the output of its epoch once more: it is applied without the log, so that nothing is lost which its
            // primary has committed.
            Err(error) if error.is_of_log() && is_near && meta.console_start <= self.console.own_tail()?.get() => {
                self.log.pass(&job.journal.log, log_end)?;
                self.log_damage = Some(crate::chain(&error));
            }
            Err(error) => return Err(error.into()),
        }
        // Before the question whether there is room: for output that belongs nowhere there never will be.
        self.console.check_append(ConsolePosition::new(meta.console_start), meta.console)?;
        let console_end = meta.console_end();
        if let Some(floor) = job.console_floor
            && console_end.saturating_sub(floor) > self.console.ring_bytes()
        {
            return self.console_full(job);
        }
        if !self.limit.begin(generation, epoch) {
            return Ok(ApplyOutcome::NotCommitted);
        }
        failpoint::pass("controller.apply.begun");
        self.record(job, &record, &meta, &state)?;
        let keep = space_to_keep(&job.journal, record.total_bytes(), meta.ended.is_some());
        self.apply_parts(&record, &meta)?;
        self.ended_at = Some((epoch, log_end));
        // It is applied: what is not given back now is given back with the generation.
        if let Err(error) = self.give_back(job, keep, meta.ended.is_some()) {
            tracing::warn!("the space of {epoch} of {generation} is not given back: {}", crate::chain(&error));
        }
        failpoint::pass("controller.apply.given-back");
        self.control.set_freed(epoch)?;
        failpoint::pass("controller.apply.freed");
        // A guest that did not replay its log to its end is not yet where its console is.
        let console_end = console_end.max(self.console.own_tail()?.get());
        Ok(ApplyOutcome::Done { epoch: job.epoch, console_end, ended: meta.ended })
    }
}

impl Target {
    fn console_full(&self, job: &Job) -> Result<ApplyOutcome, Failure> {
        let console_end = self.console.own_tail()?.get();
        Ok(ApplyOutcome::ConsoleFull { epoch: job.epoch, console_end })
    }

    /// Gives back what a record has taken beyond `keep`, here and in its slot.
    fn give_back(&self, job: &Job, keep: u64, ended: bool) -> Result<(), SpillError> {
        let (journal, epoch) = (&job.journal, job.epoch.get());
        self.redo.release_spill_beyond(keep)?;
        journal.reader.release_spill_beyond(shared_mem::Epoch::new(epoch), keep, &journal.spill)?;
        if ended {
            // No record will need the other slots again.
            let others = (1..u64::from(journal.reader.geometry().slots)).map(|ahead| epoch + ahead);
            for other in others {
                journal.reader.release_spill(shared_mem::Epoch::new(other), &journal.spill)?;
            }
        }
        Ok(())
    }

    /// Applies what an earlier controller has begun to apply under a generation whose journal is lost: the copy is all
    /// there is of it.
    pub(super) fn finish(&mut self, generation: shared_mem::Generation) -> Result<(), Failure> {
        let epoch = self.control.applied()?.next();
        let mut buffer = Vec::new();
        let Ok(record) = self.redo.load(generation, epoch, &self.limits, &mut buffer) else { return Ok(()) };
        let meta = CommitMeta::decode(record.meta())?;
        self.apply_parts(&record, &meta)?;
        Ok(self.redo.release_spill()?)
    }

    /// Records what is about to be applied.
    fn record(
        &self,
        job: &Job,
        record: &Record<'_>,
        meta: &CommitMeta<'_>,
        state: &MachineState,
    ) -> Result<(), Failure> {
        let Some(recording) = &job.recording else { return Ok(()) };
        let applied = self.control.applied()?;
        let applied_log = logged_to(&self.state, applied).unwrap_or(LogPosition::ZERO);
        let applied_console = console_of(&self.state, applied);
        let due = Due {
            job,
            record,
            meta,
            state,
            image: &self.image,
            disk: self.disk.as_ref(),
            applied,
            applied_log,
            applied_console,
        };
        recording.lock().unwrap_or_else(PoisonError::into_inner).record(&due);
        Ok(())
    }

    fn apply_parts(&mut self, record: &Record<'_>, meta: &CommitMeta<'_>) -> Result<(), Failure> {
        let parts = ApplyParts {
            machine_state: meta.machine_state,
            console_start: ConsolePosition::new(meta.console_start),
            console: meta.console,
        };
        let targets = ApplyTargets {
            image: &self.image,
            disk: self.disk.as_ref(),
            redo: &self.redo,
            state: &self.state,
            console: &self.console,
            control: &self.control,
        };
        let mut kept = true;
        apply_record(record, &parts, &targets, &mut |step| {
            kept &= step != ApplyStep::NotKept;
            failpoint::pass(name_of(step));
        })?;
        self.tell_kept(kept);
        Ok(())
    }

    /// Says when records begin to be applied without a copy, and when that is over.
    fn tell_kept(&mut self, kept: bool) {
        if kept != self.keeps {
            self.keeps = kept;
            if kept {
                tracing::info!("commit records are copied again while they are applied");
            } else {
                tracing::warn!(
                    "the pool has no space for copies of commit records while they are applied: a VM whose record is \
                     damaged while its controller dies is lost"
                );
            }
        }
    }
}

/// Where a log begins, if all of it is still there: what is read twice is shown once, since output has its place.
fn whole_log(log: &LogReader<Mapping<ReadWrite>>) -> Option<LogPosition> {
    let (_, begin) = log.header().ok()?;
    let length = log.tail().ok()?.position.get().checked_sub(begin.get())?;
    (length <= log.ring_bytes()).then_some(begin)
}

fn name_of(step: ApplyStep) -> &'static str {
    match step {
        ApplyStep::Checked => "controller.apply.checked",
        ApplyStep::Kept | ApplyStep::NotKept => "controller.apply.kept",
        ApplyStep::PagesWritten => "controller.apply.pages-written",
        ApplyStep::PagesDurable => "controller.apply.pages-durable",
        ApplyStep::StateDurable => "controller.apply.state-durable",
        ApplyStep::ConsoleDurable => "controller.apply.console-durable",
        ApplyStep::Applied => "controller.apply.applied",
    }
}
