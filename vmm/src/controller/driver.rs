//! Drives the controller's core: executes its actions on the pool and the connections.

mod making;
mod parts;
mod peers;

use super::applier::Event;
use super::damage::is_gone;
use super::generations::GenerationKeeper;
use super::link::{Kind, Link, LinkError};
use super::maker::Maker;
use super::partition::Partition;
use super::recording::PoolRecording;
use super::space_keeper::SpaceKeeper;
use super::{ControllerError, ControllerOptions};
use crate::clock::{self, span};
use crate::failpoint;
use crate::fence::{self, FenceAgent, ProcessHandle};
use crate::life::{self, Watch};
use crate::machine::{STATE_VERSION, STATE_VERSION_OLDEST};
use crate::slice;
use crate::transport::{Listener, tagged};
use crate::wake::WakingSender;
use ft_protocol::activity::Activity;
use ft_protocol::controller::{Action, ClusterState, Controller, ControllerConfig, Input, LostFiles};
use ft_protocol::detector::DetectorConfig;
use ft_protocol::wire::{Grant, PROTOCOLS, Part, StateFormats, ToClient, ToHost};
use ft_protocol::{Generation, HostId, LinkId, Span, Time, VmId};
use making::Makings;
use peers::{Complaints, Uploads};
use serde::Serialize;
use shared_mem::{HeartbeatReader, HostSlot, Mapping, Pool, PoolError, ReadOnly};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

/// How long a host that was silent must beat before it is given a new role: some heartbeat bounds.
const HOLD_DOWN_BOUNDS: u64 = 5;

/// Failures within ten seconds that a host may have before it counts as flapping.
const FLAPS_FREE: u32 = 5;

/// How long a secondary may take to ask, once told. Far above what it needs, so that a loaded machine does not lose the
/// prepared standby, and far below what a person would call a hang.
const ASK_BOUND: Span = Span::from_ms(1_000);

/// How long a promotion may take. A cold one makes a VM and reads the whole machine state on a loaded machine.
const PROMOTION_BOUND: Span = Span::from_ms(10_000);

/// Between two looks at what is there twice in the pool.
const LOOK_AFTER_INTERVAL: Span = Span::from_ms(500);
/// Between two looks at the space that the pool has left, when nothing is known to have changed it.
const SPACE_LOOK_INTERVAL: Span = Span::from_ms(100);

type Failure = Box<dyn std::error::Error + Send + Sync>;

pub(super) struct Driver {
    options: ControllerOptions,
    core: Controller,
    links: BTreeMap<LinkId, Link>,
    next_link: u64,
    writing: BTreeMap<LinkId, bool>,
    uploads: BTreeMap<LinkId, Uploads>,
    partitions: BTreeMap<VmId, Partition>,
    space: SpaceKeeper,
    generations: GenerationKeeper,
    makings: Makings,
    recordings: BTreeMap<VmId, Arc<Mutex<PoolRecording>>>,
    /// The cluster state as it should be in the pool.
    stored: Option<Vec<u8>>,
    /// When the pool's own parts were looked at last.
    looked_after: Time,
    /// When the pool was asked last for the space that it has left.
    space_looked_at: Time,
    /// Generations to come for which the pool had no space, and whether they have been asked for again.
    unreserved: BTreeMap<VmId, (Generation, bool)>,
    /// What is gone of VMs' files, as the core was told.
    gone: BTreeMap<VmId, LostFiles>,
    /// Why the pool could not be looked after, the last time.
    unlooked: Option<String>,
    /// Names of VMs whose part of the pool could not be opened.
    unusable: BTreeMap<VmId, String>,
    heartbeats: BTreeMap<HostId, HeartbeatReader<Mapping<ReadOnly>>>,
    deaths: Watch<HostId>,
    /// The hosts' processes, for fencing.
    processes: BTreeMap<HostId, Arc<ProcessHandle>>,
    wake: WakingSender<Event>,
    inputs: VecDeque<Input>,
    clients_max: usize,
    complaints: Complaints,
    over: bool,
    /// Before the pool: once that is given up, another controller may listen.
    listener: Listener,
    /// When the socket's file was looked for last.
    listener_looked_at: Time,
    /// Why nobody can come to the socket, the last time.
    unreached: Option<String>,
    /// Given up last: all that works on it has ended then.
    pool: Pool,
}

