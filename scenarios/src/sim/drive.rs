//! Drives a primary's machine: runs the guest, carries out the core's actions, writes and publishes commit records.

use super::controller::{pool_epoch, protocol_epoch};
use super::draw::Range;
use super::fault::{Point, Target};
use super::machine::{PrimaryMachine, Recording, Role, Vcpu};
use super::net::Message;
use super::planted::{PlantedBug, planted};
use super::queue::{Event, MachineStep};
use super::world::World;
use ft_protocol::commit_meta::{CommitMeta, GuestEnd};
use ft_protocol::host::Input as HostInput;
use ft_protocol::ids::{Epoch, VmId};
use ft_protocol::primary::{Action, Halt, Input, Primary, PrimaryConfig};
use ft_protocol::wire::{FromHost, LiveReport};
use ft_protocol::{Span, Time};
use shared_mem::commit_word::{CommitWord, CommitWordError, PublishError};
use shared_mem::control::ControlError;
use shared_mem::journal::JournalError;
use shared_mem::mem::PoolWrite;
use shared_mem::state_area::StateError;

/// How long a machine waits before it tries an access again that the pool refused.
const AGAIN_US: Range = Range::new(300, 2_000);

/// How far before its end a guest is held until the run lets it end.
const GATE_STEPS: u64 = 8;

/// Which machine an event is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) host: usize,
    pub(crate) machine: u32,
    pub(crate) vm: VmId,
}

impl World {
    pub(crate) fn machine_step(&mut self, host: usize, machine: u32, step: MachineStep) {
        let found = self.hosts[host].machines.iter().find(|found| found.number == machine);
        let Some(vm) = found.map(|found| found.vm) else { return };
        let at = At { host, machine, vm };
        match step {
            MachineStep::Load => self.load(at),
            MachineStep::Slice => self.slice(at),
            MachineStep::Wake => self.wake(at),
            MachineStep::Stopped => self.vcpu_stopped(at),
            MachineStep::Write => self.write_record(at),
            MachineStep::Checksum => self.checksum(at),
            MachineStep::Publish => self.publish(at),
            MachineStep::Act => self.act(at),
            MachineStep::Tick => self.tick(at),
            MachineStep::Poll => self.poll(at),
        }
    }

    pub(crate) fn primary(&mut self, at: At) -> Option<&mut PrimaryMachine> {
        let machine = self.hosts[at.host].machines.iter_mut().find(|found| found.number == at.machine)?;
        match &mut machine.role {
            Role::Primary(primary) => Some(primary),
            Role::Standby { .. } => None,
        }
    }

    fn host_clock(&self, at: At) -> Time {
        self.hosts[at.host].actor.clock(self.now_ns)
    }

    fn machine_after(&mut self, at: At, us: Range, step: MachineStep) {
        let delay = self.takes(Target::Host(u16::try_from(at.host).unwrap_or(0)), us);
        self.schedule(delay, Event::Machine { host: at.host, machine: at.machine, step });
    }

    /// Loads the machine state of the epoch to go on from, and lets the guest run.
    fn load(&mut self, at: At) {
        let now = self.host_clock(at);
        let now_ns = self.now_ns;
        let weather = self.plan.weather;
        let Some(primary) = self.primary(at) else { return };
        let base = primary.order.base;
        if base > Epoch::ZERO {
            match primary.state.read(pool_epoch(base)) {
                Ok(bytes) => match super::guest::Registers::decode(&bytes) {
                    Some(registers) => primary.registers = registers,
                    None => return self.machine_failed(at, "the machine state does not decode"),
                },
                Err(StateError::Access(_)) => return self.machine_after(at, AGAIN_US, MachineStep::Load),
                Err(_) => return self.machine_failed(at, "the machine state cannot be read"),
            }
        }
        primary.console_start = primary.registers.console;
        let config = PrimaryConfig {
            base,
            epoch_interval: primary.order.spec.epoch_interval,
            cut_spacing_min: Span::from_us(weather.cut_spacing_us),
            console_pending_max: weather.console_pending_max,
            slots: weather.slots,
        };
        primary.core = Some(Primary::new(config, now));
        let generation = primary.order.generation;
        let ordered_at = Time::from_ns(primary.ordered_at_ns);
        let report = LiveReport { ordered_at, loaded_at: now, live_at: Time::from_ns(now_ns) };
        self.check_loaded(at, base);
        self.host_input(at.host, HostInput::Live { vm: at.vm, generation, report });
        self.reached(Point::StateLoaded);
        if self.primary(at).is_some_and(|primary| primary.yielding) {
            self.core_input(at, Input::Yield);
        }
        self.run_slice(at);
        self.schedule_tick(at);
    }

