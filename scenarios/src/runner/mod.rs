//! Runs scenarios on real processes: a private cluster each, faults by signals, everything seen kept in a directory.

mod directory;
mod schedule;
mod verdict;

pub use directory::RunDirectory;
pub use schedule::Schedule;
pub use verdict::{Observed, Verdict, judge};

use crate::cluster::{Cluster, ClusterError, ClusterOptions, HostName};
use crate::event::{Event, HappeningKind, What};
use crate::golden::{Golden, GoldenError, GoldenOptions, run_unprotected};
use crate::guest::GuestError;
use crate::language::{Action, Scenario, Step, Target};
use crate::protected::{Outcome, ProtectedRun, Respawn, Roles, RunError, VmOptions};
use crate::summary::{Summary, ms};
use ft_protocol::spec::Mode;
use ft_protocol::{Span, Time};
use nix::poll::PollFlags;
use serde::Serialize;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;
use vmm::clock::monotonic;

/// How long a deposed host may take to find out, once the guest has ended.
const FENCED_BOUND: Span = Span::from_ms(10_000);
/// Between two tries of a step whose target does not exist at the moment.
const RETRY_INTERVAL: Span = Span::from_ms(2);
/// Console bytes taken at once.
const CONSOLE_BYTES: usize = 1 << 20;

/// How scenarios are run.
#[derive(Clone, Debug)]
pub struct RunnerOptions {
    /// The ftvm program.
    pub executable: PathBuf,
    /// Where pools are made.
    pub pool_parent: PathBuf,
    /// Where the runs' directories are made.
    pub runs: PathBuf,
    /// Instead of the scenario's own seed.
    pub seed: Option<u64>,
    /// Keep the run's directory even if all is well.
    pub keep: bool,
}

/// What came of a scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Its name.
    pub scenario: String,
    /// Its file.
    pub path: PathBuf,
    /// The seed that it ran with.
    pub seed: u64,
    /// Whether all expectations hold.
    pub holds: bool,
    /// Every expectation.
    pub verdicts: Vec<Verdict>,
    /// How long it took.
    pub duration_ms: f64,
    /// The run in numbers.
    pub summary: Summary,
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
    /// The user wants to end.
    #[error("interrupted")]
    Interrupted,
}

/// Runs a scenario. `interrupt` becomes readable when the user wants to end.
///
/// # Errors
/// When it cannot be run; an expectation that does not hold is no error.
pub fn run_scenario(
    scenario: &Scenario,
    options: &RunnerOptions,
    interrupt: BorrowedFd<'_>,
) -> Result<Report, RunnerError> {
    let start = monotonic();
    let seed = options.seed.unwrap_or(scenario.seed);
    let image = scenario.vm.guest.read()?;
    image.check(scenario.vm.memory.get(), &scenario.vm.args)?;
    let directory = RunDirectory::create(&options.runs, &scenario.name)?;
    let golden = golden(scenario, options, &directory)?;
    let cluster = Cluster::start(ClusterOptions {
        executable: options.executable.clone(),
        hosts: scenario.cluster.hosts,
        pool_parent: options.pool_parent.clone(),
        heartbeat_bound: scenario.cluster.heartbeat_bound,
        keep: false,
    })?;
    let vm = VmOptions {
        memory: scenario.vm.memory,
        args: scenario.vm.args.clone(),
        mode: Mode::Checkpoint,
        epoch_interval: scenario.vm.epoch_interval,
        working_set: None,
        policy: ft_protocol::policy::Policy::default(),
        nets: Vec::new(),
        disk_bytes: 0,
    };
    let respawn = if scenario.cluster.respawn { Respawn::All } else { Respawn::Fenced };
    let run = ProtectedRun::start(cluster, &image, &vm, respawn, Some(&directory.file("events.jsonl")))?;
    let schedule = Schedule::new(scenario, seed);
    let mut performance = Performance { scenario, run, schedule, hit: Vec::new(), killed: BTreeSet::new() };
    let performed = performance.perform(interrupt);
    let Performance { mut run, schedule, .. } = performance;
    directory.write("console", schedule.console())?;
    directory.take_logs(run.cluster().run_directory())?;
    let outcome = performed?;

    let now = monotonic();
    let epochs = run.status().map_or(0, |status| status.vms.first().map_or(0, |vm| vm.applied.get()));
    let summary = Summary::new(run.timeline(), outcome.as_ref(), run.started_at(), now, epochs);
    let timeline = run.shut_down();
    let observed =
        Observed { outcome: outcome.as_ref(), timeline: &timeline, schedule: &schedule, golden: golden.as_ref(), now };
    let verdicts = judge(&scenario.expect, &observed);
    let holds = verdicts.iter().all(|verdict| verdict.holds);
    let mut report = Report {
        scenario: scenario.name.clone(),
        path: scenario.path.clone(),
        seed,
        holds,
        verdicts,
        duration_ms: ms(monotonic().since(start)),
        summary,
        directory: None,
    };
    if holds && !options.keep {
        directory.remove();
    } else {
        report.directory = Some(directory.path().to_owned());
        directory.write_json("report.json", &report)?;
    }
    Ok(report)
}

