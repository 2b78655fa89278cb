//! A primary's vCPU: runs the model guest for a while, waits, stops, ends.

use super::draw::Range;
use super::drive::{AGAIN_US, At};
use super::fault::Point;
use super::guest::{Program, Shown, Wants};
use super::machine::{Poll, Role, Serving, Vcpu};
use super::planted::{PlantedBug, planted};
use super::queue::MachineStep;
use super::record::Taken;
use super::stage::{LATE_SLICE_US, STAGED_STEPS};
use super::world::World;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::primary::Input;

/// What came of one thing that the vCPU's thread did.
enum Turn {
    /// The next one follows at once.
    On,
    /// An exit is done.
    Done,
    /// An entry was appended.
    Gap,
    /// The pool is out of reach: later.
    Again,
    /// The log has no room for another exit, or somebody wants the guest to pause.
    Paused,
    /// The vCPU's slice is over.
    Off,
    /// So is the machine, or it has begun something else.
    Over,
}

/// How far before its end a guest is held until the run lets it end.
const GATE_STEPS: u64 = 8;

impl World {
    /// Schedules a slice of the guest's time, unless one is scheduled or the guest does not run.
    pub(crate) fn run_slice(&mut self, at: At) {
        let Some(primary) = self.primary(at) else { return };
        if primary.slicing || primary.stopped || primary.vcpu != Vcpu::Running {
            return;
        }
        primary.slicing = true;
        let idles = primary.registers.step >= STAGED_STEPS;
        let us = if idles && self.stage.is_some() { LATE_SLICE_US } else { self.plan.weather.slice_us };
        self.machine_after(at, us, MachineStep::Slice);
    }

    pub(crate) fn slice(&mut self, at: At) {
        let left = self.primary(at).and_then(|primary| primary.slice_left.take());
        let exits = left.unwrap_or_else(|| self.hosts[at.host].actor.between(self.plan.weather.slice_steps));
        let Some(primary) = self.primary(at) else { return };
        primary.slicing = false;
        self.go_on(at, exits);
    }

    /// Does what the vCPU's thread is in the middle of, and so many exits more, up to the next entry of the log.
    pub(crate) fn go_on(&mut self, at: At, mut exits: u64) {
        let Some(program) = self.program_of(at) else { return };
        let Some(primary) = self.primary(at) else { return };
        let before = primary.pending();
        let turn = loop {
            let Some(primary) = self.primary(at) else { return };
            if exits == 0 && !primary.is_amid() && primary.served.is_none() {
                break Turn::Off;
            }
            match self.vcpu_turn(at, &program) {
                Turn::On => {}
                Turn::Done => exits = exits.saturating_sub(1),
                other => break other,
            }
        };
        let Some(primary) = self.primary(at) else { return };
        let pending = primary.pending();
        if matches!(turn, Turn::Over) {
            return;
        }
        if pending > before {
            self.core_input(at, Input::Output { console: pending, packets: 0 });
        }
        if matches!(turn, Turn::Paused) {
            self.source_paused(at);
        }
        let later = match turn {
            Turn::Gap => self.plan.weather.append_us,
            Turn::Again | Turn::Paused => Some(AGAIN_US),
            _ => None,
        };
        let Some(primary) = self.primary(at) else { return };
        if let Some(us) = later
            && !primary.slicing
        {
            primary.slice_left = matches!(turn, Turn::Gap).then_some(exits);
            primary.slicing = true;
            self.machine_after(at, us, MachineStep::Slice);
        }
        self.run_slice(at);
    }

