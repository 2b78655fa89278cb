//! The simulator finds nothing, and would find something.

use super::cli::{Seeds, SimOptions, run_campaign};
use super::fault::{Fault, FaultEvent, Lines, Point, Target, Ways, When};
use super::planted::PlantedBug;
use super::planted_tests::{Bug, Planted, first_finding};
use super::{EventFile, FaultProfile, Plan, SimConfig, run, run_plan, shrink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Fresh seeds per profile in every test run, unless `FTVM_SIM_SEEDS` says otherwise.
const FRESH_SEEDS: u64 = 150;

/// Runs with record logs take so many times longer: there are fewer of them.
const RECORDED_WEIGHT: u64 = 5;

/// Known seeds of the profiles with record logs in every test run.
const RECORDED_SEEDS: u64 = 60;

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

/// Seeds asked for in the environment, for campaigns.
fn seeds_wanted() -> Option<u64> {
    let text = std::env::var("FTVM_SIM_SEEDS").ok()?;
    Some(text.parse().expect("FTVM_SIM_SEEDS is a number of seeds"))
}

/// Seeds of this very second: each test run sees others. What is printed shows them again.
#[test]
fn fresh_seeds_of_every_profile_find_nothing() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is behind 1970").as_secs();
    let fresh = seeds_wanted().unwrap_or(FRESH_SEEDS);
    let mut failing = Vec::new();
    for profile in FaultProfile::ALL {
        let recorded = matches!(profile, FaultProfile::Replay | FaultProfile::Lockstep);
        let count = if recorded { fresh.div_ceil(RECORDED_WEIGHT) } else { fresh };
        let first = now << 20;
        let seeds = Seeds::many(first, count);
        let mut findings = Vec::new();
        let result = run_campaign(&options(seeds, profile), &mut findings).expect("event files can be written");
        println!(
            "{profile}: seeds {first}..{}, {:.0} seeds a minute, {} events, {} epochs, {} generations, {} faults",
            first + count,
            result.seeds_per_minute,
            result.events,
            result.epochs,
            result.generations,
            result.faults
        );
        if result.is_clean() {
            assert_eq!(result.seeds, count);
        } else {
            failing.push(String::from_utf8_lossy(&findings).into_owned());
        }
    }
    assert!(failing.is_empty(), "{}", failing.concat());
}

#[test]
fn clusters_of_other_sizes_find_nothing() {
    let mut failing = Vec::new();
    for (hosts, vms) in [(1, 1), (2, 1), (2, 2), (3, 2), (5, 3), (16, 8)] {
        for seed in 0..seeds_wanted().map_or(12, |seeds| seeds / 10) {
            let outcome = run(&SimConfig { seed, hosts, vms, faults: FaultProfile::Swarm });
            failing.extend(outcome.violation.map(|found| format!("seed {seed}, {hosts} hosts, {vms} VMs: {found}\n")));
        }
    }
    assert!(failing.is_empty(), "{}", failing.concat());
}