impl Driver {
    pub(super) fn start(
        options: &ControllerOptions,
        listener: Listener,
        pool: Pool,
        wake: WakingSender<Event>,
    ) -> Result<Self, ControllerError> {
        let died = wake.clone();
        let deaths = Watch::start(move |host| died.send(Event::Died(host)))
            .map_err(ControllerError::kernel("start a thread"))?;
        let bound = span(options.heartbeat_bound);
        let config = ControllerConfig {
            detector: DetectorConfig {
                bound,
                interval: span(options.heartbeat_interval),
                suspicion: options.suspicion,
            },
            hold_down: bound.times(HOLD_DOWN_BOUNDS),
            flaps_free: FLAPS_FREE,
            states: Some(StateFormats { writes: STATE_VERSION, reads_from: STATE_VERSION_OLDEST }),
            ask_bound: ASK_BOUND,
            promotion_bound: PROMOTION_BOUND,
            stall_bound: span(options.stall_bound),
            protocols: PROTOCOLS,
            hosts_max: super::HOSTS_MAX,
            vms_max: super::VMS_MAX,
            state_bytes_max: pool.cluster().capacity(),
            shutdown_allowed: true,
        };
        let space = pool.space_reserve().map_err(|error| ControllerError::PoolFailed { what: crate::chain(&error) })?;
        let space = SpaceKeeper::start(space).map_err(ControllerError::kernel("start a thread"))?;
        let generations = GenerationKeeper::start(wake.clone()).map_err(ControllerError::kernel("start a thread"))?;
        let maker = Maker::start(wake.clone()).map_err(ControllerError::kernel("start a thread"))?;
        let makings = Makings::new(maker);
        let mut driver = Self {
            options: options.clone(),
            pool,
            core: Controller::new(config),
            links: BTreeMap::new(),
            next_link: 0,
            writing: BTreeMap::new(),
            uploads: BTreeMap::new(),
            partitions: BTreeMap::new(),
            space,
            generations,
            makings,
            recordings: BTreeMap::new(),
            stored: None,
            looked_after: clock::monotonic(),
            space_looked_at: clock::monotonic(),
            gone: BTreeMap::new(),
            unlooked: None,
            unusable: BTreeMap::new(),
            unreserved: BTreeMap::new(),
            heartbeats: BTreeMap::new(),
            deaths,
            processes: BTreeMap::new(),
            wake,
            inputs: VecDeque::new(),
            clients_max: peers::clients_max(),
            complaints: Complaints::default(),
            over: false,
            listener,
            listener_looked_at: clock::monotonic(),
            unreached: None,
        };
        driver.recover(config)?;
        Ok(driver)
    }

