mod console;
mod damage;
mod follow;
mod forgetting;
mod hosts;
mod input;
mod log_damage;
mod mode;
mod outputs;
mod places;
#[cfg(feature = "planted-bugs")]
mod planted;
mod requests;
mod restart;
mod space;
mod stalls;
mod switchover;
mod takeover;
mod versions;

use super::*;
use crate::cpu::{CpuLeaf, CpuProfile};
use crate::ids::Incarnation;
use crate::policy::Policy;
use crate::spec::{JournalShape, Mode, VmSpec};
use crate::timeline::{Shortage, Wanted};
use crate::versions::VersionRange;
use crate::wire::{
    Answer, FromClient, FromHost, HeldRole, HostHello, HostProfile, LiveReport, PROTOCOL_VERSION, PROTOCOLS, Part,
    Request, RequestError, Role, StateFormats, TakeoverReason, TakeoverRefusal,
};

/// What a promotion may take that boots a guest of a MiB.
const BOOT_BOUND: Span = Span::from_ms(10_106);

const CONFIG: ControllerConfig = ControllerConfig {
    states: None,
    detector: DetectorConfig { bound: Span::from_ms(50), interval: Span::from_ms(5), suspicion: None },
    hold_down: Span::from_ms(250),
    flaps_free: 5,
    ask_bound: Span::from_ms(1_000),
    promotion_bound: Span::from_ms(10_000),
    stall_bound: Span::from_ms(200),
    protocols: PROTOCOLS,
    hosts_max: 8,
    vms_max: 4,
    state_bytes_max: 1 << 20,
    shutdown_allowed: true,
};

/// What every processor says of itself: an empty profile is that of none.
const VENDOR: CpuLeaf = CpuLeaf { function: 0, index: 0, flags: 0, registers: [13, 7, 7, 7] };

const CLIENT: LinkId = LinkId::new(1000);
const VM: VmId = VmId::new(0);

/// A driver whose pool does at once, and without fail, what it is told; commits are what the test says.
struct Cluster {
    core: Controller,
    now: Time,
    committed: Epoch,
    /// What the hosts were told, in order.
    told: Vec<(LinkId, ToHost)>,
    happened: Vec<Happening>,
    given: Vec<(VmId, Generation, Epoch)>,
    released: Vec<VmId>,
    closed: Vec<Generation>,
    persisted: ClusterState,
    applies: usize,
    hold_applies: bool,
    held: Vec<(VmId, Generation, Epoch)>,
    pool_refuses: bool,
    hold_opens: bool,
    /// What is wrong with the guests that come.
    unfit: Option<String>,
    /// What no host can be given.
    gone: Option<Part>,
    /// How often the controller was to end.
    exits: u32,
    opens: Vec<(VmId, Generation)>,
    fenced: Vec<HostId>,
    deleted: Vec<VmId>,
    /// Parts of the pool are not given back before the test says so.
    hold_deletions: bool,
    /// What the client was answered.
    answered: Vec<Result<Answer, RequestError>>,
    /// What clients were told of input.
    input: Vec<(LinkId, ToClient)>,
}

impl Cluster {
    fn new() -> Self {
        Self {
            core: Controller::new(CONFIG),
            now: Time::ZERO,
            committed: Epoch::ZERO,
            told: Vec::new(),
            happened: Vec::new(),
            given: Vec::new(),
            released: Vec::new(),
            closed: Vec::new(),
            persisted: ClusterState::default(),
            applies: 0,
            hold_applies: false,
            held: Vec::new(),
            pool_refuses: false,
            hold_opens: false,
            unfit: None,
            gone: None,
            exits: 0,
            opens: Vec::new(),
            fenced: Vec::new(),
            deleted: Vec::new(),
            hold_deletions: false,
            answered: Vec::new(),
            input: Vec::new(),
        }
    }

    /// Three hosts, one VM, live on host 0 and protected by host 1.
    fn protected() -> Self {
        let mut cluster = Self::new();
        for host in 0..3 {
            cluster.join(host, &[]);
        }
        cluster.create();
        cluster.live(0, 1);
        cluster.ready(1, 1);
        assert_eq!(cluster.core.unprotected_because(VM), None);
        cluster
    }

    /// One host, and a VM that has run there.
    fn alone() -> Self {
        let mut cluster = Self::new();
        cluster.join(0, &[]);
        cluster.create();
        cluster.live(0, 1);
        cluster.commit(0, 1, 1);
        cluster
    }

    fn input(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.core.handle(self.now, input, &mut actions);
        self.execute(actions);
    }

