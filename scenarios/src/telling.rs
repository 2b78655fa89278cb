//! Happenings as lines for people.

use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::fence::FenceOutcome;
use ft_protocol::timeline::Happening;
use ft_protocol::wire::Status;
use ft_protocol::{HostId, VmId};
use std::collections::BTreeMap;

/// What hosts and VMs are called.
#[derive(Clone, Debug, Default)]
pub struct Names {
    hosts: BTreeMap<HostId, String>,
    vms: BTreeMap<VmId, String>,
}

impl Names {
    /// Takes the names of all that is there.
    pub fn learn(&mut self, status: &Status) {
        for host in &status.hosts {
            self.hosts.entry(host.host).or_insert_with(|| host.name.clone());
        }
        for vm in &status.vms {
            self.vms.entry(vm.vm).or_insert_with(|| vm.name.clone());
        }
    }

    /// Those of VMs that will be made in this order: nobody may be told of their making.
    #[must_use]
    pub fn of_vms(names: &[String]) -> Self {
        let vms = (0..).map(VmId::new).zip(names.iter().cloned()).collect();
        Self { hosts: BTreeMap::new(), vms }
    }

    /// Takes the names that a happening brings.
    pub fn take(&mut self, happening: &Happening) {
        match happening {
            Happening::HostJoined { host, name } => _ = self.hosts.insert(*host, name.clone()),
            Happening::VmCreated { vm, name } | Happening::VmDeleted { vm, name } => {
                self.vms.insert(*vm, name.clone());
            }
            _ => {}
        }
    }

    /// The name of a host, or its number.
    #[must_use]
    pub fn host(&self, host: HostId) -> String {
        self.hosts.get(&host).cloned().unwrap_or_else(|| host.to_string())
    }

    /// The name of a VM, or its number.
    #[must_use]
    pub fn vm(&self, vm: VmId) -> String {
        self.vms.get(&vm).cloned().unwrap_or_else(|| vm.to_string())
    }

