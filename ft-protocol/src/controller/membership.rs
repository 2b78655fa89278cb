//! Hosts come, fall silent, come back and go.

use super::forgetting::Forgettable;
use super::hosts::{Change, Health, Host};
use super::io::Action;
use super::vm::Phase;
use super::{Controller, HostId, LinkId, Turn, VmId};
use crate::cpu::LEAVES_MAX;
use crate::ids::{Epoch, Generation};
use crate::planted::{PlantedBug, planted};
use crate::policy::{LABELS_MAX, label_is_valid};
use crate::spec::name_is_valid;
use crate::time::Time;
use crate::timeline::{Happening, one_line};
use crate::wire::{Access, FromHost, Grant, HeldRole, HostHello, Part, Role, TakeoverReason, ToHost};

/// Why a host may not join.
struct Rejection {
    reason: String,
    retry: bool,
}

/// Which number a host gets that may join.
enum Place {
    /// Its own of before, or one that nobody has had.
    Free(HostId),
    /// That of a host that is to be forgotten.
    Instead(HostId),
}

impl Controller {
    pub(super) fn host_hello(&mut self, turn: &mut Turn<'_>, link: LinkId, hello: HostHello) {
        let (host, protocol) = match self.admit(turn.now, &hello) {
            Ok((Place::Free(host), protocol)) => (host, protocol),
            Ok((Place::Instead(host), protocol)) => {
                self.forget(turn, host);
                (host, protocol)
            }
            Err(Rejection { reason, retry }) => {
                let message = ToHost::Rejected { reason, retry };
                turn.actions.push(Action::ToHost { link, message, grants: Vec::new() });
                turn.actions.push(Action::CloseLink(link));
                return;
            }
        };
        let known = self.hosts.contains_key(&host);
        let entry = self
            .hosts
            .entry(host)
            .or_insert_with(|| Host::new(hello.profile.name.clone(), Health::Down, self.config.detector));
        let restarted = entry.incarnation.is_some_and(|known| known != hello.profile.incarnation);
        let name = hello.profile.name.clone();
        entry.connect(turn.now, link, hello.profile, &self.config);
        for vm in self.vms.values_mut() {
            vm.refusers.remove(&host);
            vm.unfit_on.remove(&host);
            vm.misread_by.remove(&host);
        }
        entry.protocol = Some(protocol);
        self.host_links.insert(link, host);
        if !known {
            self.persist(turn);
        }
        turn.actions.push(Action::WatchHost { host, link: Some(link) });
        let welcome = ToHost::Welcome {
            host,
            heartbeat_bound: self.config.detector.bound,
            heartbeat_interval: self.config.detector.interval,
            suspicion: self.config.detector.suspicion,
            protocol,
        };
        let beat = Grant { part: Part::Heartbeat(host), access: Access::ReadWrite };
        self.to_host(turn, host, welcome, vec![beat]);
        self.tell(turn, Happening::HostJoined { host, name });
        self.reconcile(turn, host, restarted, &hello.roles);
        self.protect_all(turn);
    }

    /// Finds the number of a host that may join, or says in one line why it may not.
    fn admit(&self, now: Time, hello: &HostHello) -> Result<(Place, u32), Rejection> {
        let never = |reason: String| Err(Rejection { reason, retry: false });
        let ours = self.config.protocols;
        let Some(protocol) = ours.common(hello.protocols) else {
            return never(format!(
                "host `{}` speaks protocol {}, the controller {ours}: use versions of ftvm that have one in common",
                one_line(&hello.profile.name),
                hello.protocols
            ));
        };
        if !name_is_valid(&hello.profile.name) {
            return never("bad host name: 1 to 63 of a-z 0-9 . _ -, not starting with a dot".to_owned());
        }
        if hello.profile.cpu.leaves.len() > LEAVES_MAX {
            return never(format!(
                "host `{}` has a CPUID table of {} entries, at most {LEAVES_MAX} can be kept",
                hello.profile.name,
                hello.profile.cpu.leaves.len()
            ));
        }
        if let Some(reads) = self.config.states.filter(|reads| !reads.reads(hello.profile.states.writes)) {
            return never(format!(
                "host `{}` writes machine states of version {}, the controller reads {} to {}: use a newer ftvm for the \
                 controller first",
                hello.profile.name, hello.profile.states.writes, reads.reads_from, reads.writes
            ));
        }
        let labels = &hello.profile.labels;
        if labels.len() > LABELS_MAX || !labels.iter().all(|label| label_is_valid(label)) {
            return never(format!(
                "host `{}` has bad labels: at most {LABELS_MAX} of 1 to 64 of A-Z a-z 0-9 . _ = / - each",
                hello.profile.name
            ));
        }
        if let Some((id, host)) = self.hosts.iter().find(|(_, host)| host.name == hello.profile.name) {
            return if host.link.is_some() {
                // The old connection may be about to close.
                let reason = format!("a host named `{}` is connected already: choose another --id", hello.profile.name);
                Err(Rejection { reason, retry: true })
            } else {
                Ok((Place::Free(*id), protocol))
            };
        }
        match u16::try_from(self.hosts.len()) {
            Ok(next) if next < self.config.hosts_max => Ok((Place::Free(HostId::new(next)), protocol)),
            _ => self.place_of_forgotten(now).map(|place| (place, protocol)),
        }
    }

