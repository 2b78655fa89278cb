//! Drivers that break the rules stop their own device, and nothing else.

use super::rig::{BLK, BUFFERS, CONSOLE, INDIRECT, NET, NEXT, RAM_BYTES, RNG, Rig, SIZE, WRITE, rings};
use proptest::prelude::*;

const SEND: u32 = 1;

/// The device needs a reset, sends nothing, and works again after it.
fn stops(what: &str, spoil: impl FnOnce(&mut Rig)) {
    let mut rig = Rig::new();
    rig.start(NET, 2);
    rig.put_bytes(BUFFERS, &[7; 100]);
    spoil(&mut rig);
    rig.notify(NET, SEND);
    assert!(rig.needs_reset(NET), "{what}");
    assert_eq!(rig.read(NET + 0x60) & 2, 2, "{what}: the driver is told");
    assert_eq!(rig.effects.packets, [], "{what}");
    let before = rig.bus.save();
    rig.notify(NET, SEND);
    rig.poll();
    assert_eq!(rig.bus.save(), before, "{what}: nothing happens before the reset");

    rig.put(rings(SEND) + 0x1002, 0u16);
    rig.put(rings(SEND) + 0x2002, 0u16);
    rig.start(NET, 2);
    rig.chain(SEND, 0, &[(BUFFERS, 72, false)]);
    rig.offer(SEND, 0);
    rig.notify(NET, SEND);
    assert_eq!(rig.effects.packets.len(), 1, "{what}: after a reset it works");
}

/// A driver may be told to send frames of any length: those that no network takes are lost, the others are not.
#[test]
fn a_frame_that_is_too_long_is_lost() {
    let mut rig = Rig::new();
    rig.start(NET, 2);
    rig.put_bytes(BUFFERS, &[7; 100]);
    rig.chain(SEND, 0, &[(BUFFERS, 12, false), (BUFFERS, 1515, false)]);
    rig.offer(SEND, 0);
    rig.notify(NET, SEND);
    assert!(!rig.needs_reset(NET) && rig.effects.packets.is_empty());
    rig.chain(SEND, 0, &[(BUFFERS, 12, false), (BUFFERS, 1514, false)]);
    rig.offer(SEND, 0);
    rig.notify(NET, SEND);
    assert_eq!(rig.effects.packets.len(), 1);
    assert_eq!(rig.effects.packets[0].frame.len(), 1514);
}

#[test]
fn broken_chains_stop_the_device() {
    stops("loop", |rig| {
        rig.descriptor(SEND, 0, (BUFFERS, 1), NEXT, 0);
        rig.offer(SEND, 0);
    });
    stops("next descriptor outside the table", |rig| {
        rig.descriptor(SEND, 0, (BUFFERS, 72), NEXT, SIZE);
        rig.offer(SEND, 0);
    });
    stops("head outside the table", |rig| rig.offer(SEND, SIZE));
    stops("buffer outside RAM", |rig| {
        rig.chain(SEND, 0, &[(RAM_BYTES - 10, 72, false)]);
        rig.offer(SEND, 0);
    });
    stops("buffer at the end of all addresses", |rig| {
        rig.chain(SEND, 0, &[(u64::MAX - 10, 72, false)]);
        rig.offer(SEND, 0);
    });
    stops("buffer in the MMIO window", |rig| {
        rig.chain(SEND, 0, &[(NET, 72, false)]);
        rig.offer(SEND, 0);
    });
    stops("wrong direction", |rig| {
        rig.chain(SEND, 0, &[(BUFFERS, 72, true)]);
        rig.offer(SEND, 0);
    });
    stops("readable behind writable", |rig| {
        rig.chain(SEND, 0, &[(BUFFERS, 72, true), (BUFFERS, 72, false)]);
        rig.offer(SEND, 0);
    });
    stops("huge", |rig| {
        rig.chain(SEND, 0, &[(BUFFERS, u32::MAX, false)]);
        rig.offer(SEND, 0);
    });
    stops("header without a frame", |rig| {
        rig.chain(SEND, 0, &[(BUFFERS, 12, false)]);
        rig.offer(SEND, 0);
    });
    stops("empty", |rig| {
        rig.chain(SEND, 0, &[(BUFFERS, 0, false)]);
        rig.offer(SEND, 0);
    });
    stops("available index jumps", |rig| rig.put(rings(SEND) + 0x1002, SIZE + 1));
    stops("indirect table of itself", |rig| {
        rig.descriptor(SEND, 0, (rings(SEND), 16), INDIRECT, 0);
        rig.offer(SEND, 0);
    });
    stops("indirect table outside RAM", |rig| {
        rig.descriptor(SEND, 0, (RAM_BYTES, 0xffff0), INDIRECT, 0);
        rig.offer(SEND, 0);
    });
}

#[test]
fn receive_buffers_that_are_too_small_stop_the_device() {
    for buffer in [(BUFFERS, 1525, true), (BUFFERS, 2000, false), (BUFFERS, 0, true)] {
        let mut rig = Rig::new();
        rig.start(NET, 2);
        rig.inputs.packets.push_back(vec![1; 60]);
        rig.chain(0, 0, &[buffer]);
        rig.offer(0, 0);
        rig.poll();
        assert!(rig.needs_reset(NET), "{buffer:?}");
        assert_eq!(rig.inputs.packets.len(), 1, "{buffer:?}: no packet is taken that is not delivered");
    }
}

