//! The controller dies at any event of carrying a log over to the next generation; the next one does it again.

use std::num::NonZeroU32;

use super::survivors::{Choice, choices};
use super::world::{GENERATION, Held, hold, violation};
use crate::lossy::{LossyCache, LossyMemory};
use crate::mem::PoolWrite;
use crate::numbers::{LogPosition, Offset, PAGE_SIZE};
use crate::record_log::{
    AppendError, LogRange, LogReader, LogWriter, ReadLogError, copy_log, format_log, log_file_bytes,
};

const TAG: NonZeroU32 = NonZeroU32::new(3).unwrap();

/// Entries that a commit covers, and entries that are carried over.
const COVERED: u64 = 5;
const CARRIED: u64 = 6;

fn payload(number: u64) -> Vec<u8> {
    vec![number.to_le_bytes()[0]; usize::try_from(number * 131 % 500).unwrap_or(0)]
}

/// A sealed log that wraps, and the range of its entries that no commit covers.
struct Old {
    log: LossyMemory,
    range: LogRange,
}

fn old_log() -> Held<Old> {
    let log = LossyMemory::new(log_file_bytes(PAGE_SIZE), &LossyCache::new());
    let start = LogPosition::new(3 * PAGE_SIZE - 2000);
    format_log(&log, GENERATION, PAGE_SIZE, start).map_err(violation)?;
    let mut writer = LogWriter::new(log.clone(), PAGE_SIZE).map_err(violation)?;
    let mut from = start;
    for number in 1..=COVERED + CARRIED {
        writer.append(TAG, number * 2, &payload(number)).map_err(violation)?;
        if number == COVERED {
            from = writer.tail();
            writer.free_before(from);
        }
    }
    let to = LogReader::new(&log, PAGE_SIZE).map_err(violation)?.seal().map_err(violation)?;
    Ok(Old { log, range: LogRange { from, to, after_sequence: Some(COVERED) } })
}

impl Old {
    /// Where a new log is made over what another try has left: a sound log of other entries.
    fn new_log(&self) -> Held<LossyMemory> {
        let log = LossyMemory::new(log_file_bytes(PAGE_SIZE), &LossyCache::new());
        let earlier = LogPosition::new(self.range.from.get() - 64);
        format_log(&log, GENERATION.next(), PAGE_SIZE, earlier).map_err(violation)?;
        let mut writer = LogWriter::new(log.clone(), PAGE_SIZE).map_err(violation)?;
        for number in 1..=20 {
            writer.append(TAG, number, &[1; 24]).map_err(violation)?;
        }
        Ok(log)
    }

    fn copy(&self, to: &LossyMemory) -> Held<bool> {
        let from = LogReader::new(&self.log, PAGE_SIZE).map_err(violation)?;
        match copy_log(&from, self.range, to, GENERATION.next()) {
            Ok(copied) => {
                let whole = (copied.end, copied.entries, copied.last_sequence, copied.stopped);
                let expected = (self.range.to, CARRIED, Some(COVERED + CARRIED), None);
                hold(whole == expected, || format!("{copied:?}"))?;
                Ok(true)
            }
            Err(error) => hold(!from_alive(to), || format!("{error:?}")).map(|()| false),
        }
    }

    /// A log that has a tail is whole: what lay there before, or the copy.
    fn check(&self, log: &LossyMemory) -> Held<bool> {
        let reader = LogReader::new(log, PAGE_SIZE).map_err(violation)?;
        let Ok(tail) = reader.tail() else { return Ok(false) };
        let (generation, base) = reader.header().map_err(violation)?;
        hold(generation == GENERATION.next(), || format!("log of generation {generation}"))?;
        let mut entries = reader.entries(base).map_err(violation)?;
        let is_copy = tail.position == self.range.to;
        hold(is_copy == (base == self.range.from), || format!("{base} to {tail:?}"))?;
        let mut number = if is_copy { COVERED } else { 0 };
        while let Some(entry) = entries.next_entry().map_err(violation)? {
            number += 1;
            let expected = if is_copy { payload(number) } else { vec![1; 24] };
            let found = (entry.sequence, entry.payload.to_vec());
            hold(found == (number, expected), || format!("entry {number}"))?;
        }
        hold(!is_copy || number == COVERED + CARRIED, || format!("the copy ends after entry {number}"))?;
        Ok(is_copy)
    }
}

/// Whether the owner of this memory's cache is alive.
fn from_alive(memory: &LossyMemory) -> bool {
    memory.fence().is_ok()
}

