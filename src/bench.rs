//! `ftvm bench`: what it costs and how fast it is.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::run::this_program;
use crate::{CommandResult, ExitStatus, output};
use ftvm_bench::{BenchOptions, Suite};
use scenarios::cluster::default_pool_parent;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which suites: overhead, pause, output, record, takeover, apply, scale, simulator; without any, all
    #[arg(value_name = "SUITE")]
    suites: Vec<Suite>,
    /// Fewer repetitions: all suites in under three minutes
    #[arg(long)]
    quick: bool,
    /// Write the result to a file as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the result as a document, too, with its plots in `plots/` beside it
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Fail when a target is missed
    #[arg(long)]
    strict: bool,
    /// Where pools are made: a tmpfs
    #[arg(long, value_name = "DIR", env = "FTVM_POOL_DIR", default_value_os_t = default_pool_parent())]
    pool_dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    output::require()?;
    let mut suites = if args.suites.is_empty() { Suite::ALL.to_vec() } else { args.suites.clone() };
    suites.dedup();
    let options = BenchOptions {
        executable: this_program()?,
        pool_parent: args.pool_dir.clone(),
        quick: args.quick,
        suites,
        commit: env!("FTVM_COMMIT").to_owned(),
        no_kvm: vmm::machine::open_kvm().err().map(|error| vmm::chain(&error)),
    };
    let report = ftvm_bench::run(&options, &mut std::io::stderr());
    output::text(&ftvm_bench::table(&report))?;
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report).map_err(|error| Failure::new(ExitCode::Internal, &error))?;
        std::fs::write(path, json + "\n").map_err(|error| {
            Failure::line(ExitCode::FileMissing, format!("cannot write {}: {error}", path.display()))
        })?;
    }
    if let Some(path) = &args.report {
        ftvm_bench::write_report(&report, path).map_err(|error| Failure::new(ExitCode::FileMissing, &error))?;
    }
    let (judged, passed) = report.judged();
    let failed = report.is_broken() || (args.strict && passed < judged);
    Ok(ExitStatus::Own(if failed { ExitCode::ExpectationFailed } else { ExitCode::Ok }))
}
