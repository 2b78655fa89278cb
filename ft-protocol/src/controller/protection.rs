//! Protection: every running VM has a secondary as soon as a host is fit to be one (I6).

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
    }

    fn protect(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let entry = &self.vms[&vm];
        let Phase::Running { host: primary } = entry.phase else { return };
        if entry.standby.is_some() || !self.hosts.get(&primary).is_some_and(super::Host::is_fit) {
            return;
        }
        let elsewhere: &[HostId] = if planted(PlantedBug::SamePlace) { &[] } else { &[primary] };
        let Some(host) = self.place(vm, elsewhere) else { return };
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
        let read = |part| Grant { part, access: Access::ReadOnly };
        let grants = vec![
            read(Part::Image(vm)),
            read(Part::State(vm)),
            read(Part::Control(vm)),
            read(Part::Boot(vm)),
            read(Part::Heartbeat(primary)),
        ];
        self.to_host(turn, host, ToHost::Standby(order), grants);
        if let Some(entry) = self.vms.get_mut(&vm) {
            entry.standby = Some(Standby { host, ready: false });
        }
    }

    pub(super) fn standby_ready(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation, host: HostId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let expected = entry.standby == Some(Standby { host, ready: false });
        if entry.generation != generation || !expected {
            return;
        }
        entry.standby = Some(Standby { host, ready: true });
        self.tell(turn, Happening::Protected { vm, generation, host });
        self.switch_if_prepared(turn, vm);
    }

    /// Takes a standby back that was given by this controller's earlier life.
    pub(super) fn adopt_standby(&mut self, turn: &mut Turn<'_>, vm: VmId, host: HostId, ready: bool) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let known = entry.standby == Some(Standby { host, ready });
        let generation = entry.generation;
        entry.standby = Some(Standby { host, ready });
        if ready && !known {
            self.tell(turn, Happening::Protected { vm, generation, host });
            self.switch_if_prepared(turn, vm);
        }
    }

    /// The secondary is gone, or never came up.
    pub(super) fn drop_standby(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let Some(standby) = entry.standby.take() else { return };
        let generation = entry.generation;
        self.to_host(turn, standby.host, ToHost::Release { vm, generation, deposed: false }, Vec::new());
        if standby.ready {
            self.tell(turn, Happening::Unprotected { vm, host: standby.host });
        }
        self.switchover_target_lost(turn, vm, standby.host);
        if self.vms[&vm].suspected.is_some() {
            // Who should have asked for the takeover is gone too.
            self.begin_takeover(turn, vm, None);
        }
    }

    /// Why a VM is not protected, in one line; `None` when it is.
    pub(super) fn unprotected_because(&self, vm: VmId) -> Option<String> {
        let entry = self.vms.get(&vm)?;
        match (&entry.phase, entry.standby) {
            (Phase::Ended { .. }, _) => Some("its life has ended".to_owned()),
            (Phase::Running { .. }, Some(Standby { ready: true, .. })) => None,
            (Phase::Running { .. }, Some(Standby { host, .. })) => {
                Some(format!("host `{}` is preparing to be secondary", self.host_name(host)))
            }
            (Phase::Running { host }, None) => Some(match self.place(vm, &[*host]) {
                Some(_) => "a secondary is about to be chosen".to_owned(),
                None => self.unfit_because(vm, *host),
            }),
            _ => Some(format!("it is {}", entry.phase_word())),
        }
    }

    /// What the next failure would cost; `None` when a third host could re-protect the VM.
    pub(super) fn at_risk_because(&self, vm: VmId) -> Option<String> {
        let entry = self.vms.get(&vm)?;
        let (Phase::Running { host: primary }, Some(standby)) = (&entry.phase, entry.standby) else { return None };
        match self.place(vm, &[*primary, standby.host]) {
            Some(_) => None,
            None => Some("after the next failure no host could be secondary: start another".to_owned()),
        }
    }
}
