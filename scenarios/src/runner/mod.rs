//! Runs scenarios on real processes: a private cluster each, faults by signals and in the pool, everything seen kept in a
//! directory.

mod acts;
mod campaign;
mod ci;
mod corrupt;
mod directory;
mod manifest;
mod perform;
mod prepare;
mod schedule;
mod simulate;
mod verdict;
mod workload;

pub use campaign::{Campaign, Campaigned, Progress, run_campaign};
pub use ci::{github_annotations, junit};
pub use directory::RunDirectory;
pub use manifest::{MachineFacts, Manifest, again};
pub use schedule::Schedule;
pub use simulate::simulate;
pub use verdict::{Observed, ObservedVm, Verdict, judge};

use crate::cluster::{Cluster, ClusterError};
use crate::devices::DiskOption;
use crate::event::put_in_order;
use crate::golden::{Golden, GoldenError, GoldenOptions, run_unprotected};
use crate::guest::{GuestError, GuestImage};
use crate::language::{Scenario, VmPart};
use crate::protected::{GuestDisk, Outcome, ProtectedRun, Respawn, RunError};
use crate::report::{self, FolderError};
use crate::summary::{Summary, ms};
use ft_protocol::Span;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use perform::Performance;
use prepare::Tmpfs;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use vmm::client::{ClientError, Patience};
use vmm::clock::monotonic;
use vmm::disk_file::DiskFileError;
use vmm::net::SwitchError;
use workload::{Surroundings, Workload};

/// The stream of random numbers that are no delays; steps have the streams before it.
const FAULTS_STREAM: u64 = 1 << 32;

/// How scenarios are run.
#[derive(Clone, Debug)]
pub struct RunnerOptions {
    /// The ftvm program.
    pub executable: PathBuf,
    /// The commit that it was built from.
    pub commit: String,
    /// Where pools are made.
    pub pool_parent: PathBuf,
    /// Where the runs' directories are made.
    pub runs: PathBuf,
    /// Instead of the scenario's own seed.
    pub seed: Option<u64>,
    /// Keep the run's directory even if all is well.
    pub keep: bool,
}

/// A run as it is seen while it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glimpse {
    /// Since its start.
    pub elapsed: Span,
    /// The last applied epoch of the first VM.
    pub epoch: u64,
    /// Its takeovers.
    pub takeovers: u64,
    /// Whether it has a secondary.
    pub protected: bool,
    /// The step that fired last.
    pub last_step: Option<String>,
}

/// What came of a scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Its name.
    pub scenario: String,
    /// Its file.
    pub path: PathBuf,
    /// The seed that it ran with.
    pub seed: u64,
    /// Whether all expectations hold.
    pub holds: bool,
    /// Why it was not run at all, if it was not.
    pub skipped: Option<String>,
    /// Every expectation.
    pub verdicts: Vec<Verdict>,
    /// How long it took.
    pub duration_ms: f64,
    /// The line that runs it again.
    pub again: String,
    /// The run in numbers: of its first VM.
    pub summary: Option<Summary>,
    /// The run's directory, if it was kept.
    pub directory: Option<PathBuf>,
}

