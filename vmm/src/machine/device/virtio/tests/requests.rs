//! What well-behaved drivers see.

use super::rig::{BLK, BUFFERS, CONSOLE, MAC, NET, RNG, Rig};
use crate::machine::device::SentPacket;
use crate::machine::inputs::NicIndex;

const RECEIVE: u32 = 0;
const SEND: u32 = 1;

#[test]
fn the_registers_say_what_the_device_is() {
    let mut rig = Rig::new();
    for (device, kind) in [(NET, 1), (BLK, 2), (CONSOLE, 3), (RNG, 4)] {
        assert_eq!(rig.read(device), u32::from_le_bytes(*b"virt"));
        assert_eq!(rig.read(device + 4), 2);
        assert_eq!(rig.read(device + 8), kind);
    }
    assert_eq!(rig.read(NET + 0x100).to_le_bytes(), MAC[..4]);
    assert_eq!(rig.read(NET + 0x104).to_le_bytes(), [MAC[4], MAC[5], 0, 0]);
    assert_eq!(rig.read(NET + 0x1000), u32::MAX, "the place of a device that is not there");
}

#[test]
fn features_that_were_not_offered_are_not_accepted() {
    let mut rig = Rig::new();
    for (low, high) in [(u32::MAX, 1), (0, 0), (1 << 5, 0)] {
        rig.write(NET + 0x70, 0);
        for (half, value) in [(0, low), (1, high)] {
            rig.write(NET + 0x24, half);
            rig.write(NET + 0x20, value);
        }
        rig.write(NET + 0x70, 3 | 8);
        assert_eq!(rig.status(NET), 3, "{low:#x} {high:#x}");
    }
}

#[test]
fn frames_leave_in_order() {
    let mut rig = Rig::new();
    rig.start(NET, 2);
    let frames: Vec<Vec<u8>> = (0u8..3).map(|number| vec![number; 60 + usize::from(number)]).collect();
    for (number, frame) in (0u16..).zip(&frames) {
        let at = BUFFERS + u64::from(number) * 0x1000;
        rig.put_bytes(at + 12, frame);
        let length = u32::try_from(frame.len()).expect("small");
        // Header and frame apart, then together.
        match number {
            0 => rig.chain(SEND, 0, &[(at, 12, false), (at + 12, length, false)]),
            _ => rig.chain(SEND, number + 1, &[(at, 12 + length, false)]),
        }
    }
    for head in [0, 2, 3] {
        rig.offer(SEND, head);
    }
    rig.notify(NET, SEND);
    let sent: Vec<_> = frames.into_iter().map(|frame| SentPacket { nic: NicIndex(0), frame }).collect();
    assert_eq!(rig.effects.packets, sent);
    assert_eq!(rig.used(SEND), (3, 3, 0));
    assert_eq!(rig.read(NET + 0x60), 1, "an interrupt would be due");
    rig.write(NET + 0x64, 1);
    assert_eq!(rig.read(NET + 0x60), 0);
}

#[test]
fn a_packet_is_asked_for_when_there_is_room_for_it() {
    let mut rig = Rig::new();
    rig.inputs.packets.extend([vec![1; 60], vec![2; 1514], vec![3; 14]]);
    rig.start(NET, 2);
    assert_eq!(rig.inputs.asked_packets, 0, "no buffer, no question");
    rig.chain(RECEIVE, 0, &[(BUFFERS, 100, true), (BUFFERS + 0x1000, 1426, true)]);
    rig.chain(RECEIVE, 2, &[(BUFFERS + 0x2000, 1526, true)]);
    rig.offer(RECEIVE, 0);
    rig.offer(RECEIVE, 2);
    rig.poll();
    assert_eq!(rig.inputs.asked_packets, 2);
    assert_eq!(rig.used(RECEIVE), (2, 2, 1526));
    assert_eq!(rig.bytes(BUFFERS, 14), [&[0; 10][..], &[1, 0], &[1, 1]].concat());
    assert_eq!(rig.bytes(BUFFERS + 0x2000 + 12, 1514), [2; 1514]);
    // The buffer that nothing came for stays where it is.
    rig.offer(RECEIVE, 0);
    rig.offer(RECEIVE, 2);
    rig.poll();
    assert_eq!(rig.used(RECEIVE), (3, 0, 26));
    rig.poll();
    assert_eq!(rig.used(RECEIVE).0, 3);
    rig.inputs.packets.push_back(vec![4; 700]);
    rig.poll();
    assert_eq!(rig.used(RECEIVE), (4, 2, 712));
    assert_eq!(rig.get::<u16>(super::rig::rings(RECEIVE) + 0x2000), 1, "drivers need not notify");
}

