//! A secondary that follows its primary: it executes what the primary executes, by the primary's log, and compares at every
//! commit.

use super::controller::{pool_epoch, protocol_epoch};
use super::draw::Range;
use super::drive::{AGAIN_US, At};
use super::fault::Point;
use super::guest::{self, Registers};
use super::host::HostProcess;
use super::machine::{Role, WorkingMemory};
use super::queue::{Event, MachineStep};
use super::replay::{Entries, Replay, ReplayError};
use super::weather::PAGE_SIZE;
use super::world::World;
use ft_protocol::commit_meta::CommitMeta;
use ft_protocol::controller::Word;
use ft_protocol::follower::{Follower, Stand};
use ft_protocol::host::Input as HostInput;
use ft_protocol::ids::{Epoch, FollowTurn, Generation, VmId};
use ft_protocol::wire::{FollowStep, Part};
use shared_mem::control::ControlBlock;
use shared_mem::journal::{JournalGeometry, JournalReader, RecordLimits};
use shared_mem::lossy::LossyMemory;
use shared_mem::mem::PoolRead;
use shared_mem::numbers::{self, Offset};
use shared_mem::state_area::StateArea;
use shared_mem::{LogPosition, LogReader};

/// Time between two looks at a log that has nothing new.
const LOOK_US: Range = Range::new(50, 400);

/// The machine.
pub(crate) struct FollowerMachine {
    pub(crate) core: Follower,
    pub(crate) replay: Replay,
    pub(crate) working: WorkingMemory,
    turn: FollowTurn,
    generation: Generation,
    journal: JournalReader<LossyMemory>,
    control: ControlBlock<LossyMemory>,
    state: StateArea<LossyMemory>,
    image: LossyMemory,
    limits: RecordLimits,
    /// Stands still until this epoch is applied.
    adopting: Option<Epoch>,
}

/// What comes next.
enum Next {
    GoOn,
    Later,
    /// It only stands by again.
    Reset,
    /// The same, and the controller is not to wait for it.
    Broken,
    Said(Epoch, FollowStep),
    Wrong(String),
}

impl FollowerMachine {
    /// A machine at the end of an epoch; `None`: it cannot be had, or the image has gone on since.
    fn new(
        host: &HostProcess,
        (vm, generation, base): (VmId, Generation, Epoch),
        turn: FollowTurn,
        limits: RecordLimits,
        (log_bytes, geometry, history): (u64, JournalGeometry, &[guest::Tick]),
    ) -> Option<Self> {
        let state = StateArea::new(host.reader(Part::State(vm))?);
        let control = ControlBlock::open(host.reader(Part::Control(vm))?).ok()?;
        let bytes = state.read(pool_epoch(base)).ok()?;
        let registers = Registers::decode(&bytes)?;
        let log = LogReader::new(host.reader(Part::Log(vm, generation))?, log_bytes).ok()?;
        let number = numbers::Generation::new(generation.get());
        let journal = JournalReader::new(host.reader(Part::Journal(vm, generation))?, number, geometry).ok()?;
        let core = Follower::new(generation, base);
        if !core.is_awaited(protocol_epoch(control.freed().ok()?)) {
            return None;
        }
        let entries = Entries::new(log, LogPosition::new(guest::log_position(&bytes)), registers.step);
        let ticks = usize::try_from(registers.ticks()).ok()?;
        let trace = history.get(..ticks)?.to_vec();
        let mut replay = Replay::new(registers, entries, trace, |cursor| cursor.stopping_at_commits_of(generation));
        replay.deliver = false;
        let image = host.reader(Part::Image(vm))?;
        let working = WorkingMemory::new(image.clone(), limits.image_pages);
        Some(Self { core, replay, working, turn, generation, journal, control, state, image, limits, adopting: None })
    }

    /// It follows a generation of the VM's present life.
    pub(crate) fn is_of_life_after(&self, buried: Generation) -> bool {
        self.generation > buried
    }

    fn is_awaited(&self) -> bool {
        self.control.freed().is_ok_and(|freed| self.core.is_awaited(protocol_epoch(freed)))
    }

