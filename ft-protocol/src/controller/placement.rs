//! Placement: which host gets a role.

use super::vm::Phase;
use super::{Controller, HostId, VmId};
use crate::ids::Epoch;
use crate::planted::{PlantedBug, planted};
use crate::policy::shared_domains;
use crate::spec::Mode;
use crate::wire::{FOLLOW_SINCE, HostProfile};

/// What a host is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Primary,
    Secondary,
    /// To become secondary after the next failure.
    Spare,
}

/// What speaks against a host, the gravest first; the number makes the choice the same in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Merit {
    /// Failure domains that it shares with the VM's other hosts.
    pub(super) domains: usize,
    /// VMs that should be kept apart from this one and are, or may come to be, there.
    pub(super) rivals: usize,
    /// It cannot follow, where the VM is protected in lockstep mode.
    cannot_follow: bool,
    /// It is not the one that the VM's creator prefers.
    pub(super) second_choice: bool,
    /// What it has to do already.
    pub(super) load: usize,
    host: HostId,
}

impl Controller {
    /// The host for another role of `vm`: fit, with the memory, none of `except` (a VM's roles are on different hosts), and
    /// the one that least speaks against.
    pub(super) fn place(&self, vm: VmId, except: &[HostId], role: Role) -> Option<HostId> {
        let able = |id: &HostId| !except.contains(id) && self.can_take(*id, vm, role);
        self.hosts
            .keys()
            .filter(|id| able(id))
            .map(|id| self.merit(*id, vm, except, role))
            .min()
            .map(|merit| merit.host)
    }

    /// Whether a host could have a role of `vm`, whoever else has one.
    pub(super) fn can_take(&self, host: HostId, vm: VmId, role: Role) -> bool {
        self.hosts.get(&host).is_some_and(|entry| entry.is_fit() && !entry.draining)
            && match role {
                Role::Spare => self.has_room_as_spare(host, vm),
                Role::Primary | Role::Secondary => self.has_room(host, vm),
            }
            && self.mismatch(host, vm).is_none()
    }

    /// What speaks against a host for a role beside `partners`.
    pub(super) fn merit(&self, host: HostId, vm: VmId, partners: &[HostId], role: Role) -> Merit {
        let preferred = self.vms.get(&vm).and_then(|vm| vm.spec.policy.preferred.as_deref());
        let name = self.hosts.get(&host).map(|host| host.name.as_str());
        Merit {
            domains: partners.iter().map(|partner| self.domains_of_both(host, *partner)).sum(),
            rivals: self.rivals(host, vm, role),
            cannot_follow: role != Role::Primary && self.cannot_follow(host, vm),
            second_choice: role == Role::Primary && preferred.is_some() && preferred != name,
            load: self.load(host),
            host,
        }
    }

    fn cannot_follow(&self, host: HostId, vm: VmId) -> bool {
        let spoken = self.hosts.get(&host).and_then(|host| host.protocol);
        self.vms.get(&vm).is_some_and(|vm| vm.spec.mode == Mode::Lockstep) && spoken < Some(FOLLOW_SINCE)
    }

    /// Failure domains that would take both hosts down.
    pub(super) fn domains_of_both(&self, one: HostId, other: HostId) -> usize {
        let labels =
            |host| self.hosts.get(&host).and_then(|host| host.profile.as_ref()).map(|profile| &profile.labels[..]);
        if one == other || planted(PlantedBug::DomainsIgnored) {
            return 0;
        }
        shared_domains(labels(one).unwrap_or_default(), labels(other).unwrap_or_default())
    }

    /// VMs that should not run where this one does and have their primary there; for a secondary, which may become one,
    /// those that stand by there count as well.
    fn rivals(&self, host: HostId, vm: VmId, role: Role) -> usize {
        let Some(entry) = self.vms.get(&vm) else { return 0 };
        let there = |other: &&super::Vm| {
            let stands_by = other.standby.is_some_and(|standby| standby.host == host);
            other.primary() == Some(host) || role != Role::Primary && stands_by
        };
        let apart = |other: &&super::Vm| other.id != vm && entry.spec.policy.keeps_apart_from(&other.spec.policy);
        self.vms.values().filter(apart).filter(there).count()
    }

    /// A host that would have the memory for a VM that runs nowhere if secondaries of others made room, as few as possible:
    /// better two VMs that run than one that is protected. They make room when the generation is opened
    /// ([`yielding`](Self::yielding)): as long as the pool has no space for it, nobody would be the better for it.
    pub(super) fn place_at_cost(&self, vm: VmId) -> Option<HostId> {
        let cost = |(&id, host): (&HostId, &super::Host)| {
            if !host.is_beating() || self.refuses(id, vm) || self.mismatch(id, vm).is_some() {
                return None;
            }
            Some((self.yielding(id, vm)?.len(), id))
        };
        self.hosts.iter().filter_map(cost).min().map(|(_, id)| id)
    }

