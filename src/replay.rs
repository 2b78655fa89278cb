//! `ftvm replay`: a recording, executed once more.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::{CommandResult, ExitStatus, output, progress, same_file};
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use vmm::recording::replay::{Replay, StopAt, Stopped};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The recording
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Stop when this exit of the guest has been served
    #[arg(long, value_name = "N", conflicts_with = "to_epoch")]
    to_exit: Option<u64>,
    /// Stop when the commit that made this epoch has been verified
    #[arg(long, value_name = "N")]
    to_epoch: Option<u64>,
    /// Write the guest's memory, as it is at the end, to a file
    #[arg(long, value_name = "FILE")]
    dump_memory: Option<PathBuf>,
    /// Print what the guest writes to its console, to standard output; the report then goes to standard error
    #[arg(long)]
    print_console: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    output::require()?;
    let stop = match (args.to_exit, args.to_epoch) {
        (Some(exit), _) => StopAt::Exit(exit),
        (None, Some(epoch)) => StopAt::Epoch(epoch),
        (None, None) => StopAt::End,
    };
    same_file::refuse(&[("the recording", Some(&args.file)), ("--dump-memory", args.dump_memory.as_deref())])?;
    let mut replay = Replay::open(&args.file)?;
    let progress = replay.progress();
    let line = |_| format!("replaying: exit {}, {} % of the recording", progress.exit(), progress.percent());
    let report = progress::show(line, || match args.print_console {
        true => replay.run(stop, &mut io::stdout().lock()),
        false => replay.run(stop, &mut io::sink()),
    })?;
    if let Some(path) = &args.dump_memory {
        dump(&replay, path)?;
    }
    let text = match args.json {
        true => serde_json::to_string_pretty(&report).map_err(|error| Failure::new(ExitCode::Internal, &error))?,
        false => report.to_string(),
    };
    match args.print_console {
        true => eprintln!("{text}"),
        false => output::text(&format!("{text}\n"))?,
    }
    Ok(ExitStatus::Own(match report.stopped {
        Stopped::GuestEnded { .. } | Stopped::AsAsked | Stopped::LeftOff { .. } => ExitCode::Ok,
        Stopped::Damaged { .. } | Stopped::NotRecorded { .. } => ExitCode::RecordingDamaged,
        Stopped::Diverged(_) => ExitCode::ExpectationFailed,
    }))
}

fn dump(replay: &Replay, path: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::line(ExitCode::OutputFailed, format!("cannot write the guest's memory to {}: {error}", path.display()))
    };
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    replay.dump_memory(&mut file).and_then(|()| file.flush()).map_err(failed)
}
