//! Many scenarios, many times, some at once.

use super::{Glimpse, Goldens, Report, RunnerError, RunnerOptions, run_scenario, simulate};
use crate::language::Scenario;
use crossbeam_channel::unbounded;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What to run, and how often.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// How each is run.
    pub runner: RunnerOptions,
    /// How often each is run at most, with a seed more each time.
    pub repeat: u64,
    /// End when one fails.
    pub until_fail: bool,
    /// How many run at once.
    pub jobs: usize,
    /// Where they run.
    pub world: World,
}

/// Where scenarios run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// On real processes.
    Processes,
    /// In the simulator, in virtual time.
    Simulator,
}

/// How a campaign goes.
#[derive(Clone, Debug)]
pub enum Progress<'a> {
    /// A run begins.
    Began {
        /// Its number, from 0.
        run: usize,
        /// What runs.
        scenario: &'a Scenario,
        /// With which seed.
        seed: u64,
    },
    /// A run goes on.
    Goes {
        /// Its number.
        run: usize,
        /// How.
        glimpse: &'a Glimpse,
    },
    /// A run is over.
    Ended {
        /// Its number.
        run: usize,
        /// What came of it.
        report: &'a Report,
    },
}

/// What came of a campaign.
#[derive(Debug)]
pub struct Campaigned {
    /// Of the runs that ended, in their order.
    pub reports: Vec<Report>,
    /// Why it ended early: something that lies outside of a run, or the user wants it.
    pub broken: Option<RunnerError>,
}

/// Runs them all. `progress` is called by several threads.
pub fn run_campaign(
    scenarios: &[Scenario],
    campaign: &Campaign,
    interrupt: BorrowedFd<'_>,
    progress: &(dyn Fn(Progress<'_>) + Sync),
) -> Campaigned {
    let rounds = usize::try_from(campaign.repeat).unwrap_or(usize::MAX);
    let runs = scenarios.len().saturating_mul(rounds);
    let (next, over, goldens) = (AtomicUsize::new(0), AtomicBool::new(false), Goldens::default());
    let played = AtomicBool::new(false);
    let (sender, receiver) = unbounded();
    let work = || {
        while !over.load(Ordering::Relaxed) {
            let run = next.fetch_add(1, Ordering::Relaxed);
            if run >= runs {
                return;
            }
            let result = one(scenarios, campaign, run, &goldens, interrupt, progress);
            let failed = result.as_ref().is_ok_and(|report| !report.holds);
            // Nothing fails where nothing can be run: one round says so.
            played.fetch_or(result.as_ref().is_ok_and(|report| report.skipped.is_none()), Ordering::Relaxed);
            let in_vain = run + 1 >= scenarios.len() && !played.load(Ordering::Relaxed);
            if result.is_err() || campaign.until_fail && (failed || in_vain) {
                over.store(true, Ordering::Relaxed);
            }
            if sender.send((run, result)).is_err() {
                return;
            }
        }
    };
    // Hosts die with the thread that started them: it is the one that runs their scenario.
    std::thread::scope(|scope| {
        for _ in 1..campaign.jobs.max(1) {
            scope.spawn(work);
        }
        work();
    });
    let mut results: Vec<(usize, Result<Report, RunnerError>)> = receiver.try_iter().collect();
    results.sort_by_key(|(run, _)| *run);
    let mut campaigned = Campaigned { reports: Vec::new(), broken: None };
    for (_, result) in results {
        match result {
            Ok(report) => campaigned.reports.push(report),
            // The first is the cause: runs beside it are interrupted by the same.
            Err(error) => campaigned.broken = campaigned.broken.or(Some(error)),
        }
    }
    campaigned
}

fn one(
    scenarios: &[Scenario],
    campaign: &Campaign,
    run: usize,
    goldens: &Goldens,
    interrupt: BorrowedFd<'_>,
    progress: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<Report, RunnerError> {
    let scenario = &scenarios[run % scenarios.len()];
    let round = u64::try_from(run / scenarios.len()).unwrap_or(u64::MAX);
    let seed = campaign.runner.seed.unwrap_or(scenario.seed).wrapping_add(round);
    let options = RunnerOptions { seed: Some(seed), ..campaign.runner.clone() };
    progress(Progress::Began { run, scenario, seed });
    let mut watch = |glimpse: &Glimpse| progress(Progress::Goes { run, glimpse });
    let report = match campaign.world {
        World::Processes => run_scenario(scenario, &options, goldens, interrupt, &mut watch)?,
        World::Simulator if super::is_readable(interrupt) => return Err(RunnerError::Interrupted),
        World::Simulator => simulate(scenario, &options, &|| super::is_readable(interrupt))?,
    };
    progress(Progress::Ended { run, report: &report });
    Ok(report)
}
