//! A host's process: a main loop around the core, its descriptors, its heartbeat.

use super::actor::Actor;
use super::controller::sample;
use super::draw::Range;
use super::drive::At;
use super::fault::{Lines, Point, Target};
use super::machine::{Machine, PrimaryMachine, Role};
use super::net::{Message, Peer};
use super::planted::{PlantedBug, planted};
use super::pool::Descriptor;
use super::queue::{Event, MachineStep};
use super::weather::{NEW_VERSION, OLD_VERSION, PAGE_SIZE, Weather};
use super::world::World;
use ft_protocol::Span;
use ft_protocol::cpu::{CpuLeaf, CpuProfile};
use ft_protocol::host::{Action, Host, Input};
use ft_protocol::ids::{HostId, Incarnation, VmId};
use ft_protocol::versions::VersionRange;
use ft_protocol::wire::{ACTIVITY_SINCE, FromHost, HostProfile, Order, Part, StateFormats};
use shared_mem::activity::ActivityWriter;
use shared_mem::heartbeat::HeartbeatWriter;
use shared_mem::lossy::LossyMemory;
use std::collections::VecDeque;

/// How long a host waits before it tries to connect again.
const CONNECT_AGAIN_US: Range = Range::new(500, 4_000);

/// The process.
pub(crate) struct HostProcess {
    pub(crate) index: u16,
    pub(crate) actor: Actor,
    pub(crate) core: Host,
    /// Its number in the cluster, once it is a member.
    pub(crate) number: Option<HostId>,
    pub(crate) link: Option<usize>,
    pub(crate) inbox: VecDeque<(Input, Vec<Descriptor>)>,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) table: Vec<Descriptor>,
    pub(crate) machines: Vec<Machine>,
    heartbeat: Option<HeartbeatWriter<LossyMemory>>,
    interval: Option<Span>,
    scratch: Vec<Action>,
    /// What it runs.
    pub(crate) version: u32,
    /// Its next life runs the newer version.
    pub(crate) upgraded: bool,
    /// Its main loop waits for the end of a thread that hangs.
    pub(crate) joining: bool,
    pub(crate) name: String,
    labels: Vec<String>,
    hardware: Hardware,
}

/// What a host's machine is like.
#[derive(Clone, Debug)]
struct Hardware {
    memory_bytes: u64,
    cpu: CpuProfile,
}

/// The CPUID leaf of abilities, what every processor has of them, and what the richer ones have.
const ABILITIES: (u32, u32, u32) = (1, 0b01, 0b11);

impl Hardware {
    fn of(host: u16, weather: &Weather) -> Self {
        let (function, common, rich) = ABILITIES;
        let abilities = if weather.is_rich(host) || planted(PlantedBug::ClaimAbilities) { rich } else { common };
        let leaf = CpuLeaf { function, index: 0, flags: 0, registers: [0, 0, abilities, 0] };
        let room = weather.room_of(host);
        let claimed = if planted(PlantedBug::ClaimMemory) { u64::MAX } else { room };
        let leaves = weather.rich_hosts.map(|_| leaf).into_iter().collect();
        Self { memory_bytes: claimed.saturating_mul(PAGE_SIZE), cpu: CpuProfile { leaves } }
    }
}

/// Whether a guest was shown what only the richer processors have.
pub(crate) fn needs_rich(shown: &CpuProfile) -> bool {
    let (function, common, _) = ABILITIES;
    shown.leaves.iter().any(|leaf| leaf.function == function && leaf.registers[2] & !common != 0)
}

impl HostProcess {
    pub(crate) fn new(index: u16, actor: Actor, weather: &Weather) -> Self {
        let version = weather.version_of(index);
        let labels: Vec<String> = weather.rack_of(index).map(|rack| format!("rack={rack}")).into_iter().collect();
        let name = format!("h{index}");
        let hardware = Hardware::of(index, weather);
        let core = new_core(&name, &actor, version, (&labels, &hardware));
        Self {
            index,
            actor,
            core,
            number: None,
            link: None,
            inbox: VecDeque::new(),
            actions: VecDeque::new(),
            table: Vec::new(),
            machines: Vec::new(),
            heartbeat: None,
            interval: None,
            scratch: Vec::new(),
            version,
            upgraded: false,
            joining: false,
            name,
            labels,
            hardware,
        }
    }

