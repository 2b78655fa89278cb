use std::num::NonZeroU32;

use super::*;
use crate::lossy::{LossyCache, LossyMemory};
use crate::mem::{PoolRead, PoolWrite};
use crate::numbers::{Generation, LogPosition, Offset};

const RING: u64 = 4096;
const TAG: NonZeroU32 = NonZeroU32::new(5).unwrap();

fn log(base: u64) -> (LossyMemory, LogWriter<LossyMemory>, LogReader<LossyMemory>) {
    let memory = LossyMemory::new(log_file_bytes(RING), &LossyCache::new());
    format_log(&memory, Generation::new(2), RING, LogPosition::new(base)).unwrap();
    let writer = LogWriter::new(memory.clone(), RING).unwrap();
    let reader = LogReader::new(memory.clone(), RING).unwrap();
    (memory, writer, reader)
}

fn payload(number: u64) -> Vec<u8> {
    let length = usize::try_from(number * 37 % 101).unwrap();
    vec![number.to_le_bytes()[0]; length]
}

#[test]
fn entries_come_back_in_order_over_many_wraps() {
    let (_, mut writer, reader) = log(8000);
    assert_eq!(reader.header(), Ok((Generation::new(2), LogPosition::new(8000))));
    let mut read_to = writer.tail();
    for number in 1..=500 {
        let start = writer.tail();
        let end = writer.append(TAG, number * 3, &payload(number)).unwrap();
        let mut entries = reader.entries(read_to).unwrap();
        let entry = entries.next_entry().unwrap().unwrap();
        assert_eq!(
            (entry.sequence, entry.exit_counter, entry.position, entry.payload),
            (number, number * 3, start, &payload(number)[..])
        );
        assert_eq!(entries.next_entry(), Ok(None));
        assert_eq!(entries.position(), end);
        read_to = end;
        writer.free_before(end);
    }
}

/// The pool refuses at every access of an append in turn, and is back before the next one.
#[test]
fn what_may_be_in_the_log_is_never_written_over() {
    let (mut refused, mut was_in) = (0, 0);
    for accesses in 0.. {
        let (memory, mut writer, reader) = log(0);
        writer.append(TAG, 1, &[1; 100]).unwrap();
        let cache = LossyCache::new();
        let start = writer.tail();
        let mut writer = LogWriter::resume(memory.through(&cache), RING, start, 1).unwrap();
        cache.die_after(accesses);
        let first = writer.append(TAG, 2, &[2; 100]);
        cache.revive();
        assert!(matches!(first, Ok(_) | Err(AppendError::Access(_))), "{first:?}");
        let end = writer.append(TAG, 3, &[3; 70]).unwrap();
        assert_eq!(reader.tail().unwrap().position, end);
        let mut entries = reader.entries(LogPosition::new(0)).unwrap();
        let mut found = Vec::new();
        while let Some(entry) = entries.next_entry().unwrap() {
            found.push((entry.sequence, entry.exit_counter, entry.payload.to_vec()));
        }
        let mut expected = vec![(1, 1, vec![1; 100])];
        if found.len() == 3 {
            expected.push((2, 2, vec![2; 100]));
        }
        expected.push((expected.len() as u64 + 1, 3, vec![3; 70]));
        assert_eq!(found, expected, "refused after {accesses} accesses");
        if first.is_ok() {
            break;
        }
        refused += 1;
        was_in += usize::from(found.len() == 3);
    }
    assert!(refused > was_in && was_in > 0, "{was_in} of {refused} refused entries were in");
}

#[test]
fn a_full_log_says_so_and_freed_space_is_used_again() {
    let (_, mut writer, reader) = log(0);
    let start = writer.tail();
    let mut ends = Vec::new();
    let full = loop {
        match writer.append(TAG, 0, &[1; 100]) {
            Ok(end) => ends.push(end),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, AppendError::Full { needed: 144, .. }), "{full:?}");
    writer.free_before(ends[1]);
    writer.append(TAG, 0, &[2; 100]).unwrap();
    let mut buffer = Vec::new();
    assert!(matches!(
        reader.read(start, &mut buffer),
        Err(ReadLogError::Entry { .. } | ReadLogError::Overwritten { .. })
    ));
    assert!(reader.read(ends[1], &mut buffer).unwrap().is_some());
}

#[test]
fn sealing_stops_the_writer_and_tells_the_tail() {
    let (_, mut writer, reader) = log(0);
    let end = writer.append(TAG, 1, b"in").unwrap();
    assert_eq!(reader.seal(), Ok(end));
    assert_eq!(writer.append(TAG, 2, b"out"), Err(AppendError::Sealed { final_tail: end }));
    assert_eq!(reader.durable_tail(), Ok(LogTail { position: end, sealed: true }));
    let mut entries = reader.entries(LogPosition::ZERO).unwrap();
    assert!(entries.next_entry().unwrap().is_some());
    assert!(entries.next_entry().unwrap().is_none());
}

#[test]
fn every_flipped_bit_of_an_entry_or_tail_is_refused() {
    let (memory, mut writer, reader) = log(0);
    writer.append(TAG, 1, b"payload!").unwrap();
    let mut buffer = Vec::new();
    let flips = (0..48 * 8).map(|bit| 4096 * 8 + bit).chain((64 * 8)..(72 * 8));
    for bit in flips {
        let at = Offset::new(bit / 8);
        let mut byte = [0];
        memory.read(at, &mut byte).unwrap();
        memory.write(at, &[byte[0] ^ (1 << (bit % 8))]).unwrap();
        let result = reader.read(LogPosition::ZERO, &mut buffer);
        assert!(result.is_err(), "bit {bit}: {result:?}");
        memory.write(at, &byte).unwrap();
    }
}

