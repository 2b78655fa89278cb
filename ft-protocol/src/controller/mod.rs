//! The controller's core: membership, takeover, application order, re-protection and placement.
//!
//! It alone says who reigns. Nothing here trusts a clock for safety: every change of primary goes through
//! `Seal -> drain -> Persist -> OpenGeneration -> Promote`, in this order, and each step is idempotent, so that a
//! controller that dies in between is followed by one that finishes the work.

mod asks;
mod clients;
mod damage;
mod failback;
mod follow;
mod forgetting;
mod hosts;
mod input;
mod io;
mod log_damage;
mod membership;
mod outputs;
mod placement;
mod progress;
mod protection;
mod record;
mod space;
mod spare;
mod state;
mod switchover;
mod takeover;
mod vm;

pub use hosts::Health;
pub use io::{Action, ApplyOutcome, DrainOutcome, Input, Left, LeftWord, LostFiles, Recovered, Word};
pub use progress::STALL_EPOCHS;
pub use state::{CLUSTER_STATE_VERSION, ClusterState, ClusterStateError, HostRecord, VM_GROWTH_BYTES, VmRecord};

use crate::cpu::CpuProfile;
use crate::detector::{DetectorConfig, OVERDUE_PART};
use crate::fence::FenceOutcome;
use crate::ids::{Epoch, Generation, HostId, LinkId, VmId};
use crate::planted::{PlantedBug, planted};
use crate::spec::VmSpec;
use crate::time::{Span, Time};
use crate::timeline::{Happening, one_line};
use crate::versions::VersionRange;
use crate::wire::{StateFormats, ToClient, ToHost};
use hosts::Host;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use vm::{Phase, Vm};

/// Happenings that are kept for watchers to come: those of a restarted controller's first moments, above all.
const RECENT_MAX: usize = 256;

/// Bounds of a [`Controller`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControllerConfig {
    /// How heartbeats are watched, here and by the hosts.
    pub detector: DetectorConfig,
    /// How long a host that was silent must beat before it is given a new role.
    pub hold_down: Span,
    /// Failures in quick succession after which a host counts as flapping, and is held down longer with each.
    pub flaps_free: u32,
    /// How long a secondary may take to ask for the takeover after it was told that the primary is gone.
    pub ask_bound: Span,
    /// How long a primary may go without a commit that is due, at least; see [`STALL_EPOCHS`].
    pub stall_bound: Span,
    /// What is spoken here.
    pub protocols: VersionRange,
    /// Machine states that can be read here; a host that writes others could not be followed. `None`: any.
    pub states: Option<StateFormats>,
    /// How long a host may take from the order to become primary to the running guest, and from the order to stand by to
    /// the standby.
    pub promotion_bound: Span,
    /// Most hosts that the pool has places for, those that are down included.
    pub hosts_max: u16,
    /// Most VMs at one time.
    pub vms_max: u16,
    /// Room for the cluster state in the pool.
    pub state_bytes_max: u64,
    /// Whether a client may end the cluster with a request (private clusters).
    pub shutdown_allowed: bool,
}

/// The core. One per pool.
#[derive(Debug)]
pub struct Controller {
    config: ControllerConfig,
    hosts: BTreeMap<HostId, Host>,
    vms: BTreeMap<VmId, Vm>,
    host_links: BTreeMap<LinkId, HostId>,
    clients: BTreeSet<LinkId>,
    watchers: BTreeSet<LinkId>,
    first_generation: Generation,
    /// Orders to follow that were given.
    follows: u64,
    /// Clients that want the cluster to end, and their requests.
    shutdowns: Vec<(LinkId, u64)>,
    /// When it was last told anything, which it is in every heartbeat interval.
    now: Time,
    /// What a new watcher has missed of this controller's life, oldest first.
    recent: VecDeque<(Time, Happening)>,
}

/// Everything one call of [`Controller::handle`] works with.
struct Turn<'a> {
    now: Time,
    actions: &'a mut Vec<Action>,
}

impl Controller {
    /// A controller over an empty pool.
    #[must_use]
    pub fn new(config: ControllerConfig) -> Self {
        Self {
            config,
            hosts: BTreeMap::new(),
            vms: BTreeMap::new(),
            host_links: BTreeMap::new(),
            clients: BTreeSet::new(),
            watchers: BTreeSet::new(),
            first_generation: Generation::FIRST,
            follows: 0,
            shutdowns: Vec::new(),
            now: Time::ZERO,
            recent: VecDeque::new(),
        }
    }