    /// Forgets everything, as death does.
    pub(crate) fn forget(&mut self) {
        self.link = None;
        self.inbox.clear();
        self.actions.clear();
        self.table.clear();
        self.machines.clear();
        self.heartbeat = None;
        self.interval = None;
        self.joining = false;
    }

    /// A new life, which knows nothing of the one before.
    pub(crate) fn begin(&mut self) {
        if self.upgraded {
            self.version = NEW_VERSION;
        }
        self.core = new_core(&self.name, &self.actor, self.version, (&self.labels, &self.hardware));
    }

    /// It has this name, and is in these failure domains.
    pub(crate) fn carry(&mut self, name: String, labels: Vec<String>) {
        (self.name, self.labels) = (name, labels);
        self.core = new_core(&self.name, &self.actor, self.version, (&self.labels, &self.hardware));
    }

    /// It is a member whose heart can be watched.
    pub(crate) fn beats(&self) -> bool {
        self.heartbeat.is_some()
    }

    /// A descriptor for a part, whatever it is good for.
    pub(crate) fn descriptor(&self, part: Part) -> Option<&Descriptor> {
        self.table.iter().rev().find(|descriptor| descriptor.grant.part == part)
    }

    /// A part as this host reads it.
    pub(crate) fn reader(&self, part: Part) -> Option<LossyMemory> {
        Some(self.descriptor(part)?.reader(&self.actor.cache))
    }

    /// A part as this host writes it.
    pub(crate) fn writer(&self, part: Part) -> Option<LossyMemory> {
        self.descriptor(part)?.writer(&self.actor.cache)
    }

    /// Where a VM's primary says what it does; older versions do not know of it.
    pub(crate) fn activity_words(&self, vm: VmId) -> Option<ActivityWriter<LossyMemory>> {
        let page = self.writer(Part::Heartbeat(self.number?)).filter(|_| self.version >= ACTIVITY_SINCE)?;
        Some(ActivityWriter::new(page, vm.get()))
    }

    /// A part got anew replaces what was held of it before.
    fn hold(&mut self, descriptors: Vec<Descriptor>) {
        for descriptor in descriptors {
            self.table.retain(|held| held.grant.part != descriptor.grant.part);
            self.table.push(descriptor);
        }
    }
}

fn new_core(name: &str, actor: &Actor, version: u32, (labels, hardware): (&[String], &Hardware)) -> Host {
    let profile = HostProfile {
        name: name.to_owned(),
        incarnation: Incarnation::new(u64::from(actor.life)),
        memory_bytes: hardware.memory_bytes,
        cpu: hardware.cpu.clone(),
        labels: labels.to_vec(),
        states: StateFormats { writes: version, reads_from: OLD_VERSION },
    };
    Host::speaking(profile, VersionRange { min: OLD_VERSION, max: version })
}

impl World {
    fn host_target(host: usize) -> Target {
        Target::Host(u16::try_from(host).unwrap_or(0))
    }

    pub(crate) fn host_connect(&mut self, host: usize) {
        if self.hosts[host].link.is_some() {
            return;
        }
        match self.connect(Peer::Host(host)) {
            Some(link) => {
                self.hosts[host].link = Some(link);
                self.host_input(host, Input::LinkUp);
            }
            None => self.connect_again(host),
        }
    }

    fn connect_again(&mut self, host: usize) {
        let delay = self.takes(Self::host_target(host), CONNECT_AGAIN_US);
        self.schedule(delay, Event::HostConnect(host));
    }

    pub(crate) fn host_receives(&mut self, host: usize, link: usize, message: Message) {
        if self.hosts[host].link != Some(link) {
            return;
        }
        match message {
            Message::ToHost(message, descriptors) => {
                self.hosts[host].inbox.push_back((Input::Message(message), descriptors));
                self.wake_host(host);
            }
            Message::Closed => {
                self.hosts[host].link = None;
                self.host_input(host, Input::LinkDown);
                self.connect_again(host);
            }
            _ => {}
        }
    }

