//! The simulator finds nothing, and would find something.

use super::cli::{Seeds, SimOptions, run_campaign};
use super::planted::{PlantedBug, plant};
use super::{EventFile, FaultProfile, Plan, SimConfig, Violation, run, run_plan, shrink};
use ft_protocol::planted as core;
use shared_mem::planted as pool;
use std::time::{SystemTime, UNIX_EPOCH};

/// Fresh seeds per profile in every test run.
const FRESH_SEEDS: u64 = 150;

fn config(seed: u64, faults: FaultProfile) -> SimConfig {
    SimConfig { seed, hosts: 3, vms: 1, faults }
}

fn options(seeds: Seeds, faults: FaultProfile) -> SimOptions {
    SimOptions {
        seeds,
        hosts: 3,
        vms: 1,
        faults,
        time_max: None,
        shrink: false,
        verify: false,
        replay: None,
        event_dir: std::env::temp_dir(),
        commit: "test".to_owned(),
        threads: None,
        live: false,
    }
}

/// Seeds of this very second: each test run sees others. What is printed shows them again.
#[test]
fn fresh_seeds_of_every_profile_find_nothing() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is behind 1970").as_secs();
    for profile in FaultProfile::ALL {
        let first = now << 20;
        let seeds = Seeds::Range(first, first + FRESH_SEEDS);
        let mut findings = Vec::new();
        let result = run_campaign(&options(seeds, profile), &mut findings).expect("event files can be written");
        println!(
            "{profile}: seeds {first}..{}, {:.0} seeds a minute, {} events, {} epochs, {} generations, {} faults",
            first + FRESH_SEEDS,
            result.seeds_per_minute,
            result.events,
            result.epochs,
            result.generations,
            result.faults
        );
        assert!(result.is_clean(), "{}", String::from_utf8_lossy(&findings));
        assert_eq!(result.seeds, FRESH_SEEDS);
    }
}

#[test]
fn clusters_of_other_sizes_find_nothing() {
    for (hosts, vms) in [(1, 1), (2, 1), (2, 2), (5, 3), (16, 8)] {
        for seed in 0..12 {
            let outcome = run(&SimConfig { seed, hosts, vms, faults: FaultProfile::Swarm });
            assert_eq!(outcome.violation, None, "seed {seed}, {hosts} hosts, {vms} VMs");
        }
    }
}

