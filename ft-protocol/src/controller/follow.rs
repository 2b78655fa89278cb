//! Lockstep: a secondary that executes what the primary executes, on its own view of the stable image.
//!
//! A page that the secondary has not written is the stable image's own. While it follows, the image therefore goes on only
//! to epochs that it has come to: the application of records waits for [`FromHost::FollowedAs`](crate::wire::FromHost).
//! A takeover waits for it, too, while it finishes the tail; for nothing of this longer than a bound. Whether a secondary
//! follows is not persisted: one that loses the controller goes back to standing by.

use super::vm::Phase;
use super::{Controller, Generation, HostId, Turn, VmId};
use crate::ids::{Epoch, FollowId};
use crate::latency::OutputLatency;
use crate::planted::{PlantedBug, planted};
use crate::spec::Mode;
use crate::time::{Span, Time};
use crate::timeline::{Happening, one_line};
use crate::wire::{Access, FOLLOW_SINCE, FollowStatus, FollowStep, Grant, Part, RECORDED_SINCE, ToHost};
use std::collections::VecDeque;

/// Commits whose time is remembered, to tell the lag; a journal has fewer slots.
const COMMITS_TIMED_MAX: usize = 64;

/// A secondary that follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Following {
    pub(super) host: HostId,
    /// What it was told; of an order before, which it may still speak of, nothing is believed.
    id: FollowId,
    pub(super) reached: Epoch,
    compared: u64,
    adopted: u64,
    lag: Span,
    lags: OutputLatency,
    /// When epochs beyond the one reached were committed, as far as this controller knows.
    committed_at: VecDeque<(Epoch, Time)>,
}

impl Following {
    fn new(host: HostId, id: FollowId, base: Epoch) -> Self {
        let (lags, committed_at) = (OutputLatency::default(), VecDeque::new());
        Self { host, id, reached: base, compared: 0, adopted: 0, lag: Span::ZERO, lags, committed_at }
    }

    /// Whether what this host says of this order is of the present.
    pub(super) fn is(&self, host: HostId, id: FollowId) -> bool {
        self.host == host && (self.id == id || planted(PlantedBug::StaleReportBelieved))
    }

    fn note_commit(&mut self, now: Time, epoch: Epoch) {
        let known = self.committed_at.back().is_some_and(|(last, _)| *last >= epoch);
        if !known && epoch > self.reached && self.committed_at.len() < COMMITS_TIMED_MAX {
            self.committed_at.push_back((epoch, now));
        }
    }

    fn reach(&mut self, now: Time, epoch: Epoch, step: FollowStep) {
        self.reached = epoch;
        match step {
            FollowStep::Compared => self.compared += 1,
            FollowStep::Adopted => self.adopted += 1,
        }
        self.lag = Span::ZERO;
        while let Some((_, at)) = self.committed_at.pop_front_if(|(committed, _)| *committed <= epoch) {
            self.lag = now.since(at);
        }
        self.lags.note(self.lag);
    }

    fn status(&self, now: Time, committed: Epoch) -> FollowStatus {
        // A secondary that stands still is behind by as long as it has not come to the next epoch.
        let waited = self.committed_at.front().map_or(Span::ZERO, |(_, at)| now.since(*at));
        let lag = self.lag.max(waited);
        FollowStatus {
            reached: self.reached,
            behind: committed.get().saturating_sub(self.reached.get()),
            compared: self.compared,
            adopted: self.adopted,
            lag,
            lag_max: self.lags.summary().map_or(lag, |lags| lags.max.max(lag)),
        }
    }
}

