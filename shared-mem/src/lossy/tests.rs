use std::sync::atomic::Ordering;

use super::*;
use crate::mem::{AccessError, PoolRead, PoolWrite};
use crate::numbers::Offset;

fn byte(memory: &LossyMemory, at: u64) -> u8 {
    let mut byte = [0];
    memory.read(Offset::new(at), &mut byte).unwrap();
    byte[0]
}

#[test]
fn only_flushed_and_fenced_lines_outlive_a_crash_for_sure() {
    let (host, other) = (LossyCache::new(), LossyCache::new());
    let memory = LossyMemory::new(1 << 30, &host);
    memory.write(Offset::new(0), &[1; 64]).unwrap();
    memory.write(Offset::new(64), &[2; 64]).unwrap();
    memory.write(Offset::new(128), &[3; 64]).unwrap();
    memory.flush(Offset::new(0), 64).unwrap();
    memory.fence().unwrap();
    memory.flush(Offset::new(64), 64).unwrap();
    let witness = memory.through(&other);
    assert_eq!([byte(&witness, 0), byte(&witness, 64), byte(&witness, 128)], [1, 2, 3]);
    host.crash(&mut KeepNone);
    assert_eq!([byte(&witness, 0), byte(&witness, 64), byte(&witness, 128)], [1, 0, 0]);
    assert_eq!(memory.fence(), Err(AccessError::Unreachable));
}

#[test]
fn a_line_keeps_a_prefix_of_its_stores_and_whole_words_of_the_next() {
    for (kept, expected) in [
        (Kept { stores: 0, torn_words: 0 }, [0, 0]),
        (Kept { stores: 0, torn_words: 2 }, [0, 1]),
        (Kept { stores: 1, torn_words: 0 }, [1, 1]),
        (Kept { stores: 1, torn_words: 1 }, [2, 1]),
        (Kept { stores: 2, torn_words: 0 }, [2, 2]),
        (Kept { stores: 3, torn_words: 0 }, [3, 3]),
    ] {
        let host = LossyCache::new();
        let memory = LossyMemory::new(4096, &host);
        for value in 1..=3 {
            memory.write(Offset::new(0), &[value; 64]).unwrap();
        }
        host.crash(&mut |line: DirtyLine| {
            assert_eq!((line.memory, line.line, line.stores), (0, 0, 3));
            kept
        });
        let witness = memory.through(&LossyCache::new());
        assert_eq!([byte(&witness, 0), byte(&witness, 8)], expected);
    }
}

#[test]
fn a_store_after_the_flush_is_not_covered_by_the_fence() {
    let host = LossyCache::new();
    let memory = LossyMemory::new(4096, &host);
    memory.write(Offset::new(0), &[1; 8]).unwrap();
    memory.flush(Offset::new(0), 8).unwrap();
    memory.write(Offset::new(0), &[2; 8]).unwrap();
    memory.fence().unwrap();
    let mut durable = [0];
    memory.read_durable(Offset::ZERO, &mut durable).unwrap();
    assert_eq!(durable, [1]);
    host.crash(&mut KeepNone);
    assert_eq!(byte(&memory.through(&LossyCache::new()), 0), 1);
}

#[test]
fn a_line_moves_to_the_host_that_stores_to_it_and_any_host_can_write_it_back() {
    let (first, second) = (LossyCache::new(), LossyCache::new());
    let memory = LossyMemory::new(4096, &first);
    let at_second = memory.through(&second);
    memory.write(Offset::new(0), &[1; 8]).unwrap();
    at_second.write(Offset::new(8), &[2; 8]).unwrap();
    first.crash(&mut KeepNone);
    assert_eq!([byte(&at_second, 0), byte(&at_second, 8)], [1, 2]);
    let third = memory.through(&LossyCache::new());
    third.flush(Offset::ZERO, 64).unwrap();
    third.fence().unwrap();
    second.crash(&mut KeepNone);
    assert_eq!([byte(&third, 0), byte(&third, 8)], [1, 2]);
}

#[test]
fn a_host_dies_at_the_event_it_was_told() {
    let host = LossyCache::new();
    let memory = LossyMemory::new(8192, &host);
    host.die_after(3);
    assert_eq!(memory.write(Offset::new(0), &[9; 4096]), Err(AccessError::Unreachable));
    assert!(host.is_dead());
    assert_eq!(host.events(), 3);
    let witness = memory.through(&LossyCache::new());
    assert_eq!([byte(&witness, 191), byte(&witness, 192)], [9, 0]);
    host.revive();
    memory.store_u64(Offset::new(8), 5, Ordering::Release).unwrap();
    assert_eq!(witness.load_u64(Offset::new(8), Ordering::Acquire), Ok(5));
}

#[test]
fn a_fork_is_independent_and_history_stays_bounded() {
    let host = LossyCache::new();
    let memory = LossyMemory::new(4096, &host);
    for value in 0..100 {
        memory.write(Offset::new(0), &[value; 8]).unwrap();
    }
    let fork = memory.fork(&LossyCache::new());
    memory.write(Offset::new(0), &[200; 8]).unwrap();
    assert_eq!(byte(&fork, 0), 99);
    host.crash(&mut |line: DirtyLine| {
        assert!(line.stores <= VERSIONS_MAX + 1);
        Kept::all_of(line)
    });
    assert_eq!(byte(&fork, 0), 99);
}
