//! A VM whose part of the pool is damaged where only the controller writes: it is lost, unless somebody repairs the pool,
//! and no other VM is harmed. It is kept as it was known last: forgotten, its name would be given away and its space with it.
//! Where only its hosts cannot be given a part of it any more, the guest that runs loses its protection alone.

use super::io::{Action, LostFiles};
use super::state::VmRecord;
use super::vm::{Phase, Vm};
use super::{Controller, LinkId, Turn, VmId};
use crate::timeline::{Happening, one_line};
use crate::wire::ToHost;

impl Controller {
    /// A VM whose part of the pool could not be opened when this controller started.
    pub(super) fn keep_damaged(&mut self, record: VmRecord) {
        let (vm, generation) = (record.vm, record.generation);
        let mut entry = Vm::new(vm, record.spec.clone(), Phase::Damaged { record: Box::new(record) });
        entry.generation = generation;
        self.vms.insert(vm, entry);
    }

    /// A part of a VM that a host was to be given is gone. Where the guest runs, its primary has what it needs: the VM loses
    /// its protection, and not its life. The host is not to blame.
    pub(super) fn part_gone(&mut self, turn: &mut Turn<'_>, vm: VmId, reason: &str) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        if !matches!(entry.phase, Phase::Running { .. }) {
            return self.partition_damaged(turn, vm, reason);
        }
        let reason = one_line(reason);
        // It may be put back.
        let again_at = turn.now + self.config.promotion_bound;
        let known = entry.unprotectable.replace((reason.clone(), again_at)).is_some_and(|(known, _)| known == reason);
        if let Some(host) = entry.standby.filter(|standby| !standby.ready).map(|standby| standby.host) {
            if !known {
                self.tell(turn, Happening::GaveUp { vm, host, reason });
            }
            self.drop_standby(turn, vm);
        }
    }

    /// Files of a VM are gone, or back. Its hosts have them open: unless they are cut off its secondary can still take over, and
    /// nobody after it can.
    pub(super) fn files_gone(&mut self, turn: &mut Turn<'_>, vm: VmId, gone: Option<LostFiles>) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        entry.gone = gone.map(|lost| LostFiles { what: one_line(&lost.what), ..lost });
        // It may be put back; when it is, a host that could not stand by is asked again at once.
        let again_at = turn.now + self.config.promotion_bound;
        entry.unprotectable = entry.gone.clone().map(|lost| (lost.what, again_at));
        if let Some(host) = entry.ready_standby() {
            self.tell_protection(turn, vm, host);
        }
        self.protect_all(turn);
    }

    /// A VM's part of the pool turns out to be damaged while this controller lives, or this is what was wrong when it
    /// started.
    pub(super) fn partition_damaged(&mut self, turn: &mut Turn<'_>, vm: VmId, reason: &str) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let (generation, primary, reason) = (entry.generation, entry.primary(), one_line(reason));
        match entry.phase {
            Phase::Deleting { .. } => return self.finish_deleting(turn, vm),
            Phase::Damaged { .. } if entry.damage.is_none() => {
                entry.damage = Some(reason.clone());
                return self.tell(turn, Happening::Damaged { vm, generation, reason });
            }
            // Nobody goes on from it.
            Phase::Creating { .. } | Phase::Ended { .. } | Phase::Damaged { .. } => return,
            _ => {}
        }
        let record = Box::new(entry.record());
        self.requests_over(turn, vm, "the VM's part of the pool is damaged");
        self.end_following(turn, vm, generation, "the VM is damaged");
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        entry.phase = Phase::Damaged { record };
        entry.damage = Some(reason.clone());
        entry.suspected = None;
        entry.waiting = None;
        entry.spare = None;
        entry.intended.clear();
        let standby = entry.standby.take().map(|standby| standby.host);
        let readers: Vec<LinkId> = entry.readers.keys().copied().collect();
        self.tell(turn, Happening::Damaged { vm, generation, reason });
        // The hosts are not to blame, and run other VMs.
        for host in primary.into_iter().chain(standby) {
            self.to_host(turn, host, ToHost::Release { vm, generation, deposed: false }, Vec::new());
        }
        if primary.is_some() {
            // Its words may still be sound: one that does not hear of it publishes nothing more, and no output leaves.
            turn.actions.push(Action::Seal { vm, generation });
        }
        // Who reads its console is told when it asks again, as by a controller that found the damage when it started.
        for link in readers {
            self.client_closed(turn, link);
            turn.actions.push(Action::CloseLink(link));
        }
        self.tell_outputs(turn, vm);
        self.persist(turn);
        self.protect_all(turn);
    }
}
