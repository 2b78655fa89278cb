//! A record log that is damaged while its primary lives: bits that flipped in the pool, or a host that writes what is no entry.
//!
//! The primary has all that the log was for. So it is not ended at once, which would cost what lies behind the damage: it is told
//! to turn to checkpoint mode, for which it commits, and from when on nothing rests on the log. Then it is deposed like any
//! other that wrote what is not to be trusted. One that does not turn in time is deposed all the same.

use super::vm::Phase;
use super::{Controller, Generation, Turn, VmId};
use crate::spec::Mode;
use crate::timeline::Happening;
use crate::wire::{TakeoverReason, ToHost};

impl Controller {
    /// An entry of the reigning generation's log cannot be read, or makes no sense.
    pub(super) fn log_refused(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation, reason: String) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        if entry.generation != generation || entry.primary().is_none() || entry.log_refused.is_some() {
            return;
        }
        let running = matches!(entry.phase, Phase::Running { .. });
        entry.log_refused = Some(turn.now + self.config.stall_bound);
        let records = entry.mode_told.records() || entry.mode_order.is_some_and(Mode::records);
        self.tell(turn, Happening::LogRefused { vm, generation, reason });
        // The secondary reads the same log, and what is to be committed must not wait for it.
        self.unfollow(turn, vm, "its log is damaged");
        if running && records {
            self.order_checkpoint(turn, vm);
        } else {
            self.depose_for_log(turn, vm);
        }
    }

    /// The primary has turned to a mode while its log is known to be damaged.
    pub(super) fn turned_from_log(&mut self, turn: &mut Turn<'_>, vm: VmId, mode: Mode) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        entry.mode_order = None;
        if mode.records() { self.order_checkpoint(turn, vm) } else { self.depose_for_log(turn, vm) }
    }

    /// Deposes primaries that were to turn from a damaged log and did not.
    pub(super) fn overdue_logs(&mut self, turn: &mut Turn<'_>) {
        let overdue = |vm: &super::Vm| vm.log_refused.is_some_and(|until| turn.now >= until);
        let vms: Vec<VmId> = self.vms.values().filter(|vm| overdue(vm)).map(|vm| vm.id).collect();
        vms.into_iter().for_each(|vm| self.depose_for_log(turn, vm));
    }

    /// Without a word of it to anybody: the VM stays in the mode that is wanted.
    fn order_checkpoint(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let Some(host) = entry.primary() else { return };
        // What it was told before it answers first.
        if entry.mode_order.is_none() {
            let (generation, mode) = (entry.generation, Mode::Checkpoint);
            entry.mode_order = Some(mode);
            self.to_host(turn, host, ToHost::SetMode { vm, generation, mode }, Vec::new());
        }
    }

    fn depose_for_log(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let Some(entry) = self.vms.get(&vm) else { return };
        if entry.primary().is_some() {
            let (generation, winner) = (entry.generation, entry.ready_standby());
            self.tell(turn, Happening::PrimaryGone { vm, generation, reason: TakeoverReason::LogDamaged });
            self.begin_takeover(turn, vm, winner);
        }
    }
}
