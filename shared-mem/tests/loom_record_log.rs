//! The record log under every interleaving of writer, sealer and reader.

mod loom_memory;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::thread;
use loom_memory::{LoomMemory, Outcomes};
use shared_mem::record_log::{AppendError, LogRange, ResumeLogError, copy_log, log_file_bytes};
use shared_mem::{Generation, LogPosition, LogReader, LogWriter, Offset, PAGE_SIZE, PoolWrite, guarded_word};

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

/// Memory for a log that is copied: header, tail, and the ring's words.
fn next_memory() -> LoomMemory {
    let regions = [(0, 8), (64, 1), (PAGE_SIZE + START, 9), (PAGE_SIZE, 2 * ENTRY_WORDS - 9)];
    LoomMemory::new(log_file_bytes(PAGE_SIZE), &regions, Ordering::AcqRel)
}

#[test]
fn a_sealed_log_is_carried_over_while_its_writer_runs_on() {
    let outcomes = Outcomes::default();
    let seen = outcomes.clone();
    loom::model(move || {
        let memory = memory(Ordering::AcqRel);
        let at_writer = Arc::clone(&memory);
        let writer = thread::spawn(move || append(at_writer, 2));
        let old = LogReader::new(memory, PAGE_SIZE).unwrap();
        let range = LogRange { from: LogPosition::new(START), to: old.seal().unwrap(), after_sequence: Some(0) };
        let sealed = (range.to.get() - START) / ENTRY_BYTES;
        let new = Arc::new(next_memory());
        let copied = copy_log(&old, range, &new, Generation::new(2)).unwrap();
        assert_eq!((copied.end, copied.entries, copied.stopped), (range.to, sealed, None));
        assert_eq!(read(new), sealed, "what was published is there, whatever the old writer does meanwhile");
        assert_eq!(writer.join().unwrap(), sealed);
        seen.note(sealed);
    });
    outcomes.must_be(0..=2);
}

#[test]
fn a_log_that_goes_on_can_be_read_and_sealed_all_along() {
    let outcomes = Outcomes::default();
    let seen = outcomes.clone();
    loom::model(move || {
        let old = memory(Ordering::AcqRel);
        assert_eq!(append(Arc::clone(&old), 1), 1);
        let old = LogReader::new(old, PAGE_SIZE).unwrap();
        let range = LogRange { from: LogPosition::new(START), to: old.seal().unwrap(), after_sequence: Some(0) };
        let new = Arc::new(next_memory());
        copy_log(&old, range, &new, Generation::new(2)).unwrap();
        let at_writer = Arc::clone(&new);
        let writer = thread::spawn(move || {
            let mut writer = match LogWriter::resume(at_writer, PAGE_SIZE, range.to, 1) {
                Ok(writer) => writer,
                Err(ResumeLogError::Sealed { final_tail }) => {
                    assert_eq!(final_tail, range.to);
                    return 1;
                }
                Err(error) => panic!("{error:?}"),
            };
            match writer.append(TAG, 20, &2u64.to_le_bytes()) {
                Ok(_) => 2,
                Err(AppendError::Sealed { .. }) => 1,
                Err(error) => panic!("{error:?}"),
            }
        });
        let looked_at = read(Arc::clone(&new));
        let sealer = LogReader::new(Arc::clone(&new), PAGE_SIZE).unwrap();
        let sealed = (sealer.seal().unwrap().get() - START) / ENTRY_BYTES;
        assert_eq!(writer.join().unwrap(), sealed);
        assert!((1..=sealed).contains(&looked_at));
        assert_eq!(read(new), sealed);
        seen.note(sealed * 10 + looked_at);
    });
    outcomes.must_be([11, 21, 22]);
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
