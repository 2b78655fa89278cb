//! Record logs: console output that leaves by them, and the modes in which they are used.

use super::clients::answer;
use super::io::{Action, DrainOutcome};
use super::vm::{ModeWaiter, Phase};
use super::{Controller, Generation, HostId, LinkId, Turn, VmId};
use crate::ids::FollowId;
use crate::planted::{PlantedBug, planted};
use crate::spec::Mode;
use crate::timeline::{Happening, one_line, one_report};
use crate::wire::{Answer, RequestError, ToHost};

impl Controller {
    /// The primary says that its log holds new console output.
    pub(super) fn logged(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation) {
        if self.vms.get(&vm).is_some_and(|entry| entry.generation == generation) {
            self.drain_log(turn, vm);
        }
    }

    /// Moves what may lie in the log without having been told. Where the mode does not record, the next record does it.
    pub(super) fn drain_recorded(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        if self.vms.get(&vm).is_some_and(|entry| entry.spec.mode.records()) {
            self.drain_log(turn, vm);
        }
    }

    /// Has the driver move console output from the reigning generation's log to the ring, one move at a time.
    pub(super) fn drain_log(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        // What was asked for need not have come: the pool may have had no space for it, which the driver is about to say.
        let readable = entry.opened && matches!(entry.phase, Phase::Promoting { .. } | Phase::Running { .. });
        // A record brings what a damaged log does not.
        if !readable || entry.console_full || entry.log_refused.is_some() {
            return;
        }
        if entry.draining_log.is_some() {
            entry.log_moved = true;
            return;
        }
        entry.draining_log = Some(entry.generation);
        entry.log_moved = false;
        let console_floor = entry.console_floor();
        entry.draining_floor = console_floor;
        if planted(PlantedBug::FloorsMixed) {
            entry.applying_floor = console_floor;
        }
        turn.actions.push(Action::DrainLog { vm, generation: entry.generation, console_floor });
    }

