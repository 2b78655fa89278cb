//! `ftvm console`: a VM's console, without loss.

use crate::exit_code::ExitCode;
use crate::pool_address::{PoolOption, waiting_for};
use crate::run::{follow, guest_end};
use crate::run_in_pool::{RECONNECT, duration};
use crate::signals::EndSignals;
use crate::{CommandResult, ExitStatus, output, progress, typing};
use ft_protocol::Span;
use scenarios::attached::{AttachedVm, Following};
use scenarios::console_input::Keys;
use scenarios::foreground::{Followed as _, Shown};
use scenarios::protected::{ConsoleStart, Outcome};
use scenarios::units::parse_span;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

/// Console bytes taken at once.
const CHUNK_BYTES: usize = 64 * 1024;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of the VM
    vm: String,
    #[command(flatten)]
    pool: PoolOption,
    /// The byte to begin with, counted from the guest's birth, or `end`; without it the oldest that the pool has
    #[arg(long, value_name = "N", value_parser = parse_start)]
    from: Option<ConsoleStart>,
    /// Show what is there, and do not wait for more
    #[arg(long)]
    no_follow: bool,
    /// Feed the console from standard input, too
    #[arg(long, conflicts_with = "no_follow")]
    input: bool,
    /// Pass each key on by itself, for guests that edit their lines themselves, as Linux does; Ctrl-] ends the command
    #[arg(long, requires = "input")]
    raw: bool,
    /// How long a controller that has died is waited for
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = RECONNECT)]
    reconnect: Span,
    /// Write what happens to a file, as JSON lines
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
}

fn parse_start(text: &str) -> Result<ConsoleStart, String> {
    match text {
        "end" => Ok(ConsoleStart::End),
        _ => text.parse().map(ConsoleStart::At).map_err(|_| "neither a number of bytes nor `end`".to_owned()),
    }
}

pub(crate) fn run(args: &Args) -> CommandResult {
    output::require()?;
    vmm::slice::run_soon();
    let signals = EndSignals::new()?;
    let patience = duration(args.reconnect);
    let pool = args.pool.address()?;
    let following =
        Following { pool: &pool, patience, events: args.events.as_deref(), interrupt: Some(signals.as_fd()) };
    let from = args.from.unwrap_or(ConsoleStart::Oldest);
    let mut vm = match progress::show(waiting_for(&pool), || AttachedVm::attach(following, &args.vm, from)) {
        Err(error) if error.gave_up() => return Ok(signals.end()),
        attached => attached?,
    };
    if args.no_follow {
        return show_what_is_there(&mut vm);
    }
    let keys = if args.raw { Keys::Raw } else { Keys::Cooked };
    let input = args.input.then(|| typing::protected(keys)).transpose()?;
    let shown = follow(None, &mut vm, &signals, input);
    let position = vm.position();
    let again = format!("`--from {position}` reads on from there");
    match shown.map_err(|failure| failure.with_advice(&again))? {
        Shown::Over(Outcome::Ended(end)) => guest_end(end),
        Shown::Over(Outcome::Lost { .. } | Outcome::Deleted) => {
            unreachable!("a cluster that is not ours may always get another host")
        }
        Shown::TimeOut => unreachable!("no time limit was given"),
        Shown::OutputClosed => Ok(ExitStatus::Own(ExitCode::OutputClosed)),
        Shown::Interrupted => {
            eprintln!("ftvm: left the console of {} at byte {position}: {again}", args.vm);
            Ok(signals.end())
        }
    }
}

fn show_what_is_there(vm: &mut AttachedVm) -> CommandResult {
    let mut out = io::stdout().lock();
    let mut bytes = Vec::new();
    while vm.read_console(&mut bytes, CHUNK_BYTES)? > 0 {
        out.write_all(&bytes).map_err(|error| output::failed(&error))?;
        bytes.clear();
    }
    out.flush().map_err(|error| output::failed(&error))?;
    Ok(ExitStatus::Own(ExitCode::Ok))
}
