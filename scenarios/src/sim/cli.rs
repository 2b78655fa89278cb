//! What `ftvm sim` does: campaigns over many seeds on all cores, single seeds, replays.

use super::campaign::{collect, config_of, work};
use super::event_file::{EventFile, EventFileError};
use super::outcome::{Outcome, SimConfig, run_plan, tell_plan};
use super::plan::{FaultProfile, Plan};
use super::shrink::shrink;
use super::violation::Violation;
use serde::Serialize;
use std::io::Write;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Most worker threads: more would only wait for each other.
const THREADS_MAX: usize = 1024;

/// Which seeds to run: both ends included, so that the last seed that there is can be one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeds {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

impl Seeds {
    /// This seed alone.
    #[must_use]
    pub fn one(seed: u64) -> Self {
        Self { first: seed, last: seed }
    }

    /// So many from this one on, at least one, or as many as there are.
    #[must_use]
    pub fn many(first: u64, count: u64) -> Self {
        Self { first, last: first.saturating_add(count.saturating_sub(1)) }
    }
}

/// Text that names no seeds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no seeds: expected A..B with A below B, such as 0..1000")]
pub struct SeedsError(String);

impl std::str::FromStr for Seeds {
    type Err = SeedsError;
    fn from_str(text: &str) -> Result<Self, SeedsError> {
        let parsed = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse::<u64>().ok()?)));
        match parsed {
            Some((first, to)) if first < to => Ok(Self { first, last: to - 1 }),
            _ => Err(SeedsError(text.chars().take(64).collect())),
        }
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimOptions {
    /// Which seeds.
    pub seeds: Seeds,
    /// Hosts, 1 to [`super::HOSTS_MAX`].
    pub hosts: u16,
    /// VMs, 1 to [`super::VMS_MAX`].
    pub vms: u16,
    /// Kinds of fault.
    pub faults: FaultProfile,
    /// Stop after this time.
    pub time_max: Option<Duration>,
    /// Minimise failing runs.
    pub shrink: bool,
    /// Run each seed twice and compare.
    pub verify: bool,
    /// Run this event file instead of seeds.
    pub replay: Option<PathBuf>,
    /// Where event files of failing runs go; what is left of a replayed one goes beside it.
    pub event_dir: PathBuf,
    /// The commit that this program was built from, for messages and event files.
    pub commit: String,
    /// Worker threads; `None`: as many as there are cores.
    pub threads: Option<NonZeroU16>,
    /// The progress writer is a terminal: keep one line up to date there.
    pub live: bool,
}

/// A campaign could not be run.
#[derive(Debug, thiserror::Error)]
pub enum CampaignError {
    /// More or fewer hosts or VMs than a run can have.
    #[error("{hosts} hosts and {vms} VMs: a run has 1 to {} hosts and 1 to {} VMs", super::HOSTS_MAX, super::VMS_MAX)]
    Size {
        /// Hosts asked for.
        hosts: u16,
        /// VMs asked for.
        vms: u16,
    },
    /// An event file could not be read or written.
    #[error("the run cannot be recorded or replayed")]
    EventFile(#[from] EventFileError),
}

/// A failing run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What was found, in one line.
    pub violation: String,
    /// The line that shows it again.
    pub reproduce: String,
    /// Its event file.
    pub event_file: PathBuf,
    /// Faults of the run.
    pub faults: usize,
    /// Faults that it takes, when it was minimised.
    pub faults_needed: Option<usize>,
}

/// What a campaign came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CampaignResult {
    /// Runs.
    pub seeds: u64,
    /// The first seed.
    pub first_seed: u64,
    /// Wall-clock time.
    pub seconds: f64,
    /// Runs a minute, over all cores.
    pub seeds_per_minute: f64,
    /// Events over all runs.
    pub events: u64,
    /// Virtual time over all runs.
    pub virtual_seconds: f64,
    /// Faults that came due.
    pub faults: u64,
    /// Reigns.
    pub generations: u64,
    /// Committed epochs.
    pub epochs: u64,
    /// Seeds whose second run was another one than the first.
    pub unstable: Vec<u64>,
    /// Failing runs.
    pub failures: Vec<Failure>,
    /// What happened in a replayed run, line by line.
    pub story: Vec<String>,
}

impl CampaignResult {
    /// Nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty() && self.unstable.is_empty()
    }

    pub(crate) fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.events += outcome.events;
        self.virtual_seconds += Duration::from_micros(outcome.us).as_secs_f64();
        self.faults += u64::from(outcome.faults);
        self.generations += outcome.generations;
        self.epochs += outcome.epochs;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.virtual_seconds += other.virtual_seconds;
        self.faults += other.faults;
        self.generations += other.generations;
        self.epochs += other.epochs;
        self.unstable.extend(&other.unstable);
    }

    pub(crate) fn time(&mut self, elapsed: Duration) {
        self.seconds = elapsed.as_secs_f64();
        self.seeds_per_minute = to_f64(self.seeds) / self.seconds.max(1e-9) * 60.0;
    }
}

fn to_f64(number: u64) -> f64 {
    // Seeds are counted in millions at most, which a double holds exactly.
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}

