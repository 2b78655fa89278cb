//! The controller's process: a main loop around the core, one action per step.

use super::actor::Actor;
use super::apply::ApplyJob;
use super::fault::{Lines, Point, Target};
use super::net::{Message, Peer};
use super::planted::{PlantedBug, planted};
use super::planted_controller::plant_grants;
use super::pool::{Descriptor, Partition};
use super::queue::Event;
use super::weather::{FenceAgent, Weather};
use super::world::World;
use ft_protocol::Epoch;
use ft_protocol::activity::Activity;
use ft_protocol::controller::{Action, ClusterState, Controller, ControllerConfig, Input};
use ft_protocol::fence::FenceOutcome;
use ft_protocol::ids::{Generation, HostId, LinkId, VmId};
use ft_protocol::wire::{Grant, ToHost};
use shared_mem::ApplyLimit;
use shared_mem::activity::activity;
use shared_mem::commit_word::CommitWordError;
use shared_mem::control::ControlBlock;
use shared_mem::heartbeat::HeartbeatReader;
use shared_mem::journal::JournalReader;
use shared_mem::lossy::{LossyCache, LossyMemory};
use shared_mem::numbers;
use std::collections::VecDeque;

/// The process.
pub(crate) struct ControllerProcess {
    pub(crate) actor: Actor,
    pub(crate) config: ControllerConfig,
    pub(crate) core: Controller,
    pub(crate) inbox: VecDeque<Input>,
    pub(crate) actions: VecDeque<Action>,
    /// Hosts whose heartbeat it samples, and which of their lives it watches.
    pub(crate) watched: Vec<(HostId, u32)>,
    pub(crate) jobs: Vec<Option<ApplyJob>>,
    /// How far the record logs were read.
    pub(crate) drains: Vec<super::drain::Drain>,
    /// Cluster state that a planted bug stores too late.
    pub(crate) late_state: Option<ClusterState>,
    /// How far this life applies records.
    pub(crate) limits: Vec<ApplyLimit>,
    /// Hosts that it was told the death of, and that have not come back since.
    pub(crate) told_dead: Vec<HostId>,
    scratch: Vec<Action>,
    reigns: Vec<(VmId, Generation, Epoch)>,
}

/// The pool's number for an epoch of the protocol.
pub(crate) fn pool_epoch(epoch: Epoch) -> numbers::Epoch {
    numbers::Epoch::new(epoch.get())
}

/// The protocol's number for an epoch of the pool.
pub(crate) fn protocol_epoch(epoch: numbers::Epoch) -> Epoch {
    Epoch::new(epoch.get())
}

impl ControllerProcess {
    pub(crate) fn new(actor: Actor, weather: &Weather) -> Self {
        let config = weather.controller();
        Self {
            actor,
            config,
            core: Controller::new(config),
            inbox: VecDeque::new(),
            actions: VecDeque::new(),
            watched: Vec::new(),
            jobs: (0..config.vms_max).map(|_| None).collect(),
            drains: (0..config.vms_max).map(|_| super::drain::Drain::default()).collect(),
            late_state: None,
            limits: (0..config.vms_max).map(|_| ApplyLimit::default()).collect(),
            told_dead: Vec::new(),
            scratch: Vec::new(),
            reigns: Vec::new(),
        }
    }
}

/// A journal as the owner of a cache sees it, if it exists.
pub(crate) fn open_journal(
    partition: &Partition,
    generation: Generation,
    cache: &LossyCache,
) -> Option<JournalReader<LossyMemory>> {
    let memory = partition.journal(generation)?.memory.through(cache);
    JournalReader::new(memory, numbers::Generation::new(generation.get()), partition.geometry).ok()
}

impl World {
    pub(crate) fn controller_receives(&mut self, link: LinkId, message: Message) {
        let input = match message {
            Message::HostHello(hello) => Input::HostHello { link, hello },
            Message::FromHost(message) => Input::FromHost { link, message },
            Message::ClientHello(protocol) => Input::ClientHello { link, protocol },
            Message::FromClient(message) => Input::FromClient { link, message },
            Message::Closed => Input::LinkClosed { link },
            Message::ToHost(..) | Message::ToClient(..) => return,
        };
        self.controller_input(input);
    }