    /// One step on, or a look.
    fn go_on(&mut self, program: &guest::Program) -> Result<Next, ReplayError> {
        if let Some(epoch) = self.adopting {
            return Ok(self.adopt(epoch));
        }
        self.replay.entries.fill().map_err(|_| ReplayError::Unreachable)?;
        self.replay.cursor.look(&mut self.replay.entries)?;
        let stands = !self.replay.cursor.may_run(self.replay.entries.ahead.extent());
        if stands && let Some(point) = self.replay.cursor.commit() {
            let word = self.journal.peek_word().ok();
            let word = word.map(|word| Word { epoch: protocol_epoch(word.epoch), sealed: word.sealed });
            return Ok(match self.core.at_commit(point, word) {
                Stand::Pass => {
                    self.replay.cursor.pass_commit();
                    Next::GoOn
                }
                Stand::Later => Next::Later,
                Stand::Compare(epoch) => self.compare(epoch),
                Stand::Adopt(epoch) => {
                    self.adopting = Some(epoch);
                    Next::Said(epoch, FollowStep::Adopted)
                }
                Stand::Broken => Next::Wrong(format!("the log has {point:?} after {}", self.core.reached())),
            });
        }
        if stands && self.replay.entries.ahead.has_commit_at(self.replay.registers.step) {
            self.core.stands_before_commit();
            if self.replay.deliver()?.poll.taken > 0 {
                return Ok(Next::GoOn);
            }
        }
        // The guest's end is in a record to come.
        if stands || self.replay.exit().is_some() || self.replay.registers.step == program.steps {
            return Ok(Next::Later);
        }
        if self.core.take_delivery() {
            self.replay.deliver()?;
            return Ok(Next::GoOn);
        }
        let _went = self.replay.step(program, &mut self.working)?;
        Ok(Next::GoOn)
    }

    /// Holds what it has against the commit record.
    fn compare(&mut self, epoch: Epoch) -> Next {
        if !self.is_awaited() {
            return Next::Reset;
        }
        let difference = self.difference(epoch);
        if !self.is_awaited() {
            return Next::Reset;
        }
        match difference {
            Ok(None) => {
                self.working.clear_dirty();
                self.core.reach(epoch);
                self.replay.cursor.pass_commit();
                Next::Said(epoch, FollowStep::Compared)
            }
            Ok(Some(difference)) => Next::Wrong(difference),
            Err(None) => Next::Later,
            Err(Some(_)) => Next::Broken,
        }
    }

    fn difference(&self, epoch: Epoch) -> Result<Option<String>, Option<String>> {
        let mut buffer = Vec::new();
        let record = match self.journal.load(pool_epoch(epoch), &self.limits, &mut buffer) {
            Ok(record) => record,
            Err(shared_mem::journal::LoadError::Access(_)) => return Err(None),
            Err(error) => return Err(Some(error.to_string())),
        };
        let meta = CommitMeta::decode(record.meta()).map_err(|error| Some(error.to_string()))?;
        let registers = Registers::decode(meta.machine_state);
        if registers != Some(self.replay.registers) {
            return Ok(Some(format!("expected {registers:?}, got {:?}", self.replay.registers)));
        }
        let (mut own, mut expected) = ([0; 4096], [0; 4096]);
        let mut recorded = 0_u64;
        for (page, content) in record.pages() {
            recorded |= 1 << page.get();
            self.working.page(page.get(), &mut own).map_err(|_| None)?;
            if own != content {
                return Ok(Some(format!("page {} of {epoch} is another one", page.get())));
            }
        }
        let dirty = (self.working.dirty_processor | self.working.dirty_device) & !recorded;
        for (page, content) in self.working.pages(dirty) {
            self.image.read(Offset::new(page.get() * PAGE_SIZE), &mut expected).map_err(|_| None)?;
            if expected != *content {
                return Ok(Some(format!("page {} was written, and not in {epoch}", page.get())));
            }
        }
        Ok(None)
    }