    fn place_of_forgotten(&self, now: Time) -> Result<Place, Rejection> {
        let places = self.config.hosts_max;
        match self.forgettable(now) {
            Forgettable::Now(host) => Ok(Place::Instead(host)),
            Forgettable::Soon => {
                let reason = format!("all {places} places for hosts are taken; one may be free in a moment");
                Err(Rejection { reason, retry: true })
            }
            Forgettable::None => {
                let reason = format!(
                    "all {places} places for hosts are taken, and every host is up or wanted for a VM or has a drain \
                     order: stop one that has no role (`ftvm status`), end the drain of one that is gone, or use the name of \
                     one that is down"
                );
                Err(Rejection { reason, retry: false })
            }
        }
    }

    /// Holds what a host says it holds against what it should.
    fn reconcile(&mut self, turn: &mut Turn<'_>, host: HostId, restarted: bool, roles: &[HeldRole]) {
        for role in roles.iter().filter(|role| !self.vms.contains_key(&role.vm)) {
            // Deleted while the host was away.
            let release = ToHost::Release { vm: role.vm, generation: role.generation, deposed: false };
            self.to_host(turn, host, release, Vec::new());
        }
        let vms: Vec<VmId> = self.vms.keys().copied().collect();
        for vm in vms {
            let held = roles.iter().find(|role| role.vm == vm).copied();
            let entry = &self.vms[&vm];
            let generation = entry.generation;
            let is_primary = entry.primary() == Some(host);
            let is_standby = entry.standby.is_some_and(|standby| standby.host == host);
            match held {
                Some(HeldRole { generation: held, role: Role::Primary { live }, .. })
                    if is_primary && held == generation =>
                {
                    self.adopt_primary(turn, vm, host, live);
                }
                Some(HeldRole { generation: held, role: Role::Secondary { prepared }, .. })
                    if held == generation
                        && !is_primary
                        && !entry.is_over()
                        && (is_standby || entry.standby.is_none()) =>
                {
                    self.adopt_standby(turn, vm, host, prepared);
                }
                Some(held) => {
                    let deposed = matches!(held.role, Role::Primary { .. });
                    let release = ToHost::Release { vm, generation: held.generation, deposed };
                    self.to_host(turn, host, release, Vec::new());
                    self.forget_roles(turn, vm, host, TakeoverReason::GivenUp);
                }
                None => {
                    let reason =
                        if restarted { TakeoverReason::HostRestarted } else { TakeoverReason::PromotionFailed };
                    self.forget_roles(turn, vm, host, reason);
                }
            }
        }
    }

    /// The host does not hold any role for the VM that it should: as primary it must be succeeded, as secondary replaced.
    fn forget_roles(&mut self, turn: &mut Turn<'_>, vm: VmId, host: HostId, reason: TakeoverReason) {
        let entry = &self.vms[&vm];
        if entry.primary() == Some(host) {
            self.primary_gone(turn, vm, reason);
        } else if entry.standby.is_some_and(|standby| standby.host == host) {
            self.drop_standby(turn, vm);
        }
    }