    /// Goes on where an earlier controller over this pool stopped.
    fn recover(&mut self, config: ControllerConfig) -> Result<(), ControllerError> {
        let dir = &self.options.dir;
        let stored = self
            .pool
            .cluster()
            .load()
            .map_err(|error| ControllerError::Pool { dir: dir.clone(), source: Box::new(PoolError::from(error)) })?;
        let state = match &stored {
            Some(bytes) => {
                ClusterState::decode(bytes).map_err(|source| ControllerError::State { dir: dir.clone(), source })?
            }
            None => ClusterState::default(),
        };
        self.stored = stored;
        self.remove_orphans(&state)?;
        let mended = self.pool.mended().to_vec();
        self.tell_mended(mended);
        let (mut recovered, mut damaged) = (Vec::new(), Vec::new());
        for record in &state.vms {
            match Partition::reopen(&self.pool, record, &self.wake) {
                Ok((partition, found)) => {
                    self.partitions.insert(record.vm, partition);
                    recovered.push(found);
                }
                Err(error) => {
                    let reason = crate::chain(&*error);
                    tracing::error!("{} cannot be reopened: {reason}", record.vm);
                    damaged.push(Input::PartitionDamaged { vm: record.vm, reason });
                    self.unusable.insert(record.vm, record.spec.name.clone());
                }
            }
        }
        self.inputs.extend(damaged);
        let mut actions = Vec::new();
        self.core = Controller::recover(config, state, &recovered, clock::monotonic(), &mut actions);
        // Not before it is known which VMs commit anything.
        self.want_space();
        for action in actions {
            self.execute(action)?;
        }
        self.settle()
    }

