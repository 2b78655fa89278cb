//! `ftvm demo`: the newcomer's first minute.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::run::this_program;
use crate::signals::EndSignals;
use crate::{CommandResult, ExitStatus, output};
use ft_protocol::Span;
use scenarios::cluster::default_pool_parent;
use scenarios::demo::{DemoError, DemoOptions, DemoReport, show_demo};
use scenarios::units::{ByteCount, parse_span};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

/// Seeds are short, so that they can be told by word of mouth.
const SEEDS: u64 = 1_000_000;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where its random numbers start; a run is told again by its seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many hosts are killed, one after the other
    #[arg(long, value_name = "N", default_value_t = 6)]
    kills: u32,
    /// How many hosts there are
    #[arg(long, value_name = "N", default_value_t = 3)]
    hosts: u16,
    /// Guest memory
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    memory: ByteCount,
    /// Longest time between two commits, in milliseconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    epoch_ms: Option<u64>,
    /// Silence after which a host is suspected, in milliseconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(10..=600_000))]
    heartbeat_ms: Option<u64>,
    /// Where the pool is made: a tmpfs or hugetlbfs
    #[arg(long, value_name = "DIR", env = "FTVM_POOL_DIR", default_value_os_t = default_pool_parent())]
    pool_dir: PathBuf,
    /// How long each of the two runs may take
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = "5min")]
    time_limit: Span,
    /// Print JSON at the end instead of a timeline on the way
    #[arg(long)]
    json: bool,
    /// Other arguments for the guest, torture
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    output::require()?;
    drop(vmm::machine::open_kvm()?);
    let signals = EndSignals::new()?;
    let options = DemoOptions {
        executable: this_program()?,
        pool_parent: args.pool_dir.clone(),
        seed: args.seed.unwrap_or_else(|| RandomState::new().hash_one(0) % SEEDS),
        kills: args.kills,
        hosts: args.hosts,
        memory: args.memory,
        args: args.args.clone(),
        epoch_interval: args.epoch_ms.map(Span::from_ms),
        heartbeat_bound: args.heartbeat_ms.map(Span::from_ms),
        time_limit: args.time_limit,
    };
    let shown = if args.json {
        show_demo(&options, signals.as_fd(), &mut io::sink())
    } else {
        show_demo(&options, signals.as_fd(), &mut io::stdout())
    };
    let report = match shown {
        Ok(report) => report,
        Err(DemoError::Interrupted) => return Ok(signals.end()),
        Err(error) => return Err(error.into()),
    };
    if args.json {
        output::json(&report)?;
    }
    Ok(ExitStatus::Own(code(&report)))
}

fn code(report: &DemoReport) -> ExitCode {
    match (report.holds, report.summary.end.as_str()) {
        (true, _) => ExitCode::Ok,
        (false, "interrupted") => ExitCode::TimeOut,
        (false, "lost") => ExitCode::VmLost,
        (false, _) => ExitCode::ExpectationFailed,
    }
}

impl From<DemoError> for Failure {
    fn from(error: DemoError) -> Self {
        match error {
            DemoError::Guest(error) => error.into(),
            DemoError::Golden(error) => error.into(),
            DemoError::Cluster(error) => error.into(),
            DemoError::Run(error) => error.into(),
            DemoError::Output(ref source) if source.kind() == io::ErrorKind::BrokenPipe => {
                Self::new(ExitCode::OutputClosed, &error)
            }
            DemoError::Output(_) => Self::new(ExitCode::OutputFailed, &error),
            DemoError::NotReady { .. } => Self::new(ExitCode::TimeOut, &error),
            DemoError::Interrupted => Self::new(ExitCode::Internal, &error),
        }
    }
}
