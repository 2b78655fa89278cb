//! The liveness phase: nothing fails any more, and everything must come right within its bounds.

use super::machine::{Role, Vcpu};
use super::queue::Event;
use super::violation::Violation;
use super::world::World;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::ids::VmId;
use shared_mem::control::ControlBlock;

/// Time between two looks.
const LOOK_US: u64 = 2_000;

/// Time that a guest may take to its end after it is protected again.
const ENDING_US: u64 = 20_000_000;

/// Fewer hosts than this cannot protect anything.
const HOSTS_MIN: usize = 2;

/// Deadlines of the liveness phase.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deadlines {
    protected_ns: u64,
    ended_ns: u64,
}

impl World {
    pub(crate) fn begin_watch(&mut self) {
        let protected_ns = self.now_ns + self.plan.weather.protection_bound_us() * 1_000;
        self.deadlines = Deadlines { protected_ns, ended_ns: protected_ns + ENDING_US * 1_000 };
        if self.hosts.len() < HOSTS_MIN {
            self.open_gates();
        }
        self.schedule_now(Event::Watch);
    }

    pub(crate) fn watch(&mut self) {
        self.schedule(LOOK_US * 1_000, Event::Watch);
        if !self.gate_open {
            self.request_drains_over();
            let unprotected = self.vms().find_map(|vm| Some((vm, self.unprotected(vm)?)));
            match unprotected {
                None => self.open_gates(),
                Some((vm, why)) if self.now_ns > self.deadlines.protected_ns => {
                    self.violate(Violation::Unprotected { vm, why });
                }
                Some(_) => {}
            }
        }
        let unfinished = self.vms().find(|vm| !self.client.vms[usize::from(vm.get())].is_complete());
        match unfinished {
            None => self.finish(),
            Some(vm) if self.now_ns > self.deadlines.ended_ns => {
                let why = self.describe(vm);
                self.violate(Violation::NotEnded { vm, why });
            }
            Some(_) => {}
        }
    }

    /// Why a VM is not protected, by a look at controller, hosts and pool; `None` when it is, or has ended (I6).
    fn unprotected(&self, vm: VmId) -> Option<String> {
        let status = self.controller.core.status().vms.into_iter().find(|status| status.vm == vm);
        let Some(status) = status.filter(|_| self.controller.actor.alive) else {
            return Some("the controller does not know it".to_owned());
        };
        if status.phase == "ended" {
            return None;
        }
        if let Some(why) = status.unprotected {
            return Some(why);
        }
        let control = ControlBlock::open(self.pool.partition(vm)?.control.through(&self.checker.auditor)).ok()?;
        let generation = control.generation().ok()?.get();
        let (mut runs, mut stands_by) = (0, 0);
        for host in self.hosts.iter().filter(|host| host.actor.alive) {
            let current =
                |machine: &&super::machine::Machine| machine.vm == vm && machine.generation.get() == generation;
            for machine in host.machines.iter().filter(current) {
                match &machine.role {
                    Role::Primary(primary) if primary.core.is_some() && primary.vcpu != Vcpu::Ended => runs += 1,
                    Role::Standby { made: true, .. } => stands_by += 1,
                    _ => {}
                }
            }
        }
        (runs != 1 || stands_by != 1)
            .then(|| format!("the controller says it is, but {runs} hosts run it and {stands_by} stand by"))
    }

    /// Everybody has ended: as in the true history?
    fn finish(&mut self) {
        for vm in self.vms() {
            let truth = &self.truths[usize::from(vm.get())];
            let reading = &self.client.vms[usize::from(vm.get())];
            let expected = GuestEnd::Exited(truth.exit);
            let shown = reading.position;
            match &reading.end {
                Some((end, _)) if *end == expected && shown == truth.console.len() as u64 => {}
                Some((end, _)) if *end == expected => self.violate(Violation::WrongConsole { vm, position: shown }),
                end => {
                    let (found, expected) = (format!("{end:?}"), truth.exit);
                    self.violate(Violation::WrongExit { vm, found, expected });
                }
            }
        }
        self.finished = true;
    }

    /// Where a VM is, in one line.
    fn describe(&self, vm: VmId) -> String {
        let reading = &self.client.vms[usize::from(vm.get())];
        let (shown, linked) = (reading.position, self.client.link.is_some());
        let printed = self.truths[usize::from(vm.get())].console.len();
        let status = self.controller.core.status().vms.into_iter().find(|status| status.vm == vm);
        let status = status.map_or_else(|| "unknown".to_owned(), |status| format!("{status:?}"));
        format!("{shown} of {printed} console bytes were read, the client is connected: {linked}, the VM is {status}")
    }
}