    /// The guest is to be handed over: the core is told when there is one.
    pub(crate) fn yield_machine(&mut self, host: usize, vm: VmId) {
        let Some(machine) = self.hosts[host].machines.iter().find(|machine| machine.vm == vm) else { return };
        let at = At { host, machine: machine.number, vm };
        if let Some(primary) = self.primary(at) {
            primary.yielding = true;
            self.core_input(at, Input::Yield);
        }
    }

    fn machine_failed(&mut self, at: At, reason: &str) {
        let Some(primary) = self.primary(at) else { return };
        let input = HostInput::Failed { vm: at.vm, generation: primary.order.generation, reason: reason.to_owned() };
        self.host_input(at.host, input);
    }

    /// Schedules a slice of the guest's time, unless one is scheduled or the guest does not run.
    fn run_slice(&mut self, at: At) {
        let Some(primary) = self.primary(at) else { return };
        if primary.slicing || primary.stopped || primary.vcpu != Vcpu::Running {
            return;
        }
        primary.slicing = true;
        let us = self.plan.weather.slice_us;
        self.machine_after(at, us, MachineStep::Slice);
    }

    fn slice(&mut self, at: At) {
        let weather = self.plan.weather;
        let steps = self.hosts[at.host].actor.between(weather.slice_steps);
        let program = self.truths[usize::from(at.vm.get())].program;
        let gate = if self.gate_open { u64::MAX } else { program.steps - GATE_STEPS };
        let Some(primary) = self.primary(at) else { return };
        primary.slicing = false;
        if primary.stopped || primary.vcpu != Vcpu::Running {
            return;
        }
        let before = primary.pending();
        let mut wait_us = 0;
        let mut exit = None;
        let mut unreachable = false;
        for _ in 0..steps {
            if primary.registers.step >= gate {
                primary.vcpu = Vcpu::Gated;
            } else if primary.console.len() as u64 >= weather.console_pending_max {
                primary.vcpu = Vcpu::Held;
            } else if let Ok(shown) = primary.step(&program) {
                primary.console.extend_from_slice(shown.console());
                primary.packets.extend(shown.packet);
                (wait_us, exit) = (shown.wait_us, shown.exit);
            } else {
                unreachable = true;
            }
            if primary.vcpu != Vcpu::Running || wait_us > 0 || exit.is_some() || unreachable {
                break;
            }
        }
        let pending = primary.pending();
        if let Some(code) = exit {
            primary.vcpu = Vcpu::Ended;
            self.core_input(at, Input::Ended(GuestEnd::Exited(code)));
            self.reached(Point::GuestEnded);
            return;
        }
        if wait_us > 0 {
            primary.vcpu = Vcpu::Waiting;
            self.machine_after(at, Range::new(wait_us, wait_us), MachineStep::Wake);
        }
        if pending > before {
            self.core_input(at, Input::Output { pending });
        }
        if unreachable {
            let Some(primary) = self.primary(at) else { return };
            primary.slicing = true;
            self.machine_after(at, AGAIN_US, MachineStep::Slice);
        }
        self.run_slice(at);
    }

    fn wake(&mut self, at: At) {
        let Some(primary) = self.primary(at) else { return };
        if primary.vcpu == Vcpu::Waiting {
            primary.vcpu = Vcpu::Running;
            if !planted(PlantedBug::ForgetWake) {
                self.core_input(at, Input::Woke);
            }
            self.run_slice(at);
        }
    }

