//! The enumeration notices the loss of any one protection.

use std::panic::catch_unwind;

use super::world::Held;
use super::{apply, blob, commit, fresh, hostile, log, log_copy, race, torn};
use crate::planted::{PlantedBug, plant};

type Scenario = fn() -> Held<usize>;

/// Each protection, and the scenario that cannot do without it.
const NEEDED_BY: [(PlantedBug, Scenario); 75] = [
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
    (PlantedBug::ApplyPageFlush, apply::crashes),
    (PlantedBug::ApplyPageFence, apply::crashes),
    (PlantedBug::ApplyBlockFlush, apply::crashes),
    (PlantedBug::ApplyStateFlush, apply::crashes),
    (PlantedBug::ApplyStateFence, apply::crashes),
    (PlantedBug::ApplyStateInPlace, apply::crashes),
    (PlantedBug::ApplyConsoleDataFlush, apply::crashes),
    (PlantedBug::ApplyConsoleDataFence, apply::crashes),
    (PlantedBug::ApplyConsoleTailFlush, apply::crashes),
    (PlantedBug::ApplyConsoleTailFence, apply::crashes),
    (PlantedBug::ApplyConsoleNotIdempotent, apply::crashes),
    (PlantedBug::ConsoleReserveFlush, apply::crashes),
    (PlantedBug::ConsoleReserveFence, apply::crashes),
    (PlantedBug::RedoFlush, torn::crashes),
    (PlantedBug::RedoFence, torn::crashes),
    (PlantedBug::RedoHeaderFlush, torn::crashes),
    (PlantedBug::RedoHeaderFence, torn::crashes),
    (PlantedBug::RedoCrc, torn::crashes),
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
    (PlantedBug::LogCopyFlush, log_copy::crashes),
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
    (PlantedBug::WordCheck, hostile::all),
    (PlantedBug::LogCrc, hostile::all),
    (PlantedBug::StateCrc, hostile::all),
    (PlantedBug::BlobCrc, hostile::all),
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
    let all: Vec<_> = (0..=PlantedBug::LogCrc as usize).collect();
    assert_eq!(bugs, all, "LogCrc is the last variant; each has one scenario");
}

/// A flush or fence that cannot be switched off is one that nobody has shown to be needed.
#[test]
fn every_flush_and_fence_can_be_switched_off() {
    let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut dirs = vec![src];
    let mut direct = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let exempt = ["mem", "lossy", "crash_tests", "planted"].contains(&name);
            if path.is_dir() && !exempt {
                dirs.push(path);
            } else if path.is_file() && !exempt {
                let text = std::fs::read_to_string(&path).unwrap();
                let calls = |line: &&str| [".flush(", ".fence(", ".drain("].iter().any(|call| line.contains(call));
                direct.extend(text.lines().filter(calls).map(|line| format!("{name}: {line}")));
            }
        }
    }
    assert!(direct.is_empty(), "go through crate::planted instead: {direct:#?}");
}