/// Runs a campaign, or replays a file. Progress and findings go to `progress`; the result says what to exit with.
///
/// # Errors
/// When the options make no sense, or an event file cannot be read or written.
pub fn run_campaign(options: &SimOptions, progress: &mut dyn Write) -> Result<CampaignResult, CampaignError> {
    let (hosts, vms) = (options.hosts, options.vms);
    if !(1..=super::HOSTS_MAX).contains(&hosts) || !(1..=super::VMS_MAX).contains(&vms) {
        return Err(CampaignError::Size { hosts, vms });
    }
    let start = Instant::now();
    let mut result = match &options.replay {
        Some(path) => replay(options, path, progress)?,
        None => campaign(options, progress, start)?,
    };
    result.time(start.elapsed());
    Ok(result)
}

fn campaign(options: &SimOptions, progress: &mut dyn Write, start: Instant) -> Result<CampaignResult, CampaignError> {
    let wanted = options.threads.map(|threads| usize::from(threads.get()));
    let cores = || std::thread::available_parallelism().ok().map(std::num::NonZero::get);
    let threads = wanted.or_else(cores).unwrap_or(1).min(THREADS_MAX);
    let (taken, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let (sender, receiver) = channel();
    let mut result = CampaignResult { first_seed: options.seeds.first, ..CampaignResult::default() };
    let failed = std::thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            let (taken, over) = (&taken, &over);
            scope.spawn(move || work(options, taken, over, &sender));
        }
        drop(sender);
        collect(options, &receiver, &over, start, &mut result, progress)
    });
    for (seed, violation) in failed {
        let config = config_of(options, seed);
        let plan = Plan::draw(seed, options.hosts, options.vms, options.faults);
        let SimConfig { hosts, vms, faults: profile, .. } = config;
        let found = Found { plan: &plan, violation: &violation, file: None };
        let reproduce = format!("ftvm sim --seed {seed} --hosts {hosts} --vms {vms} --faults {profile}");
        let failure = record(options, &config, found, &reproduce)?;
        tell_failure(progress, &failure);
        result.failures.push(failure);
    }
    Ok(result)
}

/// Runs an event file, and tells what happens in it.
fn replay(options: &SimOptions, path: &Path, progress: &mut dyn Write) -> Result<CampaignResult, CampaignError> {
    let file = EventFile::read(path)?;
    let (outcome, story) = tell_plan(&file.config, &file.plan);
    let mut result = CampaignResult { first_seed: file.config.seed, story, ..CampaignResult::default() };
    result.add(&outcome);
    if options.verify && run_plan(&file.config, &file.plan) != outcome {
        result.unstable.push(file.config.seed);
    }
    if let Some(violation) = &outcome.violation {
        let found = Found { plan: &file.plan, violation, file: Some(path) };
        let failure = record(options, &file.config, found, &format!("ftvm sim --replay {}", path.display()))?;
        tell_failure(progress, &failure);
        result.failures.push(failure);
    }
    Ok(result)
}

/// A run that fails.
struct Found<'a> {
    plan: &'a Plan,
    violation: &'a Violation,
    /// The event file that it is from.
    file: Option<&'a Path>,
}

/// Minimises a failing run if wanted, and writes its event file; one that has a file already keeps that as it is.
fn record(
    options: &SimOptions,
    config: &SimConfig,
    found: Found<'_>,
    reproduce: &str,
) -> Result<Failure, CampaignError> {
    let Found { plan, violation, file } = found;
    let faults = plan.faults.len();
    let SimConfig { seed, hosts, vms, faults: profile } = *config;
    let small = options.shrink.then(|| shrink(config, plan, violation));
    let faults_needed = small.as_ref().map(|plan| plan.faults.len());
    let event_file = match file {
        Some(replayed) if small.is_none() => replayed.to_owned(),
        Some(replayed) => beside(replayed),
        None => options.event_dir.join(format!("sim-{seed}-{hosts}-{vms}-{profile}.jsonl")),
    };
    let mut told = violation.to_string();
    if file.is_none() || small.is_some() {
        let plan = small.unwrap_or_else(|| plan.clone());
        let (outcome, story) = tell_plan(config, &plan);
        told = outcome.violation.as_ref().unwrap_or(violation).to_string();
        let (config, commit) = (config.clone(), options.commit.clone());
        EventFile { config, plan, commit, violation: Some(told.clone()), story }.write(&event_file)?;
    }
    let reproduce = format!("{reproduce}    # commit {}", options.commit);
    Ok(Failure { seed, violation: told, reproduce, event_file, faults, faults_needed })
}

/// A name that no file has yet, for what is left of this one.
fn beside(file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let named = |number: u64| match number {
        1 => file.with_file_name(format!("{stem}-shrunk.jsonl")),
        more => file.with_file_name(format!("{stem}-shrunk-{more}.jsonl")),
    };
    (1..).map(named).find(|path| !path.exists()).unwrap_or_else(|| named(1))
}

fn tell_failure(progress: &mut dyn Write, failure: &Failure) {
    let needed = failure.faults_needed.map_or_else(String::new, |needed| format!(", {needed} are needed"));
    // Who cannot be told is told by the result.
    let _written = writeln!(
        progress,
        "seed {}: {}\n  {} faults{needed}; events in {}\n  {}",
        failure.seed,
        failure.violation,
        failure.faults,
        failure.event_file.display(),
        failure.reproduce,
    );
}
