//! Admission: the capacity that the next failure will need.
//!
//! A VM with a ready secondary survives one failure. Whether it has a secondary again after that is a question of a third
//! host's memory: its spare. Spares are chosen beforehand and told by `status`. For a VM that is to have one
//! (`require_spare`) it is a condition: without it the VM is not made, and what is chosen is kept free of everybody
//! else's roles. Two VMs can share the room as long as no single host's failure would have both need it.

use super::placement::Role;
use super::vm::{Phase, Standby, Vm};
use super::{Controller, HostId, Turn, VmId};

impl Controller {
    /// Chooses spares anew where there is none, or where it would not do any more.
    pub(super) fn reserve_spares(&mut self, turn: &mut Turn<'_>) {
        let vms: Vec<VmId> = self.vms.keys().copied().collect();
        for vm in vms {
            let spare = self.spare_for(vm);
            if let Some(entry) = self.vms.get_mut(&vm) {
                let lost = std::mem::replace(&mut entry.spare, spare);
                let standby = entry.ready_standby();
                if spare.is_some() && standby.is_some() {
                    entry.intended.clear();
                }
                if let Some(host) = lost.or(standby).filter(|_| matches!(entry.phase, Phase::Running { .. })) {
                    self.tell_protection(turn, vm, host);
                }
            }
        }
    }

    fn spare_for(&self, vm: VmId) -> Option<HostId> {
        let entry = self.vms.get(&vm)?;
        let kept = entry.spare.filter(|host| !entry.has_role_on(*host) && self.can_take(*host, vm, Role::Spare));
        match (&entry.phase, entry.standby) {
            (Phase::Ended { .. } | Phase::Damaged { .. } | Phase::Deleting { .. }, _) => None,
            (Phase::Running { host: primary }, Some(Standby { host: standby, .. })) => {
                kept.or_else(|| self.place(vm, &[*primary, standby], Role::Spare))
            }
            // A takeover is under way: what was kept for it stays so.
            _ => kept,
        }
    }

    /// What is to stay free on a host, beside its roles and those of `vm`, for VMs that are to have a spare: enough for the
    /// worst failure of one other host.
    pub(super) fn kept_free(&self, host: HostId, vm: VmId) -> u64 {
        let counts = |other: &Vm| other.id != vm && other.spec.policy.require_spare;
        let failures = self.hosts.keys().filter(|failed| **failed != host);
        let worst = failures.map(|failed| self.needed_after(*failed, host, counts)).max().unwrap_or(0);
        worst.saturating_add(self.intended_bytes(host, vm))
    }

    /// Whether a host has room for the VM after the failure of any of its hosts, beside what others will need there then. Who
    /// is to have a spare comes before who is not.
    pub(super) fn has_room_as_spare(&self, host: HostId, vm: VmId) -> bool {
        let Some(entry) = self.vms.get(&vm) else { return false };
        let insists = entry.spec.policy.require_spare;
        let counts = |other: &Vm| other.id != vm && (other.spec.policy.require_spare || !insists);
        let failures = entry.role_hosts().map(|failed| self.needed_after(failed, host, counts));
        let worst = failures.max().unwrap_or_else(|| self.needed_after(host, host, counts));
        self.room_left(host, vm, worst.saturating_add(self.intended_bytes(host, vm)))
    }

    /// What VMs would need on their spare `host` after the failure of another: those that it hits, and those that have no
    /// secondary already.
    fn needed_after(&self, failed: HostId, host: HostId, counts: impl Fn(&Vm) -> bool) -> u64 {
        let needs = |vm: &&Vm| {
            let spare_here = vm.intended.is_empty() && vm.spare == Some(host) && !vm.has_role_on(host);
            spare_here && counts(vm) && (vm.has_role_on(failed) || vm.standby.is_none())
        };
        self.vms.values().filter(needs).fold(0, |sum, vm| sum.saturating_add(vm.spec.memory_bytes))
    }

    /// What other VMs that were admitted with a spare have not yet taken of it here.
    fn intended_bytes(&self, host: HostId, vm: VmId) -> u64 {
        let comes = |other: &&Vm| other.id != vm && other.intended.contains(&host) && !other.has_role_on(host);
        self.vms.values().filter(comes).fold(0, |sum, vm| sum.saturating_add(vm.spec.memory_bytes))
    }

    /// Whether a VM that is to have a spare can be made; then its places are kept free until it has taken them.
    pub(super) fn admit_with_spare(&mut self, vm: VmId) -> Result<(), String> {
        let place = |except: &[HostId], role| self.place(vm, except, role);
        let missing = |what: &str| format!("{what}; start another host, or make the VM without a spare");
        let primary = place(&[], Role::Primary).ok_or_else(|| missing("no host is fit to run it"))?;
        let standby = place(&[primary], Role::Secondary)
            .ok_or_else(|| missing("only one fit host has room for it, three are needed"))?;
        // It has no roles yet: as a spare it needs as much room as with one.
        let spare = place(&[primary, standby], Role::Secondary)
            .ok_or_else(|| missing("only two fit hosts have room for it, three are needed"))?;
        if let Some(entry) = self.vms.get_mut(&vm) {
            entry.intended = vec![primary, standby, spare];
        }
        Ok(())
    }

    /// What the next failure would cost; `None` when the VM would be protected again after it.
    pub(super) fn at_risk_because(&self, vm: VmId) -> Option<String> {
        let entry = self.vms.get(&vm)?;
        match (&entry.phase, entry.standby, entry.spare) {
            (Phase::Running { .. }, Some(_), None) => Some(
                "after the next failure no host could be secondary: start another, with the memory for it".to_owned(),
            ),
            _ => None,
        }
    }
}