/// Runs really get to what they are about: takeovers, many epochs, faults of all kinds.
#[test]
fn runs_are_eventful() {
    let outcomes: Vec<_> = (0..100).map(|seed| run(&config(seed, FaultProfile::Swarm))).collect();
    let sum = |of: fn(&super::Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    assert!(sum(|outcome| outcome.generations) > 150, "hardly a takeover");
    assert!(sum(|outcome| outcome.epochs) > 3_000, "hardly an epoch");
    assert!(sum(|outcome| u64::from(outcome.faults)) > 300, "hardly a fault");
    let calm = run(&config(1, FaultProfile::None));
    assert_eq!((calm.generations, calm.faults), (1, 0));
}

#[test]
fn a_seed_is_one_run() {
    for seed in 0..60 {
        let config = config(seed, FaultProfile::Swarm);
        assert_eq!(run(&config), run(&config));
    }
    assert_ne!(run(&config(1, FaultProfile::Swarm)).hash, run(&config(2, FaultProfile::Swarm)).hash);
}

/// A bug in the cores, in the simulator's drivers or in the pool.
#[derive(Clone, Copy, Debug)]
enum Bug {
    Core(core::PlantedBug),
    Driver(PlantedBug),
    Pool(pool::PlantedBug),
}

/// Plants a bug as long as it lives.
struct Planted;

impl Planted {
    fn new(bug: Bug) -> Self {
        match bug {
            Bug::Core(bug) => core::plant(Some(bug)),
            Bug::Driver(bug) => plant(Some(bug)),
            Bug::Pool(bug) => pool::plant(Some(bug)),
        }
        Self
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        core::plant(None);
        plant(None);
        pool::plant(None);
    }
}

fn first_finding(bug: Bug, profile: FaultProfile, seeds: u64) -> Option<(u64, Violation)> {
    let _planted = Planted::new(bug);
    (0..seeds).find_map(|seed| Some((seed, run(&config(seed, profile)).violation?)))
}

/// Every planted bug, the profile that finds it, and within how many seeds it does.
fn planted_bugs() -> Vec<(Bug, FaultProfile, u64)> {
    use FaultProfile::{Client, Crash, Hang, None as Calm, Planned, Pool as PoolFaults, Swarm};
    use PlantedBug as D;
    use core::PlantedBug as C;
    use pool::PlantedBug as P;
    let cores = [
        (C::GateOpensEarly, Swarm, 5),
        (C::FencedReleases, Swarm, 200),
        (C::DeadHostFit, Swarm, 100),
        (C::SamePlace, Swarm, 100),
        (C::TimeoutTrusted, Swarm, 20),
        (C::PromoteUndrained, Swarm, 50),
        (C::GenerationKept, Swarm, 50),
        (C::PromoteUnpersisted, Swarm, 50),
        (C::StallIgnored, Hang, 50),
        (C::IdleAccused, Calm, 50),
        (C::EndUnknown, Client, 2_000),
        (C::FailedPromotionForgotten, Planned, 3_000),
        (C::HostAwaited, Planned, 1_500),
        (C::DomainsIgnored, Calm, 50),
        (C::FormatIgnored, Planned, 20),
        (C::GenerationsReused, Planned, 50),
        (C::DeletedUnsealed, Planned, 200),
        (C::FailbackBlind, Crash, 200),
        (C::SwitchoverForgotten, Planned, 500),
    ];
    let drivers = [
        (D::ReleaseBeforePublish, Swarm, 5),
        (D::ZombieReleases, Swarm, 100),
        (D::ReleaseReversed, Swarm, 5),
        (D::CheckThenStore, Swarm, 100),
        (D::IgnoreRefusal, Swarm, 50),
        (D::ForgetDevicePages, Swarm, 5),
        (D::ClearDirtyLate, Swarm, 5),
        (D::DropPendingConsole, Swarm, 5),
        (D::StaleRegisters, Swarm, 5),
        (D::ForgetEnd, Swarm, 5),
        (D::ReuseSlotEarly, Swarm, 50),
        (D::ForgetWake, Swarm, 5),
        (D::ReadyTooEarly, Swarm, 5),
        (D::ForgetStandby, Swarm, 5),
        (D::SealNothing, Swarm, 20),
        (D::SealLate, Swarm, 100),
        (D::SealAnswersApplied, Swarm, 50),
        (D::PromoteBeforeDrained, Swarm, 50),
        (D::KeepGeneration, Swarm, 20),
        (D::PersistAfterPromotion, Swarm, 50),
        (D::ForgetPersist, Swarm, 5),
        (D::TwoTakeovers, Swarm, 5),
        (D::BelieveDoorbell, Swarm, 50),
        (D::ForgetFreed, Swarm, 100),
        (D::OverrunReaders, Client, 60),
        (D::ForgetJournal, Swarm, 50),
        (D::GrantImageWrite, Swarm, 5),
        (D::GrantJournalToStandby, Planned, 5),
    ];
    let pool = [
        (P::RecordBodyFlush, Swarm, 5),
        (P::RecordHeaderFlush, Swarm, 5),
        (P::PublishFlush, Swarm, 5),
        (P::PublishFence, Swarm, 5),
        (P::PublishUnconditional, Swarm, 50),
        (P::SealFlush, Swarm, 500),
        (P::RecordFence, Crash, 100),
        (P::RecordBodyCrc, PoolFaults, 100),
        (P::ApplyPageFlush, Swarm, 50),
        (P::ApplyStateFlush, Swarm, 50),
        (P::ApplyStateInPlace, Crash, 1_000),
        (P::ApplyConsoleDataFlush, Crash, 50),
        (P::ApplyConsoleTailFlush, Swarm, 50),
        (P::ApplyConsoleNotIdempotent, Crash, 1_000),
        (P::AppliedFirst, Swarm, 50),
        (P::AppliedFlush, Swarm, 5),
        (P::GenerationFlush, Swarm, 100),
        (P::RedoIgnored, PoolFaults, 2_000),
        (P::RedoForgottenAtSeal, PoolFaults, 2_000),
        (P::BegunForgottenAtSeal, PoolFaults, 2_000),
        (P::BegunPastEnd, PoolFaults, 2_000),
        (P::BlobDataFlush, Swarm, 50),
        (P::BlobInPlace, Crash, 500),
    ];
    let cores = cores.map(|(bug, profile, seeds)| (Bug::Core(bug), profile, seeds));
    let drivers = drivers.map(|(bug, profile, seeds)| (Bug::Driver(bug), profile, seeds));
    let pool = pool.map(|(bug, profile, seeds)| (Bug::Pool(bug), profile, seeds));
    cores.into_iter().chain(drivers).chain(pool).collect()
}

#[test]
fn every_planted_bug_is_found_within_its_number_of_seeds() {
    let bugs = planted_bugs();
    assert!(bugs.len() >= 50);
    let mut missed = Vec::new();
    for (bug, profile, seeds) in bugs {
        match first_finding(bug, profile, seeds) {
            Some((seed, violation)) => println!("{bug:?}: {profile}, {} of {seeds} seeds: {violation}", seed + 1),
            None => missed.push((bug, profile, seeds)),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn a_failing_run_is_recorded_replayed_and_minimised() {
    let bug = Bug::Driver(PlantedBug::SealAnswersApplied);
    let (seed, violation) = first_finding(bug, FaultProfile::Swarm, 50).expect("a planted bug is found");
    let _planted = Planted::new(bug);
    let directory = tempfile::tempdir().expect("a directory can be made");
    let mut wanted = options(Seeds::Range(seed, seed + 1), FaultProfile::Swarm);
    // A planted bug is planted on this thread only, so the campaign's workers do not see it: replay runs here.
    let plan = Plan::draw(seed, 3, 1, FaultProfile::Swarm);
    let small = shrink(&config(seed, FaultProfile::Swarm), &plan, &violation);
    assert!(small.faults.len() <= plan.faults.len());
    let found = run_plan(&config(seed, FaultProfile::Swarm), &small).violation.expect("it still fails");
    assert!(found.is_like(&violation));
    for left_out in 0..small.faults.len() {
        let mut fewer = small.clone();
        fewer.faults.remove(left_out);
        let found = run_plan(&config(seed, FaultProfile::Swarm), &fewer).violation;
        assert!(!found.is_some_and(|found| found.is_like(&violation)), "fault {left_out} is not needed");
    }
    let path = directory.path().join("run.jsonl");
    let file = EventFile {
        config: config(seed, FaultProfile::Swarm),
        plan,
        commit: "test".to_owned(),
        violation: Some(violation.to_string()),
        story: vec!["a line".to_owned()],
    };
    file.write(&path).expect("the file can be written");
    assert_eq!(EventFile::read(&path).expect("the file can be read"), file);
    directory.path().clone_into(&mut wanted.event_dir);
    wanted.replay = Some(path);
    wanted.shrink = true;
    wanted.verify = true;
    let result = run_campaign(&wanted, &mut Vec::new()).expect("the file can be replayed");
    assert_eq!(result.failures.len(), 1);
    assert_eq!(result.failures[0].faults_needed, Some(small.faults.len()));
    assert!(!result.story.is_empty() && result.unstable.is_empty());
    assert!(EventFile::read(&result.failures[0].event_file).is_ok());
}

#[test]
fn bad_event_files_and_options_are_refused_in_one_line() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = directory.path().join("bad.jsonl");
    for text in ["", "not json\n", "{\"fault\":1}\n", "{\"violation\":\"first\"}\n"] {
        std::fs::write(&path, text).expect("the file can be written");
        let error = EventFile::read(&path).expect_err("it is no event file");
        assert!(!error.to_string().contains('\n'));
    }
    let mut wanted = options(Seeds::Range(0, 1), FaultProfile::None);
    wanted.hosts = 0;
    assert!(run_campaign(&wanted, &mut Vec::new()).is_err());
    assert!("5..5".parse::<Seeds>().is_err() && "x".parse::<Seeds>().is_err());
    assert_eq!("3..9".parse(), Ok(Seeds::Range(3, 9)));
}
