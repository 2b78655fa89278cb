//! The writer of a record log dies at any event of its appends.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::rc::Rc;

use super::survivors::{Choice, choices};
use super::world::{GENERATION, Held, hold, violation};
use crate::lossy::{LossyCache, LossyMemory};
use crate::numbers::{LogPosition, PAGE_SIZE};
use crate::record_log::{AppendError, LogReader, LogWriter, format_log, log_file_bytes};

const TAG: NonZeroU32 = NonZeroU32::new(9).unwrap();
const ENTRIES: u64 = 24;
/// Entries since the last commit: those before are freed.
const KEPT: usize = 3;

/// Sizes differ; three kept entries of up to 1100 bytes do not fill the ring, four may.
fn payload(number: u64) -> Vec<u8> {
    let length = usize::try_from(number * 397 % 1100).unwrap_or(0);
    vec![number.to_le_bytes()[0]; length]
}

struct Ends {
    /// Where entry `n` begins, for n from 1.
    starts: Vec<LogPosition>,
    released: u64,
}

/// Appends until done or dead. Each full log frees all but the newest entries, as a commit would.
fn append_all(writer: &mut LogWriter<LossyMemory>, cache: &LossyCache, free: bool) -> Held<Ends> {
    let mut ends = Ends { starts: Vec::new(), released: 0 };
    for number in 1..=ENTRIES {
        ends.starts.push(writer.tail());
        if free && ends.starts.len() > KEPT {
            writer.free_before(ends.starts[ends.starts.len() - KEPT]);
        }
        match writer.append(TAG, number * 2, &payload(number)) {
            Ok(_) => ends.released = number,
            Err(_) if cache.is_dead() => break,
            Err(AppendError::Full { .. }) if !free => break,
            Err(error) => return Err(violation(error)),
        }
    }
    Ok(ends)
}

fn check(log: &LossyMemory, ends: &Ends, free: bool) -> Held {
    let reader = LogReader::new(log.through(&LossyCache::new()), PAGE_SIZE).map_err(violation)?;
    let last = reader.seal().map_err(violation)?;
    // The commit that freed entries before the last attempt is what a reader starts from.
    let first = if free { ends.starts.len().saturating_sub(KEPT) } else { 0 };
    let from = ends.starts.get(first).copied().unwrap_or_default();
    let mut entries = reader.entries(from).map_err(violation)?;
    let mut number = u64::try_from(first).unwrap_or(0);
    while let Some(entry) = entries.next_entry().map_err(violation)? {
        number += 1;
        let expected = (number, number * 2, payload(number));
        let found = (entry.sequence, entry.exit_counter, entry.payload.to_vec());
        hold(found == expected, || format!("entry {number}"))?;
    }
    hold(entries.position() == last, || format!("ends before {last}"))?;
    let released = ends.released;
    hold(number >= released, || format!("{released} entries released, {number} there"))
}

fn case(fresh: &LossyMemory, at: u64, choice: Choice, free: bool, observed: bool) -> Held<u64> {
    let cache = LossyCache::new();
    let log = fresh.fork(&cache);
    let mut writer = LogWriter::new(log.clone(), PAGE_SIZE).map_err(violation)?;
    cache.die_after(at);
    let ends = append_all(&mut writer, &cache, free)?;
    let events = cache.events();
    // Somebody acts upon what can be seen while it lies in the writer's cache.
    let observer = LogReader::new(log.through(&LossyCache::new()), PAGE_SIZE).map_err(violation)?;
    let seen = if observed { Some(observer.durable_tail().map_err(violation)?.position) } else { None };
    cache.crash(&mut *choice.survivors());
    check(&log, &ends, free)?;
    let last =
        LogReader::new(log.through(&LossyCache::new()), PAGE_SIZE).map_err(violation)?.seal().map_err(violation)?;
    hold(seen.is_none_or(|seen| seen <= last), || format!("acted upon {seen:?}, the log ends at {last}"))?;
    Ok(events)
}

/// The writer is frozen at an event, its log is sealed (by one who dies right after, in some variants), and then it goes on: it must
/// find its log closed before it releases anything.
fn zombie_case(fresh: &LossyMemory, at: u64, sealer_dies: Option<Choice>) -> Held<u64> {
    let cache = LossyCache::new();
    let log = fresh.fork(&cache);
    let mut writer = LogWriter::new(log.clone(), PAGE_SIZE).map_err(violation)?;
    let sealed_at = Rc::new(Cell::new(None));
    let (note, at_freeze) = (Rc::clone(&sealed_at), log.clone());
    cache.interrupt_after(at, move || {
        let sealer = LossyCache::new();
        let reader = LogReader::new(at_freeze.through(&sealer), PAGE_SIZE);
        note.set(reader.ok().and_then(|reader| reader.seal().ok()));
        if let Some(choice) = sealer_dies {
            sealer.crash(&mut *choice.survivors());
        }
    });
    for number in 1..=KEPT as u64 {
        match writer.append(TAG, number * 2, &payload(number)) {
            Ok(_) => {}
            Err(AppendError::Sealed { .. }) => break,
            Err(error) => return Err(violation(error)),
        }
        let (released, sealed) = (writer.tail(), sealed_at.get());
        hold(sealed.is_none_or(|sealed| released <= sealed), || format!("released {released}, sealed at {sealed:?}"))?;
    }
    Ok(cache.events())
}

/// Every moment at which a log can be sealed under its writer; returns how many cases there were.
pub(super) fn zombies() -> Held<usize> {
    let fresh = LossyMemory::new(log_file_bytes(PAGE_SIZE), &LossyCache::new());
    format_log(&fresh, GENERATION, PAGE_SIZE, LogPosition::ZERO).map_err(violation)?;
    let events = zombie_case(&fresh, u64::MAX, None)?;
    let mut cases = 0;
    for at in 0..=events {
        for sealer_dies in choices(at).map(Some).chain([None]) {
            zombie_case(&fresh, at, sealer_dies)?;
            cases += 1;
        }
    }
    Ok(cases)
}

/// Every crash point of the appends; returns how many cases there were.
pub(super) fn crashes() -> Held<usize> {
    let fresh = LossyMemory::new(log_file_bytes(PAGE_SIZE), &LossyCache::new());
    format_log(&fresh, GENERATION, PAGE_SIZE, LogPosition::ZERO).map_err(violation)?;
    let mut cases = 0;
    for free in [true, false] {
        let events = case(&fresh, u64::MAX, Choice::None, free, false)?;
        for at in 0..=events {
            for choice in choices(at) {
                for observed in [false, true] {
                    case(&fresh, at, choice, free, observed)?;
                    cases += 1;
                }
            }
        }
    }
    Ok(cases)
}

#[test]
fn a_log_writer_may_die_at_any_event() {
    let cases = crashes().unwrap();
    assert!(cases > 1_000, "{cases} cases");
}

#[test]
fn a_log_that_is_sealed_under_its_writer_stays_so() {
    let cases = zombies().unwrap();
    assert!(cases > 100, "{cases} cases");
}
