//! The liveness phase: nothing fails any more, and everything must come right within its bounds.

use super::guest::Program;
use super::machine::{Role, Vcpu};
use super::queue::Event;
use super::truth::Truth;
use super::violation::Violation;
use super::world::World;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::ids::{HostId, VmId};
use ft_protocol::timeline::Happening;
use ft_protocol::wire::TakeoverReason;
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
    /// Since when every VM's life is over.
    over_ns: Option<u64>,
}

impl World {
    pub(crate) fn begin_watch(&mut self) {
        let protected_ns = self.now_ns + self.plan.weather.protection_bound_us() * 1_000;
        self.deadlines = Deadlines { protected_ns, ended_ns: protected_ns + ENDING_US * 1_000, over_ns: None };
        if self.hosts.len() < HOSTS_MIN {
            self.open_gates();
        }
        self.schedule_now(Event::Watch);
    }

    pub(crate) fn watch(&mut self) {
        self.schedule(LOOK_US * 1_000, Event::Watch);
        self.request_drains_over();
        if !self.gate_open {
            let unprotected = self.vms().find_map(|vm| Some((vm, self.unprotected(vm)?)));
            match unprotected {
                None => self.open_gates(),
                Some((vm, why)) if self.now_ns > self.deadlines.protected_ns => {
                    self.violate(Violation::Unprotected { vm, why });
                }
                Some(_) => {}
            }
        }
        let complete = |vm: &VmId| self.client.vms[usize::from(vm.get())].is_complete() || self.is_given_up(*vm);
        let unfinished = self.vms().find(|vm| !complete(vm));
        match unfinished {
            None => self.settle(),
            Some(vm) if self.now_ns > self.deadlines.ended_ns => {
                let why = self.describe(vm);
                self.violate(Violation::NotEnded { vm, why });
            }
            Some(_) => {}
        }
    }

    /// All lives are over; what follows from that may take its time.
    fn settle(&mut self) {
        let over_ns = *self.deadlines.over_ns.get_or_insert(self.now_ns);
        match self.unsettled() {
            None => self.finish(),
            Some(violation) if self.now_ns > over_ns + self.plan.weather.protection_bound_us() * 1_000 => {
                self.violate(violation);
            }
            Some(_) => {}
        }
    }

    /// Why a VM is not protected, by a look at controller, hosts and pool; `None` when it is, or has ended (I6).
    fn unprotected(&self, vm: VmId) -> Option<String> {
        let reading = &self.client.vms[usize::from(vm.get())];
        if reading.deleted {
            return None;
        }
        if self.client.is_deleting(vm) {
            return Some("it is being deleted".to_owned());
        }
        let status = self.controller.core.status().vms.into_iter().find(|status| status.vm == vm);
        let Some(status) = status.filter(|_| self.controller.actor.alive) else {
            return (!self.is_kept_out(vm)).then(|| "the controller does not know it".to_owned());
        };
        if status.phase == "ended" {
            return None;
        }
        if let Some(to) = status.moving_to {
            return Some(format!("it is still being moved to {to}"));
        }
        if let Some(why) = status.unprotected {
            let excused = self.cannot_be_protected(vm) || self.cannot_be_led(vm, &status.phase);
            return (!excused).then_some(why);
        }
        let control = ControlBlock::open(self.pool.partition(vm)?.control.through(&self.checker.auditor)).ok()?;
        let generation = control.generation().ok()?.get();
        let (mut runs, mut stands_by) = (0, 0);
        let mut places = Vec::new();
        for host in self.hosts.iter().filter(|host| host.actor.alive) {
            let current =
                |machine: &&super::machine::Machine| machine.vm == vm && machine.generation.get() == generation;
            for machine in host.machines.iter().filter(current) {
                match &machine.role {
                    Role::Primary(primary)
                        if primary.core.is_some() && primary.vcpu != Vcpu::Ended && !primary.hung =>
                    {
                        runs += 1;
                        places.insert(0, host.index);
                    }
                    Role::Standby { made: true, .. } => {
                        stands_by += 1;
                        places.push(host.index);
                    }
                    _ => {}
                }
            }
        }
        if runs != 1 || stands_by != 1 {
            return Some(format!("the controller says it is, but {runs} hosts run it and {stands_by} stand by"));
        }
        self.shares_a_domain(vm, &places).then(|| "both of its hosts are in one failure domain, needlessly".to_owned())
    }

    /// The two hosts of a VM could fail together, while another one is there that would not fail with the primary's.
    fn shares_a_domain(&self, vm: VmId, places: &[u16]) -> bool {
        let &[primary, standby] = places else { return false };
        let rack = |host: u16| self.plan.weather.rack_of(host);
        let elsewhere = |host: &super::host::HostProcess| {
            host.actor.alive && !host.joining && rack(host.index) != rack(primary) && self.is_able(host, primary, vm)
        };
        rack(primary).is_some() && rack(primary) == rack(standby) && self.hosts.iter().any(elsewhere)
    }

    /// No other host, or too few, can read what the primary writes: until they are upgraded, there is no protection.
    fn cannot_be_protected(&self, vm: VmId) -> bool {
        // A host whose thread hangs may still hold the machine of an earlier generation.
        let reign = |host: &&super::host::HostProcess| {
            let leads =
                host.machines.iter().filter(|machine| machine.vm == vm && matches!(machine.role, Role::Primary(_)));
            leads.map(|machine| machine.generation).max()
        };
        let Some(primary) = self.hosts.iter().filter(|host| reign(host).is_some()).max_by_key(reign) else {
            return false;
        };
        let able = self.hosts.iter().filter(|host| host.index != primary.index && !host.joining);
        able.filter(|host| self.is_able(host, primary.index, vm)).count() < 1 + usize::from(self.spare_is_required())
    }

