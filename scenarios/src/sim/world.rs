//! A whole run: processes, connections, pool, faults and checkers under one virtual clock.

use super::actor::Actor;
use super::check::Checker;
use super::client::Client;
use super::controller::ControllerProcess;
use super::draw::Range;
use super::fault::{Point, Target};
use super::guest::Program;
use super::host::HostProcess;
use super::inject::Injector;
use super::net::{Link, Message, Peer};
use super::plan::Plan;
use super::pool::Pool;
use super::queue::{Event, Queue};
use super::stage::Stage;
use super::truth::Truth;
use super::violation::Violation;
use ft_protocol::ids::{HostId, LinkId, VmId};

/// More events than any sane run has: a run that gets here is caught in a loop.
const EVENTS_MAX: u64 = 400_000;

/// All of a run.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now_ns: u64,
    pub(crate) queue: Queue,
    pub(crate) pool: Pool,
    pub(crate) links: Vec<Link>,
    pub(crate) controller: ControllerProcess,
    pub(crate) hosts: Vec<HostProcess>,
    pub(crate) client: Client,
    pub(crate) injector: Injector,
    pub(crate) checker: Checker,
    pub(crate) truths: Vec<Truth>,
    /// The safety phase is over: nothing fails any more.
    pub(crate) healed: bool,
    /// Guests may end.
    pub(crate) gate_open: bool,
    pub(crate) finished: bool,
    pub(crate) events: u64,
    pub(crate) deadlines: super::watch::Deadlines,
    /// Numbers for machines.
    pub(crate) machines: u32,
    pub(crate) violation: Option<Violation>,
    /// The scenario that is played.
    pub(crate) stage: Option<Box<Stage>>,
    /// When it is looked at next.
    pub(crate) next_scene_ns: u64,
    /// The process that is about to end has found itself deposed.
    pub(crate) deposed: bool,
    /// Whose event this is.
    pub(crate) acting: Option<Target>,
    /// What happened, for people; kept only when asked for.
    pub(crate) story: Option<Vec<String>>,
    /// A running hash over all that happened.
    pub(crate) digest: u64,
}

impl World {
    pub(crate) fn new(seed: u64, hosts: u16, vms: u16, plan: Plan) -> Self {
        let weather = plan.weather;
        let controller = ControllerProcess::new(Actor::new(seed, 1), &weather);
        let pool = Pool::new(&controller.actor.cache, &controller.config);
        let truths: Vec<Truth> = (0..vms).map(|vm| Truth::of(Program::of_run(seed, vm, &weather))).collect();
        let hosts: Vec<HostProcess> =
            (0..hosts).map(|host| HostProcess::new(host, Actor::new(seed, 16 + u64::from(host)), &weather)).collect();
        Self {
            client: Client::new(Actor::new(seed, 2), vms),
            injector: Injector::new(&plan),
            checker: Checker::new(&truths),
            plan,
            now_ns: 0,
            queue: Queue::default(),
            pool,
            links: Vec::new(),
            controller,
            hosts,
            truths,
            healed: false,
            gate_open: false,
            finished: false,
            events: 0,
            deadlines: super::watch::Deadlines::default(),
            machines: 0,
            violation: None,
            stage: None,
            next_scene_ns: 0,
            deposed: false,
            acting: None,
            story: None,
            digest: seed,
        }
    }

    /// Runs to the end: of the run, or of the budget, or to the first violation.
    pub(crate) fn run(&mut self) {
        self.run_until(&|| false);
    }

    /// Runs to its end, or until somebody wants it to end; whether it came to its end.
    pub(crate) fn run_until(&mut self, shall_end: &dyn Fn() -> bool) -> bool {
        /// Events between two looks.
        const LOOK_EVENTS: u64 = 4_096;
        self.begin();
        let mut until_look = LOOK_EVENTS;
        while !self.finished && self.violation.is_none() {
            until_look -= 1;
            if until_look == 0 {
                until_look = LOOK_EVENTS;
                if shall_end() {
                    return false;
                }
            }
            let Some((at_ns, life, event)) = self.queue.pop() else {
                self.violate(Violation::Quiet);
                break;
            };
            assert!(at_ns >= self.now_ns, "time goes forward");
            self.now_ns = at_ns;
            self.step(life, event);
        }
        true
    }