    /// Guests that were held before their end may go on.
    pub(crate) fn open_gates(&mut self) {
        self.gate_open = true;
        for host in 0..self.hosts.len() {
            let gated: Vec<At> = self.hosts[host]
                .machines
                .iter()
                .filter(|machine| matches!(&machine.role, Role::Primary(primary) if primary.vcpu == Vcpu::Gated))
                .map(|machine| At { host, machine: machine.number, vm: machine.vm })
                .collect();
            for at in gated {
                if let Some(primary) = self.primary(at) {
                    primary.vcpu = Vcpu::Running;
                }
                self.core_input(at, Input::Woke);
                self.run_slice(at);
            }
        }
    }

    fn vcpu_stopped(&mut self, at: At) {
        let Some(primary) = self.primary(at) else { return };
        if primary.vcpu == Vcpu::Ended {
            // It stopped for good in the meantime, and the core was told that.
            return;
        }
        primary.stopped = true;
        if planted(PlantedBug::DropPendingConsole) {
            primary.drop_console();
        }
        self.core_input(at, Input::Stopped);
        self.reached(Point::VcpuStopped);
    }

    /// Gives the core an input; its actions are carried out one by one.
    pub(crate) fn core_input(&mut self, at: At, input: Input) {
        let now = self.host_clock(at);
        let Some(primary) = self.primary(at) else { return };
        let Some(core) = &mut primary.core else { return };
        let mut actions = Vec::new();
        core.handle(now, input, &mut actions);
        primary.actions.extend(actions);
        self.act_soon(at);
        self.schedule_tick(at);
        self.poll_soon(at);
    }

    fn act_soon(&mut self, at: At) {
        let us = self.plan.weather.turn_us;
        let Some(primary) = self.primary(at) else { return };
        if !primary.acting && !primary.actions.is_empty() {
            primary.acting = true;
            self.machine_after(at, us, MachineStep::Act);
        }
    }

    fn schedule_tick(&mut self, at: At) {
        let now_ns = self.now_ns;
        let Some(deadline) = self.primary(at).and_then(|primary| primary.core.as_ref()?.deadline()) else { return };
        let due_ns = self.hosts[at.host].actor.when_clock_shows(deadline, now_ns);
        let Some(primary) = self.primary(at) else { return };
        if primary.tick_at_ns.is_none_or(|at_ns| due_ns < at_ns) {
            primary.tick_at_ns = Some(due_ns);
            self.schedule(
                due_ns - now_ns,
                Event::Machine { host: at.host, machine: at.machine, step: MachineStep::Tick },
            );
        }
    }

    fn tick(&mut self, at: At) {
        let now_ns = self.now_ns;
        let Some(primary) = self.primary(at) else { return };
        if primary.tick_at_ns == Some(now_ns) {
            primary.tick_at_ns = None;
            self.core_input(at, Input::Tick);
        }
    }

    /// While the core waits for a slot, the control block is polled.
    fn poll_soon(&mut self, at: At) {
        let Some(primary) = self.primary(at) else { return };
        let waits = primary.core.as_ref().is_some_and(Primary::is_stalled);
        if waits && !primary.polling {
            primary.polling = true;
            self.machine_after(at, AGAIN_US, MachineStep::Poll);
        }
    }

    fn poll(&mut self, at: At) {
        let Some(primary) = self.primary(at) else { return };
        primary.polling = false;
        if let Ok(freed) = freed(primary) {
            self.core_input(at, Input::Applied(protocol_epoch(freed)));
        }
        self.poll_soon(at);
    }

    /// Carries out one action of the core.
    fn act(&mut self, at: At) {
        let step_us = self.plan.weather.step_us;
        let Some(primary) = self.primary(at) else { return };
        primary.acting = false;
        let Some(action) = primary.actions.pop_front() else { return };
        self.tell(|| format!("h{} {} does {action:?}", at.host, at.vm));
        let Some(primary) = self.primary(at) else { return };
        match action {
            Action::Stop => {
                primary.note_registers();
                self.machine_after(at, step_us, MachineStep::Stopped);
            }
            Action::Write { epoch, ended } => {
                primary.writing = Some((epoch, ended));
                self.machine_after(at, step_us, MachineStep::Write);
            }
            Action::Resume => self.resume(at),
            Action::Publish { to, .. } => {
                if planted(PlantedBug::ReleaseBeforePublish) {
                    self.release(at, to);
                }
                if planted(PlantedBug::BelieveDoorbell) {
                    self.ring_doorbell(at, to);
                }
                self.machine_after(at, step_us, MachineStep::Checksum);
            }
            Action::Release(epoch) => self.release(at, epoch),
            Action::Doorbell(epoch) => self.ring_doorbell(at, epoch),
            Action::Halt(halt) => return self.halt(at, &halt),
        }
        self.act_soon(at);
    }

