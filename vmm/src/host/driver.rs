//! Drives the host's core: executes its actions on machines and the connection.

use super::beater::Beater;
use super::dialer::Dialer;
use super::parts::{FollowParts, PrimaryParts, StandbyParts};
use super::vm_thread::{VmEvent, VmThread};
use super::{HostEnd, HostError, HostOptions, link_number};
use crate::clock;
use crate::events::{Events, Watched};
use crate::machine::{MachineError, STATE_VERSION, STATE_VERSION_OLDEST, host_profile};
use crate::transport::{Connection, Outgoing, ReceiveError, SendError};
use crate::wake::WakingSender;
use ft_protocol::host::{Action, ExitReason, Host, Input};
use ft_protocol::wire::{ExtentTag, FromHost, Hello, HostProfile, Order, Part, StateFormats, ToHost};
use ft_protocol::{Incarnation, LinkId, Span, VmId};
use kvm_ioctls::Kvm;
use shared_mem::Extent;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

/// The connection of the moment, shared with the machines' threads: they ring their doorbells themselves.
pub(super) type SharedLink = Arc<Mutex<Option<Connection>>>;

/// Time between two ticks of a host that watches nobody and waits for nothing: an idle VM is to cost next to nothing.
const TICK_INTERVAL_IDLE: Span = Span::from_ms(500);

pub(super) struct Driver {
    kvm: Arc<Kvm>,
    core: Host,
    incarnation: Incarnation,
    link: SharedLink,
    link_id: LinkId,
    connections: u64,
    dialer: Dialer,
    interval: Span,
    beater: Option<Beater>,
    /// This host's own heartbeat page.
    page: Option<Extent>,
    machines: BTreeMap<VmId, VmThread>,
    /// Descriptors of the order that is being executed.
    extents: Vec<(ExtentTag, Extent)>,
    sender: WakingSender<(VmId, VmEvent)>,
    exit: Option<ExitReason>,
    /// Messages that the controller's socket had no room for.
    waiting: VecDeque<Outgoing>,
}

impl Driver {
    pub(super) fn new(
        options: &HostOptions,
        kvm: Kvm,
        sender: WakingSender<(VmId, VmEvent)>,
    ) -> Result<Self, MachineError> {
        // Unique among the lives of this host: process ids are reused, but not at the same nanosecond.
        let incarnation = Incarnation::new(clock::monotonic().ns() << 16 | u64::from(std::process::id() & 0xffff));
        let profile = HostProfile {
            name: options.name.clone(),
            incarnation,
            memory_bytes: options.memory_bytes.unwrap_or_else(machine_memory_bytes),
            cpu: host_profile(&kvm)?,
            labels: options.labels.clone(),
            states: StateFormats { writes: STATE_VERSION, reads_from: STATE_VERSION_OLDEST },
        };
        Ok(Self {
            kvm: Arc::new(kvm),
            core: Host::new(profile),
            incarnation,
            link: Arc::new(Mutex::new(None)),
            link_id: link_number(0),
            connections: 0,
            dialer: Dialer::new(options.pool.clone()),
            interval: Span::from_ms(5),
            beater: None,
            page: None,
            machines: BTreeMap::new(),
            extents: Vec::new(),
            sender,
            exit: None,
            waiting: VecDeque::new(),
        })
    }

    /// How long the next tick can wait.
    pub(super) fn tick_interval(&self) -> Span {
        let has_work = !self.waiting.is_empty() || self.dialer.is_looking();
        let at_most = if has_work { self.interval } else { self.interval.max(TICK_INTERVAL_IDLE) };
        self.core.sample_after().map_or(at_most, |sample| sample.min(at_most))
    }

    /// How the process has to end, once it has to.
    pub(super) fn ended(&mut self) -> Result<Option<HostEnd>, HostError> {
        match self.exit.take() {
            None => Ok(None),
            Some(ExitReason::Shutdown) => Ok(Some(HostEnd::Shutdown)),
            Some(ExitReason::Fenced { vm, generation }) => Ok(Some(HostEnd::Fenced { vm, generation })),
            Some(ExitReason::Rejected(reason)) => Err(HostError::Rejected { reason }),
            Some(ExitReason::Refused(reason)) => Err(HostError::Refused { reason }),
        }
    }

    pub(super) fn link_up(&mut self, connection: Connection, events: &Events) -> Result<(), HostError> {
        self.connections += 1;
        self.link_id = link_number(self.connections);
        events.watch(&connection, Watched::Link(self.link_id)).map_err(HostError::kernel("watch the connection"))?;
        *self.link.lock().expect("no thread panics while sending") = Some(connection);
        self.handle(Input::LinkUp);
        Ok(())
    }

    fn link_down(&mut self) {
        *self.link.lock().expect("no thread panics while sending") = None;
        self.waiting.clear();
        if self.dialer.look(clock::monotonic()) {
            self.handle(Input::LinkDown);
        }
    }

