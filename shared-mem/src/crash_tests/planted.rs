//! The enumeration notices the loss of any one protection.

use std::panic::catch_unwind;

use super::world::Held;
use super::{apply, blob, commit, flips, fresh, hostile, log, log_copy, race, torn};
use crate::planted::{PlantedBug, plant};

type Scenario = fn() -> Held<usize>;

/// Each protection, and the scenario that cannot do without it.
const NEEDED_BY: [(PlantedBug, Scenario); 101] = [
    (PlantedBug::RecordBodyFlush, commit::crashes),
    (PlantedBug::RecordHeaderFlush, commit::crashes),
    (PlantedBug::RecordFence, commit::crashes),
    (PlantedBug::RecordDrain, commit::crashes),
    (PlantedBug::PublishFlush, commit::crashes),
    (PlantedBug::PublishFence, commit::crashes),
    (PlantedBug::ObserveFlush, commit::crashes),
    (PlantedBug::ObserveFence, commit::crashes),
    (PlantedBug::SlotReuseCheck, commit::crashes),
    (PlantedBug::PublishUnconditional, commit::zombies),
    (PlantedBug::SealFlush, commit::zombies),
    (PlantedBug::SealFence, commit::zombies),
    (PlantedBug::OldSealFlush, fresh::crashes),
    (PlantedBug::OldSealFence, fresh::crashes),
    (PlantedBug::OldSealCrc, flips::old_seal),
    (PlantedBug::ApplyPageFlush, apply::crashes),
    (PlantedBug::ApplyPageFence, apply::crashes),
    (PlantedBug::ApplyBlockFlush, apply::crashes),
    (PlantedBug::ApplyBlockFence, apply::crashes),
    (PlantedBug::ApplyStateFlush, apply::crashes),
    (PlantedBug::ApplyStateFence, apply::crashes),
    (PlantedBug::ApplyStateInPlace, apply::crashes),
    (PlantedBug::ApplyConsoleDataFlush, apply::crashes),
    (PlantedBug::ApplyConsoleDataFence, apply::crashes),
    (PlantedBug::ApplyConsoleTailFlush, apply::crashes),
    (PlantedBug::ApplyConsoleTailFence, apply::crashes),
    (PlantedBug::ApplyConsoleTailFirst, apply::crashes),
    (PlantedBug::ApplyConsoleNotIdempotent, apply::crashes),
    (PlantedBug::ConsoleReserveFlush, apply::crashes),
    (PlantedBug::ConsoleReserveFence, apply::crashes),
    (PlantedBug::RedoFlush, torn::crashes),
    (PlantedBug::RedoFence, torn::crashes),
    (PlantedBug::RedoHeaderFlush, torn::crashes),
    (PlantedBug::RedoHeaderFence, torn::crashes),
    (PlantedBug::RedoCrc, torn::crashes),
    (PlantedBug::RedoHeaderCrc, flips::redo_header),
    (PlantedBug::RedoHeaderFirst, torn::crashes),
    (PlantedBug::RedoAfterPages, torn::crashes),
    (PlantedBug::RedoIgnored, torn::crashes),
    (PlantedBug::RedoOtherRecord, torn::crashes),
    (PlantedBug::RedoForgottenAtSeal, torn::crashes),
    (PlantedBug::BegunForgottenAtSeal, race::races),
    (PlantedBug::BegunPastEnd, race::races),
    (PlantedBug::AppliedFirst, apply::crashes),
    (PlantedBug::AppliedFlush, apply::crashes),
    (PlantedBug::AppliedCopyFlush, fresh::crashes),
    (PlantedBug::AppliedFence, apply::crashes),
    (PlantedBug::BlobDataFlush, blob::crashes),
    (PlantedBug::BlobDataFence, blob::crashes),
    (PlantedBug::BlobSelectorFlush, blob::crashes),
    (PlantedBug::BlobSelectorFence, blob::crashes),
    (PlantedBug::BlobInPlace, blob::crashes),
    (PlantedBug::BlobSelectorFirst, blob::crashes),
    (PlantedBug::LogEntryFlush, log::crashes),
    (PlantedBug::LogEntryFence, log::crashes),
    (PlantedBug::LogTailFlush, log::crashes),
    (PlantedBug::LogTailFence, log::crashes),
    (PlantedBug::LogTailFirst, log::crashes),
    (PlantedBug::LogFullCheck, log::crashes),
    (PlantedBug::LogObserveFlush, log::crashes),
    (PlantedBug::LogObserveFence, log::crashes),
    (PlantedBug::LogSealFlush, log::zombies),
    (PlantedBug::LogSealFence, log::zombies),
    (PlantedBug::LogCopyClearFlush, log_copy::crashes),
    (PlantedBug::LogCopyClearFence, log_copy::crashes),
    (PlantedBug::LogCopyTailFirst, log_copy::crashes),
    (PlantedBug::LogCopyEntryFlush, log_copy::crashes),
    (PlantedBug::LogCopyHeaderFlush, log_copy::crashes),
    (PlantedBug::LogCopyFence, log_copy::crashes),
    (PlantedBug::LogSequenceCheck, log_copy::hostile),
    (PlantedBug::FormatFlush, fresh::crashes),
    (PlantedBug::FormatFence, fresh::crashes),
    (PlantedBug::GenerationFlush, fresh::crashes),
    (PlantedBug::GenerationCopyFlush, fresh::crashes),
    (PlantedBug::GenerationFence, fresh::crashes),
    (PlantedBug::RecordEpochCheck, hostile::all),
    (PlantedBug::RecordGenerationCheck, hostile::all),
    (PlantedBug::RecordHeaderCrc, hostile::all),
    (PlantedBug::RecordBodyCrc, hostile::all),
    (PlantedBug::RecordIndexCheck, hostile::all),
    (PlantedBug::RecordBlockCheck, hostile::all),
    (PlantedBug::CommitWordCrc, flips::commit_word),
    (PlantedBug::LogCrc, hostile::all),
    (PlantedBug::StateCrc, hostile::all),
    (PlantedBug::BlobCrc, hostile::all),
    (PlantedBug::JournalHeaderCrc, flips::journal_header),
    (PlantedBug::LogHeaderCrc, flips::log_header),
    (PlantedBug::LogTailCrc, flips::log_tail),
    (PlantedBug::StateHeaderCrc, flips::state_header),
    (PlantedBug::BlobHeaderCrc, flips::blob_header),
    (PlantedBug::BlobSelectorCrc, flips::blob_selector),
    (PlantedBug::BootHeaderCrc, flips::boot_header),
    (PlantedBug::BootCrc, flips::boot_body),
    (PlantedBug::ConsoleHeaderCrc, flips::console_header),
    (PlantedBug::ConsoleWordCrc, flips::console_words),
    (PlantedBug::ControlHeaderCrc, flips::control_header),
    (PlantedBug::ControlWordCrc, flips::control_words),
    (PlantedBug::DirectoryHeaderCrc, flips::directory_header),
    (PlantedBug::SuperblockCrc, flips::superblock),
    (PlantedBug::DeviceHeadCrc, flips::device_head),
    (PlantedBug::HeartbeatCrc, flips::heartbeat),
];

