//! Protection: every running VM has a secondary as soon as a host is fit to be one (I6).

use super::io::LostFiles;
use super::placement::Role;
use super::vm::{Phase, Standby};
use super::{Controller, Generation, HostId, Turn, VmId};
use crate::ids::Epoch;
use crate::planted::{PlantedBug, planted};
use crate::timeline::Happening;
use crate::wire::{Access, Grant, Order, Part, ToHost};

impl Controller {
    /// Gives roles to fit hosts wherever one is missing.
    pub(super) fn protect_all(&mut self, turn: &mut Turn<'_>) {
        let vms: Vec<VmId> = self.vms.keys().copied().collect();
        for vm in vms {
            self.lead(turn, vm);
            self.protect(turn, vm);
        }
        self.reserve_spares(turn);
    }

    fn protect(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let entry = &self.vms[&vm];
        let Phase::Running { host: primary } = entry.phase else { return };
        // A primary that was silent for a while may be anything but reliable: it needs a secondary all the more.
        if entry.standby.is_some()
            || entry.unprotectable.as_ref().is_some_and(|(_, again_at)| turn.now < *again_at)
            || !self.hosts.get(&primary).is_some_and(super::Host::is_beating)
        {
            return;
        }
        let elsewhere: &[HostId] = if planted(PlantedBug::SamePlace) { &[] } else { &[primary] };
        let Some(host) = self.place(vm, elsewhere, Role::Secondary) else { return };
        self.order_standby(turn, vm, primary, host);
    }

    pub(super) fn order_standby(&mut self, turn: &mut Turn<'_>, vm: VmId, primary: HostId, host: HostId) {
        let Some(entry) = self.vms.get(&vm) else { return };
        let order = Order {
            vm,
            generation: entry.generation,
            spec: entry.spec.clone(),
            primary: Some(primary),
            base: Epoch::ZERO,
            cpu: entry.cpu.clone(),
        };
        let mut grants = vec![Grant { part: Part::Heartbeat(primary), access: Access::ReadOnly }];
        grants.extend(entry.stable_grants());
        self.to_host(turn, host, ToHost::Standby(order), grants);
        if let Some(entry) = self.vms.get_mut(&vm) {
            entry.standby = Some(Standby { host, ready: false, since: turn.now });
        }
    }

    pub(super) fn standby_ready(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation, host: HostId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let expected = |standby: &&mut Standby| standby.host == host && !standby.ready;
        if entry.generation != generation {
            return;
        }
        let Some(standby) = entry.standby.as_mut().filter(expected) else { return };
        standby.ready = true;
        if entry.gone.is_none() {
            entry.unprotectable = None;
        }
        self.reserve_spares(turn);
        self.switch_if_prepared(turn, vm);
        self.follow(turn, vm);
    }

    /// Takes a standby back that was given by this controller's earlier life.
    pub(super) fn adopt_standby(&mut self, turn: &mut Turn<'_>, vm: VmId, host: HostId, ready: bool) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let known = entry.standby.is_some_and(|standby| standby.host == host && standby.ready == ready);
        entry.standby = Some(Standby { host, ready, since: turn.now });
        if ready && !known {
            self.reserve_spares(turn);
            self.switch_if_prepared(turn, vm);
        }
    }

    /// The secondary is gone, or never came up.
    pub(super) fn drop_standby(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let Some(standby) = entry.standby.take() else { return };
        let generation = entry.generation;
        if entry.following.is_some() {
            // What an earlier following still has to say is not to be taken for the next one's.
            entry.follow_at = turn.now + self.config.hold_down;
        }
        let followed = self.end_following(turn, vm, generation, "it does not stand by any more").is_some();
        self.to_host(turn, standby.host, ToHost::Release { vm, generation, deposed: false }, Vec::new());
        self.tell_protection(turn, vm, standby.host);
        if followed {
            self.apply_next(turn, vm);
        }
        self.switchover_target_lost(turn, vm, standby.host);
        if self.vms[&vm].suspected.is_some() {
            // Who should have asked for the takeover is gone too.
            self.begin_takeover(turn, vm, None);
        }
    }

