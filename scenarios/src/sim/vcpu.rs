//! A primary's vCPU: runs the model guest for a while, waits, stops, ends.

use super::draw::Range;
use super::drive::{AGAIN_US, At};
use super::fault::Point;
use super::guest::Wants;
use super::machine::{Role, Vcpu};
use super::planted::{PlantedBug, planted};
use super::queue::MachineStep;
use super::world::World;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::primary::Input;

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
        let us = self.plan.weather.slice_us;
        self.machine_after(at, us, MachineStep::Slice);
    }

    pub(crate) fn slice(&mut self, at: At) {
        let weather = self.plan.weather;
        let steps = self.hosts[at.host].actor.between(weather.slice_steps);
        let Some(program) = self.program_of(at) else { return };
        let gate = if self.gate_open { u64::MAX } else { program.steps - GATE_STEPS };
        let Some(primary) = self.primary(at) else { return };
        primary.slicing = false;
        if primary.stopped || primary.vcpu != Vcpu::Running {
            return;
        }
        let before = primary.pending();
        let (mut wait_us, mut exit) = (0, None);
        let (mut unreachable, mut paused) = (false, false);
        for _ in 0..steps {
            let Some(primary) = self.primary(at) else { return };
            let step = primary.registers.step;
            if step >= gate {
                primary.vcpu = Vcpu::Gated;
            } else if !primary.records() && primary.console.len() as u64 >= weather.console_pending_max {
                primary.vcpu = Vcpu::Held;
            } else if primary.log.as_ref().is_some_and(|log| !log.has_room()) {
                paused = true;
            } else if primary.registers.spin < program.spins(step) && primary.given.is_none() {
                primary.registers.spin += 1;
                break;
            } else {
                let Some(given) = self.live_input(at, program.wants(step)) else { return };
                let Some(primary) = self.primary(at) else { return };
                match primary.step(&program, given) {
                    Ok(shown) => {
                        (wait_us, exit) = (shown.wait_us, shown.exit);
                        if !self.put_out(at, &shown) {
                            return;
                        }
                        let polls = program.wants(step) == Wants::Packets && exit.is_none();
                        if polls && self.deliver_packets(at).is_none() {
                            return;
                        }
                        if !self.mark_exit(at, wait_us > 0) {
                            return;
                        }
                    }
                    Err(_) => unreachable = true,
                }
            }
            let runs = self.primary(at).is_some_and(|primary| primary.vcpu == Vcpu::Running);
            if !runs || wait_us > 0 || exit.is_some() || unreachable || paused {
                break;
            }
        }
        let Some(primary) = self.primary(at) else { return };
        let pending = primary.pending();
        if let Some(code) = exit {
            return self.guest_ended(at, code);
        }
        if wait_us > 0 {
            primary.vcpu = Vcpu::Waiting;
            self.machine_after(at, Range::new(wait_us, wait_us), MachineStep::Wake);
        }
        if pending > before {
            self.core_input(at, Input::Output { console: pending, packets: 0 });
        }
        if paused {
            self.source_paused(at);
        }
        if unreachable || paused {
            let Some(primary) = self.primary(at) else { return };
            primary.slicing = true;
            self.machine_after(at, AGAIN_US, MachineStep::Slice);
        }
        self.run_slice(at);
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

    /// The guest's wait is over; it is given what has come.
    pub(crate) fn end_wait(&mut self, at: At) {
        let Some(primary) = self.primary(at) else { return };
        primary.vcpu = Vcpu::Running;
        if self.deliver_packets(at).is_none() {
            return;
        }
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
        if let Some(given) = primary.given.take() {
            // The exit at which it stands is finished first.
            let Some(program) = self.program_of(at) else { return };
            let Some(primary) = self.primary(at) else { return };
            match primary.step(&program, given) {
                Ok(shown) if self.put_out(at, &shown) && shown.exit.is_none() => {}
                Ok(shown) => {
                    if let Some(code) = shown.exit {
                        self.guest_ended(at, code);
                    }
                    return;
                }
                Err(_) => return self.machine_after(at, AGAIN_US, MachineStep::Stopped),
            }
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