/// Why a scenario could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The guest is none.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The unprotected run failed.
    #[error(transparent)]
    Golden(#[from] GoldenError),
    /// The cluster does not come up.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The protected run broke.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A file of the run's directory cannot be written.
    #[error("cannot write {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A step asks for what cannot be done.
    #[error("{} ({}:{line})", step, path.display())]
    Step {
        /// The scenario.
        path: PathBuf,
        /// Where the step stands.
        line: usize,
        /// Its name.
        step: String,
        /// Why.
        source: Box<RunError>,
    },
    /// A workload cannot be started or watched.
    #[error("cannot run workload {name}")]
    Workload {
        /// Which.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The guests' network cannot be made.
    #[error(transparent)]
    Segment(#[from] SwitchError),
    /// A guest's disk cannot be made.
    #[error(transparent)]
    Disk(#[from] DiskFileError),
    /// The page of a run cannot be written.
    #[error(transparent)]
    Page(#[from] FolderError),
    /// This machine does not offer what the scenario needs.
    #[error("{reason}")]
    Skipped {
        /// One line.
        reason: String,
    },
    /// The user wants to end.
    #[error("interrupted")]
    Interrupted,
}

impl RunnerError {
    /// Something was not waited for to its end: the user wants to end, or time has run out.
    fn gave_up(&self) -> bool {
        let by_run = |error: &RunError| {
            matches!(
                error,
                RunError::Client(ClientError::GivenUp) | RunError::Cluster(ClusterError::Client(ClientError::GivenUp))
            )
        };
        match self {
            Self::Cluster(ClusterError::Client(ClientError::GivenUp)) | Self::Golden(GoldenError::Interrupted) => true,
            Self::Run(error) => by_run(error),
            Self::Step { source, .. } => by_run(source),
            _ => false,
        }
    }

    /// What breaks in one scenario is that scenario's failure, and the others run. What the user wants, or what will be wrong
    /// with the next one, too, ends them all.
    fn is_of_the_scenario(&self) -> bool {
        match self {
            Self::Interrupted | Self::File { .. } | Self::Page(_) | Self::Skipped { .. } => false,
            Self::Run(RunError::EventLog { .. }) => false,
            Self::Guest(_) | Self::Golden(_) | Self::Cluster(_) | Self::Run(_) => true,
            Self::Step { .. } | Self::Workload { .. } | Self::Segment(_) | Self::Disk(_) => true,
        }
    }
}

/// Runs a scenario. `interrupt` becomes readable when the user wants to end; `watch` is shown how it goes.
///
/// # Errors
/// When it cannot be run; an expectation that does not hold is no error.
pub fn run_scenario(
    scenario: &Scenario,
    options: &RunnerOptions,
    goldens: &Goldens,
    interrupt: BorrowedFd<'_>,
    watch: &mut dyn FnMut(&Glimpse),
) -> Result<Report, RunnerError> {
    let seed = options.seed.unwrap_or(scenario.seed);
    let directory = RunDirectory::create(&options.runs, &scenario.name)?;
    match run_in(scenario, options, goldens, seed, &directory, interrupt, watch) {
        Ok(report) if report.holds && !options.keep => {
            directory.remove();
            Ok(report)
        }
        Ok(report) => keep(report, &directory),
        Err(RunnerError::Skipped { reason }) => {
            directory.remove();
            Ok(Report::skipped(scenario, seed, reason))
        }
        Err(error) if error.gave_up() && is_readable(interrupt) => Err(RunnerError::Interrupted),
        Err(error) if error.is_of_the_scenario() => {
            let manifest = Manifest::new(scenario, options, seed, monotonic());
            directory.complete(&manifest)?;
            keep(Report::broken(scenario, seed, &error), &directory)
        }
        Err(error) => Err(error),
    }
}

/// Looks at all guests before the first run: a file that is missing for the last one is said at once.
///
/// # Errors
/// When one cannot be started.
pub fn check_guests(scenarios: &[Scenario]) -> Result<(), GuestError> {
    let mut seen = BTreeSet::new();
    for vm in scenarios.iter().flat_map(|scenario| &scenario.vms) {
        if seen.insert((vm.guest.to_string(), vm.memory.get(), &vm.args)) {
            image(vm)?;
        }
    }
    Ok(())
}

/// Writes down what came of a run that is kept.
fn keep(mut report: Report, directory: &RunDirectory) -> Result<Report, RunnerError> {
    report.directory = Some(directory.path().to_owned());
    directory.write_json("report.json", &report)?;
    report::write_html(directory.path())?;
    Ok(report)
}

impl Report {
    fn skipped(scenario: &Scenario, seed: u64, reason: String) -> Self {
        Self { skipped: Some(reason), ..Self::new(scenario, seed, Vec::new()) }
    }

    /// Of a run that broke.
    fn broken(scenario: &Scenario, seed: u64, error: &RunnerError) -> Self {
        let line = match error {
            RunnerError::Step { line, .. } => Some(*line),
            _ => None,
        };
        let expectation = "the scenario can be run to its end".to_owned();
        let verdict = Verdict { expectation, holds: false, found: vmm::chain(error), line };
        Self::new(scenario, seed, vec![verdict])
    }

    fn new(scenario: &Scenario, seed: u64, verdicts: Vec<Verdict>) -> Self {
        Self {
            scenario: scenario.name.clone(),
            path: scenario.path.clone(),
            seed,
            holds: verdicts.iter().all(|verdict| verdict.holds),
            skipped: None,
            verdicts,
            duration_ms: 0.0,
            again: again(scenario, seed),
            summary: None,
            directory: None,
        }
    }

    /// Nothing failed but that time ran out.
    #[must_use]
    pub fn ran_out_of_time(&self) -> bool {
        !self.holds && self.summary.as_ref().is_some_and(|summary| summary.end == "interrupted")
    }
}

fn image(vm: &VmPart) -> Result<GuestImage, GuestError> {
    let image = vm.guest.read()?;
    image.check(vm.memory.get(), &vm.args)?;
    Ok(image)
}

fn run_in(
    scenario: &Scenario,
    options: &RunnerOptions,
    goldens: &Goldens,
    seed: u64,
    directory: &RunDirectory,
    interrupt: BorrowedFd<'_>,
    watch: &mut dyn FnMut(&Glimpse),
) -> Result<Report, RunnerError> {
    let start = monotonic();
    let images = scenario.vms.iter().map(image).collect::<Result<Vec<_>, _>>()?;
    let tmpfs = scenario.cluster.pool_size.map(|size| Tmpfs::mount(directory.file("tmpfs"), size.get())).transpose()?;
    let golden = golden(scenario, options, goldens, directory, interrupt)?;
    let pool_parent = tmpfs.as_ref().map_or(options.pool_parent.as_path(), Tmpfs::path);
    let cluster = prepare::cluster(scenario, options, pool_parent);
    let cluster = Cluster::start_with(cluster, patience(scenario, interrupt)?)?;
    let respawn = if scenario.cluster.respawn { Respawn::All } else { Respawn::Fenced };
    let mut run = ProtectedRun::begin(cluster, respawn, Some(&directory.file("events.jsonl")))?;
    directory.write_json("manifest.json", &Manifest::new(scenario, options, seed, run.started_at()))?;
    let segment = prepare::segment(scenario, run.cluster().run_directory(), seed)?;
    let segment_path = segment.as_ref().map(|(path, _)| path.as_path());
    let (vms, refusal) = add_vms(scenario, &with_disks(scenario, &images, directory)?, segment_path, &mut run)?;
    let around = Surroundings {
        socket: run.cluster().socket(),
        executable: &options.executable,
        segment: segment_path,
        seed,
        vm: &scenario.vms[0].name,
    };
    let workloads = scenario.workloads.iter().map(|part| Workload::start(part, &around, directory));
    let workloads = workloads.collect::<Result<Vec<_>, _>>()?;
    for workload in &workloads {
        run.note(crate::event::Event { at: monotonic(), what: workload.started() })?;
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(FAULTS_STREAM);
    let mut performance = Performance {
        scenario,
        run,
        schedule: Schedule::new(scenario, seed),
        workloads,
        tmpfs,
        segment: segment.as_ref().map(|(_, switch)| switch.clone()),
        troubles: BTreeMap::new(),
        troubles_ever: 0,
        hit: vec![Vec::new(); scenario.steps.len()],
        dying: BTreeSet::new(),
        stopped: BTreeSet::new(),
        held: BTreeMap::new(),
        undos: Vec::new(),
        standing: BTreeMap::new(),
        fillers: Vec::new(),
        random,
        refused: Vec::new(),
        facts: vec![crate::language::Facts::default(); scenario.vms.len()],
        next_facts: monotonic(),
        next_sample: monotonic(),
        last_step: None,
    };
    let performed = performance.perform(vms, interrupt, watch);
    workload::end_all(&mut performance.workloads);
    for (vm, part) in scenario.vms.iter().enumerate() {
        directory.write(&console_file(scenario, part, "console"), performance.schedule.console(vm))?;
    }
    directory.take_logs(performance.run.cluster().run_directory())?;
    let outcomes = performed?;
    // No frame moves while it is judged.
    performance.segment = None;
    drop(segment);
    let started_at = performance.run.started_at();
    let finished = Finished { scenario, outcomes, refusal, golden, start };
    let report = finished.judge(seed, performance)?;
    put_in_order(&directory.file("events.jsonl"), started_at).map_err(FolderError::from)?;
    Ok(report)
}

/// A run whose guests have ended, or whose time is over.
struct Finished<'a> {
    scenario: &'a Scenario,
    outcomes: Vec<Option<Outcome>>,
    refusal: Option<Result<(), String>>,
    golden: Vec<Option<Golden>>,
    start: ft_protocol::Time,
}

impl Finished<'_> {
    fn judge(self, seed: u64, performance: Performance<'_>) -> Result<Report, RunnerError> {
        let Performance { run, schedule, workloads, refused, facts, tmpfs, .. } = performance;
        let now = monotonic();
        let pool = run.cluster().pool_directory().join("pool");
        let memory: Vec<Option<u32>> = (0..self.outcomes.len())
            .map(|vm| memory_crc(&pool, vm).filter(|_| self.scenario.expect.vms[vm].memory_as_unprotected))
            .collect();
        let sound = self.scenario.expect.pool_sound.then(|| verdict::pool(&pool));
        let started_at = run.started_at();
        let timelines = run.shut_down_all();
        drop(tmpfs);
        let unseen = crate::timeline::Timeline::default();
        let first = timelines.first().unwrap_or(&unseen);
        let outcome = self.outcomes.first().and_then(Option::as_ref);
        let epochs = facts.first().map_or(0, |facts| facts.epoch);
        let summary = self.outcomes.first().map(|_| Summary::new(first, outcome, started_at, now, epochs));
        let vms = self.outcomes.iter().enumerate().map(|(vm, outcome)| ObservedVm {
            outcome: outcome.as_ref(),
            timeline: timelines.get(vm).unwrap_or(&unseen),
            golden: self.golden[vm].as_ref(),
            memory_crc: memory[vm],
        });
        let observed = Observed {
            vms: vms.collect(),
            schedule: &schedule,
            refusal: self.refusal.as_ref(),
            refused: &refused,
            now,
        };
        let mut verdicts = judge(self.scenario, &observed);
        verdicts.extend(workloads.iter().flat_map(Workload::verdicts));
        verdicts.extend(sound);
        Ok(Report {
            duration_ms: ms(monotonic().since(self.start)),
            summary,
            ..Report::new(self.scenario, seed, verdicts)
        })
    }
}

/// Whether the user wants to end.
fn is_readable(interrupt: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(interrupt, PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(ready) if ready > 0)
}

/// As long as a scenario may take, from now on.
fn patience(scenario: &Scenario, interrupt: BorrowedFd<'_>) -> Result<Patience, RunnerError> {
    let limit = Duration::from_nanos(scenario.time_limit.ns());
    Patience::new(limit, interrupt).map_err(|source| RunError::Wait(source).into())
}

/// The guests with their disks, which lie in the run's directory and are empty.
fn with_disks(
    scenario: &Scenario,
    images: &[GuestImage],
    directory: &RunDirectory,
) -> Result<Vec<GuestImage>, RunnerError> {
    let with_disk = |(part, image): (&VmPart, &GuestImage)| {
        let Some(size) = part.disk else { return Ok(image.clone()) };
        let path = directory.file(&console_file(scenario, part, "disk"));
        let disk = GuestDisk::open(&DiskOption { path, size: Some(size) })?;
        Ok(image.clone().with_disk(Arc::new(disk)))
    };
    scenario.vms.iter().zip(images).map(with_disk).collect()
}

/// The file of a VM's console; the only one has no name in it.
fn console_file(scenario: &Scenario, part: &VmPart, kind: &str) -> String {
    if scenario.vms.len() == 1 { kind.to_owned() } else { format!("{}.{kind}", part.name) }
}

/// Makes the VMs; says how many run, and what became of the last one if it is to be refused.
fn add_vms(
    scenario: &Scenario,
    images: &[GuestImage],
    segment: Option<&Path>,
    run: &mut ProtectedRun,
) -> Result<(usize, Option<Result<(), String>>), RunnerError> {
    let shall_run = scenario.vms.len() - usize::from(scenario.expect.refused.is_some());
    for (index, part) in scenario.vms.iter().enumerate() {
        let added = run.add_vm(&images[index], &prepare::vm(part, prepare::nets(part, index, segment)), &part.name);
        if index < shall_run {
            added?;
            continue;
        }
        return match added {
            Ok(_) => Ok((shall_run, Some(Ok(())))),
            Err(RunError::Client(ClientError::Refused(why))) => Ok((shall_run, Some(Err(why.to_string())))),
            Err(error) => Err(error.into()),
        };
    }
    Ok((shall_run, None))
}

/// The checksum of a VM's memory in the pool. The partitions are numbered as the VMs were made.
fn memory_crc(pool: &Path, vm: usize) -> Option<u32> {
    let mut file = std::fs::File::open(pool.join(format!("vm-{vm}/image"))).ok()?;
    let mut hasher = crc32fast::Hasher::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut file, &mut chunk).ok()? {
            0 => return Some(hasher.finalize()),
            count => hasher.update(&chunk[..count]),
        }
    }
}

/// Unprotected runs that were made already: many scenarios have the same guest.
#[derive(Debug, Default)]
pub struct Goldens {
    made: std::sync::Mutex<BTreeMap<String, Golden>>,
}

impl Goldens {
    fn get(&self, key: &str) -> Option<Golden> {
        self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(key).cloned()
    }

    fn keep(&self, key: String, golden: &Golden) {
        self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key, golden.clone());
    }
}

fn golden(
    scenario: &Scenario,
    options: &RunnerOptions,
    goldens: &Goldens,
    directory: &RunDirectory,
    interrupt: BorrowedFd<'_>,
) -> Result<Vec<Option<Golden>>, RunnerError> {
    let of_vm = |(part, expect): (&VmPart, &crate::language::VmExpect)| {
        if !expect.needs_unprotected() {
            return Ok(None);
        }
        let disk = part.disk.map(|size| (directory.file(&console_file(scenario, part, "disk.unprotected")), size));
        let key = format!("{} {} {:?} {:?}", part.guest, part.memory.get(), part.args, part.disk);
        let file = console_file(scenario, part, "console.unprotected");
        if let Some(golden) = goldens.get(&key) {
            directory.write(&file, &golden.console)?;
            return Ok(Some(golden));
        }
        let golden = run_unprotected(&GoldenOptions {
            executable: &options.executable,
            guest: &part.guest,
            memory: part.memory,
            args: &part.args,
            directory: directory.path(),
            file: &file,
            disk,
            patience: patience(scenario, interrupt)?,
        })?;
        goldens.keep(key, &golden);
        Ok(Some(golden))
    };
    scenario.vms.iter().zip(&scenario.expect.vms).map(of_vm).collect()
}
