//! `ftvm scenario`: failures as files.

mod show;

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::run::this_program;
use crate::signals::EndSignals;
use crate::{CommandResult, ExitStatus, output};
use clap::Subcommand;
use scenarios::cluster::default_pool_parent;
use scenarios::golden::GoldenError;
use scenarios::language::{Axis, Scenario, ScenarioError, UnfitGuest, json_schema};
use scenarios::report::{FolderError, RunFolder, explain};
use scenarios::runner::{
    Campaign, JunitError, Report, RunnerError, RunnerOptions, World, github_annotation_of, github_annotations, junit,
    junit_of_invalid, run_campaign,
};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run scenarios on real processes; 0 only if everything that they expect holds
    Run(RunArgs),
    /// Play scenarios in the simulator, in virtual time; those that mean nothing there are skipped, with the reason
    Sim(SimArgs),
    /// Check scenario files without running them, and tell in which worlds they can run
    Check(FilesArgs),
    /// List scenarios and what they prove
    List(FilesArgs),
    /// Tell in words what a run was and what happened around its failure
    Explain(ExplainArgs),
    /// Print the JSON schema of scenario files, for editors
    Schema,
}

#[derive(clap::Args)]
struct RunArgs {
    #[command(flatten)]
    rounds: RoundArgs,
    /// Where pools are made: a tmpfs
    #[arg(long, value_name = "DIR", env = "FTVM_POOL_DIR", default_value_os_t = default_pool_parent())]
    pool_dir: PathBuf,
    #[command(flatten)]
    reporting: ReportArgs,
}

#[derive(clap::Args)]
struct SimArgs {
    #[command(flatten)]
    rounds: RoundArgs,
    #[command(flatten)]
    reporting: ReportArgs,
}

/// What is run, and how often, in either world.
#[derive(clap::Args)]
struct RoundArgs {
    #[command(flatten)]
    files: FilesArgs,
    /// Where random numbers start, instead of the scenarios' own seeds
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Run each this often, with a seed more each time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    repeat: u64,
    /// Run this many at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Go on, with a seed more each time, until one fails
    #[arg(long, conflicts_with = "repeat")]
    until_fail: bool,
    /// Where the runs' directories are made; those of runs that went well are removed again
    #[arg(long, value_name = "DIR", default_value = "scenario-runs")]
    runs: PathBuf,
    /// Keep the directories of runs that went well
    #[arg(long)]
    keep: bool,
}

impl RoundArgs {
    /// How often all of them are run: as often as wanted, and while there are seeds.
    fn rounds(&self, scenarios: &[Scenario]) -> Result<u64, Failure> {
        let first = scenarios.iter().map(|scenario| self.seed.unwrap_or(scenario.seed)).max().unwrap_or(0);
        // One more than this if the first seed is 0: nobody has the time to notice.
        let most = (u64::MAX - first).saturating_add(1);
        if !self.until_fail && self.repeat > most {
            let line = format!("--repeat {}: seeds end at {}, and the first one is {first}", self.repeat, u64::MAX);
            return Err(Failure::line(ExitCode::Usage, line));
        }
        Ok(if self.until_fail { most } else { self.repeat })
    }

    fn runner(&self, executable: PathBuf, pool_parent: PathBuf) -> RunnerOptions {
        RunnerOptions {
            executable,
            commit: env!("FTVM_COMMIT").to_owned(),
            pool_parent,
            runs: self.runs.clone(),
            seed: self.seed,
            keep: self.keep,
        }
    }
}

