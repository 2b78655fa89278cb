//! Clients: creating VMs, reading consoles, watching.

use super::hosts::Health;
use super::io::Action;
use super::vm::{Phase, Vm};
use super::{Controller, LinkId, Turn, VmId};
use crate::planted::{PlantedBug, planted};
use crate::spec::{VmSpec, check_nets, name_is_valid};
use crate::timeline::Happening;
use crate::wire::{
    Access, Answer, FromClient, Grant, HostStatus, Part, Request, RequestError, Status, ToClient, ToHost, VmStatus,
};

/// Guest memory comes in pages.
const PAGE_BYTES: u64 = 4096;

impl Controller {
    pub(super) fn client_hello(&mut self, turn: &mut Turn<'_>, link: LinkId, protocol: u32) {
        let ours = self.config.protocols;
        // What clients are told has no versions: one of another would take it for something else.
        if protocol != ours.max {
            let ours = ours.max;
            let reason =
                format!("the client speaks protocol {protocol}, the controller {ours}: use the same ftvm on both");
            turn.actions.push(Action::ToClient { link, message: ToClient::Rejected { reason }, grants: Vec::new() });
            turn.actions.push(Action::CloseLink(link));
            return;
        }
        self.clients.insert(link);
        turn.actions.push(Action::ToClient { link, message: ToClient::Welcome, grants: Vec::new() });
    }

    pub(super) fn client_said(&mut self, turn: &mut Turn<'_>, link: LinkId, message: FromClient) {
        if !self.clients.contains(&link) {
            return;
        }
        let FromClient { id, request } = message;
        match request {
            Request::CreateVm(spec) => self.create_vm(turn, link, id, spec),
            Request::DeleteVm(vm) => self.delete_vm(turn, link, id, vm),
            Request::Status => answer(turn, link, id, Ok(Answer::Status(self.status())), Vec::new()),
            Request::Watch => {
                self.watchers.insert(link);
                answer(turn, link, id, Ok(Answer::Done), Vec::new());
                for (at, happening) in self.recent.iter().cloned() {
                    let message = ToClient::Happened { at, happening };
                    turn.actions.push(Action::ToClient { link, message, grants: Vec::new() });
                }
            }
            Request::AttachConsole { vm, from } => self.attach(turn, link, id, vm, from),
            Request::ConsoleConsumed { vm, position } => self.consumed(turn, link, vm, position),
            Request::OpenInput(vm) => self.open_input(turn, link, id, vm),
            Request::Input { vm, position, bytes } => self.fed(turn, link, vm, (position, bytes)),
            Request::CloseInput(vm) => self.close_input(link, vm),
            Request::SetMode { vm, mode } => self.set_mode(turn, link, id, vm, mode),
            Request::ReleaseConsole(vm) => self.release_console(turn, link, id, vm),
            Request::ReadDisk(vm) => self.read_disk(turn, link, id, vm),
            Request::Switchover { vm, to } => self.switchover(turn, link, id, vm, to.as_deref()),
            Request::Drain { host, on } => self.drain(turn, link, id, &host, on),
            Request::Shutdown if self.config.shutdown_allowed => self.shutdowns.push((link, id)),
            Request::Shutdown => {
                let refusal = "this controller does not end at a client's request: stop its process instead";
                answer(turn, link, id, Err(RequestError::NotNow(refusal.to_owned())), Vec::new());
            }
        }
    }

    fn create_vm(&mut self, turn: &mut Turn<'_>, link: LinkId, id: u64, spec: VmSpec) {
        let vm = match self.check_spec(&spec) {
            Ok(vm) => vm,
            Err(error) => {
                answer(turn, link, id, Err(error), Vec::new());
                return;
            }
        };
        // Those that are being made will be stored, too.
        let making = self.vms.values().filter(|vm| matches!(vm.phase, Phase::Creating { .. })).map(|vm| &vm.spec);
        if !self.state().has_room_for(making.chain([&spec]), self.config.state_bytes_max) {
            let why = "the cluster state has no room for another VM with such arguments";
            answer(turn, link, id, Err(RequestError::PoolRefused(why.to_owned())), Vec::new());
            return;
        }
        let mut entry = Vm::new(vm, spec.clone(), Phase::Creating { client: link, request: id });
        entry.generation = self.first_generation;
        self.vms.insert(vm, entry);
        let fits = self.hosts.keys().any(|host| self.has_room(*host, vm));
        if !fits && self.hosts.values().any(|host| host.link.is_some()) {
            self.vms.remove(&vm);
            answer(turn, link, id, Err(RequestError::NoCapacity(spec.memory_bytes)), Vec::new());
            return;
        }
        if spec.policy.require_spare
            && let Err(reason) = self.admit_with_spare(vm)
        {
            self.vms.remove(&vm);
            answer(turn, link, id, Err(RequestError::NoSpare(reason)), Vec::new());
            return;
        }
        turn.actions.push(Action::CreatePartition { vm, spec, uploader: link });
    }