    /// Gives back parts of the pool that no VM has: an earlier controller died while it made or deleted one.
    fn remove_orphans(&self, state: &ClusterState) -> Result<(), ControllerError> {
        let failed = |error: shared_mem::PoolError| ControllerError::PoolFailed { what: crate::chain(&error) };
        for (slot, entry) in self.pool.vms().map_err(failed)? {
            if !state.owns(entry.name.as_str()) {
                tracing::info!("nobody owns {}: removed", entry.name);
                self.pool.delete_vm(slot).map_err(failed)?;
            }
        }
        let nameless = self.nameless(state.vms.iter().map(|record| &record.spec.name)).map_err(failed)?;
        nameless.into_iter().try_for_each(|slot| self.pool.delete_vm(slot)).map_err(failed)
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Ends this controller, and nobody else.
    pub(super) fn leave(&mut self) {
        self.over = true;
    }

    pub(super) fn tick_interval(&self) -> Span {
        self.core.sample_after()
    }

    /// Looks at everything that nobody reports: heartbeats, commit words, time.
    pub(super) fn tick(&mut self) -> Result<(), ControllerError> {
        let beats: Vec<Input> = self
            .heartbeats
            .iter()
            .map(|(&host, page)| {
                let beat = page.sample().ok().filter(|beat| self.core.counts_beats_of(host, beat.incarnation));
                Input::Beat { host, count: beat.map(|beat| beat.count) }
            })
            .collect();
        self.inputs.extend(beats);
        let words: Vec<_> = self.core.reigns().collect();
        for (vm, generation, known) in words {
            match self.partitions.get(&vm).and_then(|partition| partition.committed(generation)) {
                Some(Ok(epoch)) if epoch > known => {
                    self.inputs.push_back(Input::Committed { vm, generation, epoch });
                }
                Some(Err(error)) => {
                    tracing::warn!("{vm} {generation}: {}", crate::chain(&error));
                    self.inputs.push_back(Input::WordDamaged { vm, generation });
                }
                _ => {}
            }
        }
        for (vm, generation, host) in self.core.running() {
            let page = self.heartbeats.get(&host);
            let said = page.and_then(|page| page.activity(vm.get()).ok()).and_then(Activity::decode);
            self.inputs.push_back(Input::Activity { vm, generation, said });
        }
        self.inputs.push_back(Input::Tick);
        self.look_after_pool();
        self.look_after_vms();
        self.look_at_space();
        self.reserve_again();
        self.sum_complaints_up();
        self.settle()
    }

    fn look_at_space(&mut self) {
        let now = clock::monotonic();
        if now.since(self.space_looked_at) >= SPACE_LOOK_INTERVAL {
            self.space_looked_at = now;
            self.space.look();
        }
    }

    /// Readers meet a damaged console or control block as soon as it is; it is made whole by the thread that writes it.
    fn look_after_vms(&self) {
        self.partitions.values().for_each(Partition::look_after);
    }

    pub(super) fn part_mended(&mut self, vm: VmId, part: &str) -> Result<(), ControllerError> {
        self.input(Input::PoolMended { what: format!("{part} of {vm}") })
    }

    /// Nobody else writes these parts: what is damaged there is written anew.
    fn look_after_pool(&mut self) {
        let now = clock::monotonic();
        if now.since(self.looked_after) < LOOK_AFTER_INTERVAL {
            return;
        }
        self.looked_after = now;
        let mut failed = None;
        match self.pool.look_after(self.stored.as_deref()) {
            Ok(mended) => self.tell_mended(mended),
            Err(error) => failed = Some(crate::chain(&error)),
        }
        self.look_after_files();
        // Twice a second is often enough to try, and too often to tell.
        if failed != self.unlooked {
            failed.iter().for_each(|error| tracing::error!("the pool cannot be looked after: {error}"));
            self.unlooked = failed;
        }
    }

    /// Tells the core whose files somebody has removed, and when they are back.
    fn look_after_files(&mut self) {
        let looked = self.partitions.iter().map(|(&vm, partition)| (vm, partition.gone()));
        let changed: Vec<_> = looked.filter(|(vm, gone)| gone.as_ref() != self.gone.get(vm)).collect();
        self.gone.retain(|vm, _| self.partitions.contains_key(vm));
        for (vm, gone) in changed {
            match gone.clone() {
                Some(lost) => {
                    tracing::error!("{vm}: {}", lost.what);
                    self.gone.insert(vm, lost);
                }
                None => _ = self.gone.remove(&vm),
            }
            self.inputs.push_back(Input::FilesGone { vm, gone });
        }
    }

    fn tell_mended(&mut self, mended: Vec<String>) {
        for what in mended {
            tracing::warn!("the pool was damaged, and is mended: {what}");
            self.inputs.push_back(Input::PoolMended { what });
        }
    }

    pub(super) fn input(&mut self, input: Input) -> Result<(), ControllerError> {
        self.inputs.push_back(input);
        self.settle()
    }

    /// Feeds the core until neither inputs nor actions are left.
    fn settle(&mut self) -> Result<(), ControllerError> {
        while let Some(input) = self.inputs.pop_front() {
            let mut actions = Vec::new();
            self.core.handle(clock::monotonic(), input, &mut actions);
            for action in actions {
                self.execute(action)?;
            }
        }
        Ok(())
    }

    fn execute(&mut self, action: Action) -> Result<(), ControllerError> {
        match action {
            Action::Persist(state) => self.persist(&state)?,
            Action::ToHost { link, message, grants } => {
                let passed = match &message {
                    ToHost::Promote(_) => Some("controller.takeover.promoted"),
                    ToHost::Standby(_) => Some("controller.standby.ordered"),
                    _ => None,
                };
                if let Err((part, error)) = self.send(link, message, &grants, passed.is_some()) {
                    let reason = format!("a host cannot be given a part of it: {}", crate::chain(&*error));
                    tracing::error!("{part:?}: {reason}");
                    match part.stable_of().filter(|_| is_gone(&*error)) {
                        // The host that waits for it is not to blame, and has other VMs.
                        Some(vm) => self.inputs.push_back(Input::PartGone { vm, reason }),
                        None => self.lose(self.link_to_blame(part, &*error).unwrap_or(link)),
                    }
                }
                passed.into_iter().for_each(failpoint::pass);
            }
            Action::ToClient { link, message: ToClient::ConsoleMoved { vm, tail }, .. } => {
                let sent = self.links.get_mut(&link).map(|link| link.console_moved(vm, tail));
                self.check_sent(link, sent);
            }
            Action::ToClient { link, message, grants } => {
                if let Err((part, error)) = self.send(link, message, &grants, false) {
                    tracing::error!("a client cannot be given {part:?}: {}", crate::chain(&*error));
                    self.lose(link);
                }
            }
            Action::CloseLink(link) => self.close(link),
            Action::CreatePartition { vm, spec, uploader } => {
                let uploads = self.uploads.remove(&uploader);
                self.create_partition(vm, spec, uploads);
            }
            Action::DeletePartition(vm) => self.delete_partition(vm, Input::PartitionDeleted { vm }),
            Action::OpenGeneration { vm, generation, base } => self.open_generation(vm, generation, base),
            Action::ReserveGeneration { vm, generation } => self.reserve(vm, generation),
            Action::CloseGeneration { vm, generation } => {
                if let Some(partition) = self.partitions.get_mut(&vm) {
                    partition.close_generation(generation, &self.generations);
                }
            }
            Action::Seal { vm, generation } => self.seal(vm, generation),
            Action::Apply { vm, generation, epoch, console_floor } => self.apply(vm, generation, epoch, console_floor),
            Action::DrainLog { vm, generation, console_floor } => self.drain_log(vm, generation, console_floor),
            Action::GiveSpace { vm, generation, epoch, needed } => {
                if let Some(journal) = self.partitions.get(&vm).and_then(|partition| partition.journal(generation)) {
                    self.space.give(vm, journal, epoch, needed);
                }
            }
            Action::ReleaseSpace { vm } => self.release_space(vm),
            Action::ForgetHost { host, name } => {
                tracing::info!(
                    "the place of host `{name}`, which is down and has no role, is given to another: {host}"
                );
                if let Err(error) = self.forget_host(host) {
                    self.complain(Kind::Host, || format!("the page of {host}: {}", crate::chain(&*error)));
                }
            }
            Action::WatchHost { host, link } => {
                if let Err(error) = self.watch_host(host, link) {
                    // Its page is the host's to write: what is wrong with it is the host's problem.
                    self.complain(Kind::Host, || format!("{host} cannot be watched: {}", crate::chain(&*error)));
                    link.into_iter().for_each(|link| self.lose(link));
                }
            }
            Action::Fence { host, name } => self.fence(host, name),
            Action::Tell { happening, .. } => tracing::info!(?happening),
            // The hosts have been told.
            Action::Exit => self.over = true,
        }
        Ok(())
    }

    fn persist(&mut self, state: &ClusterState) -> Result<(), ControllerError> {
        failpoint::pass("controller.state.persisting");
        let bytes = state.encode();
        let stored = self.pool.store_cluster(&bytes);
        stored.map_err(|error| ControllerError::PoolFailed { what: crate::chain(&error) })?;
        self.stored = Some(bytes);
        failpoint::pass("controller.state.persisted");
        Ok(())
    }

    /// Holds the host's process, as the kernel knows it, for the fence agent.
    fn know_process(&mut self, host: HostId, link: LinkId) {
        self.processes.remove(&host);
        let peer = self.links.get(&link).and_then(|link| link.connection.peer().ok());
        // Of a host on another machine there is only what carries its messages here: this process.
        let own = nix::unistd::getpid().as_raw();
        let process = peer.map(|peer| peer.pid()).filter(|&pid| pid != own);
        match process.map(ProcessHandle::open) {
            Some(Ok(process)) => _ = self.processes.insert(host, Arc::new(process)),
            Some(Err(error)) => tracing::info!("no handle of the process of {host}: {error}"),
            None => {}
        }
    }

    /// Lets the agent work on a thread of its own. Nobody waits for it.
    fn fence(&self, host: HostId, name: String) {
        if self.options.fence.agent == FenceAgent::None {
            return;
        }
        let config = self.options.fence.clone();
        let process = self.processes.get(&host).cloned();
        let wake = self.wake.clone();
        let started = std::thread::Builder::new().name(format!("fence-{name}")).spawn(move || {
            slice::run_long();
            let outcome = fence::fence(&config, &name, process.as_deref());
            wake.send(Event::FenceTried { host, name, outcome });
        });
        if let Err(error) = started {
            tracing::warn!("no thread for the fence agent: {error}");
        }
    }

    /// A process of the host that had the number may still beat: its page is nobody's from now on.
    fn forget_host(&mut self, host: HostId) -> Result<(), Failure> {
        let slot = HostSlot::new(host.get());
        self.heartbeats.remove(&host);
        self.processes.remove(&host);
        self.deaths.forget(&host);
        let Err(error) = self.pool.renew_heartbeat(slot) else { return Ok(()) };
        // No space for a new one. Cut off, the page is made anew before it is watched, or its host does not come in. On a
        // device, where nothing can be cut off, the incarnation tells whose beats these are.
        let page = self.pool.heartbeat(slot, shared_mem::Access::ReadWrite)?;
        let _ = nix::unistd::ftruncate(&page, 0);
        Err(error.into())
    }

    /// Whose connection ends because a part cannot be granted, if it is not that of who was to have it: a host whose page is gone
    /// comes again, and is given another one.
    fn link_to_blame(&self, part: Part, error: &(dyn std::error::Error + 'static)) -> Option<LinkId> {
        let Part::Heartbeat(host) = part else { return None };
        self.core.link_of(host).filter(|_| is_gone(error))
    }

    fn watch_host(
        &mut self,
        host: HostId,
        link: Option<LinkId>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let slot = HostSlot::new(host.get());
        let page = match self.pool.heartbeat(slot, shared_mem::Access::ReadOnly) {
            Err(error) if is_gone(&error) => {
                self.complain(Kind::Host, || format!("the page of {host} is gone: {}", crate::chain(&error)));
                self.pool.renew_heartbeat(slot)?;
                self.pool.heartbeat(slot, shared_mem::Access::ReadOnly)?
            }
            page => page?,
        };
        self.heartbeats.insert(host, HeartbeatReader::new(Mapping::read_only(&page)?));
        if let Some(link) = link {
            self.know_process(host, link);
            life::forget_death(&self.pool.heartbeat(slot, shared_mem::Access::ReadWrite)?)?;
        }
        self.deaths.add(host, &page)?;
        Ok(())
    }

    /// Sends with descriptors; what cannot be sent ends the connection, never the controller. Where a part cannot be granted
    /// nothing is sent. What gives a host its role passes failpoints on the way.
    fn send<M: Serialize>(
        &mut self,
        link: LinkId,
        message: M,
        grants: &[Grant],
        gives_role: bool,
    ) -> Result<(), (Part, Failure)> {
        let pass = |name| {
            if gives_role {
                failpoint::pass(name);
            }
        };
        let extent = |grant: &Grant| {
            let extent = super::grants::extent(&self.pool, &self.partitions, *grant);
            pass("controller.grant.part-opened");
            extent.map(|extent| tagged(*grant, extent)).map_err(|error| (grant.part, error))
        };
        let extents = grants.iter().map(extent).collect::<Result<Vec<_>, _>>()?;
        pass("controller.grant.opened");
        let sent = self.links.get_mut(&link).map(|link| link.send(message, extents));
        self.check_sent(link, sent);
        Ok(())
    }

    fn check_sent(&mut self, link: LinkId, sent: Option<Result<(), LinkError>>) {
        if let Some(Err(error)) = sent {
            tracing::debug!("{link}: {}", crate::chain(&error));
            self.lose(link);
        }
    }

    /// Ends everything; a private pool is removed unless it is to be kept.
    pub(super) fn finish(self) {
        let Self {
            options, pool, partitions, makings, space, generations, links, heartbeats, deaths, listener, ..
        } = self;
        drop((partitions, makings, space, generations, links, heartbeats, deaths, listener));
        if options.private
            && !options.keep
            && let Err(error) = pool.destroy()
        {
            tracing::error!("the pool in {} could not be removed: {}", options.dir.display(), crate::chain(&error));
        }
    }
}
