//! Runs scenarios on real processes: a private cluster each, faults by signals and in the pool, everything seen kept in a
//! directory.

mod acts;
mod anybody;
mod await_record;
mod campaign;
mod ci;
mod corrupt;
mod directory;
mod error;
mod goldens;
mod hampers;
mod judge_vm;
mod manifest;
mod perform;
mod prepare;
mod report;
mod schedule;
mod simulate;
mod verdict;
mod workload;

pub(crate) use anybody::{Presence, anybody};
pub use campaign::{Campaign, Campaigned, Progress, World, run_campaign};
pub use ci::{JunitError, github_annotation_of, github_annotations, junit, junit_of_invalid};
pub use directory::RunDirectory;
pub use error::RunnerError;
pub use goldens::Goldens;
pub(crate) use hampers::{Hamper, Hampers};
pub use manifest::{MachineFacts, Manifest, again};
pub use report::Report;
pub use schedule::Schedule;
pub use simulate::simulate;
pub use verdict::{Clue, Grade, Observed, ObservedVm, Verdict, judge};

use crate::cluster::Cluster;
use crate::devices::DiskOption;
use crate::event::{Event, answers, put_in_order};
use crate::golden::{Golden, file_crc};
use crate::guest::GuestImage;
use crate::language::{Scenario, VmPart};
use crate::protected::{GuestDisk, Outcome, ProtectedRun, Respawn, RunError};
use crate::report::FolderError;
use crate::summary::Summary;
use ft_protocol::Span;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use perform::{Performance, Performed};
use prepare::Tmpfs;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use report::keep;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use vmm::client::{ClientError, Patience};
use vmm::clock::monotonic;
use workload::{Surroundings, Workload};

/// The first stream of random numbers that are no delays, one for each step; steps have the streams before it, too.
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
    let start = monotonic();
    let manifest = Manifest::new(scenario, options, seed, start);
    directory.begin(&manifest)?;
    let with_place = |report| Report { again: manifest.again.clone(), ..report };
    match run_in(scenario, options, goldens, seed, &directory, interrupt, watch) {
        Ok(report) if report.holds && !options.keep => {
            directory.remove();
            Ok(with_place(report))
        }
        Ok(report) => keep(with_place(report), &directory),
        Err(RunnerError::Skipped { reason }) => {
            directory.remove();
            Ok(Report::skipped(scenario, seed, reason))
        }
        Err(error) if error.gave_up() && is_readable(interrupt) => Err(RunnerError::Interrupted),
        Err(error) if error.is_of_the_scenario() => {
            keep(with_place(Report::broken(scenario, seed, &error).took(monotonic().since(start))), &directory)
        }
        Err(error) => Err(error),
    }
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
    let image = |vm: &VmPart| vm.read_guest().map_err(|source| RunnerError::Guest { line: vm.guest_line, source });
    let images = scenario.vms.iter().map(image).collect::<Result<Vec<_>, _>>()?;
    let tmpfs = scenario.cluster.pool_size.map(|size| Tmpfs::mount(directory.file("tmpfs"), size.get())).transpose()?;
    let golden = goldens::golden(scenario, options, goldens, directory, interrupt)?;
    let pool_parent = tmpfs.as_ref().map_or(options.pool_parent.as_path(), Tmpfs::path);
    let cluster = prepare::cluster(scenario, options, pool_parent, directory.path());
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
        run.note(Event { at: monotonic(), what: workload.started() })?;
    }
    let mut performance = Performance {
        scenario,
        run,
        schedule: Schedule::new(scenario, seed),
        workloads,
        tmpfs,
        segment: segment.as_ref().map(|(_, switch)| switch.clone()),
        troubles: BTreeMap::new(),
        faults_ever: 0,
        hit: vec![Vec::new(); scenario.steps.len()],
        dying: BTreeSet::new(),
        hampers: Hampers::default(),
        undos: Vec::new(),
        standing: BTreeMap::new(),
        awaited_record: None,
        next_await: ft_protocol::Time::ZERO,
        randoms: (FAULTS_STREAM..).zip(&scenario.steps).map(|(stream, _)| random_of(seed, stream)).collect(),
        flipped_beats: BTreeSet::new(),
        refused: Vec::new(),
        lost: Vec::new(),
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
    let Performed { outcomes, in_time } = performed?;
    // No frame moves while it is judged.
    performance.segment = None;
    drop(segment);
    let started_at = performance.run.started_at();
    let finished = Finished { scenario, outcomes, in_time, refusal, golden, start };
    let (report, told) = finished.judge(seed, performance)?;
    put_in_order(&directory.file("events.jsonl"), started_at, told).map_err(FolderError::from)?;
    Ok(report)
}