    /// Goes on from the record of an epoch whose end no replay comes by, once that is applied.
    fn adopt(&mut self, epoch: Epoch) -> Next {
        match self.control.freed() {
            Ok(freed) if protocol_epoch(freed) >= epoch => {}
            _ => return Next::Later,
        }
        let Ok(bytes) = self.state.read(pool_epoch(epoch)) else { return Next::Reset };
        let Some(registers) = Registers::decode(&bytes) else { return Next::Reset };
        self.working = WorkingMemory::new(self.image.clone(), self.limits.image_pages);
        let trace = std::mem::take(&mut self.replay.trace);
        self.replay.cursor.pass_commit();
        self.replay.resume(registers, trace);
        self.core.reach(epoch);
        self.adopting = None;
        Next::GoOn
    }
}

impl World {
    /// A standby is told to follow.
    pub(crate) fn begin_following(&mut self, host: usize, what: (VmId, Generation, Epoch), turn: FollowTurn) {
        let (vm, ..) = what;
        self.catch_up(vm);
        let Some(partition) = self.pool.partition(vm) else { return };
        let history = &self.truths[usize::from(vm.get())].history;
        let shape = (partition.log_bytes, partition.geometry, history.as_slice());
        let made = FollowerMachine::new(&self.hosts[host], what, turn, partition.limits, shape);
        let Some(machine) = self.hosts[host].machines.iter_mut().find(|machine| machine.vm == vm) else { return };
        let number = machine.number;
        let Role::Standby { follower, .. } = &mut machine.role else { return };
        match made {
            Some(made) => {
                *follower = Some(Box::new(made));
                self.schedule(0, Event::Machine { host, machine: number, step: MachineStep::Follow });
            }
            None => self.follows_no_more(host, vm, turn),
        }
    }

    /// A step that cannot be: the controller does not wait for this secondary any more. It still stands by.
    fn follows_no_more(&mut self, host: usize, vm: VmId, turn: FollowTurn) {
        let (epoch, step) = (Epoch::ZERO, FollowStep::Adopted);
        self.host_input(host, HostInput::Followed { vm, turn, epoch, step });
    }

    pub(crate) fn end_following(&mut self, host: usize, vm: VmId) {
        for machine in self.hosts[host].machines.iter_mut().filter(|machine| machine.vm == vm) {
            if let Role::Standby { follower, .. } = &mut machine.role {
                *follower = None;
            }
        }
    }

    /// Goes some steps on.
    pub(crate) fn follow(&mut self, at: At) {
        let steps = self.hosts[at.host].actor.between(self.plan.weather.slice_steps);
        let Some(program) = self.program_of(at) else { return };
        let found = self.hosts[at.host].machines.iter_mut().find(|machine| machine.number == at.machine);
        let Some(Role::Standby { follower: slot, .. }) = found.map(|machine| &mut machine.role) else { return };
        let Some(mut follower) = slot.take() else { return };
        let turn = follower.turn;
        let mut next = Ok(Next::GoOn);
        for _ in 0..steps {
            next = follower.go_on(&program);
            if !matches!(next, Ok(Next::GoOn)) {
                break;
            }
        }
        let again = match next {
            Ok(Next::GoOn) => self.plan.weather.slice_us,
            Ok(Next::Later) => LOOK_US,
            Ok(Next::Said(epoch, step)) => {
                self.check_followed(at.vm, epoch, step, &follower);
                self.host_input(at.host, HostInput::Followed { vm: at.vm, turn, epoch, step });
                self.reached(Point::EpochFollowed);
                LOOK_US
            }
            Err(ReplayError::Unreachable) => AGAIN_US,
            Ok(Next::Reset) => return,
            Ok(Next::Broken) | Err(ReplayError::Log(_)) => return self.follows_no_more(at.host, at.vm, turn),
            Ok(Next::Wrong(report)) | Err(ReplayError::Diverged(report)) => {
                let generation = follower.generation;
                return self
                    .host_input(at.host, HostInput::Diverged { vm: at.vm, generation, turn: Some(turn), report });
            }
        };
        let found = self.hosts[at.host].machines.iter_mut().find(|machine| machine.number == at.machine);
        if let Some(Role::Standby { follower: slot, .. }) = found.map(|machine| &mut machine.role) {
            *slot = Some(follower);
        }
        self.machine_after(at, again, MachineStep::Follow);
    }
}