    pub(crate) fn host_input(&mut self, host: usize, input: Input) {
        self.hosts[host].inbox.push_back((input, Vec::new()));
        self.wake_host(host);
    }

    pub(crate) fn wake_host(&mut self, host: usize) {
        if !self.hosts[host].actor.turning {
            self.hosts[host].actor.turning = true;
            let delay = self.takes(Self::host_target(host), self.plan.weather.turn_us);
            self.schedule(delay, Event::HostTurn(host));
        }
    }

    /// Carries out one action, or takes inputs until there is one.
    pub(crate) fn host_turn(&mut self, host: usize) {
        self.hosts[host].actor.turning = false;
        if self.hosts[host].joining {
            return;
        }
        loop {
            if let Some(action) = self.hosts[host].actions.pop_front() {
                self.host_act(host, action);
                break;
            }
            let process = &mut self.hosts[host];
            let Some((input, descriptors)) = process.inbox.pop_front() else { break };
            process.hold(descriptors);
            let now = process.actor.clock(self.now_ns);
            process.core.handle(now, input, &mut process.scratch);
            process.actions.extend(process.scratch.drain(..));
        }
        let process = &self.hosts[host];
        if process.actor.alive && !(process.actions.is_empty() && process.inbox.is_empty()) {
            self.wake_host(host);
        }
    }

    fn host_act(&mut self, host: usize, action: Action) {
        self.tell(|| format!("h{host} does {}", super::controller::short(&action)));
        match action {
            Action::SayHello(hello) => self.host_sends(host, Message::HostHello(hello)),
            Action::Send(message) => {
                let asks = matches!(message, FromHost::AskTakeover { .. });
                self.host_sends(host, Message::FromHost(message));
                if asks {
                    self.reached(Point::TakeoverAsked);
                }
            }
            Action::Join { host: number, interval } => self.join(host, number, interval),
            Action::Yield(vm) => self.yield_machine(host, vm),
            Action::SetMode(vm, mode) => {
                let found = self.hosts[host].machines.iter().find(|machine| machine.vm == vm);
                if let Some(number) = found.map(|machine| machine.number) {
                    self.turn(At { host, machine: number, vm }, mode);
                }
            }
            // The model's client feeds nobody: its guests have console input of their own.
            Action::OpenInput(_) | Action::TakeInput(..) => {}
            Action::Follow(vm, generation, base, turn) => self.begin_following(host, (vm, generation, base), turn),
            Action::Unfollow(vm) => self.end_following(host, vm),
            Action::MakeStandby(order) => self.make_standby(host, &order),
            Action::RunPrimary(order) => self.run_primary(host, order),
            Action::Discard(_) if planted(PlantedBug::KeepRoles) => {}
            Action::Discard(vm) => {
                let hangs = |machine: &Machine| machine.vm == vm && machine.is_hung();
                if self.healed && !self.may_stay_behind(host) {
                    self.unhang_all(host);
                }
                if self.hosts[host].machines.iter().any(hangs) {
                    // Its thread's end is waited for.
                    self.hosts[host].joining = true;
                    self.hosts[host].actions.push_front(Action::Discard(vm));
                } else {
                    self.hosts[host].machines.retain(|machine| machine.vm != vm);
                }
            }
            Action::TryAgain(_) => {
                if let Some(link) = self.hosts[host].link.take() {
                    self.close_link(link, false);
                    self.host_input(host, Input::LinkDown);
                    self.connect_again(host);
                }
            }
            Action::Exit(_) => {
                self.deposed = true;
                self.kill(Self::host_target(host), Lines::Kept, None);
                self.deposed = false;
            }
        }
    }

    pub(crate) fn host_sends(&mut self, host: usize, message: Message) {
        if let Some(link) = self.hosts[host].link {
            self.send(link, true, message);
        }
    }

