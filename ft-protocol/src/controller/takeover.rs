//! Takeover: seal, drain, open the next generation, promote; and the application of commit records it rests on.

use super::io::{Action, ApplyOutcome, Recovered};
use super::placement::Role;
use super::state::VmRecord;
use super::vm::{Phase, Suspicion, Switchover, SwitchoverStep, Vm};
use super::{Controller, Generation, HostId, Turn, VmId};
use crate::commit_meta::GuestEnd;
use crate::cpu::CpuProfile;
use crate::ids::Epoch;
use crate::planted::{PlantedBug, planted};
use crate::timeline::{Happening, one_line};
use crate::wire::{Access, Grant, LiveReport, Order, Part, TakeoverReason, ToClient, ToHost};

impl Controller {
    /// Takes a VM up that an earlier life of the controller left.
    pub(super) fn recover_vm(&mut self, turn: &mut Turn<'_>, record: VmRecord, found: &Recovered) {
        let VmRecord { vm, spec, generation, primary, ended, .. } = record;
        let (takeovers, switchovers, moving_to) = (record.takeovers, record.switchovers, record.moving_to);
        let mut entry = Vm::new(vm, spec, Phase::Unled);
        entry.generation = generation;
        entry.recovered = Some(generation);
        entry.cpu = record.cpu;
        (entry.state_version, entry.writes, entry.base) = (record.state_version, record.writes, record.base);
        entry.home = record.home;
        entry.diverged = record.diverged;
        entry.takeovers = takeovers;
        entry.switchovers = switchovers;
        // From the beginning: the primary is asked again as soon as the target's standby is there again.
        entry.switchover = moving_to.filter(|to| Some(*to) != primary).map(|to| Switchover {
            to,
            step: SwitchoverStep::Preparing,
            client: None,
            stood_since: None,
        });
        entry.applied = found.applied;
        entry.committed = found.word.map_or(found.applied, |word| word.epoch).max(found.applied);
        entry.console_end = found.console_end;
        entry.unread_from = found.console_oldest;
        (entry.given, entry.opened) = (found.word.is_some(), found.word.is_some());
        entry.phase = match (ended, primary, found.word) {
            (Some(end), _, _) => Phase::Ended { end },
            (None, Some(host), Some(word)) if !word.sealed => Phase::Running { host },
            // Sealed: a takeover was under way, nobody reigns. Seal again (idempotent) to go on from there.
            (None, _, Some(_)) => Phase::Sealing { winner: None },
            (None, _, None) => Phase::Unled,
        };
        let sealing = matches!(entry.phase, Phase::Sealing { .. });
        self.vms.insert(vm, entry);
        if sealing {
            turn.actions.push(Action::Seal { vm, generation });
        }
        self.apply_next(turn, vm);
    }

    /// The primary is known or thought to be gone. A ready secondary is told and will ask; without one, the controller
    /// itself begins.
    pub(super) fn primary_gone(&mut self, turn: &mut Turn<'_>, vm: VmId, reason: TakeoverReason) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let generation = entry.generation;
        let first = entry.suspected.is_none();
        let suspicion = entry.suspected.get_or_insert(Suspicion { since: turn.now, by_silence: true });
        suspicion.by_silence &= matches!(reason, TakeoverReason::HeartbeatSilent(_));
        let standby = entry.ready_standby().filter(|host| self.hosts.get(host).is_some_and(super::Host::is_fit));
        if first {
            self.tell(turn, Happening::PrimaryGone { vm, generation, reason });
        }
        match standby {
            Some(host) => {
                self.to_host(turn, host, ToHost::PrimaryGone { vm, generation, reason }, Vec::new());
            }
            None => self.begin_takeover(turn, vm, None),
        }
    }