/// What is known to be clean stays clean.
#[test]
fn known_seeds_of_replay_and_lockstep_find_nothing() {
    for profile in [FaultProfile::Replay, FaultProfile::Lockstep] {
        for seed in 0..RECORDED_SEEDS {
            assert_eq!(run(&config(seed, profile)).violation, None, "{profile}, seed {seed}");
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

#[test]
fn a_failing_run_is_recorded_replayed_and_minimised() {
    let bug = Bug::Driver(PlantedBug::SealAnswersApplied);
    let (seed, violation) = first_finding(bug, FaultProfile::Swarm, 50).expect("a planted bug is found");
    let _planted = Planted::new(bug);
    let directory = tempfile::tempdir().expect("a directory can be made");
    let mut wanted = options(Seeds::one(seed), FaultProfile::Swarm);
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
    wanted.replay = Some(path.clone());
    wanted.shrink = true;
    wanted.verify = true;
    let replay = |wanted: &SimOptions| {
        let mut told = Vec::new();
        let result = run_campaign(wanted, &mut told).expect("the file can be replayed");
        assert_eq!(result.failures.len(), 1);
        let (told, failure) = (String::from_utf8_lossy(&told).into_owned(), result.failures[0].clone());
        let shown = [failure.violation.as_str(), &failure.event_file.display().to_string(), "ftvm sim --replay"];
        assert!(shown.iter().all(|part| told.contains(part)), "{shown:?} is not in: {told}");
        assert!(!result.story.is_empty() && result.unstable.is_empty());
        failure
    };
    let as_it_was = std::fs::read(&path).expect("the file is there");
    let names: Vec<PathBuf> = (0..2)
        .map(|_| replay(&wanted))
        .map(|failure| {
            assert_eq!(failure.faults_needed, Some(small.faults.len()));
            let left = EventFile::read(&failure.event_file).expect("what is left can be read");
            assert_eq!(left.plan.faults.len(), small.faults.len());
            failure.event_file
        })
        .collect();
    assert!(names[0] != names[1] && !names.contains(&path), "{names:?}");
    wanted.shrink = false;
    assert_eq!(replay(&wanted).event_file, path);
    assert_eq!(std::fs::read(&path).expect("the file is still there"), as_it_was);
}

#[test]
fn the_last_seeds_that_there_are_are_run_once_each() {
    for (seeds, count) in [
        (Seeds::one(u64::MAX), 1),
        ("18446744073709551600..18446744073709551615".parse().expect("seeds"), 15),
        (Seeds::many(u64::MAX - 40, 1_000), 41),
    ] {
        let result = run_campaign(&options(seeds, FaultProfile::None), &mut Vec::new()).expect("no files are needed");
        assert_eq!((result.seeds, result.is_clean()), (count, true), "{seeds:?}");
    }
}

/// Numbers that no run can have are a bad file, not a finding.
#[test]
fn faults_beyond_all_bounds_are_refused() {
    let file = |fault| EventFile {
        config: config(1, FaultProfile::Crash),
        plan: Plan { faults: vec![fault], ..Plan::draw(1, 3, 1, FaultProfile::None) },
        commit: "test".to_owned(),
        violation: None,
        story: Vec::new(),
    };
    let who = Target::Controller;
    let (at, huge) = (When::At { us: 5 }, u64::MAX);
    let kill = |restart_us| Fault::Kill { who, lines: Lines::Kept, restart_us };
    let parse = |event| EventFile::parse(Path::new("x"), file(event).to_lines().as_bytes());
    let bad = [
        FaultEvent { when: at, fault: kill(huge) },
        FaultEvent { when: When::At { us: huge }, fault: kill(5) },
        FaultEvent { when: When::After { step: Point::HostJoined, nth: 0 }, fault: kill(5) },
        FaultEvent { when: at, fault: Fault::DieInPool { who, accesses: 1, lines: Lines::Lost, restart_us: huge } },
        FaultEvent { when: at, fault: Fault::Stop { who, for_us: huge } },
        FaultEvent { when: at, fault: Fault::Slow { who, factor: huge, for_us: 5 } },
        FaultEvent { when: at, fault: Fault::Slow { who, factor: 0, for_us: 5 } },
        FaultEvent { when: at, fault: Fault::Slow { who, factor: 2, for_us: huge } },
        FaultEvent { when: at, fault: Fault::HangVcpu { vm: 0, for_us: Some(huge) } },
        FaultEvent { when: at, fault: Fault::JumpClock { who, by_us: i64::MIN } },
        FaultEvent { when: at, fault: Fault::CutPool { who, accesses: huge, for_us: huge } },
        FaultEvent { when: at, fault: Fault::StallLink { who, ways: Ways::Both, for_us: huge } },
        FaultEvent { when: at, fault: Fault::PauseClient { for_us: huge } },
        FaultEvent { when: at, fault: Fault::StallClient { for_us: huge } },
        FaultEvent { when: at, fault: Fault::FillPool { for_us: huge } },
    ];
    for event in bad {
        let error = parse(event).expect_err("no run can have it");
        assert!(error.to_string().starts_with("x:2: "), "{error}");
    }
    assert!(parse(FaultEvent { when: at, fault: kill(5) }).is_ok());
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
    let mut wanted = options(Seeds::one(0), FaultProfile::None);
    wanted.hosts = 0;
    assert!(run_campaign(&wanted, &mut Vec::new()).is_err());
    assert!("5..5".parse::<Seeds>().is_err() && "x".parse::<Seeds>().is_err());
    assert_eq!("3..9".parse(), Ok(Seeds { first: 3, last: 8 }));
}
