//! Commit progress: a primary whose host lives, but which neither commits nor says why it need not, is suspected.
//!
//! ```text
//!  Owes:             only a new epoch is progress
//!  Writes:           its count, too: a record takes as long as it is large
//!  Waits, Blocked:   its count: the thread lives, and what it waits for is not its own doing
//! ```
//! As with heartbeats, safety never rests on it, and an observer that was starved itself accuses nobody.

use super::vm::Phase;
use super::{Controller, Generation, Turn, VmId};
use crate::activity::{Activity, Doing};
use crate::detector::SAMPLE_CREDIT_MAX;
use crate::ids::Epoch;
use crate::planted::{PlantedBug, planted};
use crate::time::{Span, Time};
use crate::wire::{ACTIVITY_SINCE, TakeoverReason};

/// How many epoch intervals without a commit are nothing strange, however long they are.
pub const STALL_EPOCHS: u64 = 20;

/// What was seen of a primary last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    generation: Generation,
    committed: Epoch,
    activity: Activity,
    at: Time,
    silence: Span,
}

impl Progress {
    fn moved(&self, committed: Epoch, activity: Activity) -> bool {
        let counts =
            activity.doing != Doing::Owes && !(planted(PlantedBug::IdleAccused) && activity.doing == Doing::Waits);
        let breathes = counts && activity.count != self.activity.count;
        committed > self.committed || activity.doing != self.activity.doing || breathes
    }
}

impl super::vm::Vm {
    /// What the reigning primary does, as it said last.
    pub(super) fn doing(&self) -> Option<Doing> {
        let seen = self.progress.filter(|seen| seen.generation == self.generation)?;
        matches!(self.phase, Phase::Running { .. }).then_some(seen.activity.doing)
    }

    /// The reigning primary was seen to move within this time.
    pub(super) fn gets_on(&self, bound: Span) -> bool {
        self.progress.is_some_and(|seen| seen.generation == self.generation && seen.silence < bound)
    }
}

impl Controller {
    /// VMs whose primary says what it does, and that primary's host: where to look.
    pub fn running(&self) -> impl Iterator<Item = (VmId, Generation, crate::ids::HostId)> + '_ {
        self.vms.values().filter_map(|vm| match vm.phase {
            Phase::Running { host } if self.hosts.get(&host)?.protocol? >= ACTIVITY_SINCE => {
                Some((vm.id, vm.generation, host))
            }
            _ => None,
        })
    }

    /// A look at what a primary says of itself; `None` when it cannot be read.
    pub(super) fn activity(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation, said: Option<Activity>) {
        let bound = self.stall_bound(vm);
        let credit_max = self.config.detector.interval.times(SAMPLE_CREDIT_MAX);
        let Some(entry) = self.vms.get_mut(&vm).filter(|entry| entry.generation == generation) else { return };
        let Phase::Running { host } = entry.phase else { return };
        let beats = self.hosts.get(&host).is_some_and(super::Host::is_beating);
        // What is committed and not applied yet (a full console may hold it up for long) may be the guest's end, after
        // which nothing has to come; and no takeover could go live before it is applied.
        let behind = entry.applied < entry.committed && !planted(PlantedBug::EndUnknown);
        // A host that is silent is suspected for that.
        let Some(activity) = said.filter(|_| beats && !behind) else {
            entry.progress = None;
            return;
        };
        let (at, committed) = (turn.now, entry.committed);
        let same = entry.progress.filter(|seen| seen.generation == generation && !seen.moved(committed, activity));
        let silence = same.map_or(Span::ZERO, |seen| {
            Span::from_ns(seen.silence.ns().saturating_add(turn.now.since(seen.at).min(credit_max).ns()))
        });
        entry.progress = Some(Progress { generation, committed, activity, at, silence });
        if silence < bound || planted(PlantedBug::StallIgnored) {
            return;
        }
        let successor =
            entry.ready_standby().is_some() || self.place(vm, &[host], super::placement::Role::Primary).is_some();
        if successor {
            self.stalled(turn, vm, host, silence);
        }
    }

    /// Silence after which a VM's commits have stalled.
    fn stall_bound(&self, vm: VmId) -> Span {
        let epochs = self.vms.get(&vm).map_or(Span::ZERO, |vm| vm.spec.epoch_interval.times(STALL_EPOCHS));
        self.config.stall_bound.max(epochs)
    }

    fn stalled(&mut self, turn: &mut Turn<'_>, vm: VmId, host: crate::ids::HostId, silence: Span) {
        if let Some(entry) = self.vms.get_mut(&vm) {
            // Should nothing come of it, it is suspected again.
            entry.progress = None;
        }
        if let Some(entry) = self.hosts.get_mut(&host) {
            entry.distrust(turn.now, &self.config);
        }
        self.primary_gone(turn, vm, TakeoverReason::CommitStalled(silence));
    }
}
