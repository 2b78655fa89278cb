//! Placement: which host gets a role.

use super::vm::Phase;
use super::{Controller, HostId, VmId};
use crate::ids::Epoch;
use crate::wire::HostProfile;

impl Controller {
    /// The host for another role of `vm`: fit, with the memory, none of `except` (a VM's roles are on different hosts), and
    /// with the least to do; ties go to the lowest number, so that the choice is the same in every run.
    pub(super) fn place(&self, vm: VmId, except: &[HostId]) -> Option<HostId> {
        self.hosts
            .iter()
            .filter(|(id, host)| host.is_fit() && !host.draining && !except.contains(id))
            .filter(|(id, _)| self.has_room(**id, vm) && self.mismatch(**id, vm).is_none())
            .min_by_key(|(id, _)| (self.load(**id), **id))
            .map(|(id, _)| *id)
    }

    /// Any connected host that beats and has the memory, trusted or not: better than a VM that does not run.
    pub(super) fn place_at_need(&self, vm: VmId) -> Option<HostId> {
        self.hosts
            .iter()
            .find(|(id, host)| host.is_beating() && self.has_room(**id, vm) && self.mismatch(**id, vm).is_none())
            .map(|(id, _)| *id)
    }

    /// Whether the host has the memory for the VM, beside what the roles that it holds may take: a standby's is reserved in
    /// full, since a takeover must not fail for want of it.
    pub(super) fn has_room(&self, host: HostId, vm: VmId) -> bool {
        let profile = self.hosts.get(&host).and_then(|host| host.profile.as_ref());
        let Some(memory_bytes) = profile.map(|profile| profile.memory_bytes) else { return false };
        let Some(wanted) = self.vms.get(&vm).map(|vm| vm.spec.memory_bytes) else { return false };
        let holds = |other: &&super::Vm| {
            other.id != vm
                && (other.primary() == Some(host) || other.standby.is_some_and(|standby| standby.host == host))
        };
        let reserved: u64 = self.vms.values().filter(holds).map(|vm| vm.spec.memory_bytes).sum();
        reserved.saturating_add(wanted) <= memory_bytes
    }

    /// Why a host could not go on with what the pool holds of the VM; `None`: it could.
    pub(super) fn mismatch(&self, host: HostId, vm: VmId) -> Option<String> {
        let entry = self.vms.get(&vm)?;
        let profile = self.hosts.get(&host)?.profile.as_ref()?;
        if entry.applied == Epoch::ZERO && entry.phase == Phase::Unled {
            return None;
        }
        if let Some(version) = entry.state_version.filter(|version| !profile.states.reads(*version)) {
            let states = profile.states;
            return Some(format!(
                "host `{}` reads machine states of version {} to {}, this one's is {version}: use a newer ftvm there",
                profile.name, states.reads_from, states.writes
            ));
        }
        profile.cpu.can_run(&entry.cpu).err().map(|mismatch| format!("host `{}`: {mismatch}", profile.name))
    }

    /// Why no host can be secondary, in one line.
    pub(super) fn unfit_because(&self, vm: VmId, primary: HostId) -> String {
        let others = || self.hosts.iter().filter(|(id, host)| **id != primary && host.is_fit() && !host.draining);
        if let Some(mismatch) = others().find_map(|(id, _)| self.mismatch(*id, vm)) {
            return mismatch;
        }
        if others().next().is_some() {
            return "no other host has the memory for it: start one that has".to_owned();
        }
        "no other host is fit to be secondary: start one".to_owned()
    }

    /// What the connected hosts have said of themselves.
    pub(super) fn profiles(&self) -> impl Iterator<Item = &HostProfile> {
        self.hosts.values().filter(|host| host.link.is_some()).filter_map(|host| host.profile.as_ref())
    }

    /// Roles that a host holds; running a guest weighs more than standing by.
    fn load(&self, host: HostId) -> usize {
        self.vms
            .values()
            .map(|vm| {
                let runs = usize::from(vm.primary() == Some(host)) * 4;
                let stands_by = usize::from(vm.standby.is_some_and(|standby| standby.host == host));
                runs + stands_by
            })
            .sum()
    }
}