    /// Ends the reigning generation. From here on its primary can publish nothing more.
    pub(super) fn begin_takeover(&mut self, turn: &mut Turn<'_>, vm: VmId, winner: Option<HostId>) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let Some(old) = entry.primary() else { return };
        let generation = entry.generation;
        // The one that was promoted after it has not yielded.
        let led = matches!(entry.phase, Phase::Running { .. });
        let yielded = led && entry.switchover.is_some_and(|switchover| switchover.step == SwitchoverStep::Yielded);
        entry.phase = Phase::Sealing { winner };
        (entry.suspected, entry.doubted, entry.log_refused) = (None, None, None);
        let driven_off = entry.switchover.is_none() && entry.spec.policy.failback.is_some();
        if driven_off && entry.home.is_none() {
            entry.home = Some(old);
        }
        if planted(PlantedBug::TimeoutTrusted) {
            let committed = entry.committed;
            return self.sealed(turn, vm, generation, committed);
        }
        turn.actions.push(Action::Seal { vm, generation });
        // A host that has yielded is not deposed; one that is known to be dead needs no agent. That its connection has
        // closed is no proof of it.
        if !yielded && self.hosts.get(&old).is_some_and(|host| !host.is_dead) {
            turn.actions.push(Action::Fence { host: old, name: self.host_name(old) });
        }
        // An idle primary publishes nothing and would not notice the seal by itself.
        self.to_host(turn, old, ToHost::Release { vm, generation, deposed: true }, Vec::new());
    }