    pub(super) fn log_drained(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation, outcome: DrainOutcome) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        assert_eq!(entry.draining_log, Some(generation), "an answer to a question that was not asked");
        entry.draining_log = None;
        if matches!(entry.phase, Phase::Deleting { .. }) {
            self.finish_deleting(turn, vm);
            return;
        }
        let has_room = matches!(entry.phase, Phase::Running { .. } | Phase::Ended { .. });
        if generation < entry.generation && has_room {
            // It was not given back before.
            self.make_room(turn, vm);
        }
        let console_end = match outcome {
            DrainOutcome::Done { console_end }
            | DrainOutcome::ConsoleFull { console_end }
            | DrainOutcome::Refused { console_end, .. } => console_end,
            DrainOutcome::Damaged { reason } => return self.partition_damaged(turn, vm, &reason),
        };
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        if matches!(entry.phase, Phase::Damaged { .. }) {
            return;
        }
        let grown = console_end > entry.console_end;
        entry.console_end = entry.console_end.max(console_end);
        let again = entry.log_moved;
        let reigns = entry.generation == generation && entry.primary().is_some();
        if grown {
            self.console_moved(turn, vm, console_end);
        }
        match outcome {
            DrainOutcome::Done { .. } if again => self.drain_log(turn, vm),
            // Of a generation that is over; the present one's was to be moved meanwhile.
            DrainOutcome::Refused { .. } if again && !reigns => self.drain_log(turn, vm),
            DrainOutcome::Done { .. } => {}
            DrainOutcome::ConsoleFull { .. } => {
                if let Some(entry) = self.vms.get_mut(&vm) {
                    // A reader may have made room while the driver looked; then nobody would say so again.
                    entry.console_full = entry.console_floor() == entry.draining_floor;
                }
                self.drain_log(turn, vm);
            }
            DrainOutcome::Refused { reason, .. } if reigns => self.log_refused(turn, vm, generation, reason),
            DrainOutcome::Refused { .. } | DrainOutcome::Damaged { .. } => {}
        }
    }

    pub(super) fn set_mode(&mut self, turn: &mut Turn<'_>, link: LinkId, id: u64, vm: VmId, mode: Mode) {
        let Some(entry) = self.vms.get_mut(&vm).filter(|entry| !matches!(entry.phase, Phase::Creating { .. })) else {
            answer(turn, link, id, Err(RequestError::UnknownVm(vm)), Vec::new());
            return;
        };
        match entry.phase {
            Phase::Damaged { .. } => {
                answer(turn, link, id, Err(RequestError::Damaged(vm)), Vec::new());
                return;
            }
            Phase::Ended { .. } | Phase::Deleting { .. } => {
                let why = format!("the VM is {}", entry.phase_word());
                answer(turn, link, id, Err(RequestError::NotNow(why)), Vec::new());
                return;
            }
            _ => {}
        }
        entry.spec.epoch_interval = entry.spec.mode.interval_in(mode, entry.spec.epoch_interval);
        entry.spec.mode = mode;
        if mode != Mode::Lockstep {
            self.unfollow(turn, vm, "the mode was changed");
        }
        // Persisted first: whoever takes over goes on in the mode that was asked for.
        self.persist(turn);
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        if entry.primary().is_none() {
            return answer(turn, link, id, Ok(Answer::Done), Vec::new());
        }
        entry.mode_waiters.push(ModeWaiter { mode, link, id });
        self.order_mode(turn, vm);
        self.mode_settled(turn, vm, None);
    }

    /// Tells the primary which mode is wanted, unless it still has to say that it is in the one it was told before.
    pub(super) fn order_mode(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let Some(host) = entry.primary() else { return };
        if entry.mode_order.is_some() && !planted(PlantedBug::ModeOrdersOverlap) {
            return;
        }
        let (generation, mode) = (entry.generation, entry.spec.mode);
        entry.mode_order = Some(mode);
        self.to_host(turn, host, ToHost::SetMode { vm, generation, mode }, Vec::new());
    }

    /// The primary has turned to a mode.
    pub(super) fn mode_is(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation, mode: Mode, host: HostId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        if entry.generation != generation || entry.primary() != Some(host) {
            return;
        }
        if !mode.records() || !planted(PlantedBug::ModeOrdersOverlap) {
            // Since when all inputs are in the log, the primary says next.
            entry.recorded_since = None;
        }
        if entry.log_refused.is_some() {
            return self.turned_from_log(turn, vm, mode);
        }
        // A guest that cannot be recorded stays in checkpoint mode, whatever it was told.
        let refused = !mode.records() && mode == entry.spec.mode;
        if entry.mode_order == Some(mode) || refused {
            entry.mode_order = None;
        }
        let settled = entry.mode_order.is_none();
        let more = settled && entry.spec.mode != mode;
        self.protected_in(turn, vm, mode);
        if more {
            self.order_mode(turn, vm);
        }
        self.mode_settled(turn, vm, settled.then_some(mode));
    }

    /// The reigning generation protects the VM in this mode: watchers hear of it where they know of another one.
    fn protected_in(&mut self, turn: &mut Turn<'_>, vm: VmId, mode: Mode) {
        if self.vms.get(&vm).is_none_or(|entry| entry.mode_told == mode) {
            return;
        }
        // Those of the mode that is over: in another one outputs wait for something else.
        self.tell_outputs(turn, vm);
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let generation = entry.generation;
        entry.mode_told = mode;
        self.tell(turn, Happening::ModeChanged { vm, generation, mode });
    }

    /// The VM is protected in a mode, or is said to be: who has asked for it, or for one that is not wanted any more, is
    /// answered.
    pub(super) fn mode_settled(&mut self, turn: &mut Turn<'_>, vm: VmId, is: Option<Mode>) {
        if let Some(mode) = is {
            self.protected_in(turn, vm, mode);
        }
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let wanted = entry.spec.mode;
        let settled = |waiter: &mut ModeWaiter| waiter.mode != wanted || Some(waiter.mode) == is;
        let why = match &entry.diverged {
            Some(report) if wanted == Mode::Checkpoint => format!("it is protected in {wanted} mode now: {report}"),
            _ => format!("it is to be protected in {wanted} mode now"),
        };
        let waiters: Vec<ModeWaiter> = entry.mode_waiters.extract_if(.., settled).collect();
        for ModeWaiter { mode, link, id } in waiters {
            let result = if mode == wanted { Ok(Answer::Done) } else { Err(RequestError::NotNow(why.clone())) };
            answer(turn, link, id, result, Vec::new());
        }
    }

    /// The log of a generation that is over is damaged from some entry on.
    pub(super) fn log_lost(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation, report: &str) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let report = one_line(report);
        // A generation that is opened again after a failure finds the same.
        if entry.log_lost.as_ref() != Some(&report) {
            entry.log_lost = Some(report.clone());
            self.tell(turn, Happening::LogLost { vm, generation, report });
        }
    }

    /// A primary could not read its own log to its end when it began, and went on in checkpoint mode.
    pub(super) fn log_lost_by(
        &mut self,
        turn: &mut Turn<'_>,
        vm: VmId,
        generation: Generation,
        report: &str,
        host: HostId,
    ) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        if entry.generation != generation || entry.primary() != Some(host) {
            return;
        }
        entry.fall_back();
        self.persist(turn);
        self.log_lost(turn, vm, generation, report);
        self.unfollow(turn, vm, "its log is damaged");
        self.protected_in(turn, vm, Mode::Checkpoint);
    }

    /// A replay did not do what the log says: this guest is not deterministic between exits.
    pub(super) fn diverged(
        &mut self,
        turn: &mut Turn<'_>,
        vm: VmId,
        generation: Generation,
        report: &str,
        (host, follow): (HostId, Option<FollowId>),
    ) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let concerned = match follow {
            // A secondary that was told not to follow any more may have seen the future in the stable image.
            Some(follow) => entry.following.as_ref().is_some_and(|following| following.is(host, follow)),
            // Its replay at the beginning of its reign.
            None => entry.primary() == Some(host),
        };
        if entry.generation != generation || !concerned {
            return;
        }
        let report = one_report(report);
        entry.fall_back();
        entry.diverged = Some(report.clone());
        let primary = entry.primary();
        self.mode_settled(turn, vm, None);
        self.persist(turn);
        self.tell(turn, Happening::Diverged { vm, generation, host, report });
        self.unfollow(turn, vm, "it diverged");
        if primary == Some(host) {
            // It has turned by itself.
            self.protected_in(turn, vm, Mode::Checkpoint);
        } else {
            self.order_mode(turn, vm);
        }
    }
}