    pub(crate) fn controller_input(&mut self, input: Input) {
        self.controller.inbox.push_back(input);
        self.wake_controller();
    }

    /// The answer to an action that the driver carried out at once.
    pub(crate) fn controller_answer(&mut self, input: Input) {
        if self.plan.weather.answers_wait {
            self.controller.inbox.push_back(input);
        } else {
            self.controller.inbox.push_front(input);
        }
    }

    /// Several, in this order.
    pub(crate) fn controller_answers(&mut self, mut inputs: Vec<Input>) {
        if !self.plan.weather.answers_wait {
            inputs.reverse();
        }
        inputs.into_iter().for_each(|input| self.controller_answer(input));
    }

    pub(crate) fn wake_controller(&mut self) {
        if !self.controller.actor.turning {
            self.controller.actor.turning = true;
            let delay = self.takes(Target::Controller, self.plan.weather.turn_us);
            self.schedule(delay, Event::ControllerTurn);
        }
    }

    /// Carries out one action, or takes inputs until there is one.
    pub(crate) fn controller_turn(&mut self) {
        self.controller.actor.turning = false;
        loop {
            if let Some(action) = self.controller.actions.pop_front() {
                if let Action::Tell { happening, .. } = &action {
                    self.check_told(happening);
                    self.stage_happened(happening);
                    self.tell(|| format!("controller: {happening:?}"));
                    continue;
                }
                self.controller_act(action);
                break;
            }
            let Some(input) = self.controller.inbox.pop_front() else { break };
            self.note_deaths(&input);
            let now = self.controller.actor.clock(self.now_ns);
            let controller = &mut self.controller;
            controller.core.handle(now, input, &mut controller.scratch);
            let forgotten =
                |action: &Action| matches!(action, Action::Fence { .. }) && planted(PlantedBug::ForgetFence);
            controller.actions.extend(controller.scratch.drain(..).filter(|action| !forgotten(action)));
        }
        if !self.controller.actions.is_empty() || !self.controller.inbox.is_empty() {
            self.wake_controller();
        }
    }

    /// Samples heartbeats and commit words.
    pub(crate) fn controller_tick(&mut self) {
        let ns = self.controller.core.sample_after().ns() * self.controller.actor.slowness;
        self.schedule(ns, Event::ControllerTick);
        let cache = self.controller.actor.cache.clone();
        for index in 0..self.controller.watched.len() {
            let (host, _) = self.controller.watched[index];
            let Some(page) = self.pool.heartbeat(host) else { continue };
            let count = sample(page.through(&cache));
            self.controller.inbox.push_back(Input::Beat { host, count });
        }
        self.mend_controls();
        self.controller.reigns.clear();
        let controller = &mut self.controller;
        controller.reigns.extend(controller.core.reigns());
        for index in 0..self.controller.reigns.len() {
            let (vm, generation, known) = self.controller.reigns[index];
            let word = self.pool.partition(vm).and_then(|partition| open_journal(partition, generation, &cache));
            match word.map(|journal| journal.word()) {
                Some(Ok(word)) if protocol_epoch(word.epoch) > known => {
                    let epoch = protocol_epoch(word.epoch);
                    self.controller.inbox.push_back(Input::Committed { vm, generation, epoch });
                }
                Some(Err(CommitWordError::Word(_))) => {
                    self.controller.inbox.push_back(Input::WordDamaged { vm, generation });
                }
                _ => {}
            }
        }
        let running: Vec<_> = self.controller.core.running().collect();
        for (vm, generation, host) in running {
            let page = self.pool.heartbeat(host).map(|page| page.through(&cache));
            let word = page.and_then(|page| activity(&page, vm.get()).ok());
            let said = word.and_then(Activity::decode);
            self.controller.inbox.push_back(Input::Activity { vm, generation, said });
        }
        self.controller.inbox.push_back(Input::Tick);
        self.wake_controller();
    }

