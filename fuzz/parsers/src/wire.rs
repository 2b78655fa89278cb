//! Messages, both ways: what peers send to the controller, and what hosts and clients are told.

use ft_protocol::controller::{ClusterState, HostRecord, VmRecord};
use ft_protocol::cpu::{CpuLeaf, CpuProfile};
use ft_protocol::spec::{JournalShape, Mode, NetBackend, NetSpec, VmSpec};
use ft_protocol::wire::{
    Access, Answer, Envelope, ExtentTag, FromClient, FromHost, Grant, HeldRole, Hello, HostHello, HostProfile, Order,
    Part, Request, RequestError, Role, StateFormats, Status, ToClient, ToHost,
};
use ft_protocol::{Epoch, Generation, HostId, Incarnation, Span, VmId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;
use vmm::transport::frame::{Carried, Frame, read_frame, write_carried, write_message};
use vmm::transport::{Bound, Key, answer, greet, unpack};

const VM: VmId = VmId::new(0);
const GENERATION: Generation = Generation::FIRST;

/// Takes a message as a connection does, with as many descriptors as it wants; what was taken can be sent again.
fn take<M: DeserializeOwned + Serialize + PartialEq + Debug>(data: &[u8]) {
    let tags = postcard::take_from_bytes::<Envelope<M>>(data).map_or(0, |(envelope, _)| envelope.extents.len());
    let null = || OwnedFd::from(File::open("/dev/null").expect("it is always there"));
    let descriptors = (0..tags.min(16)).map(|_| null()).collect();
    if let Ok(received) = unpack::<M>(data, descriptors) {
        let bytes = encoded(&received.message, &[]);
        let again = unpack::<M>(&bytes, Vec::new()).expect("what was received can be sent");
        assert_eq!(again.message, received.message);
    }
}

fn encoded<M: Serialize>(message: &M, extents: &[ExtentTag]) -> Vec<u8> {
    postcard::to_stdvec(&(message, extents)).expect("messages encode")
}

/// A stream between machines: frame after frame, until it ends or is refused. What was taken is what was sent.
pub(crate) fn frames(data: &[u8]) {
    let keep = |mut content: io::Take<&mut &[u8]>| {
        let mut bytes = Vec::new();
        let count = content.read_to_end(&mut bytes)?;
        Ok((bytes, count as u64))
    };
    let mut rest = data;
    let mut again = Vec::new();
    while let Ok(Some(Frame { message, carried })) = read_frame(&mut rest, keep) {
        write_message(&mut again, &message, carried.len()).expect("what was taken can be sent");
        for carried in carried {
            let mut carried = match &carried {
                Carried::DeviceReadOnly => Carried::DeviceReadOnly,
                Carried::DeviceReadWrite => Carried::DeviceReadWrite,
                Carried::Content(content) => Carried::Content((content.as_slice(), content.len() as u64)),
            };
            write_carried(&mut again, &mut carried).expect("what was taken can be sent");
        }
        assert_eq!(again, data[..data.len() - rest.len()]);
    }
    assert!(data.starts_with(&again));
}

pub(crate) fn frames_seeds() -> Vec<Vec<u8>> {
    let mut stream = Vec::new();
    write_message(&mut stream, &from_peers_seeds()[0], 3).expect("memory takes it");
    let content = Carried::Content((&b"what a guest is booted from"[..], 27));
    for mut carried in [Carried::DeviceReadOnly, content, Carried::DeviceReadWrite] {
        write_carried(&mut stream, &mut carried).expect("memory takes it");
    }
    let first = stream.clone();
    write_message(&mut stream, b"", 0).expect("memory takes it");
    vec![first, stream]
}

/// A stream whose other end says what the input is, whatever it is told.
struct Deaf<'input> {
    says: &'input [u8],
    told: Vec<u8>,
}

impl Read for Deaf<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.says.read(bytes)
    }
}