    fn ring_doorbell(&mut self, at: At, epoch: Epoch) {
        let Some(primary) = self.primary(at) else { return };
        let generation = primary.order.generation;
        let message = FromHost::Doorbell { vm: at.vm, generation, epoch };
        self.host_sends(at.host, Message::FromHost(message));
        self.reached(Point::DoorbellRung);
    }

    fn resume(&mut self, at: At) {
        let Some(primary) = self.primary(at) else { return };
        primary.stopped = false;
        if primary.vcpu == Vcpu::Held {
            primary.vcpu = Vcpu::Running;
        }
        if matches!(primary.vcpu, Vcpu::Waiting | Vcpu::Gated) {
            self.core_input(at, Input::StillWaits);
        }
        self.run_slice(at);
    }

    fn halt(&mut self, at: At, halt: &Halt) {
        let Some(primary) = self.primary(at) else { return };
        let generation = primary.order.generation;
        if planted(PlantedBug::ZombieReleases) {
            self.release(at, Epoch::new(u64::MAX));
        }
        let Some(primary) = self.primary(at) else { return };
        let input = match halt {
            Halt::Fenced { .. } => HostInput::Fenced { vm: at.vm, generation },
            Halt::Yielded => HostInput::Yielded { vm: at.vm, generation },
            Halt::Ended(_) => HostInput::GuestEnded { vm: at.vm },
        };
        primary.stopped = true;
        self.host_input(at.host, input);
        if *halt == Halt::Yielded {
            self.reached(Point::Yielded);
        }
    }

    /// Copies what changed since the last cut into the slot.
    fn write_record(&mut self, at: At) {
        let Some(primary) = self.primary(at) else { return };
        let Some((epoch, ended)) = primary.writing.take() else { return };
        match write_into_slot(primary, epoch, ended.as_ref()) {
            Ok(()) => {}
            Err(JournalError::Access(_)) => {
                primary.writing = Some((epoch, ended));
                return self.machine_after(at, AGAIN_US, MachineStep::Write);
            }
            Err(error) => return self.machine_failed(at, &error.to_string()),
        }
        let (generation, registers) = (primary.order.generation, primary.registers);
        self.checker.written(at.vm, generation, epoch, registers);
        self.core_input(at, Input::Written(epoch));
        self.reached(Point::RecordWritten);
    }

    fn checksum(&mut self, at: At) {
        let step_us = self.plan.weather.step_us;
        let Some(primary) = self.primary(at) else { return };
        let Some(recording) = &mut primary.recording else { return };
        recording.checked = planted(PlantedBug::CheckThenStore).then(|| primary.word.peek_word().ok()).flatten();
        match primary.journal.checksum(&recording.written) {
            Ok(finished) => {
                recording.finished = Some(finished);
                self.machine_after(at, step_us, MachineStep::Publish);
                self.reached(Point::RecordChecksummed);
            }
            Err(JournalError::Access(_)) => self.machine_after(at, AGAIN_US, MachineStep::Checksum),
            Err(error) => self.machine_failed(at, &error.to_string()),
        }
    }

    fn publish(&mut self, at: At) {
        let Some(primary) = self.primary(at) else { return };
        let Some(mut recording) = primary.recording.take() else { return };
        let epoch = recording.epoch;
        let result = match recording.finished.take() {
            Some(_) if recording.checked.is_some_and(|word| !word.sealed) => store_word(primary, epoch),
            Some(finished) if !recording.unsure => primary.journal.publish(finished).map(|_| ()),
            _ => match look_again(primary, epoch) {
                Ok(true) => Ok(()),
                Ok(false) => {
                    recording.unsure = false;
                    primary.recording = Some(recording);
                    return self.machine_after(at, AGAIN_US, MachineStep::Checksum);
                }
                Err(error) => Err(error),
            },
        };
        match result {
            Ok(()) => {
                if planted(PlantedBug::ClearDirtyLate) {
                    primary.working.clear_dirty();
                }
                self.check_published(at, epoch);
                self.core_input(at, Input::Published(epoch));
                self.reached(Point::RecordPublished);
            }
            Err(PublishError::Sealed { .. }) if planted(PlantedBug::IgnoreRefusal) => {
                self.check_published(at, epoch);
                self.core_input(at, Input::Published(epoch));
            }
            Err(PublishError::Sealed { final_epoch }) => {
                let final_epoch = protocol_epoch(final_epoch);
                self.core_input(at, Input::Sealed { final_epoch });
            }
            Err(PublishError::Access(_)) => {
                recording.unsure = true;
                primary.recording = Some(recording);
                self.machine_after(at, AGAIN_US, MachineStep::Publish);
            }
            Err(error) => self.machine_failed(at, &error.to_string()),
        }
    }

