//! A record log: its tail, and the entries in it.

use super::Findings;
use super::report::{JournalRole, LogReport};
use super::vm::map;
use shared_mem::mem::PoolRead;
use shared_mem::record_log::LogRange;
use shared_mem::{Access, Generation, LogReader, Mapping, Offset, ReadOnly, VmPartition};
use std::sync::atomic::Ordering;

/// Where the tail lies.
const TAIL_AT: Offset = Offset::new(64);

pub(super) fn report(
    partition: &VmPartition,
    generation: Generation,
    role: JournalRole,
    findings: &mut Findings,
) -> LogReport {
    let mut report =
        LogReport { generation: generation.get(), role, base: None, tail: None, sealed: None, entries: None };
    let file = format!("log.{generation}");
    let meaning = "inputs since the last commit are lost";
    let memory = match map(partition.log(generation, Access::ReadOnly)) {
        Ok(memory) => memory,
        Err(error) => {
            findings.damage(&file, crate::chain(&error), meaning);
            return report;
        }
    };
    if role == JournalRole::Reserved && memory.load_u64(TAIL_AT, Ordering::Acquire) == Ok(0) {
        return report;
    }
    let reader = match LogReader::new(memory, partition.geometry().log_bytes) {
        Ok(reader) => reader,
        Err(error) => {
            findings.damage(&file, crate::chain(&error), meaning);
            return report;
        }
    };
    match reader.header() {
        Ok((_, base)) => report.base = Some(base.get()),
        Err(error) => findings.damage(&file, crate::chain(&error), "nobody can go on with it after a takeover"),
    }
    match reader.tail() {
        Ok(tail) => {
            report.tail = Some(tail.position.get());
            report.sealed = Some(tail.sealed);
        }
        Err(error) => findings.damage(&file, crate::chain(&error), "nobody can append to it: its generation ends"),
    }
    if role == JournalRole::Reigning {
        report.entries = entries(&reader, &report, &file, findings);
    }
    report
}

/// Whether a generation's log has entries, or might have had: one that cannot be read is a finding of its own.
pub(super) fn is_used(partition: &VmPartition, generation: Generation) -> bool {
    let Ok(memory) = map(partition.log(generation, Access::ReadOnly)) else { return true };
    let Ok(reader) = LogReader::new(memory, partition.geometry().log_bytes) else { return true };
    match (reader.header(), reader.tail()) {
        (Ok((_, base)), Ok(tail)) => tail.position != base,
        _ => true,
    }
}

/// Counts the entries of a log that has not come round its ring yet. What a log has overwritten is covered by a commit,
/// and only the guest's machine state says where the rest begins.
fn entries(
    reader: &LogReader<Mapping<ReadOnly>>,
    report: &LogReport,
    file: &str,
    findings: &mut Findings,
) -> Option<u64> {
    let (base, tail) = (report.base?, report.tail?);
    if tail.checked_sub(base)? > reader.ring_bytes() {
        return None;
    }
    let position = shared_mem::LogPosition::new;
    let mut walk = reader.entries_within(LogRange { from: position(base), to: position(tail), after_sequence: None });
    let mut count = 0;
    loop {
        match walk.next_entry() {
            Ok(Some(_)) => count += 1,
            Ok(None) => return Some(count),
            Err(error) => {
                let meaning = "if no commit covers it, it and the inputs behind it are lost";
                findings.damage(file, crate::chain(&error), meaning);
                return Some(count);
            }
        }
    }
}
