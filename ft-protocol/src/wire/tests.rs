//! What is sent comes back as it was; whatever else comes is taken or refused, and ends nobody.

use super::*;
use crate::console_input::InputAt;
use crate::controller::{ClusterState, HostRecord};
use crate::cpu::{CpuLeaf, CpuProfile};
use crate::ids::{Epoch, Incarnation};
use crate::spec::{JournalShape, Mode, NetBackend, NetSpec, VmSpec};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

const VM: VmId = VmId::new(3);

/// Kinds of messages of version 6.
const FOLLOW_FAILED: u8 = 18;
const FOLLOW_AS: u8 = 12;
const READ_DISK: u8 = 11;
const VM_ENDED: u8 = 5;

fn spec() -> VmSpec {
    VmSpec {
        name: "guest".to_owned(),
        memory_bytes: 4 << 20,
        mode: Mode::Lockstep,
        epoch_interval: crate::time::Span::from_ms(100),
        args: vec!["--steps".to_owned(), "7".to_owned()],
        journal: JournalShape { slots: 2, slot_bytes: 8 << 20, reserved_bytes: 1 << 20 },
        console_lossless: true,
        working_set_bytes_max: Some(1 << 20),
        policy: crate::policy::Policy::default(),
        nets: vec![NetSpec { mac: [2, 0, 0, 0, 0, 7], backend: NetBackend::Tap("tap0".to_owned()) }],
        disk_bytes: 1 << 20,
        log_bytes: 64 << 10,
    }
}

fn cpu() -> CpuProfile {
    CpuProfile { leaves: vec![CpuLeaf { function: 1, index: 0, flags: 0, registers: [1, 2, 3, 4] }] }
}

fn tag() -> ExtentTag {
    ExtentTag { grant: Grant { part: Part::Image(VM), access: Access::ReadOnly }, offset: 4096, len: 4 << 20 }
}

/// The encoding has no tags of versions: what older peers know of must stay where it is. The numbers of the last kinds of
/// each version, and of the newest ones.
#[test]
fn kinds_of_messages_keep_their_numbers() {
    let number = |bytes: Result<Vec<u8>, postcard::Error>| bytes.unwrap()[0];
    let (vm, generation, at) = (VM, Generation::FIRST, InputAt { have: None, safe: 3, room_to: 4 });
    let follow = crate::ids::FollowId::new(1);
    assert_eq!(number(postcard::to_stdvec(&FromHost::Doorbell { vm, generation, epoch: Epoch::ZERO })), 0);
    let failed = FromHost::FollowFailed { follow, vm, generation, reason: String::new() };
    assert_eq!(number(postcard::to_stdvec(&failed)), FOLLOW_FAILED);
    assert_eq!(number(postcard::to_stdvec(&FromHost::InputAt { vm, generation, at })), FOLLOW_FAILED + 1);
    assert_eq!(number(postcard::to_stdvec(&ToHost::FollowAs { follow, vm, generation, base: Epoch::ZERO })), FOLLOW_AS);
    assert_eq!(number(postcard::to_stdvec(&ToHost::OpenInput { vm, generation })), FOLLOW_AS + 1);
    assert_eq!(number(postcard::to_stdvec(&Request::ReadDisk(vm))), READ_DISK);
    assert_eq!(number(postcard::to_stdvec(&Request::OpenInput(vm))), READ_DISK + 1);
    assert_eq!(number(postcard::to_stdvec(&Request::CloseInput(vm))), READ_DISK + 3);
    assert_eq!(number(postcard::to_stdvec(&ToClient::InputAt { vm, at })), VM_ENDED + 1);
}

/// Sends a message and holds what comes back against it; then cuts and flips it at each byte.
fn attack<M: Serialize + DeserializeOwned + PartialEq + Debug>(message: M) {
    let sent = Envelope { message, extents: vec![tag()] };
    let bytes = postcard::to_stdvec(&sent).unwrap();
    assert!(bytes.len() <= MESSAGE_BYTES_MAX);
    assert_eq!(postcard::from_bytes::<Envelope<M>>(&bytes).unwrap(), sent);
    // Miri takes its time.
    let step = if cfg!(miri) { 11 } else { 1 };
    for length in (0..bytes.len()).step_by(step) {
        let cut = postcard::from_bytes::<Envelope<M>>(&bytes[..length]);
        assert!(cut.is_err(), "{length} of {} bytes: {cut:?}", bytes.len());
        for mask in [1, 0x80, 0xff] {
            let mut flipped = bytes.clone();
            flipped[length] ^= mask;
            // What can be read can be sent again, and is the same then.
            if let Ok(taken) = postcard::from_bytes::<Envelope<M>>(&flipped) {
                let again = postcard::to_stdvec(&taken).unwrap();
                assert_eq!(postcard::from_bytes::<Envelope<M>>(&again).unwrap(), taken);
            }
        }
    }
}

#[test]
fn hosts_messages_come_back_and_damage_ends_nobody() {
    let (vm, generation) = (VM, Generation::FIRST);
    let profile = HostProfile {
        name: "a".to_owned(),
        incarnation: Incarnation::new(3),
        memory_bytes: 1 << 30,
        cpu: cpu(),
        states: StateFormats { writes: 2, reads_from: 1 },
        labels: vec!["rack=r1".to_owned()],
    };
    let roles = vec![HeldRole { vm, generation, role: Role::Primary { live: true } }];
    attack(Hello::Host(HostHello { protocols: PROTOCOLS, profile, roles }));
    attack(FromHost::Doorbell { vm, generation, epoch: Epoch::new(7) });
    attack(FromHost::GaveUp { vm, generation, reason: "no memory".to_owned() });
    attack(FromHost::Unfit { vm, generation, reason: "no guest".to_owned() });
    let order = Order { vm, generation, spec: spec(), primary: None, base: Epoch::new(9), cpu: cpu() };
    attack(ToHost::Promote(order));
    attack(ToHost::Input { vm, generation, position: 9, bytes: vec![7; 40] });
    attack(FromHost::InputAt { vm, generation, at: InputAt { have: Some(9), safe: 3, room_to: 1 << 40 } });
}

#[test]
fn clients_messages_come_back_and_damage_ends_nobody() {
    attack(Hello::Client { protocol: PROTOCOL_VERSION });
    attack(FromClient { id: 10, request: Request::CreateVm(spec()) });
    attack(FromClient { id: 11, request: Request::Drain { host: "b".to_owned(), on: true } });
    attack(FromClient { id: 12, request: Request::Input { vm: VM, position: 9, bytes: b"typed".to_vec() } });
    attack(ToClient::InputEnded { vm: VM, reason: "another one".to_owned() });
    attack(ToClient::Answer { id: 1, answer: Ok(Answer::Status(Status::default())) });
    attack(ToClient::Answer { id: 2, answer: Err(RequestError::UnknownVm(VM)) });
}

#[test]
fn a_cut_or_flipped_cluster_state_is_no_other_one_by_accident() {
    let host = HostRecord { name: "a".to_owned(), draining: true };
    let state = ClusterState { hosts: vec![host.clone(), host], ..ClusterState::default() };
    let bytes = state.encode();
    assert_eq!(ClusterState::decode(&bytes).unwrap(), state);
    for length in 0..bytes.len() {
        assert!(ClusterState::decode(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
    }
    assert!(ClusterState::decode(&[&bytes[..], &[0]].concat()).is_err(), "bytes behind its end");
}
