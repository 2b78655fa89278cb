//! `ftvm switch`: an Ethernet segment.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::signals::EndSignals;
use crate::{CommandResult, ExitStatus, output};
use ft_protocol::Span;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use scenarios::units::parse_span;
use serde::Serialize;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;
use vmm::net::{Faults, Switch, SwitchCounters};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The segment's socket: what guests and hosts are told with segment=PATH
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The share of frames that are lost, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = parse_share)]
    loss: f64,
    /// How long each frame takes
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    delay: Option<Span>,
    /// Which frames are lost: the same seed loses the same ones of the same sequence
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// At the end, say as JSON what became of the frames
    #[arg(long)]
    json: bool,
}

/// What became of the frames.
#[derive(Serialize)]
struct Report {
    ports: u64,
    received: u64,
    forwarded: u64,
    lost: u64,
    nowhere: u64,
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("write a share from 0 to 1, as in 0.01".to_owned()),
    }
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let signals = EndSignals::new()?;
    let delay = args.delay.map_or(Duration::ZERO, |delay| Duration::from_nanos(delay.ns()));
    let switch = Switch::start(&args.path, Faults { loss: args.loss, delay, seed: args.seed })?;
    await_end(&signals)?;
    if args.json {
        let SwitchCounters { ports, received, forwarded, lost, nowhere } = switch.counters();
        output::json(&Report { ports, received, forwarded, lost, nowhere })?;
    }
    drop(switch);
    // The end that everybody expects of it, however it was asked for.
    Ok(ExitStatus::Own(ExitCode::Ok))
}

fn await_end(signals: &EndSignals) -> Result<(), Failure> {
    while signals.received().is_none() {
        match poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Failure::new(ExitCode::Internal, &errno)),
        }
    }
    Ok(())
}