    fn execute(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Persist(state) => self.persisted = state,
                Action::Exit => self.exits += 1,
                Action::ToHost { grants, .. } if grants.iter().any(|grant| Some(grant.part) == self.gone) => {
                    self.input(Input::PartGone { vm: VM, reason: "cannot open it".to_owned() });
                }
                Action::ToHost { link, message, .. } => self.told.push((link, message)),
                Action::CreatePartition { vm, .. } if self.unfit.is_some() => {
                    let reason = self.unfit.clone().expect("it is");
                    self.input(Input::GuestUnfit { vm, reason });
                }
                Action::CreatePartition { vm, .. } => self.input(Input::PartitionCreated { vm, result: Ok(()) }),
                Action::OpenGeneration { vm, generation, .. } if self.hold_opens => self.opens.push((vm, generation)),
                Action::OpenGeneration { vm, generation, .. } => {
                    let persisted = self.persisted.vms.iter().find(|record| record.vm == vm);
                    let persisted = persisted.map(|record| record.generation);
                    assert_eq!(persisted, Some(generation), "persisted before it is opened");
                    let result = if self.pool_refuses { Err("full".to_owned()) } else { Ok(()) };
                    if self.pool_refuses {
                        let shortage = Shortage { wanted: Wanted::Journal, needed: 1 << 20, available: 0 };
                        self.input(Input::NoSpace { vm, generation, shortage });
                    }
                    self.input(Input::GenerationOpened { vm, generation, result });
                }
                Action::Seal { vm, generation } => {
                    let final_epoch = self.committed;
                    self.input(Input::Sealed { vm, generation, final_epoch });
                }
                Action::Apply { vm, generation, epoch, .. } => {
                    self.applies += 1;
                    if self.hold_applies {
                        self.held.push((vm, generation, epoch));
                    } else {
                        self.apply(vm, generation, epoch);
                    }
                }
                Action::ToClient { message: ToClient::Answer { answer, .. }, .. } => self.answered.push(answer),
                Action::ToClient {
                    link,
                    message: message @ (ToClient::InputAt { .. } | ToClient::InputEnded { .. }),
                    ..
                } => self.input.push((link, message)),
                Action::DeletePartition(vm) => {
                    self.deleted.push(vm);
                    if !self.hold_deletions {
                        self.input(Input::PartitionDeleted { vm });
                    }
                }
                Action::Fence { host, .. } => self.fenced.push(host),
                Action::GiveSpace { vm, generation, epoch, .. } => self.given.push((vm, generation, epoch)),
                Action::ReleaseSpace { vm } => self.released.push(vm),
                Action::CloseGeneration { generation, .. } => self.closed.push(generation),
                Action::Tell { happening, .. } => self.happened.push(happening),
                _ => {}
            }
        }
    }

    fn apply(&mut self, vm: VmId, generation: Generation, epoch: Epoch) {
        let outcome = if epoch <= self.committed {
            ApplyOutcome::Done { epoch, console_end: epoch.get() * 10, ended: None }
        } else {
            ApplyOutcome::NotCommitted
        };
        self.input(Input::Applied { vm, generation, outcome });
    }

    fn join(&mut self, host: u64, roles: &[HeldRole]) {
        self.join_as(host, host, roles);
    }

    fn join_as(&mut self, host: u64, incarnation: u64, roles: &[HeldRole]) {
        self.join_with(host, incarnation, roles, StateFormats { writes: 1, reads_from: 1 });
    }

    fn join_with(&mut self, host: u64, incarnation: u64, roles: &[HeldRole], states: StateFormats) {
        let incarnation = Incarnation::new(incarnation);
        let profile = HostProfile { incarnation, states, ..Self::profile(host) };
        self.hello(host, PROTOCOLS, profile, roles);
    }

    fn profile(host: u64) -> HostProfile {
        HostProfile {
            name: format!("h{host}"),
            incarnation: Incarnation::new(host),
            memory_bytes: 1 << 30,
            cpu: CpuProfile { leaves: vec![VENDOR] },
            states: StateFormats { writes: 1, reads_from: 1 },
            labels: Vec::new(),
        }
    }

    fn hello(&mut self, host: u64, protocols: VersionRange, profile: HostProfile, roles: &[HeldRole]) {
        let hello = HostHello { protocols, profile, roles: roles.to_vec() };
        self.input(Input::HostHello { link: LinkId::new(host), hello });
    }

    fn create(&mut self) {
        self.create_with("vm", Policy::default());
    }

    fn create_with(&mut self, name: &str, policy: Policy) {
        let spec = VmSpec {
            name: name.to_owned(),
            memory_bytes: 1 << 20,
            mode: Mode::Checkpoint,
            epoch_interval: Span::from_ms(10),
            args: Vec::new(),
            journal: JournalShape { slots: 2, slot_bytes: 1 << 20, reserved_bytes: 1 << 20 },
            console_lossless: true,
            working_set_bytes_max: None,
            policy,
            nets: Vec::new(),
            disk_bytes: 0,
            log_bytes: crate::spec::LOG_BYTES_DEFAULT,
        };
        self.input(Input::ClientHello { link: CLIENT, protocol: PROTOCOL_VERSION });
        self.request(Request::CreateVm(spec));
    }

    fn request(&mut self, request: Request) {
        let message = FromClient { id: 1, request };
        self.input(Input::FromClient { link: CLIENT, message });
    }

    fn said(&mut self, host: u64, message: FromHost) {
        self.input(Input::FromHost { link: LinkId::new(host), message });
    }

    fn live(&mut self, host: u64, generation: u64) {
        let generation = Generation::new(generation);
        self.said(host, FromHost::Live { vm: VM, generation, report: LiveReport::default() });
    }

    fn ready(&mut self, host: u64, generation: u64) {
        self.said(host, FromHost::StandbyReady { vm: VM, generation: Generation::new(generation) });
    }

    fn ask(&mut self, host: u64, generation: u64) {
        let generation = Generation::new(generation);
        self.said(host, FromHost::AskTakeover { vm: VM, generation, reason: TakeoverReason::LinkClosed });
    }

    fn commit(&mut self, host: u64, generation: u64, epoch: u64) {
        self.committed = Epoch::new(epoch);
        let generation = Generation::new(generation);
        self.said(host, FromHost::Doorbell { vm: VM, generation, epoch: self.committed });
    }

    fn close(&mut self, host: u64) {
        self.input(Input::LinkClosed { link: LinkId::new(host) });
    }

    /// The orders to become primary that a host was given, as (generation, base).
    fn promotions(&self, host: u64) -> Vec<(u64, u64)> {
        self.told
            .iter()
            .filter(|(link, _)| *link == LinkId::new(host))
            .filter_map(|(_, message)| match message {
                ToHost::Promote(order) => Some((order.generation.get(), order.base.get())),
                _ => None,
            })
            .collect()
    }

    fn status(&self) -> crate::wire::VmStatus {
        self.core.status().vms[0].clone()
    }
}