impl Controller {
    /// The primary says since when all inputs are in the log.
    pub(super) fn recorded(
        &mut self,
        turn: &mut Turn<'_>,
        vm: VmId,
        generation: Generation,
        since: Epoch,
        host: HostId,
    ) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        if entry.generation != generation || entry.primary() != Some(host) {
            return;
        }
        entry.recorded_since = Some(since);
        self.follow(turn, vm);
    }

    /// Has the secondary follow as soon as everything for it is there. The stable image stands still from then on.
    pub(super) fn follow(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let wanted = entry.spec.mode == Mode::Lockstep && entry.following.is_none() && turn.now >= entry.follow_at;
        let quiet = matches!(entry.phase, Phase::Running { .. })
            && entry.switchover.is_none()
            && entry.suspected.is_none()
            && (entry.mode_order.is_none() || planted(PlantedBug::ModeOrdersOverlap))
            && !entry.applying;
        let recorded = entry.recorded_since.is_some_and(|since| since <= entry.applied) && entry.applied > Epoch::ZERO;
        let Some(host) = entry.standby.filter(|standby| standby.ready).map(|standby| standby.host) else { return };
        let able = self
            .hosts
            .get(&host)
            .is_some_and(|host| host.is_fit() && host.protocol.is_some_and(|protocol| protocol >= FOLLOW_SINCE));
        if !(wanted && quiet && recorded && able) {
            return;
        }
        let (generation, base) = (entry.generation, entry.applied);
        self.follows += 1;
        let follow = FollowId::new(self.follows);
        entry.following = Some(Following::new(host, follow, base));
        entry.unfollowed = None;
        entry.follow_progress_at = turn.now;
        let read = |part| Grant { part, access: Access::ReadOnly };
        let grants = vec![read(Part::Journal(vm, generation)), read(Part::Log(vm, generation))];
        self.to_host(turn, host, ToHost::FollowAs { follow, vm, generation, base }, grants);
        self.tell(turn, Happening::Following { vm, generation, host, base });
    }

    /// The secondary has come to the end of an epoch.
    pub(super) fn followed(
        &mut self,
        turn: &mut Turn<'_>,
        vm: VmId,
        generation: Generation,
        (epoch, step): (Epoch, FollowStep),
        (host, follow): (HostId, FollowId),
    ) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let Some(following) = entry.following.as_mut().filter(|following| following.is(host, follow)) else { return };
        if entry.generation != generation {
            return;
        }
        if epoch != following.reached.next() {
            let reason = format!("it says that it has come from {} to {epoch}", following.reached);
            self.unfollow(turn, vm, &reason);
            return;
        }
        following.reach(turn.now, epoch, step);
        entry.follow_progress_at = turn.now;
        self.apply_next(turn, vm);
    }

    /// A commit is known.
    pub(super) fn note_commit(&mut self, now: Time, vm: VmId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        if let Some(following) = &mut entry.following {
            if entry.committed > following.reached && following.committed_at.is_empty() {
                entry.follow_progress_at = now;
            }
            following.note_commit(now, entry.committed);
        }
    }

    /// Has the secondary only stand by again; the stable image goes on by itself.
    pub(super) fn unfollow(&mut self, turn: &mut Turn<'_>, vm: VmId, reason: &str) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let generation = entry.generation;
        entry.follow_at = turn.now + self.config.hold_down;
        if let Some(host) = self.end_following(turn, vm, generation, reason) {
            self.to_host(turn, host, ToHost::Unfollow { vm, generation }, Vec::new());
            self.apply_next(turn, vm);
        }
    }

    /// Application waits for no secondary any more, and this is told; returns who it was.
    pub(super) fn end_following(
        &mut self,
        turn: &mut Turn<'_>,
        vm: VmId,
        generation: Generation,
        reason: &str,
    ) -> Option<HostId> {
        let entry = self.vms.get_mut(&vm)?;
        let following = entry.following.take()?;
        let (host, status) = (following.host, following.status(turn.now, entry.committed));
        entry.unfollowed = Some(reason.to_owned());
        let (reason, lags) = (reason.to_owned(), following.lags);
        self.tell(turn, Happening::FollowingEnded { vm, generation, host, reason, status, lags });
        Some(host)
    }

    /// Secondaries that have more to follow and do not get any further: the guest, and whoever waits for its takeover, do
    /// not wait for them for ever.
    pub(super) fn overdue_followers(&mut self, turn: &mut Turn<'_>) {
        let bound = self.config.promotion_bound;
        let stuck: Vec<VmId> = self
            .vms
            .values()
            .filter(|vm| {
                let behind = vm.following.as_ref().is_some_and(|following| following.reached < vm.committed);
                // What the controller itself holds up is not the secondary's fault.
                let asked = !vm.applying && !vm.console_full;
                behind && asked && turn.now.since(vm.follow_progress_at) > bound
            })
            .map(|vm| vm.id)
            .collect();
        for vm in stuck {
            self.unfollow(turn, vm, &format!("it has not come any further for {bound}"));
        }
    }

    /// The secondary says that it cannot follow any more.
    pub(super) fn follow_failed(
        &mut self,
        turn: &mut Turn<'_>,
        vm: VmId,
        generation: Generation,
        reason: &str,
        (host, follow): (HostId, FollowId),
    ) {
        let Some(entry) = self.vms.get(&vm) else { return };
        let concerned = entry.following.as_ref().is_some_and(|following| following.is(host, follow));
        if concerned && entry.generation == generation {
            self.unfollow(turn, vm, &one_line(reason));
        }
    }

    /// Why the secondary of a VM in lockstep mode does not follow, in one line; `None`: it does, or is not to.
    pub(super) fn not_followed_because(&self, entry: &super::Vm) -> Option<String> {
        let Phase::Running { host: primary } = entry.phase else { return None };
        if entry.spec.mode != Mode::Lockstep || entry.following.is_some() {
            return None;
        }
        let too_old = |host: HostId, wanted: u32| {
            let protocol = self.hosts.get(&host).and_then(|host| host.protocol).filter(|spoken| *spoken < wanted)?;
            let name = self.host_name(host);
            Some(format!("host `{name}` speaks protocol {protocol}, which takes {wanted}: use a newer ftvm there"))
        };
        if let Some(why) = too_old(primary, RECORDED_SINCE) {
            return Some(format!("the primary does not say what is in its log: {why}"));
        }
        let Some(standby) = entry.standby.filter(|standby| standby.ready) else {
            return Some("there is no secondary yet".to_owned());
        };
        if let Some(why) = too_old(standby.host, FOLLOW_SINCE) {
            return Some(format!("its secondary cannot follow: {why}"));
        }
        if entry.mode_order.is_some() {
            return Some("its primary is yet to turn to lockstep mode".to_owned());
        }
        if let Some(reason) = &entry.unfollowed {
            return Some(format!("it followed until {reason}; it is given another try soon"));
        }
        Some(match entry.recorded_since {
            Some(since) if since <= entry.applied => "its secondary is about to follow".to_owned(),
            _ => "its primary is yet to commit what the log begins with".to_owned(),
        })
    }

    /// How the secondary follows, for `status`.
    pub(super) fn follow_status(&self, entry: &super::Vm) -> Option<FollowStatus> {
        entry.following.as_ref().map(|following| following.status(self.now, entry.committed))
    }
}