    /// Damaged control blocks are made whole by the one who writes them.
    fn mend_controls(&mut self) {
        for partition in self.pool.partitions.iter().flatten() {
            // Looked at from outside: what is whole costs no access.
            let seen = ControlBlock::open(partition.control.through(&self.checker.auditor));
            if seen.is_ok_and(|control| control.damage().is_some()) {
                let own = partition.control.through(&self.controller.actor.cache);
                // One that dies in the middle of it leaves it to the next.
                let _ = ControlBlock::open(own).and_then(|control| control.mend());
            }
        }
    }

    fn controller_act(&mut self, action: Action) {
        self.tell(|| format!("controller does {}", short(&action)));
        match action {
            Action::Persist(_) if planted(PlantedBug::ForgetPersist) => {}
            Action::Persist(state) if self.persist_waits() => self.controller.late_state = Some(state),
            Action::Persist(state) => self.persist(&state),
            Action::ToHost { link, message, grants } => self.send_to_host(link, message, &grants),
            Action::ToClient { link, message, grants } => {
                let descriptors = grants.iter().filter_map(|grant| self.pool.open(*grant)).collect();
                self.send(index_of(link), false, Message::ToClient(message, descriptors));
            }
            Action::CloseLink(link) => self.close_link(index_of(link), false),
            Action::CreatePartition { vm, spec, .. } => {
                let made = Partition::make(&self.controller.actor.cache, &spec).ok();
                let result = made_result(made.is_some());
                self.pool.partitions[usize::from(vm.get())] = made;
                self.controller_answer(Input::PartitionCreated { vm, result });
            }
            Action::DeletePartition(vm) => {
                self.pool.partitions[usize::from(vm.get())] = None;
                self.bury_vm(vm);
                self.controller_answer(Input::PartitionDeleted { vm });
            }
            Action::OpenGeneration { vm, generation, base } => self.open_generation(vm, generation, base),
            Action::ReserveGeneration { vm, generation } => {
                let cache = self.controller.actor.cache.clone();
                if let Some(partition) = self.pool.partitions[usize::from(vm.get())].as_mut()
                    && !self.pool.full
                {
                    // A controller that dies in the middle has reserved nothing.
                    let _reserved = partition.reserve_journal(&cache, generation);
                }
            }
            // Slots have all their space from the start here.
            Action::GiveSpace { .. } | Action::ReleaseSpace { .. } => {}
            Action::CloseGeneration { vm, generation } => {
                if let Some(partition) = self.pool.partition_mut(vm) {
                    partition.journals.retain(|journal| journal.generation > generation);
                }
                self.reached(Point::GenerationClosed);
            }
            Action::Seal { vm, generation } => {
                self.check_deposed(vm, generation);
                self.seal(vm, generation);
            }
            Action::Apply { vm, generation, epoch, console_floor } => {
                self.begin_apply(vm, generation, epoch, console_floor);
            }
            Action::DrainLog { vm, generation, console_floor } => {
                self.controller.drains[usize::from(vm.get())].job = Some((generation, console_floor));
                let delay = self.takes(Target::Controller, self.plan.weather.turn_us);
                self.schedule(delay, Event::DrainLog(vm));
            }
            Action::ForgetHost { host, .. } => {
                // The name may come back, as another host.
                let forgotten = self.host_index(host);
                forgotten.into_iter().for_each(|forgotten| self.hosts[forgotten].number = None);
                self.controller.watched.retain(|(watched, _)| *watched != host);
            }
            Action::WatchHost { host, link } => self.watch_host(host, link.is_some()),
            Action::Fence { host, .. } => {
                self.check_fence(host);
                self.fence(host);
            }
            Action::Tell { .. } | Action::Exit => {}
        }
    }

