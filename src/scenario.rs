//! `ftvm scenario`: failures as files.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::run::this_program;
use crate::signals::EndSignals;
use crate::{CommandResult, ExitStatus, output};
use clap::Subcommand;
use scenarios::cluster::default_pool_parent;
use scenarios::golden::GoldenError;
use scenarios::language::{Scenario, ScenarioError};
use scenarios::runner::{Report, RunnerError, RunnerOptions, Verdict, run_scenario};
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
    /// Check scenario files without running them
    Check(CheckArgs),
}

#[derive(clap::Args)]
struct RunArgs {
    /// Scenario files, or directories of them
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// Where random numbers start, instead of the scenarios' own seeds
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Where the runs' directories are made; those of runs that went well are removed again
    #[arg(long, value_name = "DIR", default_value = "scenario-runs")]
    runs: PathBuf,
    /// Keep the directories of runs that went well
    #[arg(long)]
    keep: bool,
    /// Where pools are made: a tmpfs
    #[arg(long, value_name = "DIR", env = "FTVM_POOL_DIR", default_value_os_t = default_pool_parent())]
    pool_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct CheckArgs {
    /// Scenario files, or directories of them
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    match &args.command {
        Command::Run(args) => run_all(args),
        Command::Check(args) => check(args),
    }
}

fn check(args: &CheckArgs) -> CommandResult {
    for scenario in read_all(&args.paths)? {
        output::text(&format!("ok  {}\n", scenario.path.display()))?;
    }
    Ok(ExitStatus::Own(ExitCode::Ok))
}

fn run_all(args: &RunArgs) -> CommandResult {
    // All of them are read before the first one runs: a typing error in the last file is said at once.
    let scenarios = read_all(&args.paths)?;
    drop(vmm::machine::open_kvm()?);
    let signals = EndSignals::new()?;
    let options = RunnerOptions {
        executable: this_program()?,
        pool_parent: args.pool_dir.clone(),
        runs: args.runs.clone(),
        seed: args.seed,
        keep: args.keep,
    };
    let mut reports = Vec::new();
    for scenario in &scenarios {
        let report = match run_scenario(scenario, &options, signals.as_fd()) {
            Ok(report) => report,
            Err(RunnerError::Interrupted) => {
                return Ok(ExitStatus::Own(signals.received().unwrap_or(ExitCode::Terminated)));
            }
            Err(error) => return Err(error.into()),
        };
        if !args.json {
            output::text(&describe(&report))?;
        }
        reports.push(report);
    }
    if args.json {
        output::json(&reports)?;
    } else {
        output::text(&summary(&reports))?;
    }
    Ok(ExitStatus::Own(code(&reports)))
}

/// Time that ran out is told apart from wrong results.
fn code(reports: &[Report]) -> ExitCode {
    let failed: Vec<&Report> = reports.iter().filter(|report| !report.holds).collect();
    match failed[..] {
        [] => ExitCode::Ok,
        _ if failed.iter().all(|report| report.summary.end == "interrupted") => ExitCode::TimeOut,
        _ => ExitCode::ExpectationFailed,
    }
}

fn describe(report: &Report) -> String {
    let mut text = format!("{} (seed {}, {:.1} s)\n", report.scenario, report.seed, report.duration_ms / 1_000.0);
    for Verdict { expectation, holds, found } in &report.verdicts {
        let mark = if *holds { "ok  " } else { "FAIL" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {mark}  {expectation}: {found}");
    }
    if let Some(directory) = &report.directory {
        let _ = writeln!(text, "  see   {}", directory.display());
    }
    if !report.holds {
        let _ = writeln!(text, "  again ftvm scenario run --seed {} {}", report.seed, report.path.display());
    }
    text
}

fn summary(reports: &[Report]) -> String {
    let failed: Vec<&str> =
        reports.iter().filter(|report| !report.holds).map(|report| report.scenario.as_str()).collect();
    let passed = reports.len() - failed.len();
    let names = if failed.is_empty() { String::new() } else { format!(": {}", failed.join(", ")) };
    format!("{passed} scenarios hold, {} fail{names}\n", failed.len())
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<Scenario>, Failure> {
    let mut scenarios = Vec::new();
    for path in paths {
        for file in files(path)? {
            scenarios.push(Scenario::read(&file)?);
        }
    }
    Ok(scenarios)
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
            ScenarioError::Invalid { .. } => ExitCode::ScenarioInvalid,
        };
        Self::new(code, &error)
    }
}

impl From<GoldenError> for Failure {
    fn from(error: GoldenError) -> Self {
        let code = match &error {
            GoldenError::TimeOut(_) => ExitCode::TimeOut,
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
            RunnerError::Guest(error) => error.into(),
            RunnerError::Golden(error) => error.into(),
            RunnerError::Cluster(error) => error.into(),
            RunnerError::Run(error) => error.into(),
            RunnerError::File { .. } => Self::new(ExitCode::FileMissing, &error),
            RunnerError::Step { .. } => Self::new(ExitCode::ExpectationFailed, &error),
            RunnerError::Interrupted => Self::new(ExitCode::Terminated, &error),
        }
    }
}