/// A run whose guests have ended, or whose time is over.
struct Finished<'a> {
    scenario: &'a Scenario,
    outcomes: Vec<Option<Outcome>>,
    in_time: bool,
    refusal: Option<Result<(), String>>,
    golden: Vec<Option<Golden>>,
    start: ft_protocol::Time,
}

impl Finished<'_> {
    /// What came of it, and what the clients of workloads have seen.
    fn judge(self, seed: u64, performance: Performance<'_>) -> Result<(Report, Vec<Event>), RunnerError> {
        let Performance { run, schedule, workloads, refused, lost, facts, tmpfs, flipped_beats, .. } = performance;
        let now = monotonic();
        let pool = run.cluster().pool_directory().join("pool");
        // The partitions are numbered as the VMs were made.
        let crc_of = |vm: usize, part: &str, needed: bool| {
            needed.then(|| file_crc(&pool.join(format!("vm-{vm}/{part}")))).flatten()
        };
        let expected = self.scenario.expect.vms.iter().enumerate();
        let (memories, disks): (Vec<Option<u32>>, Vec<Option<u32>>) = expected
            .map(|(vm, expect)| {
                let memory = crc_of(vm, "image", expect.memory_as_unprotected);
                (memory, crc_of(vm, "disk", expect.disk_as_unprotected))
            })
            .unzip();
        let sound = self.scenario.expect.pool_sound.then(|| verdict::pool(&pool, &flipped_beats));
        let started_at = run.started_at();
        let mut timelines = run.shut_down_all()?;
        drop(tmpfs);
        let told: Vec<Event> = workloads.iter().flat_map(|workload| workload.told(started_at, now)).collect();
        if let [timeline] = &mut timelines[..] {
            answers(&told).for_each(|(asked, at)| timeline.answered(asked, at));
        }
        let unseen = crate::timeline::Timeline::default();
        let first = timelines.first().unwrap_or(&unseen);
        let outcome = self.outcomes.first().and_then(Option::as_ref);
        let epochs = facts.first().map_or(0, |facts| facts.epoch);
        let summary = self.outcomes.first().map(|_| Summary::new(first, outcome, started_at, now, epochs));
        let vms = self.outcomes.iter().enumerate().map(|(vm, outcome)| ObservedVm {
            outcome: outcome.as_ref(),
            timeline: timelines.get(vm).unwrap_or(&unseen),
            golden: self.golden[vm].as_ref(),
            memory_crc: memories[vm],
            disk_crc: disks[vm],
        });
        let observed = Observed {
            vms: vms.collect(),
            schedule: &schedule,
            refusal: self.refusal.as_ref(),
            refused: &refused,
            lost: &lost,
            now,
            cut_short: !self.in_time,
        };
        let running = workloads.iter().filter_map(Workload::was_cut_short);
        let mut verdicts: Vec<Verdict> =
            (!self.in_time).then(|| verdict::time_ran_out(self.scenario, &observed, running)).into_iter().collect();
        verdicts.extend(judge(self.scenario, &observed));
        verdicts.extend(workloads.iter().flat_map(Workload::verdicts));
        verdicts.extend(sound);
        let report = Report { summary, steps: schedule.told(), ..Report::new(self.scenario, seed, verdicts) };
        Ok((report.took(monotonic().since(self.start)), told))
    }
}

fn random_of(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    random
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