    /// The VMs whose secondaries have to make room on a host for a VM that is to run there; `None`: that would not be
    /// enough. Whoever may be needed for a takeover or a switchover stays.
    pub(super) fn yielding(&self, host: HostId, vm: VmId) -> Option<Vec<VmId>> {
        let wanted = self.vms.get(&vm)?.spec.memory_bytes;
        let mut free = self.free_bytes(host, vm)?;
        let mut yields: Vec<&super::Vm> = self.vms.values().filter(|other| other.could_do_without(host)).collect();
        yields.sort_by_key(|other| std::cmp::Reverse(other.spec.memory_bytes));
        let mut asked = Vec::new();
        for other in yields {
            if free >= wanted {
                break;
            }
            free = free.saturating_add(other.spec.memory_bytes);
            asked.push(other.id);
        }
        (free >= wanted).then_some(asked)
    }

    /// Whether the host gave the VM up, and is not trusted again since. Then what kept it from that may have passed.
    fn refuses(&self, host: HostId, vm: VmId) -> bool {
        let refused = self.vms.get(&vm).is_some_and(|entry| entry.refusers.contains(&host));
        refused && self.hosts.get(&host).is_some_and(super::Host::is_held_down) && !planted(PlantedBug::RefusersAsked)
    }

    /// Any connected host that beats and has the memory, trusted or not, reserved or not: better than a VM that does not
    /// run. But a generation a time for a host that cannot run it would be no better.
    pub(super) fn place_at_need(&self, vm: VmId) -> Option<HostId> {
        let able = |id: HostId, host: &super::Host| {
            host.is_beating() && self.room_left(id, vm, 0) && self.mismatch(id, vm).is_none() && !self.refuses(id, vm)
        };
        self.hosts.iter().find(|(id, host)| able(**id, host)).map(|(id, _)| *id)
    }

    /// Whether the host has the memory for the VM, beside what the roles that it holds may take (a standby's is reserved in
    /// full, since a takeover must not fail for want of it) and what is kept free for other VMs.
    pub(super) fn has_room(&self, host: HostId, vm: VmId) -> bool {
        self.room_left(host, vm, self.kept_free(host, vm))
    }

    pub(super) fn room_left(&self, host: HostId, vm: VmId, kept_free: u64) -> bool {
        let wanted = self.vms.get(&vm).map(|vm| vm.spec.memory_bytes);
        wanted.zip(self.free_bytes(host, vm)).is_some_and(|(wanted, free)| kept_free.saturating_add(wanted) <= free)
    }

    /// Memory of a host that no role of a VM other than this one takes.
    pub(super) fn free_bytes(&self, host: HostId, vm: VmId) -> Option<u64> {
        let memory_bytes = self.hosts.get(&host)?.profile.as_ref()?.memory_bytes;
        let others = self.vms.values().filter(|other| other.id != vm && other.has_role_on(host));
        let taken = others.fold(0_u64, |sum, other| sum.saturating_add(other.spec.memory_bytes));
        Some(memory_bytes.saturating_sub(taken))
    }

    /// Why a host could not go on with what the pool holds of the VM; `None`: it could.
    pub(super) fn mismatch(&self, host: HostId, vm: VmId) -> Option<String> {
        let entry = self.vms.get(&vm)?;
        let profile = self.hosts.get(&host)?.profile.as_ref()?;
        if entry.unfit_on.contains(&host) {
            return Some(format!("host `{}` can neither start its guest nor go on with it", profile.name));
        }
        // What has not begun can still begin on any processor.
        let begins = entry.applied == Epoch::ZERO && matches!(entry.phase, Phase::Creating { .. } | Phase::Unled);
        if begins || planted(PlantedBug::FormatIgnored) {
            return None;
        }
        if let Some(version) = entry.versions_needed().find(|version| !profile.states.reads(*version)) {
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
        if others().any(|(id, _)| self.room_left(*id, vm, 0)) {
            return "the memory of other hosts is kept free for VMs that are to have a spare: start another".to_owned();
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

    /// Guests that a host runs.
    pub(super) fn primaries(&self, host: HostId) -> usize {
        self.vms.values().filter(|vm| vm.primary() == Some(host)).count()
    }

    /// Roles that a host holds; running a guest weighs more than standing by.
    pub(super) fn load(&self, host: HostId) -> usize {
        let stands_by = |vm: &&super::Vm| vm.standby.is_some_and(|standby| standby.host == host);
        self.primaries(host) * 4 + self.vms.values().filter(stands_by).count()
    }
}