fn case(old: &Old, fresh: &LossyMemory, at: u64, choice: Choice) -> Held<u64> {
    let cache = LossyCache::new();
    let log = fresh.fork(&cache);
    cache.die_after(at);
    let done = old.copy(&log)?;
    let events = cache.events();
    cache.crash(&mut *choice.survivors());
    let log = log.through(&LossyCache::new());
    let whole = old.check(&log)?;
    hold(whole || !done, || "a finished copy does not outlive its maker".to_owned())?;
    hold(old.copy(&log)? && old.check(&log)?, || "not copied again".to_owned())?;
    go_on(&log)?;
    Ok(events)
}

/// The next generation's writer goes on behind the copy.
fn go_on(log: &LossyMemory) -> Held {
    let reader = LogReader::new(log, PAGE_SIZE).map_err(violation)?;
    let tail = reader.tail().map_err(violation)?.position;
    let sequence = COVERED + CARRIED;
    let mut writer = LogWriter::resume(log, PAGE_SIZE, tail, sequence).map_err(violation)?;
    writer.append(TAG, 0, b"next").map_err(violation)?;
    let range = LogRange { from: tail, to: writer.tail(), after_sequence: Some(sequence) };
    let entry = reader.entries_within(range).next_entry().map_err(violation)?.map(|entry| entry.sequence);
    hold(entry == Some(sequence + 1), || format!("next entry has number {entry:?}"))?;
    // What the log begins with is kept until a commit covers it.
    let filled = std::iter::repeat_with(|| writer.append(TAG, 0, &[0; 1000])).find_map(Result::err);
    hold(matches!(filled, Some(AppendError::Full { .. })), || format!("{filled:?}"))?;
    let (_, base) = reader.header().map_err(violation)?;
    let first = reader.entries(base).map_err(violation)?.next_entry().map_err(violation)?.map(|entry| entry.sequence);
    hold(first == Some(COVERED + 1), || format!("first entry has number {first:?}"))
}

/// Every crash point of a copy; returns how many cases there were.
pub(super) fn crashes() -> Held<usize> {
    let old = old_log()?;
    let fresh = old.new_log()?;
    let events = case(&old, &fresh, u64::MAX, Choice::None)?;
    let mut cases = 0;
    for at in 0..=events {
        for choice in choices(at) {
            case(&old, &fresh, at, choice)?;
            cases += 1;
        }
    }
    Ok(cases)
}

/// A bad entry, by a flipped bit or out of sequence, ends the copy before it.
pub(super) fn hostile() -> Held<usize> {
    let old = old_log()?;
    let reader = LogReader::new(&old.log, PAGE_SIZE).map_err(violation)?;
    let mut starts = Vec::new();
    let mut entries = reader.entries_within(old.range);
    while entries.next_entry().map_err(violation)?.is_some() {
        starts.push(entries.position());
    }
    // The fourth entry of the range begins where the third ends.
    let (bad, before) = (starts[2], COVERED + 3);
    let damaged = old.log.fork(&LossyCache::new());
    let at = Offset::new(PAGE_SIZE + (bad.get() + 20) % PAGE_SIZE);
    damaged.write(at, &[0xff]).map_err(violation)?;
    let skipping = old.log.fork(&LossyCache::new());
    format_log(&skipping, GENERATION, PAGE_SIZE, bad).map_err(violation)?;
    let mut writer = LogWriter::resume(&skipping, PAGE_SIZE, bad, before + 1).map_err(violation)?;
    writer.append(TAG, 0, b"one number is missing").map_err(violation)?;
    let beyond = LogRange { to: writer.tail(), ..old.range };
    for (log, range) in [(damaged, old.range), (skipping, beyond)] {
        let new = old.new_log()?;
        let from = LogReader::new(&log, PAGE_SIZE).map_err(violation)?;
        let copied = copy_log(&from, range, &new, GENERATION.next()).map_err(violation)?;
        let found = (copied.end, copied.entries, copied.last_sequence);
        hold(found == (bad, 3, Some(before)), || format!("{copied:?}"))?;
        let named = match copied.stopped {
            Some(ReadLogError::Entry { position, .. } | ReadLogError::Sequence { position, .. }) => Some(position),
            _ => None,
        };
        hold(named == Some(bad), || format!("{copied:?}"))?;
        let tail = LogReader::new(&new, PAGE_SIZE).map_err(violation)?.tail().map_err(violation)?;
        hold(tail.position == bad, || format!("{tail:?}"))?;
    }
    Ok(2)
}

#[test]
fn a_log_is_carried_over_whole_or_not_at_all() {
    let cases = crashes().unwrap();
    assert!(cases > 300, "{cases} cases");
}

#[test]
fn a_bad_entry_ends_the_copy() {
    hostile().unwrap();
}