#[test]
fn chunks_hold_whole_entries_within_the_bound() {
    let (memory, mut writer, reader) = log(0);
    for number in 1..=12 {
        writer.append(TAG, number, &payload(number)).unwrap();
    }
    let mut range = LogRange { from: LogPosition::ZERO, to: writer.tail(), after_sequence: Some(0) };
    let (mut stored, mut chunk) = (Vec::new(), Vec::new());
    while range.from < range.to {
        let found = reader.read_chunk(range, 200, &mut chunk).unwrap();
        assert!(found.entries > 0 && chunk.len() <= 200, "{found:?} in {} bytes", chunk.len());
        assert_eq!(found.next.get() - range.from.get(), u64::try_from(chunk.len()).unwrap());
        stored.extend_from_slice(&chunk);
        range = LogRange { from: found.next, after_sequence: found.last_sequence, ..range };
    }
    let mut in_ring = vec![0; stored.len()];
    memory.read(Offset::new(4096), &mut in_ring).unwrap();
    assert!(stored == in_ring, "entries as they are stored");
    let first = LogEntry::parse(&stored, LogPosition::ZERO).unwrap();
    let second = LogEntry::parse(&stored[usize::try_from(first.stored_bytes()).unwrap()..], LogPosition::new(80));
    assert_eq!(second.unwrap().sequence, 2);
    let start = LogRange { from: LogPosition::ZERO, ..range };
    // An entry larger than the bound comes alone.
    assert_eq!(reader.read_chunk(LogRange { after_sequence: None, ..start }, 1, &mut chunk).unwrap().entries, 1);
    assert!(matches!(reader.read_chunk(start, 200, &mut chunk), Err(ReadLogError::Sequence { .. })));
    memory.write(Offset::new(4096 + 80), &[1]).unwrap();
    let cut_short = reader.read_chunk(LogRange { after_sequence: Some(0), ..start }, 4096, &mut chunk).unwrap();
    assert_eq!((cut_short.entries, cut_short.next), (1, LogPosition::new(80)));
}

#[test]
fn a_writer_resumes_only_where_the_log_ends() {
    let (memory, mut writer, reader) = log(800);
    let tail = writer.append(TAG, 1, b"first").unwrap();
    let resume = |at, sequence| LogWriter::resume(memory.clone(), RING, at, sequence);
    let behind = LogPosition::new(800);
    assert_eq!(
        resume(behind, 0).err(),
        Some(ResumeLogError::Unexpected { expected: behind, found: tail }),
        "entries would be overwritten"
    );
    let mut second = resume(tail, 1).unwrap();
    assert_eq!(second.free_space(), RING - (tail.get() - 800));
    let end = second.append(TAG, 2, b"second").unwrap();
    assert_eq!(second.sequence(), 2);
    let mut entries = reader.entries(behind).unwrap();
    assert_eq!(entries.next_entry().unwrap().unwrap().payload, b"first");
    let next = entries.next_entry().unwrap().unwrap();
    assert_eq!((next.sequence, next.payload), (2, &b"second"[..]));
    second.append(TAG, 3, b"third").unwrap();
    assert_eq!(entries.next_entry(), Ok(None));
    entries.look_again().unwrap();
    assert_eq!(entries.next_entry().unwrap().unwrap().sequence, 3);
    let last = reader.seal().unwrap();
    assert!(last > end);
    assert_eq!(resume(last, 3).err(), Some(ResumeLogError::Sealed { final_tail: last }));
    let far = LogPosition::new(2 * RING + 1600);
    format_log(&memory, Generation::new(2), RING, LogPosition::new(800)).unwrap();
    memory
        .store_u64(Offset::new(64), crate::guarded_word::encode(far.get()), std::sync::atomic::Ordering::Relaxed)
        .unwrap();
    assert!(matches!(resume(far, 1), Err(ResumeLogError::Base { .. })));
}

#[test]
fn what_is_no_range_is_not_copied() {
    let (_, writer, reader) = log(800);
    let (to, _, _) = log(0);
    let copy = |from, until| {
        let range = LogRange { from: LogPosition::new(from), to: LogPosition::new(until), after_sequence: None };
        copy_log(&reader, range, &to, Generation::new(3))
    };
    for (from, until) in [(808, 800), (801, 809), (0, u64::MAX)] {
        assert!(matches!(copy(from, until), Err(CopyLogError::Range { .. })));
    }
    for base in [801, 1 << 60] {
        let base = LogPosition::new(base);
        let (memory, _, _) = log(0);
        assert_eq!(format_log(&memory, Generation::new(2), RING, base), Err(FormatLogError::Base { base }));
    }
    let tail = writer.tail().get();
    assert_eq!(
        copy(tail, tail).unwrap(),
        CopiedLog { end: writer.tail(), entries: 0, last_sequence: None, stopped: None }
    );
    // More than a ring: whatever lies there, it is not those entries.
    let copied = copy(0, 2 * RING).unwrap();
    assert!(matches!(copied.stopped, Some(ReadLogError::Overwritten { .. })));
    assert_eq!((copied.end, copied.entries), (LogPosition::ZERO, 0));
}
