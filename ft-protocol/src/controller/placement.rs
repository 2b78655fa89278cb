//! Placement: which host gets a role.

use super::{Controller, HostId, VmId};

impl Controller {
    /// The host for another role of `vm`: fit, with the memory, none of `except` (a VM's roles are on different hosts), and
    /// with the least to do; ties go to the lowest number, so that the choice is the same in every run.
    pub(super) fn place(&self, vm: VmId, except: &[HostId]) -> Option<HostId> {
        self.hosts
            .iter()
            .filter(|(id, host)| host.is_fit() && !host.draining && !except.contains(id))
            .filter(|(id, _)| self.has_room(**id, vm))
            .min_by_key(|(id, _)| (self.load(**id), **id))
            .map(|(id, _)| *id)
    }

    /// Any connected host that beats and has the memory, trusted or not: better than a VM that does not run.
    pub(super) fn place_at_need(&self, vm: VmId) -> Option<HostId> {
        self.hosts.iter().find(|(id, host)| host.is_beating() && self.has_room(**id, vm)).map(|(id, _)| *id)
    }

    /// Whether the host has the memory for the VM, beside what the roles that it holds may take: a standby's is reserved in
    /// full, since a takeover must not fail for want of it.
    pub(super) fn has_room(&self, host: HostId, vm: VmId) -> bool {
        let Some(memory_bytes) = self.hosts.get(&host).map(|host| host.memory_bytes) else { return false };
        let Some(wanted) = self.vms.get(&vm).map(|vm| vm.spec.memory_bytes) else { return false };
        let holds = |other: &&super::Vm| {
            other.id != vm
                && (other.primary() == Some(host) || other.standby.is_some_and(|standby| standby.host == host))
        };
        let reserved: u64 = self.vms.values().filter(holds).map(|vm| vm.spec.memory_bytes).sum();
        reserved.saturating_add(wanted) <= memory_bytes
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