    fn check_spec(&self, spec: &VmSpec) -> Result<VmId, RequestError> {
        let bad = |why: &str| Err(RequestError::BadSpec(why.to_owned()));
        if !name_is_valid(&spec.name) {
            return bad("its name must be 1 to 63 of a-z 0-9 . _ -, not starting with a dot");
        }
        if spec.memory_bytes == 0 || !spec.memory_bytes.is_multiple_of(PAGE_BYTES) {
            return bad("its memory must be a multiple of 4096 bytes, and not zero");
        }
        if spec.epoch_interval.ns() == 0 || spec.journal.slots == 0 {
            return bad("epoch interval and journal slots must not be zero");
        }
        spec.policy.check().map_err(|why| RequestError::BadSpec(why.to_owned()))?;
        check_nets(&spec.nets).map_err(|why| RequestError::BadSpec(why.to_owned()))?;
        if !spec.disk_bytes.is_multiple_of(PAGE_BYTES) {
            return bad("its disk must be a multiple of 4096 bytes");
        }
        let has_mac = |mac: &[u8; 6]| self.vms.values().find(|vm| vm.spec.nets.iter().any(|net| net.mac == *mac));
        if let Some(other) = spec.nets.iter().find_map(|net| has_mac(&net.mac)) {
            let why = format!("a hardware address of its network devices is one of {}'s", other.spec.name);
            return Err(RequestError::BadSpec(why));
        }
        if self.vms.values().any(|vm| vm.spec.name == spec.name) {
            return Err(RequestError::NameTaken(spec.name.clone()));
        }
        (0..self.config.vms_max)
            .map(VmId::new)
            .find(|vm| !self.vms.contains_key(vm))
            .ok_or_else(|| RequestError::PoolRefused(format!("all {} places for VMs are taken", self.config.vms_max)))
    }

    /// Ends a VM's life: its hosts forget it, its generation is sealed so that a host that has not heard of it can publish
    /// nothing into a part of the pool that may be another VM's soon.
    fn delete_vm(&mut self, turn: &mut Turn<'_>, link: LinkId, id: u64, vm: VmId) {
        let Some(entry) = self.vms.get_mut(&vm) else {
            answer(turn, link, id, Err(RequestError::UnknownVm(vm)), Vec::new());
            return;
        };
        if matches!(entry.phase, Phase::Creating { .. } | Phase::Deleting { .. }) {
            let why = format!("the VM is {}", entry.phase_word());
            answer(turn, link, id, Err(RequestError::NotNow(why)), Vec::new());
            return;
        }
        self.requests_over(turn, vm, "the VM is deleted");
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let (generation, primary) = (entry.generation, entry.primary());
        let sealable =
            entry.given && !matches!(entry.phase, Phase::Ended { .. }) && !planted(PlantedBug::DeletedUnsealed);
        entry.phase = Phase::Deleting { client: link, request: id, leaving: false };
        entry.suspected = None;
        let standby = entry.standby.take().map(|standby| standby.host);
        for host in primary.into_iter().chain(standby) {
            self.to_host(turn, host, ToHost::Release { vm, generation, deposed: false }, Vec::new());
        }
        if sealable {
            turn.actions.push(Action::Seal { vm, generation });
        } else {
            self.finish_deleting(turn, vm);
        }
    }

    /// Has the VM's part of the pool given back, once no record of it is with the driver.
    pub(super) fn finish_deleting(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let idle = |entry: &&mut Vm| !entry.applying && entry.draining_log.is_none();
        let Some(entry) = self.vms.get_mut(&vm).filter(idle) else { return };
        let Phase::Deleting { leaving, .. } = &mut entry.phase else { return };
        if std::mem::replace(leaving, true) {
            return;
        }
        self.tell_outputs(turn, vm);
        // Forgotten first: a controller that dies in between finds a part of the pool that belongs to nobody.
        self.persist(turn);
        turn.actions.push(Action::DeletePartition(vm));
    }

    /// Its number and name can be another VM's from here on, and its space.
    pub(super) fn partition_deleted(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let Some(entry) = self.vms.get(&vm) else { return };
        let Phase::Deleting { client, request, leaving: true } = entry.phase else { return };
        let name = entry.spec.name.clone();
        if !planted(PlantedBug::GenerationsReused) {
            self.first_generation = self.first_generation.max(entry.generation.next());
        }
        self.vms.remove(&vm);
        self.tell(turn, Happening::VmDeleted { vm, name });
        answer(turn, client, request, Ok(Answer::Done), Vec::new());
    }