#[test]
fn each_protection_is_needed() {
    let unnoticed: Vec<PlantedBug> = NEEDED_BY
        .into_iter()
        .filter(|(bug, scenario)| {
            plant(Some(*bug));
            // An assertion that a planted bug runs into is as good as a violation.
            let noticed = catch_unwind(scenario).map_or(true, |held| held.is_err());
            plant(None);
            !noticed
        })
        .map(|(bug, _)| bug)
        .collect();
    assert!(unnoticed.is_empty(), "nobody misses {unnoticed:?}");
}

#[test]
fn the_list_is_complete() {
    let mut bugs: Vec<_> = NEEDED_BY.iter().map(|(bug, _)| *bug as usize).collect();
    bugs.sort_unstable();
    let all: Vec<_> = (0..=PlantedBug::HeartbeatCrc as usize).collect();
    assert_eq!(bugs, all, "HeartbeatCrc is the last variant; each has one scenario");
}

/// The files of this crate's sources but those named, each with its name and its lines.
fn sources(exempt: &[&str]) -> Vec<(String, Vec<String>)> {
    let mut dirs = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut found = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if exempt.contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                dirs.push(path);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((name, text.lines().map(str::to_owned).collect()));
            }
        }
    }
    found
}

/// The lines that hold one of these texts.
fn lines_with(texts: &[&str], exempt: &[&str]) -> Vec<String> {
    let holds = |line: &&String| texts.iter().any(|text| line.contains(text));
    let of_file = |(name, lines): (String, Vec<String>)| -> Vec<String> {
        lines.iter().filter(holds).map(|line| format!("{name}: {line}")).collect()
    };
    sources(exempt).into_iter().flat_map(of_file).collect()
}

/// A flush or fence that cannot be switched off is one that nobody has shown to be needed.
#[test]
fn every_flush_and_fence_can_be_switched_off() {
    let calls = [".flush(", ".fence(", ".drain("];
    let direct = lines_with(&calls, &["mem", "lossy", "crash_tests", "planted"]);
    assert!(direct.is_empty(), "go through crate::planted instead: {direct:#?}");
}

/// The same for each CRC that is checked.
#[test]
fn every_crc_can_be_switched_off() {
    let checks = ["crc32fast", "== computed", "!= computed", "computed ==", "computed !="];
    let direct = lines_with(&checks, &["crc", "crash_tests"]);
    assert!(direct.is_empty(), "go through crate::crc instead: {direct:#?}");
}

/// That one flush is needed says nothing of another one.
#[test]
fn no_two_flushes_or_fences_share_a_switch() {
    let files = sources(&["crash_tests", "planted"]);
    let words: Vec<&str> = files
        .iter()
        .flat_map(|(_, lines)| lines.iter().flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric())))
        .collect();
    let names = NEEDED_BY.iter().map(|(bug, _)| format!("{bug:?}"));
    // What is laid out has a switch for each place: fresh::STRUCTURES.
    let own = names.filter(|name| !name.starts_with("Format"));
    let of_flushes = own.filter(|name| ["Flush", "Fence", "Drain"].iter().any(|end| name.ends_with(end)));
    let shared: Vec<_> = of_flushes.filter(|name| words.iter().filter(|word| *word == name).count() != 1).collect();
    assert!(shared.is_empty(), "used at several places, or at none: {shared:?}");
}