#[test]
fn queues_that_cannot_be_stop_the_device() {
    let good = [rings(0), rings(0) + 0x1000, rings(0) + 0x2000];
    for (size, addresses) in [
        (0, good),
        (3, good),
        (512, good),
        (65536 + 8, good),
        (8, [rings(0) + 8, good[1], good[2]]),
        (8, [good[0], good[1] + 1, good[2]]),
        (8, [good[0], good[1], good[2] + 2]),
        (8, [good[0], 0, good[2]]),
        (8, [good[0], good[1], u64::MAX - 3]),
        (8, [good[0], good[1], RAM_BYTES]),
    ] {
        let mut rig = Rig::new();
        rig.set_queue(NET, 0, size, addresses);
        assert!(rig.needs_reset(NET), "{size} {addresses:x?}");
    }
    // Rings outside RAM that nothing is written to are found when they are read.
    for addresses in [[RAM_BYTES, good[1], good[2]], [good[0], RAM_BYTES, good[2]]] {
        let mut rig = Rig::new();
        rig.start(NET, 0);
        rig.set_queue(NET, 1, 8, addresses);
        rig.put(good[1] + 2, 1u16);
        rig.notify(NET, 1);
        assert!(rig.needs_reset(NET), "{addresses:x?}");
    }
}

#[test]
fn a_blk_request_without_its_parts_stops_the_device() {
    for chain in [
        &[(BUFFERS, 16, false)][..],
        &[(BUFFERS, 15, false), (BUFFERS, 1, true)],
        &[(BUFFERS, 1, true)],
        &[(BUFFERS, 16, false), (BUFFERS, 300 << 10, true), (BUFFERS, 1, true)],
    ] {
        let mut rig = Rig::new();
        rig.start(BLK, 1);
        rig.chain(0, 0, chain);
        rig.offer(0, 0);
        rig.notify(BLK, 0);
        assert!(rig.needs_reset(BLK), "{chain:?}");
    }
}

/// A driver that does anything at all.
#[derive(Debug, Clone)]
enum Step {
    Register { device: u64, offset: u64, value: u32 },
    Descriptor { queue: u32, index: u16, address: u64, length: u32, flags: u16, next: u16 },
    Offer { queue: u32, head: u16 },
    Index { queue: u32, value: u16 },
    Notify { device: u64, queue: u32 },
    Restart { device: u64 },
    Packet { length: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let device = || prop::sample::select(vec![NET, BLK, CONSOLE, RNG]);
    let address = prop_oneof![
        Just(BUFFERS),
        Just(rings(0)),
        Just(rings(1) + 0x2000),
        Just(RAM_BYTES - 8),
        Just(NET),
        any::<u64>()
    ];
    let length = prop_oneof![Just(0u32), 1u32..64, Just(1526), Just(4096), Just(u32::MAX), any::<u32>()];
    let flags = prop_oneof![Just(0), Just(NEXT), Just(WRITE), Just(NEXT | WRITE), Just(INDIRECT), any::<u16>()];
    prop_oneof![
        2 => (device(), 0u64..0x44, any::<u32>())
            .prop_map(|(device, word, value)| Step::Register { device, offset: word * 4, value }),
        6 => (0u32..2, 0..SIZE, address, length, flags, 0..SIZE + 1).prop_map(
            |(queue, index, address, length, flags, next)| Step::Descriptor {
                queue, index, address, length, flags, next
            }
        ),
        6 => (0u32..2, 0..SIZE + 1).prop_map(|(queue, head)| Step::Offer { queue, head }),
        1 => (0u32..2, any::<u16>()).prop_map(|(queue, value)| Step::Index { queue, value }),
        6 => (device(), 0u32..3).prop_map(|(device, queue)| Step::Notify { device, queue }),
        2 => device().prop_map(|device| Step::Restart { device }),
        2 => (0usize..2000).prop_map(|length| Step::Packet { length }),
    ]
}

proptest! {
    /// Whatever a driver does: no panic, bounded output, and a state that a successor takes.
    #[test]
    fn hostile_drivers_are_harmless(steps in prop::collection::vec(step(), 1..60)) {
        let mut rig = Rig::new();
        for step in steps {
            match step {
                Step::Register { device, offset, value } => rig.write(device + offset, value),
                Step::Descriptor { queue, index, address, length, flags, next } => {
                    rig.descriptor(queue, index, (address, length), flags, next);
                }
                Step::Offer { queue, head } => rig.offer(queue, head),
                Step::Index { queue, value } => rig.put(rings(queue) + 0x1002, value),
                Step::Notify { device, queue } => rig.notify(device, queue),
                Step::Restart { device } => {
                    for queue in 0..2 {
                        rig.put(rings(queue) + 0x1002, 0u16);
                    }
                    let queues = if device == NET || device == CONSOLE { 2 } else { 1 };
                    rig.start(device, queues);
                }
                Step::Packet { length } => rig.inputs.packets.push_back(vec![1; length]),
            }
            prop_assert!(rig.effects.packets.iter().all(|sent| (14..=1514).contains(&sent.frame.len())));
            rig.effects.packets.clear();
            rig.effects.console.clear();
        }
        let mut successor = Rig::new();
        for (device, state) in rig.bus.save() {
            prop_assert!(successor.bus.restore(device, &state).expect("its own state is possible"));
        }
        prop_assert_eq!(successor.bus.save(), rig.bus.save());
    }
}