    pub(super) fn partition_created(&mut self, turn: &mut Turn<'_>, vm: VmId, result: Result<(), String>) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let Phase::Creating { client, request } = entry.phase else { return };
        match result {
            Ok(()) => {
                entry.phase = Phase::Unled;
                let name = entry.spec.name.clone();
                self.persist(turn);
                self.tell(turn, Happening::VmCreated { vm, name });
                answer(turn, client, request, Ok(Answer::VmCreated(vm)), Vec::new());
                self.protect_all(turn);
            }
            Err(reason) => {
                self.vms.remove(&vm);
                answer(turn, client, request, Err(RequestError::PoolRefused(reason)), Vec::new());
            }
        }
    }

    pub(super) fn guest_unfit(&mut self, turn: &mut Turn<'_>, vm: VmId, reason: &str) {
        let Some(entry) = self.vms.get(&vm) else { return };
        let Phase::Creating { client, request } = entry.phase else { return };
        self.vms.remove(&vm);
        let why = format!("its guest cannot be started: {reason}");
        answer(turn, client, request, Err(RequestError::BadSpec(why)), Vec::new());
    }

    fn attach(&mut self, turn: &mut Turn<'_>, link: LinkId, id: u64, vm: VmId, from: u64) {
        let Some(entry) = self.vms.get_mut(&vm).filter(|entry| !matches!(entry.phase, Phase::Creating { .. })) else {
            answer(turn, link, id, Err(RequestError::UnknownVm(vm)), Vec::new());
            return;
        };
        if matches!(entry.phase, Phase::Damaged { .. }) {
            answer(turn, link, id, Err(RequestError::Damaged(vm)), Vec::new());
            return;
        }
        entry.readers.insert(link, from.min(entry.console_end));
        let tail = entry.console_end;
        let ended = match &entry.phase {
            Phase::Ended { end } => Some(end.clone()),
            _ => None,
        };
        let console = Grant { part: Part::Console(vm), access: Access::ReadOnly };
        answer(turn, link, id, Ok(Answer::Done), vec![console]);
        let message = match ended {
            Some(end) => ToClient::VmEnded { vm, end, console_end: tail },
            None => ToClient::ConsoleMoved { vm, tail },
        };
        turn.actions.push(Action::ToClient { link, message, grants: Vec::new() });
        self.console_has_room(turn, vm);
    }

    fn consumed(&mut self, turn: &mut Turn<'_>, link: LinkId, vm: VmId, position: u64) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let console_end = entry.console_end;
        let Some(consumed) = entry.readers.get_mut(&link) else { return };
        *consumed = position.clamp(*consumed, console_end);
        self.console_has_room(turn, vm);
    }

    /// Nobody will come for what this VM's console says while no reader is attached.
    fn release_console(&mut self, turn: &mut Turn<'_>, link: LinkId, id: u64, vm: VmId) {
        let known = self.vms.get_mut(&vm).filter(|entry| !matches!(entry.phase, Phase::Creating { .. }));
        let Some(entry) = known else {
            answer(turn, link, id, Err(RequestError::UnknownVm(vm)), Vec::new());
            return;
        };
        if matches!(entry.phase, Phase::Damaged { .. }) {
            answer(turn, link, id, Err(RequestError::Damaged(vm)), Vec::new());
            return;
        }
        if std::mem::take(&mut entry.spec.console_lossless) {
            self.persist(turn);
        }
        answer(turn, link, id, Ok(Answer::Done), Vec::new());
        self.console_has_room(turn, vm);
    }

    /// A disk can be read once nobody writes it any more: before, its blocks would be of different epochs.
    fn read_disk(&mut self, turn: &mut Turn<'_>, link: LinkId, id: u64, vm: VmId) {
        let Some(entry) = self.vms.get(&vm).filter(|entry| !matches!(entry.phase, Phase::Creating { .. })) else {
            answer(turn, link, id, Err(RequestError::UnknownVm(vm)), Vec::new());
            return;
        };
        let refusal = match &entry.phase {
            Phase::Damaged { .. } => Some(RequestError::Damaged(vm)),
            _ if entry.spec.disk_bytes == 0 => Some(RequestError::NotNow("the VM has no disk".to_owned())),
            Phase::Ended { .. } => None,
            _ => Some(RequestError::NotNow(
                "the guest still writes its disk: it can be read when it has ended".to_owned(),
            )),
        };
        match refusal {
            Some(refusal) => answer(turn, link, id, Err(refusal), Vec::new()),
            None => {
                let disk = Grant { part: Part::Disk(vm), access: Access::ReadOnly };
                answer(turn, link, id, Ok(Answer::Done), vec![disk]);
            }
        }
    }

