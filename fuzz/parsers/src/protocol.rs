//! What ft-protocol decodes out of the pool: inputs of a record log, the meta part of records, the cluster state.

use ft_protocol::commit_meta::{CommitMeta, GuestEnd};
use ft_protocol::controller::ClusterState;
use ft_protocol::record::{Entry, EntryBody};
use std::num::NonZeroU32;

/// Tag, then exit counter, then payload.
pub(crate) fn input(data: &[u8]) {
    let Some((tag, rest)) = data.split_first_chunk::<4>() else { return };
    let Some((at_exit, payload)) = rest.split_first_chunk::<8>() else { return };
    let Some(tag) = NonZeroU32::new(u32::from_le_bytes(*tag)) else { return };
    let at_exit = u64::from_le_bytes(*at_exit);
    if let Ok(entry) = Entry::decode(tag, at_exit, payload) {
        let mut again = Vec::new();
        entry.encode_payload(&mut again);
        assert_eq!((entry.tag(), again.as_slice()), (tag, payload), "one entry, one encoding");
    }
}

pub(crate) fn input_seeds() -> Vec<Vec<u8>> {
    let bodies = [
        EntryBody::Clock(5),
        EntryBody::Entropy(b"entropy".into()),
        EntryBody::ConsoleInput(b"typed".into()),
        EntryBody::Packet { nic: 1, frame: vec![9; 60].into() },
        EntryBody::Output { position: 7, bytes: b"hello".into() },
        EntryBody::Sent { position: 7, count: 2, digest: 3 },
        EntryBody::Mark,
    ];
    let of = |body| {
        let entry = Entry { at_exit: 4, digest: 0x1234, body };
        let mut bytes = [entry.tag().get().to_le_bytes().as_slice(), &entry.at_exit.to_le_bytes()].concat();
        entry.encode_payload(&mut bytes);
        bytes
    };
    bodies.into_iter().map(of).collect()
}

pub(crate) fn commit_meta(data: &[u8]) {
    if let Ok(meta) = CommitMeta::decode(data) {
        let _ = vmm::machine::MachineState::decode(meta.machine_state);
        assert!(meta.console_end() >= meta.console_start);
        let again = meta.encode();
        assert_eq!(CommitMeta::decode(&again), Ok(meta));
    }
}

pub(crate) fn commit_meta_seeds() -> Vec<Vec<u8>> {
    let state = crate::machine::state_seeds().remove(0);
    let meta = |ended| CommitMeta { console_start: 17, console: b"said", machine_state: &state, ended }.encode();
    vec![meta(None), meta(Some(GuestEnd::Exited(3))), meta(Some(GuestEnd::Crashed("triple fault".to_owned())))]
}

pub(crate) fn cluster_state(data: &[u8]) {
    if let Ok(state) = ClusterState::decode(data) {
        let again = ClusterState::decode(&state.encode());
        assert_eq!(again, Ok(state));
    }
}

pub(crate) fn cluster_state_seeds() -> Vec<Vec<u8>> {
    vec![ClusterState::default().encode(), crate::wire::a_cluster().encode()]
}
