//! Failback: a VM that was driven from its place goes back there when that place is measurably better again.
//!
//! Off unless the VM's creator asks for it. It is a switchover like any other, begun only while nothing else happens in the
//! cluster, at most one at a time, and for each VM no more often than its hold time.

use super::vm::{Phase, Vm};
use super::{Controller, HostId, Turn, VmId};
use crate::planted::{PlantedBug, planted};
use crate::time::{Span, Time};

/// Points by which the old place must be better.
const POINTS_NEEDED: i32 = 2;

impl Controller {
    /// Begins one failback, if one is due.
    pub(super) fn fail_back(&mut self, turn: &mut Turn<'_>) {
        let wanted = |vm: &&Vm| vm.spec.policy.failback.is_some();
        if !self.vms.values().any(|vm| wanted(&vm)) || !self.is_quiet() {
            return;
        }
        let due = self.vms.values().filter(wanted).find_map(|vm| Some((vm.id, self.failback_of(vm, turn.now)?)));
        if let Some((vm, to)) = due {
            self.begin_switchover(turn, vm, to, None);
        }
    }

    /// Nothing is under way: every VM that can have one runs with a ready secondary, or has ended.
    fn is_quiet(&self) -> bool {
        self.vms.values().all(|vm| match vm.phase {
            Phase::Running { .. } => {
                let settled = vm.ready_standby().is_some() || vm.standby.is_none() && vm.unprotectable.is_some();
                settled && vm.switchover.is_none() && vm.suspected.is_none()
            }
            Phase::Ended { .. } | Phase::Damaged { .. } => true,
            _ => false,
        })
    }

    fn failback_of(&self, vm: &Vm, now: Time) -> Option<HostId> {
        let Phase::Running { host: from } = vm.phase else { return None };
        let hold = vm.spec.policy.failback?.hold;
        let home = self.home_of(vm).filter(|home| *home != from)?;
        let entry = self.hosts.get(&home)?;
        let healthy = entry.trusted_for(now).is_some_and(|trusted| trusted >= hold) && !entry.is_flapping(now);
        if (!healthy || entry.draining) && !planted(PlantedBug::FailbackBlind) {
            return None;
        }
        // A controller that has just begun does not know since when the VM is where it is: the time that it has watched
        // the old place counts.
        let settled = vm.settled_at.is_none_or(|since| now.since(since) >= hold);
        let kept_from = self.mismatch(home, vm.id).or_else(|| self.unmovable_because(vm.id, home));
        let able = self.has_room(home, vm.id) && kept_from.is_none();
        (settled && able && self.points(home, from, vm.id) >= POINTS_NEEDED).then_some(home)
    }

    /// The preferred host; without one, the host that it was driven from.
    fn home_of(&self, vm: &Vm) -> Option<HostId> {
        let named = vm.spec.policy.preferred.as_ref();
        let preferred = named.and_then(|name| self.hosts.iter().find(|(_, host)| host.name == *name));
        preferred.map(|(id, _)| *id).or(vm.home)
    }

    /// How much better the VM would be off: preferred (2 points), fewer guests beside it, a steadier heart, more free memory
    /// (1 point each; one less where it is worse).
    fn points(&self, home: HostId, from: HostId, vm: VmId) -> i32 {
        let named = self.vms.get(&vm).and_then(|vm| vm.spec.policy.preferred.as_deref());
        let preferred = named.is_some_and(|name| self.hosts.get(&home).is_some_and(|host| host.name == name));
        let sign = |better: bool, worse: bool| i32::from(better) - i32::from(worse);
        let (there, here) = (self.primaries(home), self.primaries(from).saturating_sub(1));
        let guests = sign(there < here, there > here);
        let jitter = |host: HostId| self.hosts.get(&host).and_then(super::Host::jitter);
        let clearly_less = |one: Span, other: Span| one.ns().saturating_mul(5) < other.ns().saturating_mul(4);
        let steadiness = jitter(home)
            .zip(jitter(from))
            .map_or(0, |(there, here)| sign(clearly_less(there, here), clearly_less(here, there)));
        let free = |host| self.free_bytes(host, vm).unwrap_or(0);
        let memory = sign(free(home) / 5 * 4 > free(from), free(from) / 5 * 4 > free(home));
        i32::from(preferred) * POINTS_NEEDED + guests + steadiness + memory
    }
}
