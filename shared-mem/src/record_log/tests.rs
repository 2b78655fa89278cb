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
        let only_sealed = bit == 72 * 8 - 1;
        assert_eq!(result.is_ok(), only_sealed, "bit {bit}: {result:?}");
        memory.write(at, &byte).unwrap();
    }
}