impl Write for Deaf<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.told.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Bound for &mut Deaf<'_> {
    fn bound(&self, _time: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

const GREETING_BYTES: usize = 42;
const PROOF_BYTES: usize = 32;

/// The greeting between machines, on both sides: with a key nobody is let in who has not, whatever is said; without one, whoever
/// greets as one without.
pub(crate) fn greeting(data: &[u8]) {
    let key = Key::new(b"the cluster's own key");
    let meet = |key: Option<&Key>, asks: bool| {
        let mut stream = Deaf { says: data, told: Vec::new() };
        let met = if asks { greet(&mut stream, key) } else { answer(&mut stream, key) };
        (met.is_ok(), data.len() - stream.says.len(), stream.told)
    };
    for asks in [false, true] {
        let (is_let_in, _, told) = meet(Some(&key), asks);
        assert!(!is_let_in, "nobody knows the key");
        assert!(told.len() <= GREETING_BYTES + PROOF_BYTES + 1);
        let (is_let_in, read, _) = meet(None, asks);
        let wanted = GREETING_BYTES + PROOF_BYTES + usize::from(asks);
        assert!(read <= wanted, "what follows the greeting is not its own");
        let is_one = data.starts_with(b"ftvm-tcp\x01\x01") && data.len() >= wanted && (!asks || data[wanted - 1] == 1);
        assert_eq!(is_let_in, is_one);
    }
}

/// What clients and controllers say: without a key, with one, and who is refused.
pub(crate) fn greeting_seeds() -> Vec<Vec<u8>> {
    let says =
        |mode: u8, verdict: u8| [&b"ftvm-tcp\x01"[..], &[mode], &[7; 32], &[0; PROOF_BYTES], &[verdict]].concat();
    let client = says(1, 1)[..GREETING_BYTES + PROOF_BYTES].to_vec();
    vec![client, says(1, 1), says(1, 2), says(2, 1)]
}

pub(crate) fn hello(data: &[u8]) {
    take::<Hello>(data);
}

pub(crate) fn hello_seeds() -> Vec<Vec<u8>> {
    let profile = HostProfile {
        name: "a".to_owned(),
        incarnation: Incarnation::new(3),
        memory_bytes: 1 << 30,
        cpu: cpu(),
        states: StateFormats { writes: 2, reads_from: 1 },
        labels: vec!["rack=r1".to_owned()],
    };
    let protocols = ft_protocol::versions::VersionRange { min: 1, max: 2 };
    let roles = vec![HeldRole { vm: VM, generation: GENERATION, role: Role::Primary { live: true } }];
    let host = Hello::Host(HostHello { protocols, profile, roles });
    vec![encoded(&host, &[]), encoded(&Hello::Client { protocol: 1 }, &[])]
}

pub(crate) fn from_peers(data: &[u8]) {
    take::<FromHost>(data);
    take::<FromClient>(data);
}

pub(crate) fn from_peers_seeds() -> Vec<Vec<u8>> {
    let (vm, generation) = (VM, GENERATION);
    let upload = ExtentTag { grant: Grant { part: Part::Upload, access: Access::ReadOnly }, offset: 0, len: 77 };
    let from_hosts = [
        FromHost::Doorbell { vm, generation, epoch: Epoch::new(7) },
        FromHost::ModeIs { vm, generation, mode: Mode::Replay },
        FromHost::GaveUp { vm, generation, reason: "no memory".to_owned() },
        FromHost::Unfit { vm, generation, reason: "no guest".to_owned() },
        FromHost::StandbyReady { vm, generation },
    ];
    let requests = [
        Request::Status,
        Request::AttachConsole { vm, from: 1 << 20 },
        Request::Switchover { vm, to: Some("b".to_owned()) },
        Request::Drain { host: "b".to_owned(), on: true },
    ];
    let mut seeds: Vec<_> = from_hosts.iter().map(|message| encoded(message, &[])).collect();
    seeds.extend(requests.map(|request| encoded(&FromClient { id: 9, request }, &[])));
    seeds.push(encoded(&FromClient { id: 10, request: Request::CreateVm(spec()) }, &[upload]));
    seeds
}

pub(crate) fn to_peers(data: &[u8]) {
    take::<ToHost>(data);
    take::<ToClient>(data);
}

pub(crate) fn to_peers_seeds() -> Vec<Vec<u8>> {
    let order =
        |primary| Order { vm: VM, generation: GENERATION, spec: spec(), primary, base: Epoch::ZERO, cpu: cpu() };
    let image = ExtentTag {
        grant: Grant { part: Part::Image(VM), access: Access::ReadOnly },
        offset: 0,
        len: spec().memory_bytes,
    };
    vec![
        encoded(&ToHost::Promote(order(None)), &[image]),
        encoded(&ToHost::Standby(order(Some(HostId::new(1)))), &[image, image]),
        encoded(&ToHost::Shutdown, &[]),
        encoded(&ToClient::Answer { id: 1, answer: Ok(Answer::Status(Status::default())) }, &[]),
        encoded(&ToClient::Answer { id: 2, answer: Err(RequestError::UnknownVm(VM)) }, &[]),
        encoded(&ToClient::ConsoleMoved { vm: VM, tail: 8 }, &[]),
    ]
}

fn cpu() -> CpuProfile {
    CpuProfile { leaves: vec![CpuLeaf { function: 1, index: 0, flags: 0, registers: [1, 2, 3, 4] }] }
}

fn spec() -> VmSpec {
    VmSpec {
        name: "guest".to_owned(),
        memory_bytes: 4 << 20,
        mode: Mode::Checkpoint,
        epoch_interval: Span::from_ms(10),
        args: vec!["steps=7".to_owned()],
        journal: JournalShape { slots: 2, slot_bytes: 8 << 20, reserved_bytes: 1 << 20 },
        console_lossless: true,
        working_set_bytes_max: Some(1 << 20),
        policy: ft_protocol::policy::Policy::default(),
        nets: vec![NetSpec { mac: [2, 0, 0, 0, 0, 7], backend: NetBackend::Tap("tap0".to_owned()) }],
        disk_bytes: 1 << 20,
        log_bytes: 64 << 10,
    }
}

/// A cluster with hosts and a VM.
pub(crate) fn a_cluster() -> ClusterState {
    let host = |name: &str| HostRecord { name: name.to_owned(), draining: false };
    let record = VmRecord {
        vm: VM,
        spec: spec(),
        generation: GENERATION,
        primary: Some(HostId::new(0)),
        takeovers: 3,
        switchovers: 1,
        moving_to: None,
        home: Some(HostId::new(1)),
        cpu: cpu(),
        state_version: Some(2),
        writes: Some(2),
        base: ft_protocol::ids::Epoch::ZERO,
        diverged: None,
        ended: None,
    };
    ClusterState { hosts: vec![host("a"), host("b")], vms: vec![record], first_generation: GENERATION }
}