    /// What the core is told of the deaths of hosts.
    fn note_deaths(&mut self, input: &Input) {
        let back = match input {
            Input::HostDied { host } => return self.controller.told_dead.push(*host),
            Input::HostHello { link, .. } => match self.links[index_of(*link)].peer {
                Peer::Host(host) => self.hosts[host].number,
                Peer::Client => None,
            },
            _ => None,
        };
        self.controller.told_dead.retain(|dead| Some(*dead) != back);
    }

    /// Watches a host's page, and the life word in it.
    fn watch_host(&mut self, number: HostId, connected: bool) {
        let process = self.host_index(number).map(|host| &self.hosts[host].actor);
        let life = process.map_or(0, |actor| actor.life);
        self.controller.watched.retain(|(watched, _)| *watched != number);
        self.controller.watched.push((number, life));
        if !connected && self.plan.weather.deaths_seen && process.is_some_and(|actor| !actor.alive) {
            self.controller_input(Input::HostDied { host: number });
        }
    }

    /// The life word of a host says that this life is over.
    pub(crate) fn death_seen(&mut self, host: usize, life: u32) {
        let Some(number) = self.hosts[host].number else { return };
        if self.controller.actor.alive && self.controller.watched.contains(&(number, life)) {
            self.controller_input(Input::HostDied { host: number });
        }
    }

    /// A fence agent is asked, if there is one; nothing waits for it.
    fn fence(&mut self, number: HostId) {
        let agent = self.plan.weather.fence_agent;
        if let Some(host) = self.host_index(number).filter(|_| agent != FenceAgent::None) {
            let life = self.hosts[host].actor.life;
            let delay = self.takes(Target::Controller, self.plan.weather.make_us);
            self.schedule(delay, Event::FenceTried { host, life });
        }
    }

    /// The fence agent is done.
    pub(crate) fn fence_tried(&mut self, host: usize, life: u32) {
        let Some(number) = self.hosts[host].number else { return };
        let outcome = if self.plan.weather.fence_agent == FenceAgent::Works {
            if self.hosts[host].actor.life == life {
                self.kill(Target::Host(self.hosts[host].index), Lines::Kept, None);
            }
            FenceOutcome::Verified
        } else {
            FenceOutcome::Failed("no answer".to_owned())
        };
        let name = self.hosts[host].name.clone();
        self.controller_input(Input::FenceTried { host: number, name, outcome });
    }

    fn send_to_host(&mut self, link: LinkId, message: ToHost, grants: &[Grant]) {
        let point = match &message {
            ToHost::Promote(_) => Some(Point::PromotionSent),
            ToHost::Standby(_) => Some(Point::StandbySent),
            _ => None,
        };
        let mut grants = grants.to_vec();
        plant_grants(&message, &mut grants);
        if planted(PlantedBug::TwoTakeovers) && matches!(message, ToHost::Promote(_)) {
            self.promote_another(link, &message, &grants);
        }
        if let Peer::Host(host) = self.links[index_of(link)].peer {
            self.check_grants(host, &message, &grants);
        }
        let descriptors: Vec<Descriptor> = grants.iter().filter_map(|grant| self.pool.open(*grant)).collect();
        self.send(index_of(link), false, Message::ToHost(message, descriptors));
        if let Some(point) = point {
            self.reached(point);
        }
        if point == Some(Point::PromotionSent) {
            self.persist_late();
        }
    }
}

/// A heartbeat page as a sampler reads it.
pub(crate) fn sample(page: LossyMemory) -> Option<u64> {
    // A new incarnation counts from one again: what counts is that the number changes.
    HeartbeatReader::new(page).sample().ok().map(|beat| beat.count + (beat.incarnation << 32))
}

pub(crate) fn index_of(link: LinkId) -> usize {
    usize::try_from(link.get()).unwrap_or(usize::MAX)
}

pub(crate) fn made_result(made: bool) -> Result<(), String> {
    if made { Ok(()) } else { Err("no space".to_owned()) }
}

/// An action in one short line.
pub(crate) fn short(action: &impl std::fmt::Debug) -> String {
    format!("{action:?}").chars().take(240).collect()
}
