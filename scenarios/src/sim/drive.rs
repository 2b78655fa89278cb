//! Drives a primary's machine: runs the guest, carries out the core's actions, writes and publishes commit records.

use super::draw::Range;
use super::fault::{Point, Target};
use super::guest::Program;
use super::machine::{Poll, PrimaryMachine, Role, Serving, Vcpu};
use super::net::Message;
use super::planted::{PlantedBug, planted};
use super::queue::{Event, MachineStep};
use super::world::World;
use ft_protocol::host::Input as HostInput;
use ft_protocol::ids::{Epoch, VmId};
use ft_protocol::primary::{Action, Halt, Input, Primary};
use ft_protocol::wire::FromHost;
use ft_protocol::{Span, Time};

/// How long a machine waits before it tries an access again that the pool refused.
pub(crate) const AGAIN_US: Range = Range::new(300, 2_000);

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
        use MachineStep::{Arrive, Breathe, Load, Poll, Replay, Slice, Stopped, Wake, Write};
        if let Some(primary) = self.primary(at)
            && primary.hung
            && matches!(step, Arrive | Load | Replay | Slice | Wake | Stopped | Write | Poll | Breathe)
        {
            primary.held_back.push(step);
            return;
        }
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
            MachineStep::Breathe => self.breathe(at),
            MachineStep::Replay => self.replay(at),
            MachineStep::Arrive => self.arrive(at),
            MachineStep::Follow => self.follow(at),
        }
    }

    pub(crate) fn primary(&mut self, at: At) -> Option<&mut PrimaryMachine> {
        let machine = self.hosts[at.host].machines.iter_mut().find(|found| found.number == at.machine)?;
        match &mut machine.role {
            Role::Primary(primary) => Some(primary),
            Role::Standby { .. } => None,
        }
    }

    /// What the guest of a machine runs: a machine may outlive its VM.
    pub(crate) fn program_of(&self, at: At) -> Option<Program> {
        let machine = self.hosts[at.host].machines.iter().find(|found| found.number == at.machine)?;
        let former = self.checker.former_program(at.vm, machine.generation);
        Some(former.unwrap_or(self.truths[usize::from(at.vm.get())].program))
    }

    pub(crate) fn host_clock(&self, at: At) -> Time {
        self.hosts[at.host].actor.clock(self.now_ns)
    }

    pub(crate) fn machine_after(&mut self, at: At, us: Range, step: MachineStep) {
        let delay = self.takes(Target::Host(u16::try_from(at.host).unwrap_or(0)), us);
        self.schedule(delay, Event::Machine { host: at.host, machine: at.machine, step });
    }

    /// Says that the thread lives, again and again.
    pub(crate) fn breathe(&mut self, at: At) {
        let us = self.plan.weather.breath_us();
        let Some(primary) = self.primary(at) else { return };
        primary.show(true);
        self.machine_after(at, Range::new(us, us), MachineStep::Breathe);
    }

    /// The guest is to be handed over: the core is told when there is one.
    pub(crate) fn yield_machine(&mut self, host: usize, vm: VmId) {
        let Some(machine) = self.hosts[host].machines.iter().find(|machine| machine.vm == vm) else { return };
        let at = At { host, machine: machine.number, vm };
        if let Some(primary) = self.primary(at).filter(|_| !planted(PlantedBug::NeverYield)) {
            primary.yielding = true;
            self.core_input(at, Input::Yield);
        }
    }

    pub(crate) fn machine_failed(&mut self, at: At, reason: &str) {
        let Some(primary) = self.primary(at) else { return };
        primary.fail();
        let input = HostInput::Failed { vm: at.vm, generation: primary.order.generation, reason: reason.to_owned() };
        self.host_input(at.host, input);
    }

    /// Gives the core an input; its actions are carried out one by one.
    pub(crate) fn core_input(&mut self, at: At, input: Input) {
        let now = self.host_clock(at);
        let (now_ns, slowness) = (self.now_ns, self.hosts[at.host].actor.slowness);
        let Some(primary) = self.primary(at) else { return };
        // A slow process's vCPU is kept from running for a part of the time.
        let (ran_ns, since_ns) = primary.ran_ns;
        let ran_ns = if primary.stopped { ran_ns } else { ran_ns + (now_ns - since_ns) / slowness };
        primary.ran_ns = (ran_ns, now_ns);
        let Some(core) = &mut primary.core else { return };
        if core.asks_what_ran(now, &input) {
            core.ran(now, Span::from_ns(ran_ns));
        }
        let mut actions = Vec::new();
        core.handle(now, input, &mut actions);
        primary.actions.extend(actions);
        primary.show(false);
        self.act_soon(at);
        self.schedule_tick(at);
        self.poll_soon(at);
    }

    pub(crate) fn act_soon(&mut self, at: At) {
        let us = self.plan.weather.turn_us;
        let Some(primary) = self.primary(at) else { return };
        let amid = primary.is_amid() && !planted(PlantedBug::StopsAmidExit);
        let can_act = primary.actions.iter().any(|action| !amid || is_committers(action));
        if !primary.acting && can_act {
            primary.acting = true;
            self.machine_after(at, us, MachineStep::Act);
        }
    }

    pub(crate) fn schedule_tick(&mut self, at: At) {
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
        self.look_at_freed(at);
        self.poll_soon(at);
    }

    /// Carries out one action of the core.
    fn act(&mut self, at: At) {
        let step_us = self.plan.weather.step_us;
        let Some(primary) = self.primary(at) else { return };
        primary.acting = false;
        let Some(action) = next_action(primary) else { return };
        self.tell(|| format!("h{} {} does {action:?}", at.host, at.vm));
        let Some(primary) = self.primary(at) else { return };
        match action {
            Action::Stop => {
                if let Some(log) = &mut primary.log {
                    log.space.pause(false);
                }
                primary.note_registers();
                self.machine_after(at, step_us, MachineStep::Stopped);
            }
            Action::Write { epoch, ended } => {
                primary.writing = Some((epoch, ended));
                self.machine_after(at, step_us, MachineStep::Write);
            }
            Action::Resume => self.resume(at),
            Action::Deliver => {
                primary.news = false;
                primary.serving = Some(Serving::Delivers(Poll::default(), true));
                self.go_on(at, 0);
            }
            Action::SetMode(mode) => self.turn_machine(at, mode),
            Action::LogDoorbell => {
                let generation = primary.order.generation;
                self.host_sends(at.host, Message::FromHost(FromHost::Logged { vm: at.vm, generation }));
            }
            Action::PauseAtExit => {
                if let Some(log) = &mut primary.log {
                    log.space.pause(true);
                }
                if matches!(primary.vcpu, Vcpu::Waiting | Vcpu::Gated | Vcpu::Held) {
                    self.core_input(at, Input::AtExit);
                }
            }
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
        let now = self.host_clock(at);
        let Some(primary) = self.primary(at) else { return };
        primary.stopped = false;
        let pause = now.since(primary.stopped_at);
        if primary.vcpu == Vcpu::Held {
            primary.vcpu = Vcpu::Running;
        }
        if matches!(primary.vcpu, Vcpu::Waiting | Vcpu::Gated) {
            self.core_input(at, Input::StillWaits);
        }
        let has_news = self.primary(at).is_some_and(|primary| primary.vcpu == Vcpu::Waiting && primary.news);
        if has_news {
            self.end_wait(at);
        }
        self.run_slice(at);
        self.core_input(at, Input::Resumed { pause });
    }

    pub(crate) fn halt(&mut self, at: At, halt: &Halt) {
        let Some(primary) = self.primary(at) else { return };
        primary.drop_exit();
        let (generation, stopped_at) = (primary.order.generation, primary.stopped_at);
        if planted(PlantedBug::ZombieReleases) {
            self.release(at, Epoch::new(u64::MAX));
        }
        let now = self.host_clock(at);
        let Some(primary) = self.primary(at) else { return };
        let input = match halt {
            Halt::Fenced { .. } => HostInput::Fenced { vm: at.vm, generation },
            Halt::Yielded => HostInput::Yielded { vm: at.vm, generation, stood: now.since(stopped_at) },
            Halt::Ended(_) => HostInput::GuestEnded { vm: at.vm },
        };
        primary.stopped = true;
        self.host_input(at.host, input);
        if *halt == Halt::Yielded {
            self.reached(Point::Yielded);
        }
    }
}

/// The next action that can be done: those of the vCPU's thread wait while that is in the middle of an exit, those of the
/// committer do not.
fn next_action(primary: &mut PrimaryMachine) -> Option<Action> {
    let amid = primary.is_amid() && !planted(PlantedBug::StopsAmidExit);
    let index = primary.actions.iter().position(|action| !amid || is_committers(action))?;
    primary.actions.remove(index)
}

fn is_committers(action: &Action) -> bool {
    use Action::{Doorbell, LogDoorbell, PauseAtExit, Publish, Release};
    matches!(action, Doorbell(_) | LogDoorbell | PauseAtExit | Publish { .. } | Release(_))
}
