use super::{CommitPoint, Entry, EntryBody, EntryError, EntryKind, frame_digest, sent_digest};
use crate::ids::{Epoch, Generation};
use proptest::prelude::*;
use std::num::NonZeroU32;

/// One of each kind, as version 1 wrote them: tag and payload behind the digest.
const GOLDEN: [(u32, &[u8]); 8] = [
    (0x1_0001, &[8, 7, 6, 5, 4, 3, 2, 1]),
    (0x1_0002, b"four"),
    (0x1_0003, b"typed\n"),
    (0x1_0004, b"\x03frame"),
    (0x1_0005, b"\x10\0\0\0\0\0\0\0said"),
    (0x1_0006, b"\x11\0\0\0\0\0\0\0\x02\0\0\0\x78\x56\x34\x12"),
    (0x1_0007, b""),
    (0x1_0008, b"\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x01"),
];

fn examples() -> [EntryBody<'static>; 8] {
    [
        EntryBody::Clock(0x0102_0304_0506_0708),
        EntryBody::Entropy(b"four".into()),
        EntryBody::ConsoleInput(b"typed\n".into()),
        EntryBody::Packet { nic: 3, frame: b"frame".into() },
        EntryBody::Output { position: 16, bytes: b"said".into() },
        EntryBody::Sent { position: 17, count: 2, digest: 0x1234_5678 },
        EntryBody::Mark,
        EntryBody::Commit(CommitPoint { generation: Generation::new(2), epoch: Epoch::new(3), kicked: true }),
    ]
}

fn tag(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("not zero")
}

fn payload(entry: &Entry<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    entry.encode_payload(&mut bytes);
    bytes
}

#[test]
fn entries_are_written_and_read_as_documented() {
    for (body, (number, rest)) in examples().into_iter().zip(GOLDEN) {
        let entry = Entry { at_exit: 99, digest: 0xa1b2_c3d4, body };
        let golden = [&[0xd4, 0xc3, 0xb2, 0xa1], rest].concat();
        assert_eq!((entry.tag(), payload(&entry)), (tag(number), golden.clone()));
        assert_eq!(Entry::decode(tag(number), 99, &golden), Ok(entry));
    }
}

#[test]
fn every_defect_has_its_own_error() {
    let decode = |number, payload: &[u8]| Entry::decode(tag(number), 1, payload).expect_err("damaged");
    assert_eq!(decode(0x2_0001, &[0; 12]), EntryError::Version { got: 2 });
    assert_eq!(decode(1, &[0; 12]), EntryError::Version { got: 0 });
    assert_eq!(decode(0x1_0000, &[0; 12]), EntryError::Kind { got: 0 });
    assert_eq!(decode(0x1_0009, &[0; 12]), EntryError::Kind { got: 9 });
    assert_eq!(decode(0x1_0008, &[2; 21]), EntryError::Flag { got: 2 });
    let wrong = [
        (1, EntryKind::Clock, vec![3, 11, 13]),
        (2, EntryKind::Entropy, vec![0, 4]),
        (3, EntryKind::ConsoleInput, vec![4]),
        (4, EntryKind::Packet, vec![4, 5]),
        (5, EntryKind::Output, vec![4, 11, 12]),
        (6, EntryKind::Sent, vec![19, 21]),
        (7, EntryKind::Mark, vec![0, 5]),
        (8, EntryKind::Commit, vec![4, 20, 22]),
    ];
    for (number, kind, lengths) in wrong {
        for length in lengths {
            let error = decode(0x1_0000 + number, &vec![1; length]);
            assert_eq!(error, EntryError::Length { kind, got: length });
        }
    }
    assert!(matches!(decode(0x1_0002, &vec![1; (1 << 20) + 1]), EntryError::Length { .. }));
    let numbers =
        |position: u64, count: u32| [&[0; 4][..], &position.to_le_bytes(), &count.to_le_bytes(), &[0; 4]].concat();
    assert_eq!(decode(0x1_0006, &numbers(5, 0)), EntryError::Sent { position: 5, count: 0 });
    assert_eq!(decode(0x1_0006, &numbers(u64::MAX, 1)), EntryError::Sent { position: u64::MAX, count: 1 });
    assert_eq!(decode(0x1_0005, &numbers(u64::MAX, 1)), EntryError::Position { position: u64::MAX });
}

#[test]
fn digests_of_packets_tell_devices_frames_and_order_apart() {
    assert_ne!(frame_digest(0, b"ab"), frame_digest(1, b"ab"));
    assert_ne!(frame_digest(0, b"ab"), frame_digest(0, b"ac"));
    assert_ne!(sent_digest([1, 2]), sent_digest([2, 1]));
    assert_ne!(sent_digest([1]), sent_digest([1, 0]));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_bytes_never_panic(number in 1u32.., known in 0x1_0001u32..0x1_0009, bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _any = Entry::decode(tag(number), 7, &bytes);
        // What is read at all is what would have been written.
        if let Ok(entry) = Entry::decode(tag(known), 7, &bytes) {
            prop_assert_eq!(entry.tag(), tag(known));
            prop_assert_eq!(payload(&entry), bytes);
        }
    }

    #[test]
    fn what_is_decoded_is_what_was_encoded(at_exit: u64, digest: u32, nic: u8, number in 0..u64::MAX / 2, bytes in prop::collection::vec(any::<u8>(), 1..300), which in 0usize..8) {
        let body = match which {
            0 => EntryBody::Clock(number),
            1 => EntryBody::Entropy((&bytes).into()),
            2 => EntryBody::ConsoleInput((&bytes).into()),
            3 => EntryBody::Packet { nic, frame: (&bytes).into() },
            4 => EntryBody::Output { position: number, bytes: (&bytes).into() },
            5 => EntryBody::Sent { position: number, count: 1 + u32::from(nic), digest },
            6 => EntryBody::Mark,
            _ => {
                let (generation, epoch) = (Generation::new(number), Epoch::new(u64::from(digest)));
                EntryBody::Commit(CommitPoint { generation, epoch, kicked: nic.is_multiple_of(2) })
            }
        };
        let entry = Entry { at_exit, digest, body };
        let stored = payload(&entry);
        let read = Entry::decode(entry.tag(), at_exit, &stored).map(Entry::into_owned);
        prop_assert_eq!(read, Ok(entry));
    }
}