    pub(super) fn host_said(&mut self, turn: &mut Turn<'_>, link: LinkId, message: FromHost) {
        let Some(&host) = self.host_links.get(&link) else { return };
        match message {
            FromHost::Doorbell { vm, generation, epoch } => {
                if self.vms.get(&vm).is_some_and(|entry| entry.primary() == Some(host)) {
                    self.committed(turn, vm, generation, epoch);
                }
            }
            FromHost::StandbyReady { vm, generation } => self.standby_ready(turn, vm, generation, host),
            FromHost::AskTakeover { vm, generation, reason } => self.ask(turn, vm, generation, host, reason),
            FromHost::Live { vm, generation, report } => self.live(turn, vm, generation, host, report),
            FromHost::Fenced { vm, generation } => {
                if self.vms.contains_key(&vm) {
                    self.tell(turn, Happening::Fenced { vm, generation, host });
                }
            }
            FromHost::Logged { vm, generation } => self.logged(turn, vm, generation),
            FromHost::Recorded { vm, generation, since } => self.recorded(turn, vm, generation, since, host),
            // Of a secondary that was told by an older controller, which is not followed any more.
            FromHost::Followed { .. } => {}
            FromHost::FollowedAs { follow, vm, generation, epoch, step } => {
                self.followed(turn, vm, generation, (epoch, step), (host, follow));
            }
            FromHost::ModeIs { vm, generation, mode } => self.mode_is(turn, vm, generation, mode, host),
            FromHost::Diverged { vm, generation, report } => {
                self.diverged(turn, vm, generation, &report, (host, None));
            }
            FromHost::DivergedAs { follow, vm, generation, report } => {
                self.diverged(turn, vm, generation, &report, (host, Some(follow)));
            }
            FromHost::LogLost { vm, generation, report } => {
                self.log_lost_by(turn, vm, generation, &report, host);
            }
            FromHost::FollowFailed { follow, vm, generation, reason } => {
                self.follow_failed(turn, vm, generation, &reason, (host, follow));
            }
            FromHost::OutOfSpace { vm, generation, shortage } => {
                if self.vms.get(&vm).is_some_and(|entry| entry.primary() == Some(host)) {
                    self.out_of_space(turn, vm, generation, shortage);
                }
            }
            FromHost::OutputsMeasured { vm, generation, latency } => {
                if self.vms.get(&vm).is_some_and(|entry| entry.primary() == Some(host)) {
                    self.outputs_measured(vm, generation, latency);
                }
            }
            FromHost::InputAt { vm, generation, at } => self.input_at(turn, vm, generation, at, host),
            FromHost::SpaceAgain { vm, generation } => {
                if self.vms.get(&vm).is_some_and(|entry| entry.primary() == Some(host)) {
                    self.space_again(turn, vm, generation);
                }
            }
            FromHost::Stood { vm, generation, stood } => self.stood(turn, vm, generation, host, stood),
            FromHost::Yielded { vm, generation } => self.yielded(turn, vm, generation, host),
            FromHost::GaveUp { vm, generation, reason } => self.gave_up(turn, vm, generation, host, &reason),
            FromHost::Unfit { vm, generation, reason } => self.unfit(turn, vm, generation, host, &reason),
        }
    }

    fn is_concerned(&self, vm: VmId, generation: Generation, host: HostId) -> bool {
        self.vms.get(&vm).is_some_and(|entry| entry.generation == generation && entry.has_role_on(host))
    }

    fn gave_up(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation, host: HostId, reason: &str) {
        if !self.is_concerned(vm, generation, host) {
            return;
        }
        self.tell(turn, Happening::GaveUp { vm, host, reason: one_line(reason) });
        // A host that failed once would be chosen again at once: let it rest.
        if let Some(entry) = self.hosts.get_mut(&host) {
            entry.distrust(turn.now, &self.config);
        }
        if let Some(entry) = self.vms.get_mut(&vm)
            && matches!(entry.phase, Phase::Promoting { host: to, .. } if to == host)
        {
            entry.refusers.insert(host);
        }
        self.forget_roles(turn, vm, host, TakeoverReason::GivenUp);
    }