/// How it is told what came of them, in either world.
#[derive(clap::Args)]
struct ReportArgs {
    /// Write a report that machines that build can read
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print annotations for GitHub Actions, which also sets the variable
    #[arg(long, env = "GITHUB_ACTIONS")]
    github: bool,
    /// Show every expectation, also of scenarios that hold
    #[arg(long, short)]
    verbose: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct ExplainArgs {
    /// The run's directory
    #[arg(value_name = "RUN", default_value = "scenario-runs/latest")]
    run: PathBuf,
}

#[derive(clap::Args)]
struct FilesArgs {
    /// Scenario files, or directories of them
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// Give an axis of the matrix these values, or add an axis; may be repeated
    #[arg(long, value_name = "KEY=VALUE,...")]
    matrix: Vec<Axis>,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    match &args.command {
        Command::Run(args) => run_all(args),
        Command::Sim(args) => simulate_all(args),
        Command::Check(args) => check(args),
        Command::List(args) => list(args),
        Command::Explain(args) => {
            let folder = RunFolder::read(&args.run)?;
            let told: String = explain(&folder).lines().map(|line| show::plain(line) + "\n").collect();
            output::text(&told)?;
            Ok(ExitStatus::Own(ExitCode::Ok))
        }
        Command::Schema => {
            output::json(&json_schema())?;
            Ok(ExitStatus::Own(ExitCode::Ok))
        }
    }
}

fn check(args: &FilesArgs) -> CommandResult {
    let (mut wrong, mut scenarios) = (Vec::new(), Vec::new());
    for file in all_files(args)? {
        match Scenario::read_all(&file, &args.matrix) {
            Ok(cells) => scenarios.extend(cells),
            Err(error) => wrong.push(error.into()),
        }
    }
    // Many cells have the same guest.
    let mut told = BTreeSet::new();
    for scenario in scenarios {
        let unfit = scenario.unfit_guests();
        if !unfit.is_empty() {
            let unfit = unfit.into_iter().filter(|unfit| told.insert(unfit.to_string()));
            wrong.extend(unfit.map(Failure::from));
            continue;
        }
        let cell: String = scenario.cell.iter().map(|(key, value)| format!("  {key}={value}")).collect();
        let worlds = match scenario.check_simulated() {
            Ok(()) => "run, sim".to_owned(),
            Err(not) => format!("run only (line {}: {})", not.line(), not.why()),
        };
        output::text(&format!("ok  {}{cell}  {worlds}\n", scenario.path.display()))?;
    }
    tell_all(wrong)?;
    Ok(ExitStatus::Own(ExitCode::Ok))
}

fn list(args: &FilesArgs) -> CommandResult {
    let scenarios = read_all(args, None)?;
    let width = scenarios.iter().map(|scenario| scenario.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for scenario in &scenarios {
        let description = show::plain(scenario.description.as_deref().unwrap_or("-"));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:width$}  {description}", scenario.name);
    }
    output::text(&text)?;
    Ok(ExitStatus::Own(ExitCode::Ok))
}

fn run_all(args: &RunArgs) -> CommandResult {
    // All of them are read before the first one runs: a typing error in the last file is said at once.
    let scenarios = read_all(&args.rounds.files, Some(&args.reporting))?;
    drop(vmm::machine::open_kvm()?);
    let runner = args.rounds.runner(this_program()?, args.pool_dir.clone());
    campaign(&args.rounds, &args.reporting, &scenarios, runner, World::Processes)
}

fn simulate_all(args: &SimArgs) -> CommandResult {
    let scenarios = read_all(&args.rounds.files, Some(&args.reporting))?;
    let runner = args.rounds.runner(PathBuf::new(), PathBuf::new());
    campaign(&args.rounds, &args.reporting, &scenarios, runner, World::Simulator)
}

fn campaign(
    rounds: &RoundArgs,
    reporting: &ReportArgs,
    scenarios: &[Scenario],
    runner: RunnerOptions,
    world: World,
) -> CommandResult {
    let signals = EndSignals::new()?;
    let (repeat, until_fail, jobs) = (rounds.rounds(scenarios)?, rounds.until_fail, usize::from(rounds.jobs));
    let campaign = Campaign { runner, repeat, until_fail, jobs, world };
    let runs = (!until_fail).then(|| repeat.saturating_mul(scenarios.len() as u64));
    let show = show::Show::new(runs, reporting.verbose, reporting.json);
    let campaigned = run_campaign(scenarios, &campaign, signals.as_fd(), &|progress| show.take(progress));
    show.finish();
    // Those that ended are told, whatever came then.
    let broken = campaigned.broken.as_ref().filter(|error| !matches!(error, RunnerError::Interrupted));
    let told = tell(&campaigned.reports, broken, reporting);
    match campaigned.broken {
        None => told,
        Some(RunnerError::Interrupted) => {
            let ended = campaigned.reports.len();
            let mut line = format!("interrupted: {ended} runs had ended");
            if world == World::Processes {
                let _ = write!(line, "; what the others left is in {}", rounds.runs.display());
            }
            Err(Failure::line(signals.received().unwrap_or(ExitCode::Terminated), line))
        }
        Some(error) => Err(error.into()),
    }
}

/// Says what came of all of them, in all the ways that are wanted.
fn tell(reports: &[Report], broken: Option<&RunnerError>, args: &ReportArgs) -> CommandResult {
    let shown = show_all(reports, args);
    // Each is told, whatever became of the other.
    if let Some(path) = &args.junit {
        write_junit(path, junit(reports, broken))?;
    }
    shown?;
    Ok(ExitStatus::Own(code(reports)))
}

fn write_junit(path: &Path, xml: Result<String, JunitError>) -> Result<(), Failure> {
    let xml = xml.map_err(|error| Failure::new(ExitCode::Internal, &error))?;
    let unwritten = |error| Failure::line(ExitCode::OutputFailed, format!("cannot write {}: {error}", path.display()));
    std::fs::write(path, xml).map_err(unwritten)
}

fn show_all(reports: &[Report], args: &ReportArgs) -> Result<(), Failure> {
    if args.json {
        return output::json(&reports);
    }
    output::text(&show::summary(reports))?;
    if args.github {
        output::text(&github_annotations(reports))?;
    }
    Ok(())
}

/// Time that ran out is told apart from wrong results.
fn code(reports: &[Report]) -> ExitCode {
    let failed: Vec<&Report> = reports.iter().filter(|report| !report.holds).collect();
    match failed[..] {
        [] => ExitCode::Ok,
        _ if failed.iter().all(|report| report.ran_out_of_time()) => ExitCode::TimeOut,
        _ => ExitCode::ExpectationFailed,
    }
}

/// Every file that is no scenario is told, in all the ways that are wanted; then there is none.
fn read_all(args: &FilesArgs, reporting: Option<&ReportArgs>) -> Result<Vec<Scenario>, Failure> {
    let (mut scenarios, mut wrong) = (Vec::new(), Vec::new());
    for file in all_files(args)? {
        match Scenario::read_all(&file, &args.matrix) {
            Ok(cells) => scenarios.extend(cells),
            // What is wrong with the command line is so for every file.
            Err(error @ ScenarioError::Given { .. }) => return Err(error.into()),
            Err(error) => wrong.push(error),
        }
    }
    if wrong.is_empty() {
        return Ok(scenarios);
    }
    if reporting.is_some_and(|reporting| reporting.github) {
        wrong.iter().try_for_each(|error| output::text(&github_annotation_of(error)))?;
    }
    let junit = reporting.and_then(|reporting| reporting.junit.as_deref());
    let written = junit.map_or(Ok(()), |path| write_junit(path, junit_of_invalid(&wrong)));
    tell_all(wrong.into_iter().map(Failure::from).chain(written.err()).collect()).map(|()| Vec::new())
}

/// Each is told; the last one ends the command.
fn tell_all(mut wrong: Vec<Failure>) -> Result<(), Failure> {
    // A file that is no scenario counts for more than anything else, such as a guest that is missing.
    wrong.sort_by_key(|failure| failure.code() == ExitCode::ScenarioInvalid);
    let Some(last) = wrong.pop() else { return Ok(()) };
    wrong.into_iter().for_each(|failure| _ = failure.report());
    Err(last)
}

fn all_files(args: &FilesArgs) -> Result<Vec<PathBuf>, Failure> {
    let keys: BTreeSet<&str> = args.matrix.iter().map(|axis| axis.key.as_str()).collect();
    if keys.len() < args.matrix.len() {
        let line = "`--matrix` names an axis twice: give it all its values at once, as in vm.mode=checkpoint,replay";
        return Err(Failure::line(ExitCode::Usage, line));
    }
    let found = args.paths.iter().map(|path| files(path)).collect::<Result<Vec<_>, _>>()?;
    Ok(found.into_iter().flatten().collect())
}

/// The file, or the scenario files in the directory by name.
fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |error: std::io::Error| {
        Failure::line(ExitCode::FileMissing, format!("cannot read directory {}: {error}", path.display()))
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        let line = format!("directory {} has no scenario files (*.toml)", path.display());
        return Err(Failure::line(ExitCode::FileMissing, line));
    }
    Ok(files)
}