    fn join(&mut self, host: usize, number: HostId, interval: Span) {
        let process = &mut self.hosts[host];
        process.number = Some(number);
        if process.heartbeat.is_none()
            && let Some(page) = process.writer(Part::Heartbeat(number))
        {
            process.heartbeat = Some(HeartbeatWriter::new(page, u64::from(process.actor.life)));
        }
        if process.interval.replace(interval).is_none() {
            self.schedule_now(Event::HostTick(host));
        }
        self.reached(Point::HostJoined);
    }

    /// Beats, and looks at the hearts of others.
    pub(crate) fn host_tick(&mut self, host: usize) {
        let Some(interval) = self.hosts[host].interval else { return };
        let ns = interval.ns() * self.hosts[host].actor.slowness;
        self.schedule(ns, Event::HostTick(host));
        let process = &mut self.hosts[host];
        let now = process.actor.clock(self.now_ns);
        if let Some(heartbeat) = &mut process.heartbeat {
            // A host that is cut off goes on: whoever watches it will notice.
            let _cut_off = heartbeat.beat(now.ns());
        }
        let watched: Vec<(VmId, Option<HostId>)> = process
            .machines
            .iter()
            .filter_map(|machine| match machine.role {
                Role::Standby { primary, .. } => Some((machine.vm, primary)),
                Role::Primary(_) => None,
            })
            .collect();
        for (vm, primary) in watched {
            let page = primary.and_then(|primary| self.hosts[host].reader(Part::Heartbeat(primary)));
            let count = page.and_then(sample);
            self.host_input(host, Input::Beat { vm, count });
        }
    }

    fn make_standby(&mut self, host: usize, order: &Order) {
        self.check_order(host, order);
        let machine =
            self.new_machine(host, order, Role::Standby { primary: order.primary, made: false, follower: None });
        if planted(PlantedBug::ReadyTooEarly) {
            let (vm, generation) = (order.vm, order.generation);
            self.host_input(host, Input::StandbyMade { vm, generation });
            return;
        }
        let delay = self.takes(Self::host_target(host), self.plan.weather.make_us);
        if !planted(PlantedBug::ForgetStandby) {
            self.schedule(delay, Event::StandbyMade { host, machine });
        }
    }

    pub(crate) fn standby_made(&mut self, host: usize, number: u32) {
        let Some(machine) = self.hosts[host].machines.iter_mut().find(|machine| machine.number == number) else {
            return;
        };
        let Role::Standby { made, .. } = &mut machine.role else { return };
        *made = true;
        let (vm, generation) = (machine.vm, machine.generation);
        self.host_input(host, Input::StandbyMade { vm, generation });
        self.reached(Point::StandbyMade);
    }

    fn run_primary(&mut self, host: usize, order: Order) {
        self.check_order(host, &order);
        // A standby that is made needs only its state loaded; everything else is made first.
        let made = self.hosts[host]
            .machines
            .iter()
            .any(|machine| machine.vm == order.vm && matches!(machine.role, Role::Standby { made: true, .. }));
        let (vm, generation) = (order.vm, order.generation);
        let Some(mut primary) = PrimaryMachine::new(&self.hosts[host], order.clone(), self.now_ns) else {
            let reason = "a descriptor is missing".to_owned();
            self.host_input(host, Input::Failed { vm, generation, reason });
            return;
        };
        let standby = self.hosts[host].machines.iter_mut().find(|machine| machine.vm == order.vm);
        if let Some(Role::Standby { follower, .. }) = standby.map(|machine| &mut machine.role) {
            primary.warm = follower.take();
        }
        let machine = self.new_machine(host, &order, Role::Primary(Box::new(primary)));
        let weather = &self.plan.weather;
        let us = if made { weather.step_us } else { weather.make_us };
        let delay = self.takes(Self::host_target(host), us);
        self.schedule(delay, Event::Machine { host, machine, step: MachineStep::Load });
        self.reached(Point::PrimaryOrdered);
    }

    /// Replaces whatever the host has of the VM.
    fn new_machine(&mut self, host: usize, order: &Order, role: Role) -> u32 {
        self.machines += 1;
        let (vm, generation, number) = (order.vm, order.generation, self.machines);
        self.hosts[host].machines.retain(|machine| machine.vm != vm);
        self.hosts[host].machines.push(Machine { number, vm, generation, role });
        number
    }
}