    pub(super) fn sealed(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation, final_epoch: Epoch) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        if matches!(entry.phase, Phase::Deleting { .. }) {
            self.finish_deleting(turn, vm);
            return;
        }
        let Phase::Sealing { winner } = entry.phase else { return };
        assert_eq!(entry.generation, generation, "sealed a generation that does not reign");
        // The word is the old primary's to write: it may hold anything. Less than what is applied cannot be true, and
        // after a refused record nothing more can be applied, whatever it says.
        let final_epoch = if entry.poisoned { entry.applied } else { final_epoch.max(entry.applied) };
        entry.phase = Phase::Draining { winner, final_epoch };
        entry.committed = final_epoch;
        self.tell(turn, Happening::Sealed { vm, generation, final_epoch });
        self.tell_outputs(turn, vm);
        self.apply_next(turn, vm);
        self.drained(turn, vm);
    }

    /// The commit word of a generation, or its primary's doorbell, says that there is more to apply.
    pub(super) fn committed(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation, epoch: Epoch) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        if entry.generation != generation || entry.primary().is_none() {
            return;
        }
        entry.committed = entry.committed.max(epoch);
        self.record_written(turn, vm, generation, epoch);
        self.note_commit(turn.now, vm);
        self.apply_next(turn, vm);
    }

    /// Nothing can be published under a damaged word: the generation is over, whoever damaged it.
    pub(super) fn word_damaged(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation) {
        let Some(entry) = self.vms.get(&vm) else { return };
        if entry.generation != generation || entry.primary().is_none() {
            return;
        }
        let winner = entry.ready_standby();
        self.tell(turn, Happening::PrimaryGone { vm, generation, reason: TakeoverReason::WordDamaged });
        self.begin_takeover(turn, vm, winner);
    }

    /// Hands the next record to the driver, one at a time.
    pub(super) fn apply_next(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let next = entry.applied.next();
        // A secondary that follows sees the stable image where it has not written itself.
        let awaited = entry.following.as_ref().filter(|_| !planted(PlantedBug::FollowerNotAwaited));
        let reached = awaited.is_none_or(|following| next <= following.reached);
        let due = entry.opened && entry.applied < entry.committed && reached && !entry.applying && !entry.console_full;
        if !due || entry.is_over() || matches!(entry.phase, Phase::Creating { .. }) {
            return;
        }
        let console_floor = entry.console_floor();
        entry.applying = true;
        entry.applying_floor = console_floor;
        let generation = entry.generation;
        let epoch = next;
        turn.actions.push(Action::Apply { vm, generation, epoch, console_floor });
    }

    pub(super) fn applied(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation, outcome: ApplyOutcome) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        assert!(entry.applying, "an answer to a question that was not asked");
        assert_eq!(entry.generation, generation, "a generation ends only when all of it is applied");
        entry.applying = false;
        if matches!(entry.phase, Phase::Deleting { .. }) {
            self.finish_deleting(turn, vm);
            return;
        }
        if matches!(entry.phase, Phase::Damaged { .. }) {
            return;
        }
        match outcome {
            ApplyOutcome::Done { epoch, console_end, ended } => {
                assert_eq!(epoch, entry.applied.next(), "records are applied in order");
                entry.applied = epoch;
                // What held the application up was not the secondary's doing.
                entry.follow_progress_at = turn.now;
                let grown = console_end > entry.console_end;
                // Output that came by the record log meanwhile may be ahead of the record.
                entry.console_end = entry.console_end.max(console_end);
                if grown {
                    self.console_moved(turn, vm, console_end);
                }
                if let Some(end) = ended {
                    self.guest_ended(turn, vm, end);
                    return;
                }
            }
            ApplyOutcome::NotCommitted => {
                // A doorbell that rang for nothing; or one that rang before its publication, with the seal after it.
                entry.committed = match entry.phase {
                    Phase::Draining { final_epoch, .. } => final_epoch,
                    _ => entry.applied,
                };
            }
            // A reader may have made room while the driver looked; then nobody would say so again.
            ApplyOutcome::ConsoleFull { console_end, .. } => {
                entry.console_full = entry.console_floor() == entry.applying_floor;
                if console_end > entry.console_end {
                    entry.console_end = console_end;
                    self.console_moved(turn, vm, console_end);
                }
            }
            ApplyOutcome::Refused { epoch, reason } => {
                self.record_refused(turn, vm, epoch, reason);
                return;
            }
            ApplyOutcome::Damaged { reason } => {
                self.partition_damaged(turn, vm, &reason);
                return;
            }
        }
        self.follow(turn, vm);
        self.apply_next(turn, vm);
        // Output in the log may have waited for what the record has brought.
        self.drain_recorded(turn, vm);
        self.drained(turn, vm);
    }

    /// The record's writer cannot be trusted any more: the generation ends at the epoch before.
    fn record_refused(&mut self, turn: &mut Turn<'_>, vm: VmId, epoch: Epoch, reason: String) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let generation = entry.generation;
        entry.committed = entry.applied;
        entry.poisoned = true;
        if let Phase::Draining { final_epoch, .. } = &mut entry.phase {
            *final_epoch = entry.applied;
        }
        self.tell(turn, Happening::RecordRefused { vm, generation, epoch, reason });
        if self.vms[&vm].primary().is_some() {
            let winner = self.vms[&vm].ready_standby();
            self.tell(turn, Happening::PrimaryGone { vm, generation, reason: TakeoverReason::RecordRefused });
            self.begin_takeover(turn, vm, winner);
        }
        self.drained(turn, vm);
    }

    /// Ends a takeover's draining when everything is applied.
    fn drained(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let Phase::Draining { winner, final_epoch } = entry.phase else { return };
        let drained = entry.applied >= final_epoch && !entry.applying;
        if !drained && !planted(PlantedBug::PromoteUndrained) {
            return;
        }
        assert!(entry.applied <= final_epoch, "applied beyond the seal");
        let applied = entry.applied;
        entry.phase = Phase::Unled;
        entry.waiting = None;
        self.tell(turn, Happening::Drained { vm, applied });
        let winner = winner.filter(|host| {
            // It may have died meanwhile, and come back; its place is somebody else's then.
            let stands_by = self.vms[&vm].standby.is_some_and(|standby| standby.host == *host);
            let has_room = stands_by || self.has_room(*host, vm) || planted(PlantedBug::WinnerUnseated);
            has_room && self.hosts.get(host).is_some_and(super::Host::is_fit)
        });
        match winner {
            Some(host) => self.give(turn, vm, host),
            None => self.lead(turn, vm),
        }
        self.protect_all(turn);
    }

    /// Finds a primary for a VM that has none.
    pub(super) fn lead(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let Some(entry) = self.vms.get(&vm) else { return };
        if entry.phase != Phase::Unled || turn.now < entry.retry_at {
            return;
        }
        let prepared = entry.ready_standby().filter(|host| self.hosts.get(host).is_some_and(super::Host::is_fit));
        match prepared.or_else(|| self.place(vm, &[], Role::Primary)).or_else(|| self.place_at_need(vm)) {
            Some(host) => self.give(turn, vm, host),
            None => match self.place_at_cost(vm).filter(|_| !planted(PlantedBug::StandbysStay)) {
                Some(host) => self.give(turn, vm, host),
                None => self.strand(turn, vm),
            },
        }
    }

    fn strand(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let first = !entry.stranded_told;
        entry.stranded_told = true;
        let recoverable = entry.applied;
        if first {
            self.tell(turn, Happening::Stranded { vm, recoverable });
            // Where somebody goes on with it, this can wait until he runs.
            self.release_space(turn, vm);
        }
    }

    /// Opens the next generation for `host`. Persisted before the journal is made: a controller that dies here finds
    /// either the old generation sealed, or the new one named but without a journal, and knows what to do in both cases.
    fn give(&mut self, turn: &mut Turn<'_>, vm: VmId, host: HostId) {
        // What cannot be changed is as on the host that begins with it.
        let first = self.hosts.get(&host).and_then(|host| host.profile.as_ref());
        let common = CpuProfile::common(first.into_iter().chain(self.profiles()).map(|profile| &profile.cpu));
        let writes = self.hosts.get(&host).and_then(|host| Some(host.profile.as_ref()?.states.writes));
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        assert_eq!(entry.phase, Phase::Unled, "only an unled VM can be given away");
        if entry.applied == Epoch::ZERO {
            // Not booted yet: the guest can still be shown any processor. All hosts of now should be able to run it.
            entry.cpu = common;
        }
        // What the new primary will write is in the pool from its first commit on; until then, what is there stays.
        entry.state_version = entry.pool_version();
        entry.writes = writes;
        entry.base = entry.applied;
        if entry.given && !planted(PlantedBug::GenerationKept) {
            entry.generation = entry.generation.next();
            match entry.switchover {
                Some(Switchover { step: SwitchoverStep::Yielded, .. }) => entry.switchovers += 1,
                _ => entry.takeovers += 1,
            }
        }
        entry.given = true;
        entry.opened = false;
        entry.committed = entry.applied;
        entry.phase = Phase::Promoting { host, since: turn.now };
        entry.stranded_told = false;
        entry.poisoned = false;
        entry.recorded_since = None;
        (entry.mode_order, entry.log_refused) = (None, None);
        let (generation, base) = (entry.generation, entry.applied);
        if !planted(PlantedBug::PromoteUnpersisted) {
            self.persist(turn);
        }
        turn.actions.push(Action::OpenGeneration { vm, generation, base });
    }

    pub(super) fn generation_opened(
        &mut self,
        turn: &mut Turn<'_>,
        vm: VmId,
        generation: Generation,
        result: Result<(), String>,
    ) {
        let Some(entry) = self.vms.get(&vm) else { return };
        let Phase::Promoting { host, .. } = entry.phase else { return };
        assert_eq!(entry.generation, generation, "opened a generation that does not reign");
        if let Err(reason) = result {
            let retry = self.config.hold_down;
            if !self.lacks_space(vm, generation) {
                self.tell(turn, Happening::GaveUp { vm, host, reason });
            }
            if let Some(entry) = self.vms.get_mut(&vm) {
                // The generation was never given to anybody: the same one is tried again, but not at once.
                entry.given = false;
                entry.retry_at = turn.now + retry;
                entry.phase = Phase::Unled;
            }
            return;
        }
        self.space_again(turn, vm, generation);
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        entry.opened = true;
        let stands_by = entry.standby.is_some_and(|standby| standby.host == host);
        let trusted = stands_by || planted(PlantedBug::WinnerUnseated);
        let others = if trusted { Some(Vec::new()) } else { self.yielding(host, vm) };
        let Some(others) = others else {
            // Whoever would have made room is needed by now. Nobody has the generation yet: it ends where it began.
            self.vms.entry(vm).and_modify(|entry| entry.phase = Phase::Sealing { winner: None });
            turn.actions.push(Action::Seal { vm, generation });
            return;
        };
        others.into_iter().for_each(|other| self.drop_standby(turn, other));
        let Some(entry) = self.vms.get(&vm) else { return };
        let order = Order {
            vm,
            generation,
            spec: entry.spec.clone(),
            primary: None,
            base: entry.applied,
            cpu: entry.cpu.clone(),
        };
        let mut grants = vec![
            Grant { part: Part::Journal(vm, generation), access: Access::ReadWrite },
            Grant { part: Part::Log(vm, generation), access: Access::ReadWrite },
        ];
        // Who stands by has the rest: what is gone of it since does not keep him from going on.
        if entry.ready_standby() != Some(host) {
            grants.extend(entry.stable_grants());
        }
        self.tell(turn, Happening::Promoted { vm, generation, host });
        self.to_host(turn, host, ToHost::Promote(order), grants);
        if self.vms[&vm].standby.is_some_and(|standby| standby.host == host) {
            if let Some(entry) = self.vms.get_mut(&vm) {
                (entry.standby, entry.protected_by) = (None, None);
            }
            // It goes on from where it is.
            self.end_following(turn, vm, generation, "it takes over");
        } else {
            // A standby of the old generation on another host stands by for nobody.
            self.drop_standby(turn, vm);
        }
    }

    pub(super) fn live(
        &mut self,
        turn: &mut Turn<'_>,
        vm: VmId,
        generation: Generation,
        host: HostId,
        report: LiveReport,
    ) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        if entry.generation != generation || entry.primary() != Some(host) {
            return;
        }
        entry.phase = Phase::Running { host };
        entry.refusers.clear();
        entry.misread_by.clear();
        if entry.applied > Epoch::ZERO {
            // What they could not read, another one has read, or it has been written anew since.
            entry.unfit_on.clear();
        }
        entry.vain_promotions = 0;
        entry.settled_at = Some(turn.now);
        entry.home = entry.home.filter(|home| *home != host);
        // A guest that came to another host than it was to go to did so by a takeover.
        let is_done = |switchover: &Switchover| switchover.step == SwitchoverStep::Yielded && switchover.to == host;
        let done = entry.switchover.filter(is_done);
        let blackout = done.and_then(|switchover| switchover.stood_since).map(|since| turn.now.since(since));
        if done.is_some() {
            entry.switchover_blackout = blackout;
        }
        self.tell(turn, Happening::Live { vm, generation, host, report });
        if let Some(blackout) = blackout {
            self.tell(turn, Happening::SwitchedOver { vm, generation, blackout });
        }
        let entry = &self.vms[&vm];
        let mode = entry.spec.mode;
        if entry.mode_order.is_none() {
            self.mode_settled(turn, vm, Some(mode));
        }
        // What was logged under the generation before went over into this one's log.
        self.drain_recorded(turn, vm);
        self.make_room(turn, vm);
        self.ask_for_input(turn, vm);
        self.switchover_over(turn, vm, host);
        self.protect_all(turn);
    }

    /// A host that came back says that it reigns, as it should.
    pub(super) fn adopt_primary(&mut self, turn: &mut Turn<'_>, vm: VmId, host: HostId, live: bool) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        assert_eq!(entry.primary(), Some(host), "adopted a primary that does not reign");
        entry.suspected = None;
        // It may not have heard of the last change, nor its answer have come.
        entry.mode_order = None;
        self.order_mode(turn, vm);
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        if live {
            entry.phase = Phase::Running { host };
            // That it lives may not have been heard.
            entry.vain_promotions = 0;
            entry.refusers.clear();
            self.drain_recorded(turn, vm);
            self.make_room(turn, vm);
            // What was on its way to it is lost.
            self.ask_for_input(turn, vm);
            self.ask_again_to_yield(turn, vm);
        } else {
            entry.phase = Phase::Promoting { host, since: turn.now };
        }
    }

    /// Gives back what older generations hold, and reserves what the next one will need.
    pub(super) fn make_room(&self, turn: &mut Turn<'_>, vm: VmId) {
        let Some(entry) = self.vms.get(&vm) else { return };
        let generation = entry.generation;
        // The driver still reads the log of an older one: its place is nobody else's before that.
        if entry.draining_log.is_some_and(|drained| drained < generation) && !planted(PlantedBug::LogClosedUnderDrain) {
            return;
        }
        if generation > Generation::FIRST {
            let over = Generation::new(generation.get() - 1);
            turn.actions.push(Action::CloseGeneration { vm, generation: over });
        }
        if matches!(entry.phase, Phase::Running { .. }) {
            turn.actions.push(Action::ReserveGeneration { vm, generation: generation.next() });
        }
    }

    /// A secondary that was told to ask, or a host that was told to become primary, and does neither that nor die, is
    /// not waited for for ever.
    pub(super) fn overdue(&mut self, turn: &mut Turn<'_>) {
        let bound = self.config.ask_bound;
        let silent: Vec<VmId> = self
            .vms
            .values()
            .filter(|vm| vm.suspected.is_some_and(|suspicion| turn.now.since(suspicion.since) > bound))
            .map(|vm| vm.id)
            .collect();
        for vm in silent {
            self.begin_takeover(turn, vm, None);
        }
        self.overdue_yields(turn);
        self.overdue_standbys(turn);
        self.overdue_hosts(turn);
        let bound = |vm: &Vm| vm.promotion_bound(self.config.promotion_bound);
        let overdue: Vec<(VmId, Generation)> = self
            .vms
            .values()
            .filter(|vm| matches!(vm.phase, Phase::Promoting { since, .. } if turn.now.since(since) > bound(vm)))
            .map(|vm| (vm.id, vm.generation))
            .collect();
        for (vm, generation) in overdue {
            let reason = TakeoverReason::PromotionFailed;
            // It would be chosen again at once: another host may do better.
            let failed = self.vms[&vm].primary().filter(|_| !planted(PlantedBug::FailedPromotionForgotten));
            if let Some(entry) = failed.and_then(|host| self.hosts.get_mut(&host)) {
                entry.distrust(turn.now, &self.config);
            }
            if let Some(entry) = self.vms.get_mut(&vm) {
                entry.vain_promotions = entry.vain_promotions.saturating_add(1);
            }
            self.tell(turn, Happening::PrimaryGone { vm, generation, reason });
            self.begin_takeover(turn, vm, None);
        }
    }

    fn guest_ended(&mut self, turn: &mut Turn<'_>, vm: VmId, end: GuestEnd) {
        // Comes from a commit record, which is the host's to write.
        let end = match end {
            GuestEnd::Crashed(line) => GuestEnd::Crashed(one_line(&line)),
            end @ GuestEnd::Exited(_) => end,
        };
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let primary = entry.primary();
        let (generation, console_end) = (entry.generation, entry.console_end);
        let readers: Vec<_> = entry.readers.keys().copied().collect();
        entry.phase = Phase::Ended { end: end.clone() };
        // It will not come to the places that were kept free for it.
        entry.spare = None;
        entry.intended.clear();
        self.requests_over(turn, vm, "the guest has ended");
        self.persist(turn);
        // Who reads hears of the end last: it is the last thing that many want to hear.
        self.tell_outputs(turn, vm);
        self.end_following(turn, vm, generation, "the guest has ended");
        self.tell(turn, Happening::Ended { vm, end: end.clone() });
        for link in readers {
            let message = ToClient::VmEnded { vm, end: end.clone(), console_end };
            turn.actions.push(Action::ToClient { link, message, grants: Vec::new() });
        }
        self.release_space(turn, vm);
        if let Some(host) = primary {
            self.to_host(turn, host, ToHost::Release { vm, generation, deposed: false }, Vec::new());
        }
        if let Some(standby) = self.vms.get_mut(&vm).and_then(|entry| entry.standby.take()) {
            let release = ToHost::Release { vm, generation, deposed: false };
            self.to_host(turn, standby.host, release, Vec::new());
        }
    }
}