    /// Outputs of epochs up to this one leave.
    fn release(&mut self, at: At, epoch: Epoch) {
        let Some(primary) = self.primary(at) else { return };
        let mut packets = Vec::new();
        while primary.gated.front().is_some_and(|(of, _)| *of <= epoch) {
            packets.extend(primary.gated.pop_front().map(|(_, packet)| packet));
        }
        if planted(PlantedBug::ReleaseReversed) {
            packets.reverse();
        }
        self.check_released(at, &packets);
        self.reached(Point::OutputReleased);
    }
}

/// Writes the record of an epoch but for its header. Harvests the dirty set only if that succeeds.
fn write_into_slot(primary: &mut PrimaryMachine, epoch: Epoch, ended: Option<&GuestEnd>) -> Result<(), JournalError> {
    let dirty = primary.working.dirty_processor | primary.working.dirty_device;
    let dirty = if planted(PlantedBug::ForgetDevicePages) { primary.working.dirty_processor } else { dirty };
    let freed = freed(primary).map_err(|_| JournalError::Access(shared_mem::mem::AccessError::Unreachable))?;
    let machine_state = primary.recorded_registers().encode();
    let meta = CommitMeta {
        console_start: primary.console_start,
        console: &primary.console,
        machine_state: &machine_state,
        ended: ended.filter(|_| !planted(PlantedBug::ForgetEnd)).cloned(),
    };
    let mut record = primary.journal.begin(pool_epoch(epoch), freed)?;
    for (page, content) in primary.working.pages(dirty) {
        record.push_page_bytes(page, content)?;
    }
    let written = record.close(&meta.encode())?;
    primary.recording = Some(Recording { epoch, written, finished: None, unsure: false, checked: None });
    if !planted(PlantedBug::ClearDirtyLate) {
        primary.working.clear_dirty();
    }
    primary.console_start += primary.console.len() as u64;
    primary.console.clear();
    primary.gated.extend(primary.packets.drain(..).map(|packet| (epoch, packet)));
    Ok(())
}

/// The last epoch whose slot may be written again.
fn freed(primary: &PrimaryMachine) -> Result<shared_mem::numbers::Epoch, ControlError> {
    let freed = primary.control.freed()?;
    Ok(if planted(PlantedBug::ReuseSlotEarly) { freed.next() } else { freed })
}

/// What a publication must not be: a store that trusts an earlier look at the word.
fn store_word(primary: &PrimaryMachine, epoch: Epoch) -> Result<(), PublishError> {
    let word = CommitWord::open(pool_epoch(epoch)).encode();
    // The word's line is the second of the journal.
    let at = shared_mem::numbers::Offset::new(64);
    primary.journal_memory.store_u64(at, word, std::sync::atomic::Ordering::Release)?;
    primary.journal_memory.flush(at, 8)?;
    Ok(primary.journal_memory.fence()?)
}

/// After a publication that failed half-way, only the word itself can say whether it has moved; the look makes what it
/// finds durable.
fn look_again(primary: &PrimaryMachine, epoch: Epoch) -> Result<bool, PublishError> {
    let word = primary.word.word().map_err(|error| match error {
        CommitWordError::Word(error) => PublishError::Word(error),
        CommitWordError::Access(error) => PublishError::Access(error),
    })?;
    if word.sealed {
        return Err(PublishError::Sealed { final_epoch: word.epoch });
    }
    Ok(protocol_epoch(word.epoch) == epoch)
}
