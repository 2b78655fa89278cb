//! Whom the steps of a scenario mean in the simulator.

use super::fault::Target as Whom;
use super::host::HostProcess;
use super::queue::Event;
use super::stage::{START_US, index_of_host};
use super::world::World;
use crate::cluster::{CONTROLLER, HostName};
use crate::language::{Act, CorruptWhat, Target};
use crate::runner::{Presence, anybody};
use ft_protocol::ids::VmId;
use std::ops::RangeFrom;

impl World {
    /// Whether there is somebody to whom the step can do all that it does.
    pub(super) fn has_targets(&mut self, index: usize) -> bool {
        let Some(stage) = &self.stage else { return false };
        let acts = stage.schedule.step(index).acts.clone();
        let waits = |act: &&Act| !matches!(act, Act::Start { .. });
        let struck: Vec<Target> = acts.iter().filter(waits).flat_map(Act::targets).cloned().collect();
        // Who was fenced, or is started again whenever it dies, is there in a moment.
        if struck.iter().any(|target| self.is_to_come(target, index)) {
            return false;
        }
        if !acts.iter().all(|act| self.has_what_it_corrupts(act)) {
            return false;
        }
        let named = |target: &&Target| !matches!(target, Target::Host(_) | Target::HitBy(_));
        let targets: Vec<Target> = acts.iter().flat_map(Act::targets).filter(named).cloned().collect();
        let mut draws = 0..;
        targets.iter().all(|target| !self.whom(target, index, &mut draws).is_empty())
    }

    /// Whether a flipped bit would be read: in a record that waits for its application, in the word of a generation that has committed.
    fn has_what_it_corrupts(&self, act: &Act) -> bool {
        let Act::Corrupt { what, vm, .. } = act else { return true };
        let vm = VmId::new(u16::try_from(*vm).unwrap_or(0));
        let Some(partition) = self.pool.partition(vm) else { return false };
        let Some(journal) = partition.journals.iter().rfind(|journal| !journal.reserved) else { return false };
        let unapplied = self.checker.unapplied(vm, journal.generation);
        unapplied.is_some_and(|(committed, applied)| *what == CorruptWhat::CommitWord || committed > applied)
    }

    /// A record was published: whoever is to corrupt one has not much time.
    pub(super) fn stage_published(&mut self) {
        let at = self.stage_time();
        let Some(stage) = &self.stage else { return };
        let corrupts =
            |index: &usize| stage.schedule.step(*index).acts.iter().any(|act| matches!(act, Act::Corrupt { .. }));
        if stage.schedule.due(at).iter().any(corrupts) {
            self.schedule(0, Event::Scene);
        }
    }

    /// Whether somebody whom a step means is dead, and about to live again. Of any that is known when it is drawn.
    fn is_to_come(&mut self, target: &Target, index: usize) -> bool {
        if *target == Target::Any {
            return false;
        }
        let whom = self.whom(target, index, &mut (0..));
        whom.into_iter().any(|who| matches!(who, Whom::Host(_)) && self.actor_mut(who).back_ns.is_some())
    }

    /// The host that has a role for a VM, as the controller sees it, if that lives.
    fn role_host(&self, vm: u16, primary: bool) -> Option<Whom> {
        let status = self.controller.core.status().vms.into_iter().find(|status| status.vm == VmId::new(vm))?;
        let name = if primary { status.primary } else { status.secondary }?;
        let host = index_of_host(&HostName::new(&name))?;
        // One that has just died still has its role until the controller knows.
        self.hosts.get(usize::from(host)).is_some_and(|host| host.actor.alive).then_some(Whom::Host(host))
    }

    /// Whom each act of a step means, everybody once.
    pub(super) fn targets_of(&mut self, index: usize, acts: &[Act], draws: &mut RangeFrom<usize>) -> Vec<Vec<Whom>> {
        let mut of_act = |act: &Act| {
            let mut targets: Vec<Whom> = Vec::new();
            for who in act.targets().iter().flat_map(|target| self.whom(target, index, draws)) {
                if !targets.contains(&who) {
                    targets.push(who);
                }
            }
            targets
        };
        acts.iter().map(&mut of_act).collect()
    }

    /// Whom a step means; what is left to chance depends on the seed and the step alone.
    fn whom(&mut self, target: &Target, index: usize, draws: &mut RangeFrom<usize>) -> Vec<Whom> {
        let number = |vm: usize| u16::try_from(vm).unwrap_or(0);
        let holds = |vm: usize, host: usize| {
            self.hosts[host].machines.iter().any(|machine| usize::from(machine.vm.get()) == vm)
        };
        let alive: Vec<usize> = (0..self.hosts.len()).filter(|host| self.hosts[*host].actor.alive).collect();
        let host = |host: usize| Whom::Host(u16::try_from(host).unwrap_or(0));
        match target {
            Target::Primary(vm) => self.role_host(number(*vm), true).into_iter().collect(),
            Target::Secondary(vm) => self.role_host(number(*vm), false).into_iter().collect(),
            Target::Spare(vm) => {
                alive.iter().find(|host| !holds(*vm, **host)).map(|found| host(*found)).into_iter().collect()
            }
            Target::Any => {
                let soon_ns = self.now_ns + START_US * 1_000;
                let presence = |process: &HostProcess| match process.actor.back_ns {
                    _ if process.actor.alive => Presence::Lives,
                    Some(back_ns) if back_ns <= soon_ns => Presence::ComesBack,
                    _ => Presence::Dead,
                };
                let presences: Vec<Presence> = self.hosts.iter().map(presence).collect();
                let Some(stage) = &mut self.stage else { return Vec::new() };
                let drawn = stage.schedule.draw(index, draws.next().unwrap_or_default(), presences.len());
                anybody(drawn, &presences).map(host).into_iter().collect()
            }
            Target::Host(name) if name.as_str() == CONTROLLER => vec![Whom::Controller],
            Target::Host(name) => index_of_host(name).map(Whom::Host).into_iter().collect(),
            Target::HitBy(step) => self.stage.as_ref().map_or_else(Vec::new, |stage| stage.hit[*step].clone()),
        }
    }
}
