//! The record log under every interleaving of writer, sealer and reader.

mod loom_memory;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::thread;
use loom_memory::{LoomMemory, Outcomes};
use shared_mem::record_log::{AppendError, log_file_bytes};
use shared_mem::{LogPosition, LogReader, LogWriter, Offset, PAGE_SIZE, PoolWrite, guarded_word};

const TAIL: Offset = Offset::new(64);
const ENTRY_WORDS: usize = 6;
const ENTRY_BYTES: u64 = 48;
const TAG: NonZeroU32 = NonZeroU32::MIN;

/// Where the first entry goes: so close to the ring's end that the second one wraps.
const START: u64 = PAGE_SIZE - 72;

fn memory(update: Ordering) -> Arc<LoomMemory> {
    let regions = [(64, 1), (PAGE_SIZE + START, 9), (PAGE_SIZE, 2 * ENTRY_WORDS - 9)];
    let memory = LoomMemory::new(log_file_bytes(PAGE_SIZE), &regions, update);
    memory.store_u64(TAIL, guarded_word::encode(START), Ordering::SeqCst).unwrap();
    Arc::new(memory)
}

/// Appends until sealed; returns how many entries are in.
fn append(memory: Arc<LoomMemory>, count: u64) -> u64 {
    let mut writer = LogWriter::new(memory, PAGE_SIZE).unwrap();
    for number in 1..=count {
        match writer.append(TAG, number * 10, &number.to_le_bytes()) {
            Ok(_) => {}
            Err(AppendError::Sealed { final_tail }) => {
                assert_eq!(final_tail, writer.tail(), "the loser learns where the log ends");
                return number - 1;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    count
}

/// Reads all there is; every entry must be whole.
fn read(memory: Arc<LoomMemory>) -> u64 {
    let reader = LogReader::new(memory, PAGE_SIZE).unwrap();
    let mut entries = reader.entries(LogPosition::new(START)).unwrap();
    let mut number = 0u64;
    while let Some(entry) = entries.next_entry().expect("no torn entry") {
        number += 1;
        assert_eq!((entry.sequence, entry.exit_counter), (number, number * 10));
        assert_eq!(entry.payload, number.to_le_bytes());
    }
    number
}

#[test]
fn no_append_succeeds_after_the_seal_and_the_sealer_learns_the_tail() {
    let outcomes = Outcomes::default();
    let seen = outcomes.clone();
    loom::model(move || {
        let memory = memory(Ordering::AcqRel);
        let (at_writer, at_reader) = (Arc::clone(&memory), Arc::clone(&memory));
        let writer = thread::spawn(move || append(at_writer, 2));
        let onlooker = thread::spawn(move || read(at_reader));
        let sealer = LogReader::new(Arc::clone(&memory), PAGE_SIZE).unwrap();
        let tail = sealer.seal().unwrap();
        let sealed = (tail.get() - START) / ENTRY_BYTES;
        assert_eq!(read(memory), sealed, "all before the seal can be read");
        assert_eq!(writer.join().unwrap(), sealed);
        let looked_at = onlooker.join().unwrap();
        assert!(looked_at <= sealed);
        seen.note(sealed * 10 + looked_at);
    });
    outcomes.must_be([0, 10, 11, 20, 21, 22]);
}

fn reader_sees_whole_entries(update: Ordering) {
    let outcomes = Outcomes::default();
    let seen = outcomes.clone();
    loom::model(move || {
        let memory = memory(update);
        let at_writer = Arc::clone(&memory);
        let writer = thread::spawn(move || append(at_writer, 1));
        seen.note(read(memory));
        writer.join().unwrap();
    });
    outcomes.must_be(0..=1);
}

#[test]
fn readers_never_see_a_torn_entry() {
    reader_sees_whole_entries(Ordering::AcqRel);
}

#[test]
#[should_panic(expected = "no torn entry")]
fn the_model_would_notice_a_relaxed_append() {
    reader_sees_whole_entries(Ordering::Relaxed);
}
