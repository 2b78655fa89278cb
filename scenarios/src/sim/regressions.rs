//! What the simulator has found once.
//!
//! Seeds do not name the same run for ever (a new kind of fault shifts what is drawn), so each finding is kept as its
//! faults: over many seeds' weather (here), or as the event file of the one run (`scenarios/regressions`), which says its
//! weather, too, and in its `violation` line what it led to before. The seed that found it is named for the record.

use super::fault::{Fault, FaultEvent, Lines, Point, Target, When};
use super::plan::{Plan, Salted};
use super::planted::plant;
use super::{EventFile, FaultProfile, SimConfig, Violation, run_plan};
use ft_protocol::planted as core;
use shared_mem::planted as pool;
use std::path::{Path, PathBuf};

/// Runs `faults` in the weather of many seeds; returns the first violation.
fn first_violation(faults: impl Fn(u32) -> Vec<FaultEvent>) -> Option<(u64, Violation)> {
    (0..120).find_map(|seed| {
        let config = SimConfig { seed, hosts: 3, vms: 1, faults: FaultProfile::None };
        let mut plan = Plan::draw(seed, config.hosts, config.vms, config.faults);
        plan.faults = faults(u32::try_from(seed % 12).unwrap_or(0) + 1);
        Some((seed, run_plan(&config, &plan).violation?))
    })
}

fn corrupt(step: Point, nth: u32, what: Salted, bits: u64) -> FaultEvent {
    FaultEvent { when: When::After { step, nth }, fault: Fault::Corrupt { vm: 0, salt: what.salt(bits) } }
}

fn with_pool_bug(bug: pool::PlantedBug, run: impl FnOnce() -> Option<(u64, Violation)>) -> Option<(u64, Violation)> {
    plant(None);
    pool::plant(Some(bug));
    let found = run();
    pool::plant(None);
    found
}

/// Pool profile, seed 537 at 61e27a8: commit word and record were damaged while the applier had its copy in hand. The seal
/// found no whole record and ended before that epoch, which was applied all the same.
#[test]
fn word_and_record_damaged_while_a_job_holds_the_record() {
    for step in [Point::RecordLoaded, Point::RecordBegun] {
        let run = || {
            first_violation(|nth| {
                let bits = u64::from(nth) << 36;
                vec![corrupt(step, nth, Salted::Record, bits), corrupt(step, nth, Salted::Word, bits)]
            })
        };
        assert_eq!(run(), None, "damaged at {step:?}");
        let bug = match step {
            Point::RecordLoaded => pool::PlantedBug::BegunPastEnd,
            _ => pool::PlantedBug::BegunForgottenAtSeal,
        };
        assert!(with_pool_bug(bug, run).is_some(), "{bug:?} at {step:?} is not found");
    }
}

/// Swarm profile, seed 3359 at 290c3c0: the controller died in the middle of applying a record, and the record was damaged
/// before the next controller came: the image stayed torn.
#[test]
fn record_damaged_while_the_controller_is_dead_in_the_middle_of_it() {
    let run = |word: bool| {
        first_violation(|nth| {
            let die = Fault::DieInPool {
                who: Target::Controller,
                accesses: 40 * u64::from(nth),
                lines: Lines::Kept,
                restart_us: 4_000,
            };
            let when = When::After { step: Point::RecordBegun, nth };
            let mut faults = vec![corrupt(Point::RecordBegun, nth, Salted::Record, u64::from(nth) << 36)];
            if word {
                faults.push(corrupt(Point::RecordBegun, nth, Salted::Word, u64::from(nth) << 36));
            }
            faults.push(FaultEvent { when, fault: die });
            faults
        })
    };
    assert_eq!((run(false), run(true)), (None, None));
    assert!(with_pool_bug(pool::PlantedBug::RedoIgnored, || run(false)).is_some());
    assert!(with_pool_bug(pool::PlantedBug::RedoForgottenAtSeal, || run(true)).is_some());
}

/// Pool profile, seeds 3530 and 8017: the pool was full when a generation was to be opened, and its primary-to-be was lost
/// before that failed: the seal of a generation without a journal was never answered.
#[test]
fn a_generation_that_was_never_made_is_sealed() {
    let found = first_violation(|nth| {
        let cut = |who, accesses, for_us| Fault::CutPool { who, accesses, for_us };
        let after = |step, fault| FaultEvent { when: When::After { step, nth }, fault };
        vec![
            after(Point::RecordPublished, cut(Target::Secondary(0), 2, 60_000)),
            after(Point::RecordPublished, Fault::FillPool { for_us: 90_000 }),
            after(Point::RecordPublished, cut(Target::Primary(0), 1, 42_000)),
        ]
    });
    assert_eq!(found, None);
}

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let entries = std::fs::read_dir(directory).expect("the directory is part of the crate");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    files.sort();
    files
}

fn read(path: &Path) -> EventFile {
    EventFile::read(path).unwrap_or_else(|error| {
        panic!("{error}: {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default())
    })
}

#[test]
fn what_was_found_once_is_not_found_again() {
    let files = files();
    assert!(files.len() >= 20, "regressions are missing");
    for path in files {
        let name = path.display();
        let file = read(&path);
        assert!(file.violation.is_some(), "{name} does not say what was found");
        let outcome = run_plan(&file.config, &file.plan);
        assert_eq!(outcome.violation, None, "{name}");
        assert!(u64::from(outcome.faults) > 0, "{name}: no fault came due");
    }
}

/// The files still are what they were kept for: with its bug planted again, each fails again.
#[test]
fn what_was_found_once_is_found_again_with_its_bug() {
    let bugs = [
        ("the-end-waits-behind-a-full-console", core::PlantedBug::EndUnknown),
        ("a-winner-that-has-lost-its-place", core::PlantedBug::WinnerUnseated),
        ("room-in-the-console-while-log-and-record-are-looked-at", core::PlantedBug::FloorsMixed),
        ("switchover-taken-up-finds-another-secondary", core::PlantedBug::SwitchoverForgotten),
    ];
    for (name, bug) in bugs {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
        let file = read(&directory.join(format!("{name}.jsonl")));
        core::plant(Some(bug));
        let outcome = run_plan(&file.config, &file.plan);
        core::plant(None);
        assert!(outcome.violation.is_some(), "{name}: {bug:?} is not found");
    }
}