    fn console_has_room(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        if let Some(entry) = self.vms.get_mut(&vm) {
            entry.console_full = false;
        }
        self.drain_recorded(turn, vm);
        self.apply_next(turn, vm);
    }

    pub(super) fn console_moved(&self, turn: &mut Turn<'_>, vm: VmId, tail: u64) {
        for &link in self.vms[&vm].readers.keys() {
            let message = ToClient::ConsoleMoved { vm, tail };
            turn.actions.push(Action::ToClient { link, message, grants: Vec::new() });
        }
    }

    /// Ends the cluster, if somebody has asked for that, once no host is awaited: one that comes back to nobody would look for
    /// a controller for ever. Until then all goes on.
    pub(super) fn shut_down(&mut self, turn: &mut Turn<'_>) {
        if self.shutdowns.is_empty() || self.hosts.values().any(|host| host.health == Health::Awaited) {
            return;
        }
        self.end(turn);
    }

    /// Ends the cluster. Who asked for it hears so last: it is the last thing that many want to hear.
    pub(super) fn end(&mut self, turn: &mut Turn<'_>) {
        let vms: Vec<VmId> = self.vms.keys().copied().collect();
        vms.into_iter().for_each(|vm| self.tell_outputs(turn, vm));
        for (link, id) in std::mem::take(&mut self.shutdowns) {
            answer(turn, link, id, Ok(Answer::Done), Vec::new());
        }
        for &link in self.host_links.keys() {
            turn.actions.push(Action::ToHost { link, message: ToHost::Shutdown, grants: Vec::new() });
        }
        turn.actions.push(Action::Exit);
    }

    pub(super) fn client_closed(&mut self, turn: &mut Turn<'_>, link: LinkId) {
        self.shutdowns.retain(|(asker, _)| *asker != link);
        self.clients.remove(&link);
        self.watchers.remove(&link);
        let fed: Vec<VmId> = self.vms.keys().copied().collect();
        fed.into_iter().for_each(|vm| self.close_input(link, vm));
        let attached: Vec<VmId> = self.vms.values_mut().filter_map(|vm| vm.detach(link).then_some(vm.id)).collect();
        for vm in attached {
            self.console_has_room(turn, vm);
        }
    }

    /// The state of everything, for people.
    #[must_use]
    pub fn status(&self) -> Status {
        let host = |(&host, entry): (&super::HostId, &super::Host)| HostStatus {
            host,
            name: entry.name.clone(),
            health: entry.health_word().to_owned(),
            phi: entry.phi(),
            protocol: entry.protocol,
            labels: entry.profile.as_ref().map(|profile| profile.labels.clone()).unwrap_or_default(),
        };
        let vm = |entry: &Vm| VmStatus {
            vm: entry.id,
            name: entry.spec.name.clone(),
            phase: entry.phase_word().to_owned(),
            mode: entry.spec.mode,
            diverged: entry.diverged.clone(),
            log_lost: entry.log_lost.clone(),
            damage: entry.damage.clone(),
            following: self.follow_status(entry),
            not_following: self.not_followed_because(entry),
            generation: entry.generation,
            applied: entry.applied,
            primary: entry.primary().map(|host| self.host_name(host)),
            secondary: entry.standby.map(|standby| self.host_name(standby.host)),
            unprotected: self.unprotected_because(entry.id),
            takeovers: entry.takeovers,
            switchovers: entry.switchovers,
            moving_to: entry.switchover.map(|switchover| self.host_name(switchover.to)),
            at_risk: self.at_risk_because(entry.id),
            spare: entry.spare.map(|host| self.host_name(host)),
            memory_bytes: entry.spec.memory_bytes,
            nets: entry.spec.nets.clone(),
            disk_bytes: entry.spec.disk_bytes,
            output_latency: entry.outputs.all().summary(),
            console_end: entry.console_end,
            waits: entry.waits(),
            ended: match &entry.phase {
                Phase::Ended { end } => Some(end.clone()),
                _ => None,
            },
            switchover_blackout: entry.switchover_blackout,
        };
        Status { hosts: self.hosts.iter().map(host).collect(), vms: self.vms.values().map(vm).collect() }
    }
}

pub(super) fn answer(
    turn: &mut Turn<'_>,
    link: LinkId,
    id: u64,
    answer: Result<Answer, RequestError>,
    grants: Vec<Grant>,
) {
    turn.actions.push(Action::ToClient { link, message: ToClient::Answer { id, answer }, grants });
}
