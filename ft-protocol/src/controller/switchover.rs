//! Planned changes: switchover of a VM, drain of a host.

use super::clients::answer;
use super::hosts::Health;
use super::placement::Role;
use super::vm::{Phase, Switchover, SwitchoverStep};
use super::{Controller, Generation, HostId, LinkId, Turn, VmId};
use crate::Span;
use crate::planted::{PlantedBug, planted};
use crate::timeline::Happening;
use crate::wire::{Answer, RequestError, ToHost};

impl Controller {
    /// A client wants a VM moved.
    pub(super) fn switchover(&mut self, turn: &mut Turn<'_>, link: LinkId, id: u64, vm: VmId, to: Option<&str>) {
        match self.switchover_target(vm, to) {
            Ok(target) => self.begin_switchover(turn, vm, target, Some((link, id))),
            Err(error) => answer(turn, link, id, Err(error), Vec::new()),
        }
    }

    fn switchover_target(&self, vm: VmId, to: Option<&str>) -> Result<HostId, RequestError> {
        let not_now = |why: String| Err(RequestError::NotNow(why));
        let entry = self.vms.get(&vm).ok_or(RequestError::UnknownVm(vm))?;
        let Phase::Running { host: primary } = entry.phase else {
            return not_now(format!("the VM is {}: try again when it runs", entry.phase_word()));
        };
        if entry.switchover.is_some() || entry.suspected.is_some() {
            return not_now("the VM is already being moved".to_owned());
        }
        if entry.console_full {
            return not_now(
                "its console is full, and it cannot commit what it prints: read it (`ftvm console`)".to_owned(),
            );
        }
        let standby = entry.standby.map(|standby| standby.host);
        let target = match to {
            None => standby
                .or_else(|| self.place(vm, &[primary], Role::Primary))
                .ok_or_else(|| RequestError::NotNow("no other host is fit: start one".to_owned()))?,
            Some(name) => {
                let found = self.hosts.iter().find(|(_, host)| host.name == name);
                found.map(|(id, _)| *id).ok_or_else(|| RequestError::UnknownHost(name.to_owned()))?
            }
        };
        if target == primary {
            return not_now(format!("the VM runs on host `{}` already", self.host_name(primary)));
        }
        let fit = self.hosts.get(&target).is_some_and(|host| host.is_fit() && !host.draining);
        if !fit || !self.has_room(target, vm) {
            return not_now(format!("host `{}` is not fit for the VM", self.host_name(target)));
        }
        if let Some(why) = self.mismatch(target, vm).or_else(|| self.unmovable_because(vm, target)) {
            return not_now(why);
        }
        Ok(target)
    }

    /// Why the VM cannot go to a host before what is gone of it is back: that host would have to stand by first.
    pub(super) fn unmovable_because(&self, vm: VmId, to: HostId) -> Option<String> {
        let entry = self.vms.get(&vm)?;
        entry.unprotectable_because().filter(|_| entry.ready_standby() != Some(to))
    }