    fn begin(&mut self) {
        self.schedule_now(Event::ControllerTick);
        for host in 0..self.hosts.len() {
            let mut delay = self.hosts[host].actor.takes(self.plan.weather.message_us);
            if self.stage.is_some() {
                // They join in the order of their names.
                delay += super::stage::JOIN_SPACING_NS * host as u64;
            }
            self.schedule(delay, Event::HostConnect(host));
        }
        self.schedule(1_000, Event::ClientConnect);
        self.schedule_faults();
        if self.stage.is_some() {
            return self.schedule(0, Event::Scene);
        }
        let safety_ns = self.plan.weather.safety_us * 1_000;
        self.schedule(safety_ns, Event::Heal);
    }

    fn step(&mut self, life: u32, event: Event) {
        if let Some(target) = actor_of(event) {
            let actor = self.actor_mut(target);
            if actor.life != life || !actor.alive {
                return;
            }
            if actor.stopped {
                actor.deferred.push(event);
                return;
            }
        }
        self.events += 1;
        self.happened(event);
        self.acting = actor_of(event);
        self.dispatch(event);
        self.acting = None;
        self.after_event();
        if self.events > EVENTS_MAX && self.stage.is_none() {
            self.violate(Violation::Endless { events: self.events });
        }
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::ControllerTurn => self.controller_turn(),
            Event::ControllerTick => self.controller_tick(),
            Event::Apply(vm) => self.apply_step(vm),
            Event::DrainLog(vm) => self.drain_log(vm),
            Event::HostTurn(host) => self.host_turn(host),
            Event::HostTick(host) => self.host_tick(host),
            Event::HostConnect(host) => self.host_connect(host),
            Event::StandbyMade { host, machine } => self.standby_made(host, machine),
            Event::Machine { host, machine, step } => self.machine_step(host, machine, step),
            Event::ClientConnect => self.client_connect(),
            Event::ClientAsk(vm) => self.create_or_attach(vm),
            Event::ClientRead(vm) => self.client_read(vm),
            Event::Deliver { link, to_controller } => self.deliver(link, to_controller),
            Event::DeathSeen { host, life } => self.death_seen(host, life),
            Event::FenceTried { host, life } => self.fence_tried(host, life),
            Event::Fault(index) => self.inject(index),
            Event::Restart(target) => self.restart(target),
            Event::Mend(mend) if self.stage_keeps(mend) => {}
            Event::Mend(mend) => self.mend(mend),
            Event::Heal => self.heal(),
            Event::Watch => self.watch(),
            Event::Scene => self.scene(),
        }
    }

    /// Schedules an event `delay_ns` from now, for the present life of whom it belongs to.
    pub(crate) fn schedule(&mut self, delay_ns: u64, event: Event) {
        let life = actor_of(event).map_or(0, |target| self.actor_mut(target).life);
        self.queue.push(self.now_ns + delay_ns, life, event);
    }

    pub(crate) fn schedule_now(&mut self, event: Event) {
        self.schedule(0, event);
    }

    pub(crate) fn actor_mut(&mut self, target: Target) -> &mut Actor {
        match target {
            Target::Host(host) => &mut self.hosts[usize::from(host)].actor,
            Target::Controller | Target::Primary(_) | Target::Secondary(_) => &mut self.controller.actor,
        }
    }

    /// How long something takes a process.
    pub(crate) fn takes(&mut self, target: Target, us: Range) -> u64 {
        self.actor_mut(target).takes(us)
    }

    /// Opens a connection to the controller, if it lives.
    pub(crate) fn connect(&mut self, peer: Peer) -> Option<usize> {
        if !self.controller.actor.alive {
            return None;
        }
        let peer_life = match peer {
            Peer::Host(host) => self.hosts[host].actor.life,
            Peer::Client => 0,
        };
        self.links.push(Link::new(peer, peer_life, self.controller.actor.life));
        Some(self.links.len() - 1)
    }

    /// Sends over a connection; over a closed one nothing is sent.
    pub(crate) fn send(&mut self, link: usize, to_controller: bool, message: Message) {
        let sender = match (to_controller, self.links[link].peer) {
            (true, Peer::Host(host)) => Some(Target::Host(u16::try_from(host).unwrap_or(0))),
            (false, _) => Some(Target::Controller),
            (true, Peer::Client) => None,
        };
        let message_us = self.plan.weather.message_us;
        let delay = match sender {
            Some(target) => self.takes(target, message_us),
            None => self.client.actor.takes(message_us),
        };
        let now_ns = self.now_ns;
        let entry = &mut self.links[link];
        if !entry.open && !matches!(message, Message::Closed) {
            return;
        }
        let way = entry.way(to_controller);
        way.last_ns = (now_ns + delay).max(way.last_ns);
        way.messages.push_back(message);
        let at_ns = way.last_ns;
        self.queue.push(at_ns, 0, Event::Deliver { link, to_controller });
    }

    fn deliver(&mut self, link: usize, to_controller: bool) {
        let now_ns = self.now_ns;
        let entry = &mut self.links[link];
        let (peer, peer_life, controller_life) = (entry.peer, entry.peer_life, entry.controller_life);
        let way = entry.way(to_controller);
        if way.stalled_until_ns > now_ns {
            let until = way.stalled_until_ns;
            self.queue.push(until, 0, Event::Deliver { link, to_controller });
            return;
        }
        let Some(message) = way.messages.pop_front() else { return };
        if to_controller {
            if self.controller.actor.alive && self.controller.actor.life == controller_life {
                self.controller_receives(LinkId::new(link as u64), message);
            }
        } else {
            match peer {
                Peer::Host(host) if self.hosts[host].actor.alive && self.hosts[host].actor.life == peer_life => {
                    self.host_receives(host, link, message);
                }
                Peer::Client => self.client_receives(link, message),
                Peer::Host(_) => {}
            }
        }
    }

    /// Closes a connection at both ends. What was sent before arrives before the news, unless it is `torn`.
    pub(crate) fn close_link(&mut self, link: usize, torn: bool) {
        if !self.links[link].open {
            return;
        }
        if torn {
            self.links[link].to_controller.messages.clear();
            self.links[link].from_controller.messages.clear();
        }
        self.links[link].open = false;
        self.send(link, true, Message::Closed);
        self.send(link, false, Message::Closed);
    }

    /// Says that a step of the protocol was just done: faults may be waiting for it.
    pub(crate) fn reached(&mut self, point: Point) {
        self.injector.reached(point);
        self.stage_reached(point);
    }

    /// Which host process goes by this number in the cluster.
    pub(crate) fn host_index(&self, host: HostId) -> Option<usize> {
        self.hosts.iter().position(|process| process.number == Some(host))
    }

    /// Adds a line to the story, if it is kept.
    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            let (ms, us) = (self.now_ns / 1_000_000, self.now_ns / 1_000 % 1_000);
            story.push(format!("{ms:>5}.{us:03} ms  {}", line()));
        }
    }

    pub(crate) fn violate(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    /// The VMs of the run.
    pub(crate) fn vms(&self) -> impl Iterator<Item = VmId> + use<> {
        (0..u16::try_from(self.truths.len()).unwrap_or(0)).map(VmId::new)
    }

    fn happened(&mut self, event: Event) {
        let kind = match event {
            Event::Machine { host, machine, step } => {
                mix_in(0x100 + step as u64, u64::from(machine) << 8 | host as u64)
            }
            Event::Deliver { link, to_controller } => mix_in(2 + u64::from(to_controller), link as u64),
            Event::HostTurn(host) => mix_in(4, host as u64),
            Event::HostTick(host) => mix_in(5, host as u64),
            Event::Fault(index) => mix_in(6, index as u64),
            Event::ControllerTurn => 7,
            Event::Apply(_) => 8,
            Event::DrainLog(_) => 10,
            _ => 9,
        };
        self.digest = mix_in(self.digest ^ kind, self.now_ns);
    }
}

fn mix_in(left: u64, right: u64) -> u64 {
    super::draw::mix(left, right)
}

/// Whose life an event belongs to; `None`: nobody's.
fn actor_of(event: Event) -> Option<Target> {
    match event {
        Event::ControllerTurn
        | Event::ControllerTick
        | Event::Apply(_)
        | Event::DrainLog(_)
        | Event::FenceTried { .. } => Some(Target::Controller),
        Event::HostTurn(host)
        | Event::HostTick(host)
        | Event::HostConnect(host)
        | Event::StandbyMade { host, .. }
        | Event::Machine { host, .. } => Some(Target::Host(u16::try_from(host).unwrap_or(0))),
        _ => None,
    }
}
