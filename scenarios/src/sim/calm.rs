//! Runs in which nothing fails, and what must be left when everything is over.

use super::violation::Violation;
use super::world::World;
use ft_protocol::controller::Action;
use ft_protocol::ids::{Generation, HostId, VmId};
use ft_protocol::wire::TakeoverReason;

impl World {
    /// Nothing fails in this run: at most, clients have VMs moved and hosts drained.
    fn is_calm(&self) -> bool {
        self.stage.is_none() && self.plan.is_calm()
    }

    /// A host is to be ended: not for a planned change.
    pub(crate) fn check_fence(&mut self, host: HostId) {
        if self.is_calm() {
            self.violate(Violation::Uncalled { what: format!("a fence agent is asked to end {host}") });
        }
    }

    /// A generation is ended: whoever had it and was not known to be dead, a fence agent is asked to end it. Not so at the end
    /// of a life, where the primary has yielded, and where a new controller goes on from what it has found.
    pub(crate) fn check_deposed(&mut self, vm: VmId, generation: Generation) {
        let controller = &self.controller;
        let Some(ruler) = self.checker.ruler(vm, generation) else { return };
        let Some(number) = self.hosts[ruler].number else { return };
        let excused = controller.actor.life > 1
            || controller.told_dead.contains(&number)
            || self.client.is_deleting(vm)
            || self.checker.vms[usize::from(vm.get())].has_yielded(generation);
        let asked = |action: &Action| matches!(action, Action::Fence { host, .. } if *host == number);
        if !excused && !controller.actions.iter().any(asked) {
            let host = u16::try_from(ruler).unwrap_or(0);
            self.violate(Violation::NotFenced { vm, generation, host });
        }
    }

    /// A primary is given up: not for a planned change.
    pub(crate) fn check_gone(&mut self, vm: VmId, reason: TakeoverReason) {
        if self.is_calm() {
            self.violate(Violation::Uncalled { what: format!("the primary of {vm} is given up: {reason}") });
        }
    }

    /// Takeovers of runs in which nothing fails.
    pub(crate) fn check_takeovers(&mut self) {
        let taken_over = self.controller.core.status().vms.into_iter().find(|status| status.takeovers > 0);
        if let Some(status) = taken_over.filter(|_| self.is_calm()) {
            let what = format!("{} was taken over {} times", status.vm, status.takeovers);
            self.violate(Violation::Uncalled { what });
        }
    }

    /// What is still to come when every VM's life is over: answers to the client, and the end of all roles.
    pub(crate) fn unsettled(&self) -> Option<Violation> {
        if let Some(id) = self.client.waiting.first() {
            return Some(Violation::Unanswered { id: *id });
        }
        // A host that waits for a thread that hangs may do so for ever.
        let mut hosts = self.hosts.iter().filter(|host| host.actor.alive && !host.joining);
        hosts.find_map(|host| {
            let vm = host.machines.first()?.vm;
            Some(Violation::RoleLeft { vm, host: host.index })
        })
    }
}