    /// One thing that the vCPU's thread does.
    fn vcpu_turn(&mut self, at: At, program: &Program) -> Turn {
        let weather = self.plan.weather;
        let gate = if self.gate_open { u64::MAX } else { program.steps - GATE_STEPS };
        let Some(primary) = self.primary(at) else { return Turn::Over };
        if let Some(serving) = primary.serving {
            return self.serve(at, serving);
        }
        if let Some(given) = primary.given.take() {
            let polls = program.wants(primary.registers.step) == Wants::Packets;
            let Ok(shown) = primary.step(program, given) else { return Turn::Again };
            primary.serving = Some(if polls && shown.exit.is_none() {
                primary.news = false;
                Serving::Polls(Poll::default(), shown)
            } else {
                Serving::Prints(shown)
            });
            return Turn::On;
        }
        if primary.stopped || primary.vcpu != Vcpu::Running {
            return Turn::Off;
        }
        let step = primary.registers.step;
        let has_room = primary.log.as_ref().is_none_or(super::record::Recording::has_room);
        if has_room && let Some(wait_us) = primary.served.take() {
            self.leave_exit(at, wait_us)
        } else if primary.wait_over && has_room {
            (primary.wait_over, primary.news) = (false, false);
            primary.serving = Some(Serving::Delivers(Poll::default(), false));
            Turn::On
        } else if step >= gate {
            primary.vcpu = Vcpu::Gated;
            Turn::Off
        } else if !primary.records() && primary.console.len() as u64 >= weather.console_pending_max {
            primary.vcpu = Vcpu::Held;
            Turn::Off
        } else if !has_room {
            Turn::Paused
        } else if primary.registers.spin < program.spins(step) {
            primary.registers.spin += 1;
            Turn::Off
        } else {
            let Some(given) = self.live_input(at, program.wants(step)) else { return Turn::Over };
            let Some(primary) = self.primary(at) else { return Turn::Over };
            primary.given = Some(given);
            if given != 0 && primary.records() { self.appended() } else { Turn::On }
        }
    }

    /// An entry is in the log: whoever reads that may see it before the next one is.
    fn appended(&self) -> Turn {
        if self.plan.weather.append_us.is_some() { Turn::Gap } else { Turn::On }
    }

    /// The next thing of what the thread is in the middle of.
    fn serve(&mut self, at: At, serving: Serving) -> Turn {
        let Some(primary) = self.primary(at) else { return Turn::Over };
        let records = primary.records();
        let (logged, next) = match serving {
            Serving::Polls(poll, mut shown) => match self.take_one(at, poll) {
                Some(Taken::Input { poll, logged }) => (Some(logged), Serving::Polls(poll, shown)),
                Some(Taken::Nothing) => {
                    shown.waits_unless(poll.taken > 0);
                    (Some(false), Serving::Prints(shown))
                }
                None => return Turn::Over,
            },
            Serving::Prints(shown) if !records => {
                primary.console.extend_from_slice(shown.console());
                primary.packets.extend(shown.packet);
                self.settle_events(at);
                return self.end_exit(at, &shown);
            }
            Serving::Prints(shown) => (self.log_printed(at, &shown), Serving::Sends(shown)),
            Serving::Sends(shown) => (self.log_sent(at, &shown), Serving::Leaves(shown)),
            Serving::Leaves(shown) => {
                self.settle_events(at);
                self.check_released(at, shown.packet.as_slice());
                if !shown.console().is_empty() {
                    self.core_input(at, Input::Logged);
                }
                return self.end_exit(at, &shown);
            }
            Serving::Delivers(poll, behind_commit) => match self.take_one(at, poll) {
                Some(Taken::Input { poll, logged }) => (Some(logged), Serving::Delivers(poll, behind_commit)),
                Some(Taken::Nothing) => return self.delivered(at, poll.taken > 0, behind_commit),
                None => return Turn::Over,
            },
        };
        match (logged, self.primary(at)) {
            (Some(logged), Some(primary)) => {
                primary.serving = Some(next);
                if logged { self.appended() } else { Turn::On }
            }
            _ => Turn::Over,
        }
    }

    /// All that came is handed over, at the end of a wait or behind a commit.
    fn delivered(&mut self, at: At, any: bool, behind_commit: bool) -> Turn {
        self.settle_events(at);
        let Some(primary) = self.primary(at) else { return Turn::Over };
        primary.serving = None;
        if let Some(unsent) = primary.landing.take() {
            self.go_live(at, Some((unsent, None)));
            return Turn::Over;
        }
        if behind_commit && any {
            // It has what it waited for, or was about to wait for.
            primary.wait_over = false;
            primary.served = primary.served.map(|_| 0);
            if primary.vcpu == Vcpu::Waiting {
                primary.vcpu = Vcpu::Running;
            }
        }
        match self.exit_is_done(at) {
            // No exit of its own.
            Turn::Done => Turn::On,
            other => other,
        }
    }

