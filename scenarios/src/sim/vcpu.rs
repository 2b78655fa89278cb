//! A primary's vCPU: runs the model guest for a while, waits, stops, ends.

use super::draw::Range;
use super::drive::{AGAIN_US, At};
use super::fault::Point;
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

    pub(crate) fn wake(&mut self, at: At) {
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

    pub(crate) fn vcpu_stopped(&mut self, at: At) {
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
}