#[test]
fn frames_that_no_network_carries_are_lost() {
    let mut rig = Rig::new();
    rig.inputs.packets.extend([vec![1; 1515], vec![], vec![2; 13], vec![3; 20]]);
    rig.start(NET, 2);
    rig.chain(RECEIVE, 0, &[(BUFFERS, 2048, true)]);
    rig.offer(RECEIVE, 0);
    rig.poll();
    assert_eq!(rig.used(RECEIVE), (1, 0, 32));
    assert_eq!(rig.bytes(BUFFERS + 12, 20), [3; 20]);
}

fn blk_request(rig: &mut Rig, kind: u32, sector: u64, data: (u64, u32, bool)) -> (u8, u32) {
    rig.put(BUFFERS, kind);
    rig.put(BUFFERS + 8, sector);
    rig.put(BUFFERS + 16, 0xffu8);
    match data.1 {
        0 => rig.chain(0, 0, &[(BUFFERS, 16, false), (BUFFERS + 16, 1, true)]),
        _ => rig.chain(0, 0, &[(BUFFERS, 16, false), data, (BUFFERS + 16, 1, true)]),
    }
    rig.offer(0, 0);
    rig.notify(BLK, 0);
    (rig.get(BUFFERS + 16), rig.used(0).2)
}

#[test]
fn a_disk_keeps_what_is_written() {
    let mut rig = Rig::new();
    rig.start(BLK, 1);
    assert_eq!(rig.read(BLK + 0x100), 128, "sectors");
    let data = BUFFERS + 0x1000;
    let content: Vec<u8> = (0..1024u32).map(|byte| byte.to_le_bytes()[0] ^ 0xa5).collect();
    rig.put_bytes(data, &content);
    assert_eq!(blk_request(&mut rig, 1, 7, (data, 1024, false)), (0, 1), "across two blocks");
    rig.put_bytes(data, &[0; 1024]);
    assert_eq!(blk_request(&mut rig, 0, 7, (data, 1024, true)), (0, 1025));
    assert_eq!(rig.bytes(data, 1024), content);
    assert_eq!(blk_request(&mut rig, 0, 6, (data, 512, true)), (0, 513));
    assert_eq!(rig.bytes(data, 512), [0; 512]);
    assert!(!rig.effects.flush);
    assert_eq!(blk_request(&mut rig, 4, 0, (0, 0, false)), (0, 1));
    assert!(rig.effects.flush);
    assert_eq!(blk_request(&mut rig, 8, 0, (data, 20, true)), (0, 21));
    assert_eq!(&rig.bytes(data, 10), b"ftvm-disk\0");
    assert_eq!(rig.disk.lock().expect("whole").dirty_blocks().count(), 2);
}

#[test]
fn requests_outside_the_disk_fail() {
    let mut rig = Rig::new();
    rig.start(BLK, 1);
    let data = BUFFERS + 0x1000;
    for (kind, sector, length) in
        [(1, 128, 512), (0, 127, 1024), (0, u64::MAX, 512), (1, u64::MAX / 512, 512), (1, 0, 100), (0, 0, 513)]
    {
        let request = blk_request(&mut rig, kind, sector, (data, length, kind == 0));
        assert_eq!(request, (1, 1), "{kind} {sector} {length}");
    }
    assert_eq!(blk_request(&mut rig, 99, 0, (data, 512, true)).0, 2, "unsupported");
    assert!(!rig.needs_reset(BLK), "a driver may ask for anything");
    assert_eq!(rig.disk.lock().expect("whole").kept_blocks(), 0);
}

#[test]
fn console_bytes_go_both_ways() {
    let mut rig = Rig::new();
    rig.inputs.console.extend(b"input");
    rig.start(CONSOLE, 2);
    rig.put_bytes(BUFFERS, b"output");
    rig.chain(SEND, 0, &[(BUFFERS, 3, false), (BUFFERS + 3, 3, false)]);
    rig.offer(SEND, 0);
    rig.notify(CONSOLE, SEND);
    assert_eq!(rig.effects.console, b"output");
    rig.chain(RECEIVE, 0, &[(BUFFERS, 4, true)]);
    rig.offer(RECEIVE, 0);
    rig.poll();
    assert_eq!((rig.used(RECEIVE), rig.bytes(BUFFERS, 4)), ((1, 0, 4), b"inpu".to_vec()));
    assert_eq!(rig.inputs.console, b"t");
}

#[test]
fn entropy_comes_from_the_inputs() {
    let mut rig = Rig::new();
    rig.start(RNG, 1);
    rig.chain(0, 0, &[(BUFFERS, 40, true)]);
    rig.chain(0, 1, &[(BUFFERS + 0x1000, 4096, true)]);
    rig.offer(0, 0);
    rig.offer(0, 1);
    rig.notify(RNG, 0);
    assert_eq!(rig.used(0), (2, 1, 256), "bounded at a time");
    assert_eq!(rig.bytes(BUFFERS, 41), [vec![0x5a; 40], vec![0]].concat());
}