    pub(super) fn begin_switchover(
        &mut self,
        turn: &mut Turn<'_>,
        vm: VmId,
        to: HostId,
        client: Option<(LinkId, u64)>,
    ) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let Phase::Running { host: from } = entry.phase else { return };
        assert!(entry.switchover.is_none() && from != to, "one switchover at a time, and to another host");
        // Who moves it by hand makes the new place its home; who is drained, or driven off, may see it come back.
        entry.home = if client.is_some() || entry.home == Some(to) {
            None
        } else {
            entry.home.or(entry.spec.policy.failback.map(|_| from))
        };
        entry.switchover = Some(Switchover { to, step: SwitchoverStep::Preparing, client, stood_since: None });
        let elsewhere = entry.standby.is_some_and(|standby| standby.host != to);
        self.persist(turn);
        self.tell(turn, Happening::SwitchoverBegan { vm, from, to });
        if elsewhere {
            self.drop_standby(turn, vm);
        }
        if self.vms[&vm].standby.is_none() {
            self.order_standby(turn, vm, from, to);
        }
        self.switch_if_prepared(turn, vm);
    }

    /// Asks the primary to yield as soon as the target's standby is ready and the primary can be asked.
    pub(super) fn switch_if_prepared(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let Phase::Running { host: primary } = entry.phase else { return };
        if self.hosts.get(&primary).is_none_or(|host| host.link.is_none()) {
            return;
        }
        let ready = entry.ready_standby();
        let generation = entry.generation;
        let Some(switchover) = &mut entry.switchover else { return };
        if switchover.step == SwitchoverStep::Preparing && ready == Some(switchover.to) {
            switchover.step = SwitchoverStep::Yielding { asked_at: turn.now, since: turn.now };
            self.to_host(turn, primary, ToHost::Yield { vm, generation }, Vec::new());
        }
    }

    /// The primary is there again, and may not have heard that it is to yield.
    pub(super) fn ask_again_to_yield(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        if let Some(switchover) = self.vms.get_mut(&vm).and_then(|entry| entry.switchover.as_mut())
            && matches!(switchover.step, SwitchoverStep::Yielding { .. })
        {
            switchover.step = SwitchoverStep::Preparing;
            switchover.stood_since = None;
        }
        self.switch_if_prepared(turn, vm);
    }

    /// Goes on with the switchovers that an earlier controller had begun and whose target does not make its standby: with a
    /// fit target the preparation begins again, one that is still awaited is waited for, without one the guest stays.
    pub(super) fn resume_switchovers(&mut self, turn: &mut Turn<'_>) {
        if planted(PlantedBug::SwitchoverForgotten) {
            return;
        }
        let idle = |vm: &super::Vm| {
            let Phase::Running { host: from } = vm.phase else { return None };
            let to = vm.switchover.filter(|switchover| switchover.step == SwitchoverStep::Preparing)?.to;
            let elsewhere = vm.standby.is_none_or(|standby| standby.host != to);
            (elsewhere && vm.suspected.is_none()).then_some((vm.id, from, to))
        };
        let idle: Vec<(VmId, HostId, HostId)> = self.vms.values().filter_map(idle).collect();
        for (vm, from, to) in idle {
            let awaited = self.hosts.get(&to).is_some_and(|host| host.health == Health::Awaited);
            if self.can_take(to, vm, Role::Primary) && self.unmovable_because(vm, to).is_none() {
                self.drop_standby(turn, vm);
                self.order_standby(turn, vm, from, to);
            } else if !awaited {
                self.switchover_target_lost(turn, vm, to);
            }
        }
    }

    /// The primary is about to say that it yields: its guest has stood still for so long, which is since it was asked to at most,
    /// whatever a host says.
    pub(super) fn stood(&mut self, turn: &Turn<'_>, vm: VmId, generation: Generation, host: HostId, stood: Span) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let reigns = entry.generation == generation && entry.primary() == Some(host);
        let asked = entry.switchover.as_mut().filter(|_| reigns);
        if let Some(Switchover { step: SwitchoverStep::Yielding { asked_at, .. }, stood_since, .. }) = asked {
            *stood_since = Some((turn.now - stood).max(*asked_at));
        }
    }

    /// The primary has committed everything and stopped.
    pub(super) fn yielded(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation, host: HostId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        if entry.generation != generation || entry.primary() != Some(host) {
            return;
        }
        // Without a switchover here, the one that it answers was cancelled; the guest does not run any more all the same.
        let to = entry.switchover.as_mut().map(|switchover| {
            switchover.step = SwitchoverStep::Yielded;
            switchover.to
        });
        self.tell(turn, Happening::Yielded { vm, generation });
        self.begin_takeover(turn, vm, to);
    }

    /// A primary that does not yield in time is sealed like any other: it hangs. Not so one that gets on, or that waits for
    /// what is not its own doing: it would be ended for nothing, with all other VMs of its host. And not so the one that is
    /// being promoted after it, which was never asked.
    pub(super) fn overdue_yields(&mut self, turn: &mut Turn<'_>) {
        let bound = self.config.ask_bound;
        let mut overdue = Vec::new();
        for vm in self.vms.values_mut().filter(|vm| matches!(vm.phase, Phase::Running { .. })) {
            let excused = vm.is_held_up() || vm.gets_on(bound);
            let Some(Switchover { to, step: SwitchoverStep::Yielding { since, .. }, .. }) = &mut vm.switchover else {
                continue;
            };
            if excused {
                *since = turn.now;
            } else if turn.now.since(*since) > bound {
                overdue.push((vm.id, *to));
            }
        }
        for (vm, to) in overdue {
            self.begin_takeover(turn, vm, Some(to));
        }
    }

    /// The requests to move a VM or to change its mode that are still open, answered: nothing comes of them any more.
    pub(super) fn requests_over(&mut self, turn: &mut Turn<'_>, vm: VmId, why: &str) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let moved = entry.switchover.take().and_then(|switchover| switchover.client);
        let turned = std::mem::take(&mut entry.mode_waiters).into_iter().map(|waiter| (waiter.link, waiter.id));
        for (link, id) in turned.chain(moved).filter(|_| !planted(PlantedBug::WaitersForgotten)) {
            answer(turn, link, id, Err(RequestError::NotNow(why.to_owned())), Vec::new());
        }
    }

    /// The target has gone before the primary was asked: the guest runs on where it is.
    pub(super) fn switchover_target_lost(&mut self, turn: &mut Turn<'_>, vm: VmId, host: HostId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let lost = |switchover: &Switchover| switchover.to == host && switchover.step == SwitchoverStep::Preparing;
        let Some(switchover) = entry.switchover.take_if(|switchover| lost(switchover)) else { return };
        let reason = format!("host `{}` is not fit any more", self.host_name(host));
        self.persist(turn);
        self.tell(turn, Happening::SwitchoverCancelled { vm, reason: reason.clone() });
        if let Some((link, id)) = switchover.client {
            answer(turn, link, id, Err(RequestError::NotNow(reason)), Vec::new());
        }
    }

    /// A generation has begun: whatever was planned is done, or was overtaken by a failure.
    pub(super) fn switchover_over(&mut self, turn: &mut Turn<'_>, vm: VmId, host: HostId) {
        let Some(switchover) = self.vms.get_mut(&vm).and_then(|entry| entry.switchover.take()) else { return };
        self.persist(turn);
        if let Some((link, id)) = switchover.client {
            let result = if switchover.to == host {
                Ok(Answer::Done)
            } else {
                Err(RequestError::NotNow(format!("the VM runs on host `{}` instead", self.host_name(host))))
            };
            answer(turn, link, id, result, Vec::new());
        }
    }

    /// A client wants a host emptied, or to have roles again.
    pub(super) fn drain(&mut self, turn: &mut Turn<'_>, link: LinkId, id: u64, name: &str, on: bool) {
        let Some(host) = self.hosts.values_mut().find(|host| host.name == name) else {
            answer(turn, link, id, Err(RequestError::UnknownHost(name.to_owned())), Vec::new());
            return;
        };
        host.draining = on;
        self.persist(turn);
        answer(turn, link, id, Ok(Answer::Done), Vec::new());
        self.drain_hosts(turn);
        self.protect_all(turn);
    }

    /// Moves roles off draining hosts, wherever another host can have them.
    pub(super) fn drain_hosts(&mut self, turn: &mut Turn<'_>) {
        let draining: Vec<HostId> = self.hosts.iter().filter(|(_, host)| host.draining).map(|(id, _)| *id).collect();
        for host in draining {
            let vms: Vec<VmId> = self.vms.keys().copied().collect();
            for vm in vms {
                let entry = &self.vms[&vm];
                let Phase::Running { host: primary } = entry.phase else { continue };
                let standby = entry.standby.map(|standby| standby.host);
                if primary == host && entry.switchover.is_none() && entry.suspected.is_none() {
                    let ready = entry.ready_standby().filter(|to| !self.hosts[to].draining);
                    let to = ready.or_else(|| self.place(vm, &[host], Role::Primary));
                    if let Some(to) = to.filter(|to| self.unmovable_because(vm, *to).is_none()) {
                        self.begin_switchover(turn, vm, to, None);
                    }
                } else if standby == Some(host)
                    && entry.unprotectable.is_none()
                    && self.place(vm, &[primary, host], Role::Secondary).is_some()
                {
                    self.drop_standby(turn, vm);
                }
            }
        }
    }
}