    /// The exit has been served, and what it has put out has left.
    fn end_exit(&mut self, at: At, shown: &Shown) -> Turn {
        let Some(primary) = self.primary(at) else { return Turn::Over };
        primary.serving = None;
        if let Some(unsent) = primary.landing.take() {
            primary.served = Some(shown.wait_us);
            self.go_live(at, Some((unsent, shown.exit)));
            return Turn::Over;
        }
        if let Some(code) = shown.exit {
            primary.stop_due = false;
            self.guest_ended(at, code);
            self.act_soon(at);
            return Turn::Over;
        }
        primary.served = Some(shown.wait_us);
        self.exit_is_done(at)
    }

    /// What waited for the end of the exit is done.
    fn exit_is_done(&mut self, at: At) -> Turn {
        self.act_soon(at);
        let Some(primary) = self.primary(at) else { return Turn::Over };
        if !std::mem::take(&mut primary.stop_due) {
            return Turn::Done;
        }
        self.vcpu_stopped(at);
        Turn::Off
    }

    /// The guest leaves its exit, or waits there.
    fn leave_exit(&mut self, at: At, wait_us: u64) -> Turn {
        let Some(primary) = self.primary(at) else { return Turn::Over };
        let has_come = primary.news;
        let waits = wait_us > 0 && !has_come;
        let marked = self.mark_exit(at, waits);
        let (Some(marked), Some(primary)) = (marked, self.primary(at)) else { return Turn::Over };
        if waits {
            primary.vcpu = Vcpu::Waiting;
            self.machine_after(at, Range::new(wait_us, wait_us), MachineStep::Wake);
            return Turn::Off;
        }
        primary.wait_over |= wait_us > 0;
        if marked { self.appended() } else { Turn::On }
    }

    /// The guest has written its exit port.
    pub(crate) fn guest_ended(&mut self, at: At, code: u32) {
        if let Some(primary) = self.primary(at) {
            primary.vcpu = Vcpu::Ended;
        }
        self.core_input(at, Input::Ended(GuestEnd::Exited(code)));
        self.reached(Point::GuestEnded);
    }

    pub(crate) fn wake(&mut self, at: At) {
        match self.primary(at) {
            Some(primary) if primary.vcpu != Vcpu::Waiting => {}
            Some(primary) if primary.stopped => self.machine_after(at, AGAIN_US, MachineStep::Wake),
            Some(_) => self.end_wait(at),
            None => {}
        }
    }

    /// The guest's wait is over; it is given what has come when it goes on.
    pub(crate) fn end_wait(&mut self, at: At) {
        let Some(primary) = self.primary(at) else { return };
        primary.vcpu = Vcpu::Running;
        primary.wait_over = true;
        if !planted(PlantedBug::ForgetWake) {
            self.core_input(at, Input::Woke);
        }
        self.run_slice(at);
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

    pub(crate) fn vcpu_stopped(&mut self, at: At) {
        let Some(primary) = self.primary(at) else { return };
        if primary.vcpu == Vcpu::Ended {
            // It stopped for good in the meantime, and the core was told that.
            return;
        }
        if primary.is_amid() && !planted(PlantedBug::StopsAmidExit) {
            primary.stop_due = true;
            return;
        }
        let now = self.host_clock(at);
        let Some(primary) = self.primary(at) else { return };
        primary.stopped = true;
        primary.stopped_at = now;
        if planted(PlantedBug::DropPendingConsole) {
            primary.drop_console();
        }
        if primary.records() {
            self.settle_events(at);
            self.look_at_freed(at);
        }
        self.core_input(at, Input::Stopped);
        self.reached(Point::VcpuStopped);
    }
}