    /// A host says that what the pool holds of a VM cannot be started, or gone on with. It may be wrong, or older than the
    /// guest: others are asked, but nobody twice, and it is trusted as before. What has run once may have been damaged right
    /// behind the controller's own look, which mends it: of that the host may take another look. With nobody left to ask
    /// there is nothing that could become of the VM.
    fn unfit(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation, host: HostId, reason: &str) {
        if !self.is_concerned(vm, generation, host) {
            return;
        }
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let has_run = entry.applied.max(entry.committed) > Epoch::ZERO;
        if !(has_run && entry.misread_by.insert(host)) {
            entry.unfit_on.insert(host);
        }
        let runs_elsewhere = matches!(entry.phase, Phase::Running { host: primary } if primary != host);
        self.tell(turn, Happening::GaveUp { vm, host, reason: one_line(reason) });
        let could = |(id, entry): (&HostId, &super::Host)| {
            entry.is_beating() && self.room_left(*id, vm, 0) && self.mismatch(*id, vm).is_none()
        };
        if runs_elsewhere || self.hosts.iter().any(could) {
            self.forget_roles(turn, vm, host, TakeoverReason::GivenUp);
        } else {
            let what = if has_run { "go on with" } else { "start" };
            self.partition_damaged(turn, vm, &format!("no host can {what} its guest: {reason}"));
        }
    }

    pub(super) fn link_closed(&mut self, turn: &mut Turn<'_>, link: LinkId) {
        if let Some(host) = self.host_links.remove(&link) {
            let name = self.host_name(host);
            if let Some(entry) = self.hosts.get_mut(&host) {
                entry.disconnect(turn.now);
            }
            self.tell(turn, Happening::HostDown { host, name });
            self.host_lost(turn, host, TakeoverReason::LinkClosed);
        }
        self.client_closed(turn, link);
    }

    /// The kernel says so: known before the connection closes, and beyond doubt.
    pub(super) fn host_died(&mut self, turn: &mut Turn<'_>, host: HostId) {
        if let Some(entry) = self.hosts.get_mut(&host) {
            entry.is_dead = true;
        }
        self.host_gone(turn, host);
    }

    /// A host that is not connected has been given up already, or is awaited by a
    /// controller that has just started: then nobody else will tell.
    fn host_gone(&mut self, turn: &mut Turn<'_>, host: HostId) {
        let Some(entry) = self.hosts.get_mut(&host) else { return };
        match (entry.link, entry.health) {
            (Some(link), _) => {
                turn.actions.push(Action::CloseLink(link));
                self.link_closed(turn, link);
            }
            (None, Health::Awaited) => {
                let name = entry.name.clone();
                entry.disconnect(turn.now);
                self.tell(turn, Happening::HostDown { host, name });
                self.host_lost(turn, host, TakeoverReason::LinkClosed);
            }
            (None, _) => {}
        }
    }

    /// A host that beats but does not come back to a controller that has just begun cannot be told anything: its roles go
    /// elsewhere.
    pub(super) fn overdue_hosts(&mut self, turn: &mut Turn<'_>) {
        let bound = self.config.promotion_bound;
        let late = |host: &Host| {
            let awaited = host.awaited_since.filter(|_| host.health == Health::Awaited);
            awaited.is_some_and(|since| turn.now.since(since) > bound) && !planted(PlantedBug::HostAwaited)
        };
        let overdue: Vec<HostId> = self.hosts.iter().filter(|(_, host)| late(host)).map(|(id, _)| *id).collect();
        for host in overdue {
            self.host_gone(turn, host);
        }
    }

    pub(super) fn beat(&mut self, turn: &mut Turn<'_>, host: HostId, count: Option<u64>) {
        let Some(entry) = self.hosts.get_mut(&host) else { return };
        let name = entry.name.clone();
        match entry.beat(turn.now, count, &self.config) {
            Change::None => {}
            Change::FellSilent(silence) => {
                self.tell(turn, Happening::HostSilent { host, name });
                self.host_lost(turn, host, TakeoverReason::HeartbeatSilent(silence));
            }
            Change::BeatsAgain => self.tell(turn, Happening::HostBeats { host, name }),
        }
        self.settle_doubts(turn, host);
    }

    /// All roles of a dead or silent host must go elsewhere.
    fn host_lost(&mut self, turn: &mut Turn<'_>, host: HostId, reason: TakeoverReason) {
        // Primaries first: they are what the outside waits for.
        let led: Vec<VmId> = self.vms.values().filter(|vm| vm.primary() == Some(host)).map(|vm| vm.id).collect();
        for vm in led {
            self.primary_gone(turn, vm, reason);
        }
        let stood_by: Vec<VmId> = self
            .vms
            .values()
            .filter(|vm| vm.standby.is_some_and(|standby| standby.host == host))
            .map(|vm| vm.id)
            .collect();
        for vm in stood_by {
            self.drop_standby(turn, vm);
        }
        self.protect_all(turn);
    }
}