    pub(super) fn tick(&mut self, events: &Events) -> Result<(), HostError> {
        let samples: Vec<(VmId, Option<u64>)> =
            self.core.watched().filter_map(|vm| Some((vm, self.machines.get(&vm)?.heartbeat()))).collect();
        for (vm, count) in samples {
            self.handle(Input::Beat { vm, count });
        }
        self.flush();
        match self.dialer.found(clock::monotonic()) {
            Some(connection) => self.link_up(connection, events),
            None => Ok(()),
        }
    }

    /// Takes what the controller has sent.
    pub(super) fn link_ready(&mut self, link: LinkId, _events: &Events) -> Result<(), HostError> {
        while link == self.link_id && self.exit.is_none() {
            let received = match &*self.link.lock().expect("no thread panics while sending") {
                Some(connection) => connection.receive_now::<ToHost>(),
                None => return Ok(()),
            };
            match received {
                Ok(received) => {
                    self.extents = received.extents;
                    self.handle(Input::Message(received.message));
                    self.extents.clear();
                }
                Err(ReceiveError::WouldBlock) => return Ok(()),
                Err(error) => {
                    if !matches!(error, ReceiveError::Closed) {
                        tracing::warn!("bad message from the controller: {}", crate::chain(&error));
                    }
                    self.link_down();
                }
            }
        }
        Ok(())
    }

    /// Takes what the machines' threads have said.
    pub(super) fn machines_said(&mut self, said: Vec<(VmId, VmEvent)>) -> Result<(), HostError> {
        for (vm, event) in said {
            let input = match event {
                VmEvent::StandbyMade { generation } => Input::StandbyMade { vm, generation },
                VmEvent::Live { generation, report } => Input::Live { vm, generation, report },
                VmEvent::Fenced { generation } => Input::Fenced { vm, generation },
                VmEvent::Yielded { generation, stood } => Input::Yielded { vm, generation, stood },
                VmEvent::Recorded { generation, since } => Input::Recorded { vm, generation, since },
                VmEvent::Followed { turn, epoch, step } => Input::Followed { vm, turn, epoch, step },
                VmEvent::ModeIs { generation, mode } => Input::ModeIs { vm, generation, mode },
                VmEvent::Diverged { generation, turn, report } => Input::Diverged { vm, generation, turn, report },
                VmEvent::LogLost { generation, report } => Input::LogLost { vm, generation, report },
                VmEvent::FollowFailed { turn, reason } => Input::FollowFailed { vm, turn, reason },
                VmEvent::Outputs { generation, latency } => Input::OutputsMeasured { vm, generation, latency },
                VmEvent::Space { generation, shortage } => Input::Space { vm, generation, shortage },
                VmEvent::InputAt { generation, at } => Input::InputAt { vm, generation, at },
                VmEvent::GuestEnded => Input::GuestEnded { vm },
                VmEvent::Failed { generation, reason, unfit: true } => Input::Unfit { vm, generation, reason },
                VmEvent::Failed { generation, reason, .. } => Input::Failed { vm, generation, reason },
            };
            self.handle(input);
        }
        Ok(())
    }

    fn handle(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.core.handle(clock::monotonic(), input, &mut actions);
        for action in actions {
            self.execute(action);
        }
    }

    fn execute(&mut self, action: Action) {
        match action {
            Action::SayHello(hello) => self.send(&Hello::Host(hello)),
            Action::Send(message) => self.send(&message),
            Action::Join { host, interval } => {
                self.interval = interval;
                let own = self.extents.iter().find(|(tag, _)| tag.grant.part == Part::Heartbeat(host));
                // A host that was forgotten while it was away has another page now.
                let moved = own.is_some_and(|(_, page)| self.page.as_ref().is_some_and(|old| !is_same(old, page)));
                if self.beater.is_none() || moved {
                    self.page = own.and_then(|(_, page)| page.try_clone().ok());
                    self.beater = None;
                    match Beater::start(host, self.incarnation, interval, std::mem::take(&mut self.extents)) {
                        Ok(beater) => self.beater = Some(beater),
                        Err(error) => {
                            let reason = format!("its heartbeat cannot be written: {}", crate::chain(&*error));
                            self.exit = Some(ExitReason::Rejected(reason));
                        }
                    }
                }
            }
            Action::MakeStandby(order) => self.make_standby(order),
            Action::RunPrimary(order) => self.run_primary(order),
            Action::Yield(vm) => {
                if let Some(machine) = self.machines.get(&vm) {
                    machine.yield_up();
                }
            }
            Action::SetMode(vm, mode) => {
                if let Some(machine) = self.machines.get(&vm) {
                    machine.turn(mode);
                }
            }
            Action::OpenInput(vm) => {
                if let Some(machine) = self.machines.get(&vm) {
                    machine.open_input();
                }
            }
            Action::TakeInput(vm, position, bytes) => {
                if let Some(machine) = self.machines.get(&vm) {
                    machine.take_input(position, bytes);
                }
            }
            Action::Follow(vm, generation, base, turn) => {
                let extents = std::mem::take(&mut self.extents);
                let Some(machine) = self.machines.get(&vm) else { return };
                match FollowParts::open((vm, generation, base), turn, machine.spec(), extents) {
                    Ok(parts) => machine.follow(parts),
                    Err(error) => self.handle(Input::Failed { vm, generation, reason: crate::chain(&*error) }),
                }
            }
            Action::Unfollow(vm) => {
                if let Some(machine) = self.machines.get(&vm) {
                    machine.unfollow();
                }
            }
            Action::Discard(vm) => {
                // Dropping stops the vCPU and waits for its thread.
                self.machines.remove(&vm);
            }
            Action::TryAgain(_) => self.link_down(),
            Action::Exit(reason) => self.exit = Some(reason),
        }
    }

