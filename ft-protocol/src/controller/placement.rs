//! Placement: which host gets a role.

use super::{Controller, HostId};

impl Controller {
    /// The fit host with the least to do that is none of `except`; ties go to the lowest number, so that the choice is the
    /// same in every run.
    pub(super) fn place(&self, except: &[HostId]) -> Option<HostId> {
        self.hosts
            .iter()
            .filter(|(id, host)| host.is_fit() && !except.contains(id))
            .min_by_key(|(id, _)| (self.load(**id), **id))
            .map(|(id, _)| *id)
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
