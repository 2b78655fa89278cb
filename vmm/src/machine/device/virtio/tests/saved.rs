//! A device goes on from its saved state, and refuses states that it cannot have.

use super::rig::{BUFFERS, NET, Rig, SIZE, rings};
use crate::machine::device::{DeviceId, DeviceStateError};
use proptest::prelude::*;

const NET_ID: DeviceId = DeviceId(16);

#[test]
fn a_successor_goes_on_in_the_middle() {
    let mut rig = Rig::new();
    rig.start(NET, 2);
    for number in 0..SIZE {
        rig.chain(0, number, &[(BUFFERS + u64::from(number) * 0x1000, 2048, true)]);
        rig.offer(0, number);
    }
    rig.inputs.packets.extend([vec![1; 60], vec![2; 60]]);
    rig.poll();
    assert_eq!(rig.used(0), (2, 1, 72));

    let mut successor = Rig::new();
    for (device, state) in rig.bus.save() {
        assert!(successor.bus.restore(device, &state).expect("a possible state"));
    }
    assert_eq!(successor.bus.save(), rig.bus.save());
    successor.memory = rig.memory.clone();
    successor.inputs.packets.push_back(vec![3; 80]);
    successor.poll();
    assert_eq!(successor.used(0), (3, 2, 92));
    assert_eq!(successor.bytes(BUFFERS + 0x2000 + 12, 80), [3; 80]);
}

#[test]
fn a_reset_forgets_everything() {
    let mut rig = Rig::new();
    let fresh = rig.saved(NET_ID);
    rig.start(NET, 2);
    assert_ne!(rig.saved(NET_ID), fresh);
    rig.write(NET + 0x70, 0);
    assert_eq!(rig.saved(NET_ID), fresh);
}

#[test]
fn a_state_of_another_device_is_refused() {
    let mut rig = Rig::new();
    rig.start(NET, 2);
    let state = rig.saved(NET_ID);
    let refused = rig.bus.restore(DeviceId(20), &state).expect_err("a disk is no network");
    assert!(matches!(refused, DeviceStateError::Impossible { device: DeviceId(20) }), "{refused}");
}

proptest! {
    /// Any bytes are refused or are a state that the device then works from without a panic.
    #[test]
    fn hostile_states_are_harmless(at in 0usize..64, byte in any::<u8>(), cut in 0usize..80) {
        let mut rig = Rig::new();
        rig.start(NET, 2);
        rig.chain(0, 0, &[(BUFFERS, 2048, true)]);
        rig.offer(0, 0);
        let mut state = rig.saved(NET_ID);
        let length = state.len();
        state[at % length] ^= byte;
        state.truncate(cut.max(1));
        let before = rig.saved(NET_ID);
        match rig.bus.restore(NET_ID, &state) {
            Ok(known) => prop_assert!(known),
            Err(_) => prop_assert_eq!(rig.saved(NET_ID), before, "wholly or not at all"),
        }
        rig.inputs.packets.push_back(vec![1; 60]);
        rig.poll();
        rig.notify(NET, 1);
        let again = rig.saved(NET_ID);
        prop_assert!(rig.bus.restore(NET_ID, &again).expect("its own state"));
        let _ = rings(0);
    }
}
