//! What a secondary that asks to become primary is answered, and when.

use super::vm::Phase;
use super::{Controller, Generation, HostId, Turn, VmId};
use crate::planted::{PlantedBug, planted};
use crate::timeline::Happening;
use crate::wire::{TakeoverReason, TakeoverRefusal, ToHost};

/// An ask of which the controller has another opinion: what it has seen last of the primary's host was lively.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    host: HostId,
    reason: TakeoverReason,
    /// The primary's host was looked at since: what is seen from now on has come behind the ask.
    looked: bool,
}

impl Controller {
    /// A secondary asks to become primary.
    pub(super) fn ask(
        &mut self,
        turn: &mut Turn<'_>,
        vm: VmId,
        generation: Generation,
        host: HostId,
        reason: TakeoverReason,
    ) {
        let may = self.may_take_over(vm, generation, host, reason);
        if may == Err(TakeoverRefusal::PrimaryBeats) {
            // Either may be the one that looked late. The next looks tell: if the ask were refused now, a secondary that is
            // right would wait for a whole bound again.
            if let Some(entry) = self.vms.get_mut(&vm) {
                entry.doubted = Some(Doubt { host, reason, looked: false });
            }
            return;
        }
        self.answer(turn, vm, generation, (host, reason), may);
    }

    /// The host of some primaries was looked at, at this moment: are the secondaries right that take it for hung?
    pub(super) fn settle_doubts(&mut self, turn: &mut Turn<'_>, primary: HostId) {
        let Some(host) = self.hosts.get(&primary) else { return };
        let (beats, silent) = (host.has_just_beaten(), host.is_nearly_suspected());
        let mut settled = Vec::new();
        for vm in self.vms.values_mut().filter(|vm| vm.primary() == Some(primary)) {
            let Some(doubt) = &mut vm.doubted else { continue };
            if silent || (beats && doubt.looked) {
                settled.push((vm.id, vm.generation, (doubt.host, doubt.reason)));
                vm.doubted = None;
            } else {
                doubt.looked = true;
            }
        }
        for (vm, generation, ask) in settled {
            let may = self.may_take_over(vm, generation, ask.0, ask.1);
            let may = if beats && !self.is_surely_gone(vm) { may.and(Err(TakeoverRefusal::PrimaryBeats)) } else { may };
            self.answer(turn, vm, generation, ask, may);
        }
    }

    fn answer(
        &mut self,
        turn: &mut Turn<'_>,
        vm: VmId,
        generation: Generation,
        (host, reason): (HostId, TakeoverReason),
        may: Result<(), TakeoverRefusal>,
    ) {
        if let Err(refusal) = may {
            if let (TakeoverRefusal::PrimaryBeats, Some(entry)) = (refusal, self.vms.get_mut(&vm)) {
                entry.suspected = None;
            }
            self.tell(turn, Happening::TakeoverRefused { vm, host, refusal });
            self.to_host(turn, host, ToHost::TakeoverRefused { vm, generation, refusal }, Vec::new());
            return;
        }
        if self.vms.get(&vm).is_some_and(|entry| entry.suspected.is_none()) {
            self.tell(turn, Happening::PrimaryGone { vm, generation, reason });
        }
        self.begin_takeover(turn, vm, Some(host));
    }

    fn may_take_over(
        &self,
        vm: VmId,
        generation: Generation,
        host: HostId,
        reason: TakeoverReason,
    ) -> Result<(), TakeoverRefusal> {
        let entry = self.vms.get(&vm).ok_or(TakeoverRefusal::UnknownVm)?;
        if entry.generation != generation {
            return Err(TakeoverRefusal::GenerationOver { asked: generation, current: entry.generation });
        }
        let primary = match entry.phase {
            Phase::Promoting { host, .. } | Phase::Running { host } => host,
            Phase::Ended { .. } => return Err(TakeoverRefusal::Ended),
            _ => return Err(TakeoverRefusal::UnderWay),
        };
        if entry.ready_standby() != Some(host) {
            return Err(TakeoverRefusal::NotSecondary);
        }
        // Not for safety: a secondary that cannot see the heartbeat page should not stop a healthy primary.
        let heard = matches!(reason, TakeoverReason::HeartbeatSilent(_));
        if heard && !self.is_surely_gone(vm) && self.hosts.get(&primary).is_some_and(super::Host::is_lively) {
            return Err(TakeoverRefusal::PrimaryBeats);
        }
        Ok(())
    }

    /// Whether more than silence tells that the primary is gone: then beats of its host, maybe of a new life, are no answer.
    fn is_surely_gone(&self, vm: VmId) -> bool {
        let suspicion = self.vms.get(&vm).and_then(|entry| entry.suspected);
        suspicion.is_some_and(|suspicion| !suspicion.by_silence) && !planted(PlantedBug::BeatsOfNewLife)
    }
}
