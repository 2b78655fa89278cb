//! Bytes flip in the journals and record logs of a live pool. Whatever they hit, the guest says what it should, in the end.

use crate::chance::{Chance, rounds};
use crate::golden::Golden;
use crate::run::{Plan, Run};
use crate::support::kvm;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const STEPS: u64 = 150_000_000;
pub(crate) const SLOTS_AT: u64 = 4096;
const RING_AT: u64 = 4096;
/// Where most entries of the guest's log come to lie.
const ENTRIES_BYTES: u64 = 32 << 10;
/// Most of the records that the guest makes are shorter.
const RECORD_BYTES: u64 = 400 << 10;

/// The files of the guest whose names begin so.
pub(crate) fn files(pool: &Path, prefix: &str) -> Vec<PathBuf> {
    let is_one = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    let entries = fs::read_dir(pool.join("vm-0")).map(|entries| entries.flatten().map(|entry| entry.path()));
    entries.map(|paths| paths.filter(is_one).collect()).unwrap_or_default()
}

/// Flips one bit, or all bits of a byte, somewhere in a journal. Gives the place.
pub(crate) fn flip(run: &Run, chance: &mut Chance) -> Option<String> {
    let journal = run.golden.spec("guest").journal;
    let journals = files(&run.place.pool(), "journal.");
    if journals.is_empty() {
        return None;
    }
    let path = chance.pick(&journals);
    let slot = SLOTS_AT + chance.below(u64::from(journal.slots)) * journal.slot_bytes;
    let at = match chance.below(8) {
        // Header and commit word.
        0 => chance.below(128),
        1 => 64 + chance.below(8),
        // A record's header.
        2 => slot + chance.below(64),
        _ => slot + chance.below(RECORD_BYTES),
    };
    flip_at(path, at, chance)
}

/// The same somewhere in a record log.
pub(crate) fn flip_log(run: &Run, chance: &mut Chance) -> Option<String> {
    let logs = files(&run.place.pool(), "log.");
    if logs.is_empty() {
        return None;
    }
    let at = match chance.below(8) {
        // Header and tail.
        0 => chance.below(128),
        1 => 64 + chance.below(8),
        _ => RING_AT + chance.below(ENTRIES_BYTES),
    };
    let path = chance.pick(&logs);
    flip_at(path, at, chance)
}

fn flip_at(path: &Path, at: u64, chance: &mut Chance) -> Option<String> {
    // Gone or cut off meanwhile: nothing to flip.
    let file = File::options().read(true).write(true).open(path).ok()?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).ok()?;
    let mask = if chance.below(2) == 0 { 1 << chance.below(8) } else { 0xff };
    file.write_all_at(&[byte[0] ^ mask], at).ok()?;
    Some(format!("{} at {at} ^ {mask:#x}", path.file_name()?.to_string_lossy()))
}

#[test]
fn flipped_bytes_in_live_journals_cost_a_takeover_at_most() {
    flips("flips in journals", &Golden::torture(STEPS), flip);
}

#[test]
fn flipped_bytes_in_live_record_logs_cost_a_takeover_at_most() {
    flips("flips in record logs", &Golden::torture(STEPS).recorded(), flip_log);
}

fn flips(what: &str, golden: &Golden, flip: impl Fn(&Run, &mut Chance) -> Option<String>) {
    let Some(_machine) = kvm() else { return };
    let mut chance = Chance::new(what);
    let (mut flips, mut takeovers) = (0, 0);
    for _ in 0..rounds(2) {
        let hosts = [("a", None), ("b", None), ("c", None)];
        let mut run = Run::start(golden, &Plan { hosts: &hosts, unsound: true, ..Plan::default() });
        let mut places = Vec::new();
        while !run.has_ended() {
            run.steps_for(Duration::from_millis(1 + chance.below(30)));
            // Faults come in bursts, too.
            for _ in 0..=chance.below(3) {
                places.extend(flip(&run, &mut chance));
            }
        }
        flips += places.len();
        takeovers += run.finish();
    }
    eprintln!("{what}: {flips} flips, {takeovers} takeovers");
    assert!(flips > 20, "nothing was flipped");
}