impl From<ScenarioError> for Failure {
    fn from(error: ScenarioError) -> Self {
        let code = match &error {
            ScenarioError::Unreadable { .. } => ExitCode::FileMissing,
            ScenarioError::Invalid { .. } | ScenarioError::Given { .. } => ExitCode::ScenarioInvalid,
        };
        Self::new(code, &error)
    }
}

impl From<UnfitGuest> for Failure {
    fn from(unfit: UnfitGuest) -> Self {
        let (place, suggestion) = (unfit.place(), unfit.suggestion().map(|name| format!("did you mean `{name}`?")));
        let failure = Self::from(unfit.into_error()).at(&place);
        suggestion.iter().fold(failure, |failure, suggestion| failure.with_advice(suggestion))
    }
}

impl From<FolderError> for Failure {
    fn from(error: FolderError) -> Self {
        let code = match &error {
            FolderError::Unwritable { .. } => ExitCode::OutputFailed,
            _ => ExitCode::FileMissing,
        };
        Self::new(code, &error)
    }
}

impl From<GoldenError> for Failure {
    fn from(error: GoldenError) -> Self {
        let code = match &error {
            GoldenError::TimeOut(_) => ExitCode::TimeOut,
            GoldenError::Interrupted => ExitCode::Terminated,
            GoldenError::Failed { exit: scenarios::cluster::ChildExit::Code(code), .. } => {
                ExitCode::of_child(*code).unwrap_or(ExitCode::Internal)
            }
            GoldenError::File { .. } => ExitCode::FileMissing,
            GoldenError::Spawn { .. } | GoldenError::Wait(_) | GoldenError::Failed { .. } => ExitCode::Internal,
        };
        Self::new(code, &error)
    }
}

impl From<RunnerError> for Failure {
    fn from(error: RunnerError) -> Self {
        match error {
            RunnerError::Guest { source, .. } => source.into(),
            RunnerError::Golden(error) => error.into(),
            RunnerError::Cluster(error) => error.into(),
            RunnerError::Run(error) => error.into(),
            RunnerError::Page(error) => error.into(),
            RunnerError::Segment(_) => Self::new(ExitCode::Internal, &error),
            RunnerError::Disk(_) => Self::new(ExitCode::FileMissing, &error),
            RunnerError::File { .. } => Self::new(ExitCode::OutputFailed, &error),
            RunnerError::Step { .. } | RunnerError::Workload { .. } => Self::new(ExitCode::ExpectationFailed, &error),
            RunnerError::Skipped { .. } => Self::new(ExitCode::NotPermitted, &error),
            RunnerError::Interrupted => Self::new(ExitCode::Terminated, &error),
        }
    }
}
