//! The client: makes the VMs, and reads each console without loss, slowly, over connections that break.

use super::actor::Actor;
use super::draw::Range;
use super::net::{Message, Peer};
use super::pool::Descriptor;
use super::queue::Event;
use super::violation::Violation;
use super::weather::PAGE_SIZE;
use super::world::World;
use ft_protocol::Span;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::ids::VmId;
use ft_protocol::policy::{Failback, Policy};
use ft_protocol::spec::{Mode, VmSpec};
use ft_protocol::wire::{Answer, FromClient, PROTOCOL_VERSION, Request, RequestError, ToClient};
use shared_mem::console::ConsoleRing;
use shared_mem::lossy::LossyMemory;
use shared_mem::numbers::ConsolePosition;

/// How long a client that stands still may go on doing so when all else is healed.
const PAUSED_ON_NS: u64 = 100_000_000;

/// How long the client waits before it tries to connect again.
const CONNECT_AGAIN_US: Range = Range::new(300, 3_000);

/// What the client knows of a VM.
#[derive(Default)]
pub(crate) struct Reading {
    pub(crate) made: bool,
    /// Its name is taken, by what an earlier request made or was about to make: it is there once its console is.
    named: bool,
    /// No host had room for it when it was asked for last.
    pub(crate) refused: bool,
    /// Its deletion was asked for; whether another is to be made then.
    deleting: Option<bool>,
    /// It is deleted for good.
    pub(crate) deleted: bool,
    console: Option<ConsoleRing<LossyMemory>>,
    /// Bytes read and shown.
    pub(crate) position: u64,
    /// Where the console is known to go to.
    tail: u64,
    pub(crate) end: Option<(GuestEnd, u64)>,
    reading: bool,
}

impl Reading {
    /// The VM's life is over and all that it printed was read.
    pub(crate) fn is_complete(&self) -> bool {
        let read = self.end.as_ref().is_some_and(|(_, console_end)| *console_end == self.position);
        self.deleted || self.deleting.is_none() && read
    }
}

/// The process. It never dies; only its connection does.
pub(crate) struct Client {
    pub(crate) actor: Actor,
    pub(crate) link: Option<usize>,
    pub(crate) vms: Vec<Reading>,
    /// It does not read before this time.
    pub(crate) paused_until_ns: u64,
    /// Hosts that it has drained and not let go again.
    draining: Vec<u16>,
    /// Requests on the present connection that were not answered yet.
    pub(crate) waiting: Vec<u64>,
}