    /// A controller over a pool that an earlier one left: goes on where that one stopped.
    ///
    /// A VM whose word is sealed was being taken over; a VM whose primary was named but whose journal does not exist had
    /// not been given away yet. A VM of which nothing was recovered is kept as it was stored, and left alone; why is to be
    /// said by [`Input::PartitionDamaged`]. Hosts are awaited: those whose heartbeat has stopped are found silent soon.
    pub fn recover(
        config: ControllerConfig,
        state: ClusterState,
        pool: &[Recovered],
        now: Time,
        actions: &mut Vec<Action>,
    ) -> Self {
        let mut controller = Self::new(config);
        controller.first_generation = state.first_generation;
        let turn = &mut Turn { now, actions };
        for (index, record) in state.hosts.into_iter().enumerate() {
            let Ok(index) = u16::try_from(index) else { break };
            let mut host = Host::new(record.name, Health::Awaited, config.detector);
            host.draining = record.draining;
            host.awaited_since = Some(now);
            controller.hosts.insert(HostId::new(index), host);
            turn.actions.push(Action::WatchHost { host: HostId::new(index), link: None });
        }
        for record in state.vms {
            match pool.iter().find(|found| found.vm == record.vm) {
                Some(found) => controller.recover_vm(turn, record, found),
                None => controller.keep_damaged(record),
            }
        }
        controller
    }

    /// Takes an input and appends what is to be done.
    pub fn handle(&mut self, now: Time, input: Input, actions: &mut Vec<Action>) {
        self.now = now;
        let turn = &mut Turn { now, actions };
        match input {
            Input::HostHello { link, hello } => self.host_hello(turn, link, hello),
            Input::FromHost { link, message } => self.host_said(turn, link, message),
            Input::ClientHello { link, protocol } => self.client_hello(turn, link, protocol),
            Input::FromClient { link, message } => self.client_said(turn, link, message),
            Input::LinkClosed { link } => self.link_closed(turn, link),
            Input::HostDied { host } => self.host_died(turn, host),
            Input::FenceTried { outcome: FenceOutcome::NoAgent, .. } => {}
            Input::FenceTried { host, name, outcome } => {
                // Not of whoever has the place of one that was forgotten meanwhile.
                if self.hosts.get(&host).is_some_and(|known| known.name == name) {
                    self.tell(turn, Happening::FenceTried { host, outcome });
                }
            }
            Input::Beat { host, count } => self.beat(turn, host, count),
            Input::Committed { vm, generation, epoch } => self.committed(turn, vm, generation, epoch),
            Input::Activity { vm, generation, said } => self.activity(turn, vm, generation, said),
            Input::LogLost { vm, generation, report } => self.log_lost(turn, vm, generation, &report),
            Input::PartitionDamaged { vm, reason } => self.partition_damaged(turn, vm, &reason),
            Input::PartGone { vm, reason } => self.part_gone(turn, vm, &reason),
            Input::FilesGone { vm, gone } => self.files_gone(turn, vm, gone),
            Input::PoolMended { what } => self.tell(turn, Happening::PoolMended { what: one_line(&what) }),
            Input::WordDamaged { vm, generation } => self.word_damaged(turn, vm, generation),
            Input::PartitionCreated { vm, result } => self.partition_created(turn, vm, result),
            Input::PartitionDeleted { vm } => self.partition_deleted(turn, vm),
            Input::GuestUnfit { vm, reason } => self.guest_unfit(turn, vm, &reason),
            Input::Sealed { vm, generation, final_epoch } => self.sealed(turn, vm, generation, final_epoch),
            Input::NoSpace { vm, generation, shortage } => self.out_of_space(turn, vm, generation, shortage),
            Input::GenerationOpened { vm, generation, result } => self.generation_opened(turn, vm, generation, result),
            Input::Applied { vm, generation, outcome } => self.applied(turn, vm, generation, outcome),
            Input::LogDrained { vm, generation, outcome } => self.log_drained(turn, vm, generation, outcome),
            Input::LogDamaged { vm, generation, reason } => self.log_refused(turn, vm, generation, reason),
            Input::Tick => self.tick(turn),
            Input::End => self.end(turn),
        }
        self.shut_down(turn);
    }

