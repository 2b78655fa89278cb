//! A record log that is damaged while its primary lives: bits that flipped in the pool, or a host that writes what is no entry.
//!
//! The primary has all that the log was for. So it is not ended at once, which would cost what lies behind the damage: it is told
//! to turn to checkpoint mode, for which it commits, and from when on nothing rests on the log. Then it is deposed like any
//! other that wrote what is not to be trusted. One that does not turn in time is deposed all the same.

use super::vm::Phase;
use super::{Controller, Generation, Turn, VmId};
use crate::spec::Mode;
use crate::time::Time;
use crate::timeline::Happening;
use crate::wire::{TakeoverReason, ToHost};

/// Since when a log is known to be damaged, and until when its primary may turn from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogRefused {
    since: Time,
    until: Time,
}

impl Controller {
    /// An entry of the reigning generation's log cannot be read, or makes no sense.
    pub(super) fn log_refused(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation, reason: String) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        if entry.generation != generation || entry.is_over() || entry.log_refused.is_some() {
            return;
        }
        let running = matches!(entry.phase, Phase::Running { .. });
        entry.log_refused = Some(LogRefused { since: turn.now, until: turn.now + self.config.stall_bound });
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
        if mode.records() {
            return self.order_checkpoint(turn, vm);
        }
        if mode == entry.spec.mode {
            self.mode_settled(turn, vm, Some(mode));
        }
        self.depose_for_log(turn, vm);
    }

    /// Deposes primaries that were to turn from a damaged log and did not: not those that wait for what is not their own doing,
    /// and those that get on not before a promotion would have been given up.
    pub(super) fn overdue_logs(&mut self, turn: &mut Turn<'_>) {
        let (bound, longest) = (self.config.stall_bound, self.config.promotion_bound);
        let mut overdue = Vec::new();
        for vm in self.vms.values_mut() {
            let held_up = vm.is_held_up();
            let gets_on = vm.gets_on(bound);
            let Some(refused) = &mut vm.log_refused else { continue };
            if held_up || gets_on && turn.now < refused.since + longest {
                refused.until = turn.now + bound;
            } else if turn.now >= refused.until {
                overdue.push(vm.id);
            }
        }
        overdue.into_iter().for_each(|vm| self.depose_for_log(turn, vm));
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