impl Client {
    pub(crate) fn new(actor: Actor, vms: u16) -> Self {
        Self {
            actor,
            link: None,
            vms: (0..vms).map(|_| Reading::default()).collect(),
            paused_until_ns: 0,
            draining: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// The VM's end was asked for, and is not yet known to have come.
    pub(crate) fn is_deleting(&self, vm: VmId) -> bool {
        self.vms.get(usize::from(vm.get())).is_some_and(|reading| reading.deleting.is_some())
    }
}

/// Numbers of requests: what, and for which VM.
const CREATE: u64 = 1 << 32;
const ATTACH: u64 = 2 << 32;
const SWITCHOVER: u64 = 4 << 32;
const DRAIN: u64 = 8 << 32;
const DRAIN_OVER: u64 = 16 << 32;
const DELETE: u64 = 32 << 32;
const MODE: u64 = 64 << 32;

impl World {
    pub(crate) fn client_connect(&mut self) {
        if self.client.link.is_some() {
            return;
        }
        self.client.link = self.connect(Peer::Client);
        if self.client.link.is_some() {
            self.client_sends(Message::ClientHello(PROTOCOL_VERSION));
            for vm in self.vms() {
                self.create_or_attach(vm);
            }
        } else {
            let delay = self.client.actor.takes(CONNECT_AGAIN_US);
            self.schedule(delay, Event::ClientConnect);
        }
    }

    fn client_sends(&mut self, message: Message) {
        if let Some(link) = self.client.link {
            self.send(link, true, message);
        }
    }

    fn request(&mut self, id: u64, request: Request) {
        // What is consumed is not answered.
        if id != 0 && self.client.link.is_some() {
            self.client.waiting.push(id);
        }
        self.client_sends(Message::FromClient(FromClient { id, request }));
    }

    pub(crate) fn create_or_attach(&mut self, vm: VmId) {
        let number = u64::from(vm.get());
        let reading = &self.client.vms[usize::from(vm.get())];
        if reading.deleted {
            return;
        }
        if reading.deleting.is_some() {
            self.request(DELETE | number, Request::DeleteVm(vm));
            return;
        }
        if reading.made || reading.named {
            let from = self.client.vms[usize::from(vm.get())].position;
            self.request(ATTACH | number, Request::AttachConsole { vm, from });
        } else if self.client.vms[..usize::from(vm.get())].iter().any(|earlier| !earlier.made && !earlier.deleted) {
            // One after the other: so their numbers are known.
            let delay = self.client.actor.takes(CONNECT_AGAIN_US);
            self.schedule(delay, Event::ClientAsk(vm));
        } else {
            let spec = self.spec_of(vm);
            self.request(CREATE | number, Request::CreateVm(spec));
        }
    }

    /// Asks for a VM's end. One at a time and, once one is gone for good, no more: the numbers of the VMs stay theirs.
    pub(crate) fn request_delete(&mut self, vm: VmId, again: bool) {
        let vms = &mut self.client.vms;
        let settled = vms.iter().all(|reading| reading.made && reading.deleting.is_none() && !reading.deleted);
        if settled && let Some(reading) = vms.get_mut(usize::from(vm.get())) {
            reading.deleting = Some(again);
            reading.console = None;
            self.create_or_attach(vm);
        }
    }

    fn deleted(&mut self, vm: VmId, answer: &Result<Answer, RequestError>) {
        let reading = &mut self.client.vms[usize::from(vm.get())];
        let Some(again) = reading.deleting else { return };
        match answer {
            // Done, or done by a request whose answer was lost.
            Ok(_) | Err(RequestError::UnknownVm(_)) => {
                *reading = Reading { deleted: !again, ..Reading::default() };
                self.create_or_attach(vm);
            }
            Err(_) => {
                let delay = self.client.actor.takes(CONNECT_AGAIN_US);
                self.schedule(delay, Event::ClientAsk(vm));
            }
        }
    }

    /// What a host is called in the cluster, whether it is there or not.
    fn name_of(&self, host: u16) -> String {
        self.hosts.get(usize::from(host)).map_or_else(|| format!("h{host}"), |process| process.name.clone())
    }

    pub(crate) fn request_switchover(&mut self, vm: VmId, to: Option<u16>) -> u64 {
        let to = to.map(|host| self.name_of(host));
        let id = SWITCHOVER | u64::from(vm.get());
        self.request(id, Request::Switchover { vm, to });
        id
    }

    pub(crate) fn request_mode(&mut self, vm: VmId, mode: Mode) -> u64 {
        let id = MODE | u64::from(vm.get());
        self.request(id, Request::SetMode { vm, mode });
        id
    }

    pub(crate) fn request_drain_over(&mut self, host: u16) -> u64 {
        let id = DRAIN_OVER | u64::from(host);
        self.request(id, Request::Drain { host: self.name_of(host), on: false });
        id
    }

    pub(crate) fn request_drain(&mut self, host: u16) -> u64 {
        if !self.client.draining.contains(&host) {
            self.client.draining.push(host);
        }
        let id = DRAIN | u64::from(host);
        self.request(id, Request::Drain { host: self.name_of(host), on: true });
        id
    }

    /// Lets all drained hosts have roles again; to be repeated until there are none.
    pub(crate) fn request_drains_over(&mut self) {
        for host in self.client.draining.clone() {
            let request = Request::Drain { host: self.name_of(host), on: false };
            self.request(DRAIN_OVER | u64::from(host), request);
        }
    }

    fn spec_of(&self, vm: VmId) -> VmSpec {
        let weather = &self.plan.weather;
        VmSpec {
            name: self.stage_name(vm).unwrap_or_else(|| format!("v{}", vm.get())),
            memory_bytes: weather.pages_of(vm.get()) * PAGE_SIZE,
            mode: weather.mode,
            epoch_interval: Span::from_us(weather.epoch_us),
            args: Vec::new(),
            journal: super::pool::journal_shape(weather.pages_of(vm.get()), weather.slots),
            console_lossless: true,
            working_set_bytes_max: None,
            policy: self.policy_of(),
            nets: Vec::new(),
            disk_bytes: 0,
            log_bytes: weather.log_bytes,
        }
    }

    /// Whether VMs are to have a spare; with two hosts there is none to have.
    pub(crate) fn spare_is_required(&self) -> bool {
        self.plan.weather.require_spare && self.hosts.len() > 2
    }

    fn policy_of(&self) -> Policy {
        let weather = &self.plan.weather;
        let hold = Span::from_us(weather.failback_us);
        Policy {
            anti_affinity: vec!["all".to_owned()],
            require_spare: self.spare_is_required(),
            preferred: weather.preferred.map(|host| self.name_of(host)),
            failback: (weather.failback_us > 0).then_some(Failback { hold }),
        }
    }

    pub(crate) fn client_receives(&mut self, link: usize, message: Message) {
        if self.client.link != Some(link) {
            return;
        }
        match message {
            Message::ToClient(message, descriptors) => self.client_told(message, &descriptors),
            Message::Closed => {
                self.client.link = None;
                self.client.waiting.clear();
                for reading in &mut self.client.vms {
                    reading.console = None;
                }
                let delay = self.client.actor.takes(CONNECT_AGAIN_US);
                self.schedule(delay, Event::ClientConnect);
            }
            _ => {}
        }
    }

    fn client_told(&mut self, message: ToClient, descriptors: &[Descriptor]) {
        match message {
            ToClient::Answer { id, answer } => self.client_answered(id, answer, descriptors),
            ToClient::ConsoleMoved { vm, tail } => {
                let reading = &mut self.client.vms[usize::from(vm.get())];
                if reading.deleting.is_none() {
                    reading.tail = reading.tail.max(tail);
                    self.read_soon(vm);
                }
            }
            ToClient::VmEnded { vm, end, console_end } => {
                let reading = &mut self.client.vms[usize::from(vm.get())];
                if reading.deleting.is_none() {
                    reading.tail = reading.tail.max(console_end);
                    reading.end = Some((end, console_end));
                    self.read_soon(vm);
                }
            }
            ToClient::Welcome
            | ToClient::Rejected { .. }
            | ToClient::Happened { .. }
            | ToClient::InputAt { .. }
            | ToClient::InputEnded { .. } => {}
        }
    }

    fn client_answered(&mut self, id: u64, answer: Result<Answer, RequestError>, descriptors: &[Descriptor]) {
        let number = u16::try_from(id & 0xffff).unwrap_or(0);
        if let Some(at) = self.client.waiting.iter().position(|waiting| *waiting == id) {
            self.client.waiting.remove(at);
        }
        self.stage_answered(id, answer.as_ref().err().map(ToString::to_string));
        if id & DRAIN_OVER != 0 && answer.is_ok() {
            self.client.draining.retain(|host| *host != number);
        }
        if id & DELETE != 0 {
            self.deleted(VmId::new(number), &answer);
        }
        let vm = VmId::new(number);
        if id & (CREATE | ATTACH) == 0 || self.client.is_deleting(vm) {
            return;
        }
        let reading = &mut self.client.vms[usize::from(vm.get())];
        if id & CREATE != 0 {
            match answer {
                Ok(Answer::VmCreated(_)) => {
                    (reading.made, reading.refused) = (true, false);
                    self.create_or_attach(vm);
                }
                // By what was asked for earlier, and may be lost with its controller before it is made.
                Err(RequestError::NameTaken(_)) => {
                    (reading.named, reading.refused) = (true, false);
                    self.create_or_attach(vm);
                }
                // Not all hosts are there yet, or others have their room: ask again.
                Err(RequestError::NoSpare(_) | RequestError::NoCapacity(_)) => {
                    reading.refused = true;
                    let delay = self.client.actor.takes(CONNECT_AGAIN_US);
                    self.schedule(delay, Event::ClientAsk(vm));
                }
                _ => {}
            }
        } else if let (Ok(_), Some(descriptor)) = (answer, descriptors.first()) {
            let console = ConsoleRing::open(descriptor.reader(&self.client.actor.cache));
            reading.console = console.ok();
            reading.made = true;
            let position = reading.position;
            self.request(0, Request::ConsoleConsumed { vm, position });
            self.read_soon(vm);
        } else {
            // It is not made yet, or the controller that was about to make it died: ask again.
            (reading.made, reading.named) = (false, false);
            let delay = self.client.actor.takes(CONNECT_AGAIN_US);
            self.schedule(delay, Event::ClientAsk(vm));
        }
    }

    fn read_soon(&mut self, vm: VmId) {
        let us = self.plan.weather.read_us;
        let delay = self.client.actor.takes(us);
        let paused_ns = self.client.paused_until_ns.saturating_sub(self.now_ns);
        let reading = &mut self.client.vms[usize::from(vm.get())];
        if !reading.reading && reading.console.is_some() && reading.position < reading.tail {
            reading.reading = true;
            self.schedule(delay.max(paused_ns), Event::ClientRead(vm));
        }
    }

    /// It stands still for not much longer, and reads then what it was about to read.
    pub(crate) fn resume_client(&mut self) {
        let paused_ns = self.client.paused_until_ns.saturating_sub(self.now_ns).min(PAUSED_ON_NS);
        self.client.paused_until_ns = 0;
        for vm in self.vms() {
            if self.client.vms[usize::from(vm.get())].reading {
                self.schedule(paused_ns, Event::ClientRead(vm));
            }
        }
    }

    pub(crate) fn client_read(&mut self, vm: VmId) {
        let read_bytes = usize::try_from(self.plan.weather.read_bytes).unwrap_or(64);
        let reading = &mut self.client.vms[usize::from(vm.get())];
        reading.reading = false;
        let Some(console) = &reading.console else { return };
        let mut bytes = vec![0; read_bytes];
        let from = reading.position;
        match console.read(ConsolePosition::new(from), &mut bytes) {
            Ok(count) => {
                reading.position += count as u64;
                let position = reading.position;
                self.check_shown(vm, from, &bytes[..count]);
                self.stage_printed(vm, &bytes[..count], position);
                self.request(0, Request::ConsoleConsumed { vm, position });
                self.read_soon(vm);
            }
            Err(error) => self.violate(Violation::ConsoleGap { vm, position: from, why: error.to_string() }),
        }
    }
}