    /// The reigning generation of each VM that is not over, with the last epoch known to be committed under it: where to
    /// look for new commits.
    pub fn reigns(&self) -> impl Iterator<Item = (VmId, Generation, Epoch)> + '_ {
        self.vms.values().filter(|vm| vm.primary().is_some()).map(|vm| (vm.id, vm.generation, vm.committed))
    }

    /// When the hosts' heartbeats should be looked at again, from the last look on: for each beat, and at once when a secondary
    /// that takes its primary for hung waits for what they say.
    #[must_use]
    pub fn sample_after(&self) -> Span {
        let interval = self.config.detector.interval;
        let is_doubted = self.vms.values().any(|vm| vm.doubted.is_some() && vm.primary().is_some());
        if is_doubted { Span::from_ns(interval.ns() / OVERDUE_PART) } else { interval }
    }

    /// The connection of a host that is there.
    #[must_use]
    pub fn link_of(&self, host: HostId) -> Option<LinkId> {
        self.hosts.get(&host)?.link
    }

    /// Whether beats of this life of a host count: not those of another host that had its number.
    #[must_use]
    pub fn counts_beats_of(&self, host: HostId, incarnation: u64) -> bool {
        let known = self.hosts.get(&host).and_then(|host| host.incarnation);
        known.is_none_or(|known| known.get() == incarnation)
    }

    /// Whether nothing will be committed for a VM any more.
    #[must_use]
    pub fn is_over(&self, vm: VmId) -> bool {
        self.vms.get(&vm).is_some_and(vm::Vm::is_over)
    }

    /// What a VM was asked to be, and the processor that its guest is shown.
    #[must_use]
    pub fn shown(&self, vm: VmId) -> Option<(&VmSpec, &CpuProfile)> {
        self.vms.get(&vm).map(|vm| (&vm.spec, &vm.cpu))
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        for host in self.hosts.values_mut() {
            host.end_hold_down(turn.now);
        }
        self.overdue(turn);
        self.resume_switchovers(turn);
        self.drain_hosts(turn);
        self.protect_all(turn);
        self.part_domains(turn);
        self.fail_back(turn);
        self.overdue_followers(turn);
        self.overdue_logs(turn);
        self.look_for_space(turn);
        let vms: Vec<VmId> = self.vms.keys().copied().collect();
        vms.into_iter().for_each(|vm| self.follow(turn, vm));
    }

    fn tell(&mut self, turn: &mut Turn<'_>, happening: Happening) {
        let at = turn.now;
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((at, happening.clone()));
        for &link in &self.watchers {
            let message = ToClient::Happened { at, happening: happening.clone() };
            turn.actions.push(Action::ToClient { link, message, grants: Vec::new() });
        }
        turn.actions.push(Action::Tell { at, happening });
    }

    fn persist(&self, turn: &mut Turn<'_>) {
        turn.actions.push(Action::Persist(self.state()));
    }

    /// What is stored.
    fn state(&self) -> ClusterState {
        // A VM that is being deleted is not stored any more: its number may be another's when this is read again.
        let leaving = self.vms.values().filter(|vm| matches!(vm.phase, Phase::Deleting { .. }));
        let above = leaving.map(|vm| vm.generation.next()).filter(|_| !planted(PlantedBug::GenerationsReused)).max();
        ClusterState {
            first_generation: above.map_or(self.first_generation, |above| above.max(self.first_generation)),
            hosts: self
                .hosts
                .values()
                .map(|host| HostRecord { name: host.name.clone(), draining: host.draining })
                .collect(),
            vms: self
                .vms
                .values()
                .filter(|vm| !matches!(vm.phase, Phase::Creating { .. } | Phase::Deleting { .. }))
                .map(Vm::record)
                .collect(),
        }
    }

    fn host_name(&self, host: HostId) -> String {
        self.hosts.get(&host).map(|host| host.name.clone()).unwrap_or_default()
    }

    fn to_host(&self, turn: &mut Turn<'_>, host: HostId, message: ToHost, grants: Vec<crate::wire::Grant>) {
        if let Some(link) = self.hosts.get(&host).and_then(|host| host.link) {
            turn.actions.push(Action::ToHost { link, message, grants });
        }
    }
}

#[cfg(test)]
mod tests;