    /// A happening in one line.
    #[must_use]
    pub fn tell(&self, happening: &Happening) -> String {
        let about = |vm: &VmId, what: String| format!("vm {}: {what}", self.vm(*vm));
        let host = |host: &HostId| self.host(*host);
        match happening {
            Happening::HostJoined { name, .. } => format!("host {name} joined"),
            Happening::HostDown { name, .. } => format!("host {name} is down"),
            Happening::HostSilent { name, .. } => format!("host {name} is silent"),
            Happening::HostBeats { name, .. } => format!("host {name} beats again"),
            Happening::FenceTried { host: at, outcome } => {
                format!("host {}: fence agent: {}", host(at), describe_fencing(outcome))
            }
            Happening::PoolMended { what } => format!("the pool was damaged, and is mended: {what}"),
            Happening::VmCreated { vm, .. } => about(vm, "made".to_owned()),
            Happening::VmDeleted { vm, .. } => about(vm, "deleted".to_owned()),
            Happening::PrimaryGone { vm, generation, reason } => {
                about(vm, format!("the primary of generation {} is gone: {reason}", generation.get()))
            }
            Happening::TakeoverRefused { vm, host: by, refusal } => {
                about(vm, format!("host {} may not take over: {refusal}", host(by)))
            }
            Happening::Sealed { vm, generation, final_epoch } => about(
                vm,
                format!("generation {} is sealed, it ends with epoch {}", generation.get(), final_epoch.get()),
            ),
            Happening::Drained { vm, applied } => {
                about(vm, format!("everything up to epoch {} is applied", applied.get()))
            }
            Happening::Promoted { vm, generation, host: to } => {
                about(vm, format!("host {} is to be primary of generation {}", host(to), generation.get()))
            }
            Happening::Live { vm, generation, host: on, .. } => {
                about(vm, format!("runs on host {} as generation {}", host(on), generation.get()))
            }
            Happening::Protected { vm, host: by, .. } => about(vm, format!("protected, host {} stands by", host(by))),
            Happening::Unprotected { vm, host: by } => {
                about(vm, format!("NOT protected by host {} any more", host(by)))
            }
            Happening::SwitchoverBegan { vm, from, to } => {
                about(vm, format!("switchover from host {} to host {} begins", host(from), host(to)))
            }
            Happening::Yielded { vm, generation } => {
                about(vm, format!("the primary of generation {} has yielded", generation.get()))
            }
            Happening::SwitchedOver { vm, blackout, .. } => {
                about(vm, format!("the switchover is done, its guest stood still for {blackout}"))
            }
            Happening::SwitchoverCancelled { vm, reason } => about(vm, format!("switchover cancelled: {reason}")),
            Happening::Fenced { vm, generation, host: at } => {
                about(vm, format!("host {} found generation {} sealed", host(at), generation.get()))
            }
            Happening::GaveUp { vm, host: by, reason } => about(vm, format!("host {} gave it up: {reason}", host(by))),
            Happening::RecordRefused { vm, generation, epoch, reason } => about(
                vm,
                format!(
                    "the commit record of epoch {} of generation {} is refused: {reason}",
                    epoch.get(),
                    generation.get()
                ),
            ),
            Happening::LogRefused { vm, generation, reason } => {
                about(vm, format!("the record log of generation {} is refused: {reason}", generation.get()))
            }
            Happening::ModeChanged { vm, mode, .. } => about(vm, format!("protected in {mode} mode from now on")),
            Happening::Diverged { vm, host: on, report, .. } => {
                about(vm, format!("a replay on host {} diverged: {report}", host(on)))
            }
            Happening::LogLost { vm, report, .. } => about(vm, report.clone()),
            Happening::Damaged { vm, reason, .. } => about(vm, format!("its part of the pool is damaged: {reason}")),
            Happening::PoolFull { vm, shortage, .. } => about(vm, format!("stands still: {shortage}")),
            Happening::OutputsMeasured { vm, summary, .. } => about(vm, format!("its outputs waited {summary}")),
            Happening::SpaceAgain { vm, waited, .. } => {
                about(vm, format!("goes on after {waited}: the pool has space again"))
            }
            Happening::Following { vm, host: on, base, .. } => {
                about(vm, format!("host {} follows from epoch {} on and compares", host(on), base.get()))
            }
            Happening::FollowingEnded { vm, host: on, reason, status, .. } => {
                let (compared, adopted) = (status.compared, status.adopted);
                about(
                    vm,
                    format!(
                        "host {} follows no more: {reason} ({compared} epochs compared, {adopted} adopted)",
                        host(on)
                    ),
                )
            }
            Happening::Stranded { vm, recoverable } => {
                about(vm, format!("no host can run it; epoch {} waits in the pool", recoverable.get()))
            }
            Happening::Ended { vm, end: GuestEnd::Exited(code) } => about(vm, format!("exited with {code}")),
            Happening::Ended { vm, end: GuestEnd::Crashed(line) } => about(vm, format!("crashed: {line}")),
        }
    }
}

fn describe_fencing(outcome: &FenceOutcome) -> String {
    match outcome {
        FenceOutcome::NoAgent => "there is none, the seal alone fences".to_owned(),
        FenceOutcome::Verified => "the host is off".to_owned(),
        FenceOutcome::Failed(why) => format!("failed: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ft_protocol::{Epoch, Generation};

    #[test]
    fn hosts_and_vms_are_told_by_name_as_soon_as_it_is_known() {
        let mut names = Names::default();
        let (vm, host) = (VmId::new(3), HostId::new(1));
        let sealed = Happening::Sealed { vm, generation: Generation::new(2), final_epoch: Epoch::new(57) };
        assert_eq!(names.tell(&sealed), "vm vm3: generation 2 is sealed, it ends with epoch 57");
        names.take(&Happening::VmCreated { vm, name: "web".to_owned() });
        names.take(&Happening::HostJoined { host, name: "a".to_owned() });
        let protected = Happening::Protected { vm, generation: Generation::new(2), host };
        assert_eq!(names.tell(&protected), "vm web: protected, host a stands by");
    }
}
