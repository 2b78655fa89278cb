//! The commit word under every interleaving of publisher, sealer and reader.

mod loom_memory;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::thread;
use loom_memory::{LoomMemory, Outcomes};
use shared_mem::{CommitWord, Epoch, Offset, PoolRead, PoolWrite, PublishError};

const WORD: Offset = Offset::new(64);
/// Stands for the record of each epoch.
const RECORDS: u64 = 128;

fn memory(update: Ordering) -> Arc<LoomMemory> {
    let memory = LoomMemory::new(4096, &[(64, 1), (RECORDS, 3)], update);
    let open = CommitWord::open(Epoch::ZERO).encode();
    memory.store_u64(WORD, open, Ordering::SeqCst).unwrap();
    Arc::new(memory)
}

fn record_at(epoch: u64) -> Offset {
    Offset::new(RECORDS + epoch * 8)
}

/// Writes and publishes epochs until sealed; returns how many were committed.
fn publish(memory: &LoomMemory, epochs: u64) -> u64 {
    for epoch in 1..=epochs {
        memory.write(record_at(epoch), &epoch.to_le_bytes()).unwrap();
        match CommitWord::publish(memory, WORD, Epoch::new(epoch - 1), Epoch::new(epoch)) {
            Ok(()) => {}
            Err(PublishError::Sealed { final_epoch }) => {
                assert_eq!(final_epoch, Epoch::new(epoch - 1), "the loser learns what was committed");
                return epoch - 1;
            }
            Err(PublishError::Word(_)) => return epoch - 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    epochs
}

fn check_records(memory: &LoomMemory, up_to: u64) {
    for epoch in 1..=up_to {
        let mut bytes = [0; 8];
        memory.read(record_at(epoch), &mut bytes).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), epoch, "a published record is visible");
    }
}

#[test]
fn no_publish_succeeds_after_the_seal_and_the_sealer_learns_exactly_what_was_published() {
    let outcomes = Outcomes::default();
    let seen = outcomes.clone();
    loom::model(move || {
        let memory = memory(Ordering::AcqRel);
        let (publisher, second) = (Arc::clone(&memory), Arc::clone(&memory));
        let publisher = thread::spawn(move || publish(&publisher, 2));
        // Two that ask for takeover learn the same.
        let second = thread::spawn(move || CommitWord::seal(&*second, WORD).unwrap());
        let sealed_at = CommitWord::seal(&*memory, WORD).unwrap();
        check_records(&memory, sealed_at.get());
        assert_eq!(second.join().unwrap(), sealed_at);
        assert_eq!(publisher.join().unwrap(), sealed_at.get());
        let word = CommitWord::load(&*memory, WORD).unwrap();
        assert_eq!((word.sealed, word.epoch), (true, sealed_at));
        seen.note(sealed_at.get());
    });
    outcomes.must_be(0..=2);
}

#[test]
fn a_flipped_bit_of_the_seal_stops_the_publisher_and_the_sealer_still_learns_exactly_what_was_published() {
    let outcomes = Outcomes::default();
    let seen = outcomes.clone();
    loom::model(move || {
        let memory = memory(Ordering::AcqRel);
        let (publisher, fault) = (Arc::clone(&memory), Arc::clone(&memory));
        let publisher = thread::spawn(move || publish(&publisher, 2));
        let fault = thread::spawn(move || fault.fetch_or_u64(WORD, 1 << 47).unwrap());
        let sealed_at = CommitWord::seal(&*memory, WORD).unwrap();
        check_records(&memory, sealed_at.get());
        assert_eq!(publisher.join().unwrap(), sealed_at.get());
        fault.join().unwrap();
        let word = CommitWord::load(&*memory, WORD).unwrap();
        assert_eq!((word.sealed, word.epoch), (true, sealed_at));
        seen.note(sealed_at.get());
    });
    outcomes.must_be(0..=2);
}

fn reader_sees_whole_records(update: Ordering) {
    let outcomes = Outcomes::default();
    let seen = outcomes.clone();
    loom::model(move || {
        let memory = memory(update);
        let publisher = Arc::clone(&memory);
        let publisher = thread::spawn(move || publish(&publisher, 2));
        let first = CommitWord::load(&*memory, WORD).unwrap();
        check_records(&memory, first.epoch.get());
        let second = CommitWord::observe(&*memory, WORD).unwrap();
        assert!(second.epoch >= first.epoch, "epochs do not go back");
        check_records(&memory, second.epoch.get());
        publisher.join().unwrap();
        seen.note(first.epoch.get() * 10 + second.epoch.get());
    });
    outcomes.must_be([0, 1, 2, 11, 12, 22]);
}

#[test]
fn a_reader_sees_the_whole_record_of_what_is_published() {
    reader_sees_whole_records(Ordering::AcqRel);
}

#[test]
#[should_panic(expected = "a published record is visible")]
fn the_model_would_notice_a_relaxed_publish() {
    reader_sees_whole_records(Ordering::Relaxed);
}