    /// Whether a host could go on with what this primary's guest leaves, and has room for it.
    fn is_able(&self, host: &super::host::HostProcess, primary: u16, vm: VmId) -> bool {
        let leader = &self.hosts[usize::from(primary)];
        let mut shown = leader.machines.iter().filter_map(|machine| match &machine.role {
            Role::Primary(primary) if machine.vm == vm => Some(&primary.order.cpu),
            _ => None,
        });
        let rich = shown.next_back().is_some_and(super::host::needs_rich);
        host.version >= leader.version && (!rich || self.plan.weather.is_rich(host.index)) && self.has_room(host, vm)
    }

    /// Who is accused must have had something wrong with it; who is moved back must go to a place that has proved itself.
    pub(crate) fn check_told(&mut self, happening: &Happening) {
        let may_be_silent =
            |host: usize| self.hosts[host].actor.disturbed || self.is_held(super::inject::host_target(host));
        let disturbed = |host: Option<usize>| host.is_none_or(may_be_silent);
        match happening {
            Happening::PrimaryGone { vm, generation, reason } => {
                let watchers = self.controller.actor.disturbed;
                let fair = match reason {
                    TakeoverReason::CommitStalled(_) => {
                        let ruler = self.checker.ruler(*vm, *generation);
                        watchers || disturbed(ruler) || self.may_have_yielded_unheard(*vm, ruler)
                    }
                    TakeoverReason::HeartbeatSilent(_) => watchers || (0..self.hosts.len()).any(may_be_silent),
                    _ => true,
                };
                let (vm, generation, reason) = (*vm, *generation, *reason);
                if !fair {
                    self.violate(Violation::FalseAccusation { vm, generation, reason });
                }
                self.check_gone(vm, reason);
            }
            Happening::Yielded { vm, generation } => self.checker.facts(*vm).yielded = *generation,
            Happening::SwitchoverBegan { vm, to, .. } => self.check_failback(*vm, *to),
            Happening::Diverged { vm, report, .. } if !self.checker.facts(*vm).is_damaged() => {
                let (vm, report) = (*vm, report.clone());
                self.violate(Violation::Diverged { vm, report });
            }
            _ => {}
        }
    }

    /// The VM was on its way to another host, and what its primary says of that was held up: a primary that has yielded
    /// commits nothing more.
    fn may_have_yielded_unheard(&self, vm: VmId, ruler: Option<usize>) -> bool {
        let moves =
            self.controller.core.status().vms.iter().any(|status| status.vm == vm && status.moving_to.is_some());
        moves && ruler.is_none_or(|host| self.hosts[host].actor.held_up)
    }

    /// In runs in which nobody asks for a switchover, each one is a failback.
    fn check_failback(&mut self, vm: VmId, to: HostId) {
        use super::fault::Fault::{Drain, Switchover};
        let asked = |event: &super::fault::FaultEvent| matches!(event.fault, Switchover { .. } | Drain { .. });
        let clocks = |event: &super::fault::FaultEvent| matches!(event.fault, super::fault::Fault::JumpClock { .. });
        let Some(host) = self.host_index(to) else { return };
        if self.stage_moves() || self.plan.faults.iter().any(|event| asked(event) || clocks(event)) {
            return;
        }
        let hold_ns = self.plan.weather.failback_us * 1_000;
        let actor = &self.hosts[host].actor;
        // Of a death the controller may not have heard yet, even if the next life has begun: the dead one's link can stall.
        let news_ns = 3_000 * self.plan.weather.heartbeat_us * self.plan.weather.heartbeats_missing;
        let unheard = actor.life > 1 && self.now_ns <= actor.died_ns + news_ns;
        let there = actor.alive || unheard;
        let known_since_ns = if actor.alive && unheard { actor.risen_before_ns } else { actor.risen_ns };
        let rested = there && self.now_ns >= known_since_ns + hold_ns;
        let facts = self.checker.facts(vm);
        let often = facts.failed_back_ns.is_some_and(|at_ns| self.now_ns < at_ns + hold_ns);
        // A controller that dies forgets when it moved a VM last, and begins again what was begun.
        if !self.controller.actor.disturbed {
            facts.failed_back_ns = Some(self.now_ns);
        }
        let why = match (rested, often) {
            (true, false) => return,
            (false, _) => "its old place has not been there for the hold time",
            (_, true) => "it was moved back a short time ago",
        };
        let to = u16::try_from(host).unwrap_or(0);
        self.violate(Violation::HastyFailback { vm, to, why: why.to_owned() });
    }

    /// A VM's part of the pool goes.
    pub(crate) fn bury_vm(&mut self, vm: VmId) {
        let truth = &mut self.truths[usize::from(vm.get())];
        let over = truth.program;
        let key = super::draw::mix(over.key, 1);
        *truth = Truth::of(Program { key, ..over });
        self.checker.bury(vm, over, truth.program);
    }

    /// Everybody has ended: as in the true history?
    fn finish(&mut self) {
        self.check_takeovers();
        for vm in self.vms() {
            let truth = &self.truths[usize::from(vm.get())];
            let reading = &self.client.vms[usize::from(vm.get())];
            if reading.deleted || self.is_given_up(vm) {
                continue;
            }
            let expected = GuestEnd::Exited(truth.exit.unwrap_or(0));
            let shown = reading.position;
            match &reading.end {
                Some((end, _)) if *end == expected && shown == truth.console.len() as u64 => {}
                Some((end, _)) if *end == expected => self.violate(Violation::WrongConsole { vm, position: shown }),
                end => {
                    let (found, expected) = (format!("{end:?}"), truth.exit.unwrap_or(0));
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