fn golden(
    scenario: &Scenario,
    options: &RunnerOptions,
    directory: &RunDirectory,
) -> Result<Option<Golden>, RunnerError> {
    if !scenario.expect.console_as_unprotected {
        return Ok(None);
    }
    Ok(Some(run_unprotected(&GoldenOptions {
        executable: &options.executable,
        guest: &scenario.vm.guest,
        memory: scenario.vm.memory,
        args: &scenario.vm.args,
        directory: directory.path(),
        limit: Duration::from_nanos(scenario.time_limit.ns()),
    })?))
}

/// A scenario while it runs.
struct Performance<'a> {
    scenario: &'a Scenario,
    run: ProtectedRun,
    schedule: Schedule,
    /// For each step, the hosts that it hit last.
    hit: Vec<Vec<HostName>>,
    /// Hosts that steps have killed and not started again.
    killed: BTreeSet<HostName>,
}

impl Performance<'_> {
    /// To its end, or until time runs out.
    fn perform(&mut self, interrupt: BorrowedFd<'_>) -> Result<Option<Outcome>, RunnerError> {
        self.hit = vec![Vec::new(); self.scenario.steps.len()];
        let limit = monotonic() + self.scenario.time_limit;
        loop {
            self.listen()?;
            let undone = self.fire_due()?;
            if let Some(outcome) = self.run.outcome() {
                self.await_fenced(interrupt)?;
                return Ok(Some(outcome));
            }
            let now = monotonic();
            if now >= limit {
                return Ok(None);
            }
            let next = if undone { Some(now + RETRY_INTERVAL) } else { self.schedule.next_due() };
            self.turn(next.map_or(limit, |next| next.min(limit)), interrupt)?;
        }
    }

    fn turn(&mut self, until: Time, interrupt: BorrowedFd<'_>) -> Result<(), RunnerError> {
        let turn = self.run.turn(until, &[(interrupt, PollFlags::POLLIN)])?;
        if turn.ready[0] {
            return Err(RunnerError::Interrupted);
        }
        for event in &turn.events {
            if let What::Happened(happening) = &event.what {
                if let Some(live) = self.run.timeline().first_live() {
                    self.schedule.running(live);
                }
                self.schedule.happened(event.at, HappeningKind::from(happening));
            }
        }
        Ok(())
    }

    fn listen(&mut self) -> Result<(), RunnerError> {
        let mut bytes = Vec::new();
        while self.run.read_console(&mut bytes, CONSOLE_BYTES)? > 0 {}
        if !bytes.is_empty() {
            self.schedule.printed(monotonic(), &bytes);
        }
        Ok(())
    }

    /// Fires what is due; says whether something could not be done yet.
    fn fire_due(&mut self) -> Result<bool, RunnerError> {
        let mut undone = false;
        for index in self.schedule.due(monotonic()) {
            let step = self.schedule.step(index).clone();
            match self.targets(&step)? {
                Some(hosts) => {
                    self.schedule.fired(index, monotonic());
                    self.fire(&step, &hosts)?;
                    self.hit[index] = hosts;
                }
                None => undone = true,
            }
        }
        Ok(undone)
    }

    /// The hosts that a step is about; `None` while a role is vacant.
    fn targets(&mut self, step: &Step) -> Result<Option<Vec<HostName>>, RunnerError> {
        let by_role = step.targets.iter().any(|target| matches!(target, Target::Primary | Target::Secondary));
        let roles = if by_role { self.run.roles()? } else { Roles::default() };
        let mut hosts = Vec::new();
        for target in &step.targets {
            match target {
                Target::Primary | Target::Secondary => {
                    let holder = if *target == Target::Primary { &roles.primary } else { &roles.secondary };
                    // A host that has just died still has its role until the controller knows.
                    match holder.as_ref().filter(|host| self.run.cluster().host_pid(host).is_some()) {
                        Some(host) => hosts.push(host.clone()),
                        None => return Ok(None),
                    }
                }
                Target::Host(host) => hosts.push(host.clone()),
                Target::HitBy(step) => hosts.extend(self.hit[*step].iter().cloned()),
            }
        }
        // Its death may be known to the cluster before the kernel has finished with it.
        let dying = |host: &HostName| self.killed.contains(host) && self.run.cluster().host_pid(host).is_some();
        if step.action == Action::Start && hosts.iter().any(dying) {
            return Ok(None);
        }
        Ok(Some(hosts))
    }

    fn fire(&mut self, step: &Step, hosts: &[HostName]) -> Result<(), RunnerError> {
        self.run.note(Event { at: monotonic(), what: What::StepFired { step: step.name.clone() } })?;
        for host in hosts {
            let done = match (step.action, step.action.signal()) {
                (Action::Start, _) => {
                    self.killed.remove(host);
                    self.run.start_host(host)
                }
                (_, Some(signal)) => self.run.signal(host, signal),
                (_, None) => Ok(()),
            };
            if step.action == Action::Kill {
                self.killed.insert(host.clone());
            }
            done.map_err(|source| RunnerError::Step {
                path: self.scenario.path.clone(),
                line: step.line,
                step: step.name.clone(),
                source: Box::new(source),
            })?;
        }
        Ok(())
    }

    /// A deposed host may find out only after the guest has ended.
    fn await_fenced(&mut self, interrupt: BorrowedFd<'_>) -> Result<(), RunnerError> {
        let Some(expected) = self.scenario.expect.fenced else { return Ok(()) };
        let limit = monotonic() + FENCED_BOUND;
        while self.run.timeline().fenced() < expected.min && monotonic() < limit {
            self.turn(limit, interrupt)?;
        }
        Ok(())
    }
}