    fn make_standby(&mut self, order: Order) {
        let (vm, generation) = (order.vm, order.generation);
        let made = StandbyParts::open(&order, std::mem::take(&mut self.extents))
            .and_then(|parts| VmThread::stand_by(&order, parts, &self.kvm, &self.link, self.sender.clone()));
        self.started(vm, generation, made);
    }

    fn run_primary(&mut self, order: Order) {
        let ordered_at = clock::monotonic();
        let (vm, generation) = (order.vm, order.generation);
        let extents = std::mem::take(&mut self.extents);
        let started = match self.machines.remove(&vm) {
            Some(standby) => PrimaryParts::open(&order, &extents, self.page.as_ref()).map(|parts| {
                standby.promote(order, parts, ordered_at);
                standby
            }),
            None => PrimaryParts::open(&order, &extents, self.page.as_ref()).and_then(|primary| {
                let standby = StandbyParts::open(&order, extents)?;
                let thread = VmThread::stand_by(&order, standby, &self.kvm, &self.link, self.sender.clone())?;
                thread.promote(order, primary, ordered_at);
                Ok(thread)
            }),
        };
        self.started(vm, generation, started);
    }

    fn started(
        &mut self,
        vm: VmId,
        generation: ft_protocol::Generation,
        started: Result<VmThread, Box<dyn std::error::Error + Send + Sync>>,
    ) {
        match started {
            Ok(thread) => {
                self.machines.insert(vm, thread);
            }
            Err(error) => self.handle(Input::Failed { vm, generation, reason: crate::chain(&*error) }),
        }
    }

    /// Sends over the connection of the moment. Without one the message is void, and the next hello says what matters;
    /// what a controller that does not read cannot take waits for the next tick.
    fn send<M: serde::Serialize>(&mut self, message: &M) {
        match Outgoing::new(message, Vec::new()) {
            Ok(outgoing) => self.waiting.push_back(outgoing),
            Err(error) => tracing::error!("a message was not sent: {error}"),
        }
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(outgoing) = self.waiting.front() {
            let sent = match &*self.link.lock().expect("no thread panics while sending") {
                Some(connection) => connection.send_now(outgoing),
                None => Ok(()),
            };
            match sent {
                Ok(()) => {
                    self.waiting.pop_front();
                }
                Err(SendError::WouldBlock) => return,
                Err(error) => {
                    tracing::debug!("to the controller: {error}");
                    self.link_down();
                    return;
                }
            }
        }
    }
}

/// Rings a doorbell from a machine's thread. One that gets lost is made up for by the controller's own looks.
pub(super) fn ring(link: &SharedLink, doorbell: &FromHost) {
    if let Some(connection) = &*link.lock().expect("no thread panics while sending")
        && let Ok(outgoing) = Outgoing::new(doorbell, Vec::new())
    {
        let _ = connection.send_now(&outgoing);
    }
}

/// Physical memory of this machine; without an answer, no bound: the pool has its own.
fn machine_memory_bytes() -> u64 {
    let read = |variable| nix::unistd::sysconf(variable).ok().flatten().and_then(|value| u64::try_from(value).ok());
    let pages = read(nix::unistd::SysconfVar::_PHYS_PAGES);
    let page_bytes = read(nix::unistd::SysconfVar::PAGE_SIZE);
    pages.zip(page_bytes).map_or(u64::MAX, |(pages, bytes)| pages.saturating_mul(bytes))
}

/// Whether two descriptors are of one place in one file.
fn is_same(one: &Extent, other: &Extent) -> bool {
    let place = |page: &Extent| nix::sys::stat::fstat(page).map(|stat| (stat.st_dev, stat.st_ino));
    one.offset() == other.offset() && place(one).is_ok_and(|one| place(other) == Ok(one))
}