    /// Watchers hear whether the VM survives what it is to survive, whenever that changes; `lost` is the host that it depended
    /// on, where it does not any more.
    pub(super) fn tell_protection(&mut self, turn: &mut Turn<'_>, vm: VmId, lost: HostId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let generation = entry.generation;
        let by = entry.ready_standby().filter(|_| entry.spare.is_some() || !entry.spec.policy.require_spare);
        let by = by.filter(|_| entry.gone.is_none());
        if std::mem::replace(&mut entry.protected_by, by) == by {
            return;
        }
        self.tell(
            turn,
            match by {
                Some(host) => Happening::Protected { vm, generation, host },
                None => Happening::Unprotected { vm, host: lost },
            },
        );
    }

    /// Why a VM is not protected, in one line; `None` when it is.
    pub(super) fn unprotected_because(&self, vm: VmId) -> Option<String> {
        let entry = self.vms.get(&vm)?;
        match (&entry.phase, entry.standby) {
            (Phase::Ended { .. }, _) => Some("its life has ended".to_owned()),
            (Phase::Running { .. }, Some(Standby { ready: true, .. })) if entry.gone.is_some() => {
                entry.gone.as_ref().map(|LostFiles { what, to_all }| match to_all {
                    true => format!("{what}, and its hosts have; no host can be counted on to take over"),
                    false => format!("{what}; its secondary can still take over, and no host after it"),
                })
            }
            (Phase::Running { .. }, Some(Standby { ready: true, .. })) => {
                let missing = entry.spec.policy.require_spare && entry.spare.is_none();
                missing.then(|| {
                    "it survives one failure, but no host has room kept free for its spare: start one".to_owned()
                })
            }
            (Phase::Running { .. }, Some(Standby { host, .. })) => {
                Some(format!("host `{}` is preparing to be secondary", self.host_name(host)))
            }
            (Phase::Running { .. }, None) if entry.unprotectable.is_some() => entry.unprotectable_because(),
            (Phase::Running { host }, None) => Some(match self.place(vm, &[*host], Role::Secondary) {
                Some(_) => "a secondary is about to be chosen".to_owned(),
                None => self.unfit_because(vm, *host),
            }),
            _ => Some(format!("it is {}", entry.phase_word())),
        }
    }

    /// Standbys that were asked for and are not made in time: another host may do better.
    pub(super) fn overdue_standbys(&mut self, turn: &mut Turn<'_>) {
        let bound = self.config.promotion_bound;
        let late = |standby: Standby| !standby.ready && turn.now.since(standby.since) > bound;
        let overdue: Vec<(VmId, HostId)> = self
            .vms
            .values()
            .filter_map(|vm| vm.standby.filter(|standby| late(*standby)).map(|standby| (vm.id, standby.host)))
            .collect();
        for (vm, host) in overdue {
            let reason = "it did not make its standby in time".to_owned();
            self.tell(turn, Happening::GaveUp { vm, host, reason });
            if let Some(entry) = self.hosts.get_mut(&host) {
                entry.distrust(turn.now, &self.config);
            }
            self.drop_standby(turn, vm);
        }
    }

    /// Roles of a VM that could fail together part as soon as another host has proved itself: one VM at a time, and only
    /// while nothing else happens to it.
    pub(super) fn part_domains(&mut self, turn: &mut Turn<'_>) {
        let better = |vm: &super::Vm| {
            let (Phase::Running { host: primary }, Some(standby)) = (&vm.phase, vm.standby) else { return None };
            let quiet = standby.ready && vm.switchover.is_none() && vm.suspected.is_none();
            let quiet = quiet && vm.unprotectable.is_none();
            let shared = self.domains_of_both(*primary, standby.host);
            let rested = turn.now.since(standby.since) >= self.config.hold_down;
            if shared == 0 || !quiet || !rested {
                return None;
            }
            let to = self.place(vm.id, &[*primary], Role::Secondary)?;
            let proved = self.hosts[&to].trusted_for(turn.now)? >= self.config.hold_down;
            (proved && self.domains_of_both(*primary, to) < shared).then_some((vm.id, *primary, to))
        };
        let Some((vm, primary, to)) = self.vms.values().find_map(better) else { return };
        self.drop_standby(turn, vm);
        if self.vms.get(&vm).is_some_and(|entry| entry.standby.is_none() && entry.primary() == Some(primary)) {
            self.order_standby(turn, vm, primary, to);
        }
        self.reserve_spares(turn);
    }
}
