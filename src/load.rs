//! `ftvm load`: clients for a guest, who write down what they see and check it.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::signals::EndSignals;
use crate::{CommandResult, ExitStatus, output};
use ft_protocol::Span;
use scenarios::echo_load::{self, EchoError, EchoPlan};
use scenarios::kv_load::{self, LoadError, LoadPlan};
use scenarios::segment_claim::{Claim, ClaimError, claim_address, claim_guest};
use scenarios::units::parse_span;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;
use vmm::clock::monotonic;
use vmm::net::MacAddress;
use vmm::net::client::SegmentHost;

/// How long clients ask, unless the user says otherwise.
const TIME: Span = Span::from_ms(10_000);
/// How long an answer may take, unless the user says otherwise.
const ANSWER_TIME: Span = Span::from_ms(60_000);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    guest: Guest,
}

#[derive(clap::Subcommand)]
enum Guest {
    /// Load for builtin:kv: fails if a connection breaks, a write is lost, or answers fit no order
    Kv(KvArgs),
    /// Load for builtin:netecho: fails if a connection breaks, or what comes back is not what was sent
    Echo(EchoArgs),
}

#[derive(clap::Args)]
struct EchoArgs {
    /// The segment that the guest is on: the socket of its switch
    #[arg(value_name = "PATH")]
    segment: PathBuf,
    /// Where the guest is
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "10.0.0.2:7")]
    to: SocketAddrV4,
    /// The clients' own address, in the guest's network (default: the first from 10.0.0.100 on that no other load has)
    #[arg(long, value_name = "ADDRESS")]
    from: Option<Ipv4Addr>,
    /// Connections, each with up to 2 KiB under way at a time; builtin:netecho serves 16
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=16))]
    connections: u32,
    /// No datagrams beside them
    #[arg(long)]
    no_datagrams: bool,
    /// How long they send (default 10s)
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    time: Option<Span>,
    /// Pause between an answer and what is sent next
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    pause: Option<Span>,
    /// How long an answer may take (default 60s)
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    answer_time: Option<Span>,
    /// What is sent
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Keep what was sent and came back, and when, in this file
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
}

#[derive(clap::Args)]
struct KvArgs {
    /// The segment that the guest is on: the socket of its switch
    #[arg(value_name = "PATH")]
    segment: PathBuf,
    /// Where the guest is
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "10.0.0.2:7000")]
    to: SocketAddrV4,
    /// The clients' own address, in the guest's network (default: the first from 10.0.0.100 on that no other load has)
    #[arg(long, value_name = "ADDRESS")]
    from: Option<Ipv4Addr>,
    /// Clients, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=30))]
    clients: u32,
    /// Keys that they share
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=9999))]
    keys: u32,
    /// How long they ask (default 10s)
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    time: Option<Span>,
    /// Pause between an answer and the next request
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    pause: Option<Span>,
    /// How long an answer may take (default 60s)
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    answer_time: Option<Span>,
    /// What is asked for
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Keep the history in this file
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Have the guest end afterwards
    #[arg(long)]
    stop: bool,
}

/// Bits of the network that guest and clients are in.
const NETWORK_BITS: u8 = 24;

pub(crate) fn run(args: &Args) -> CommandResult {
    match &args.guest {
        Guest::Kv(args) => run_kv(args),
        Guest::Echo(args) => run_echo(args),
    }
}

/// Joins the segment, with an address that is no other load's while the claim is kept.
fn join(segment: &Path, from: Option<Ipv4Addr>) -> Result<(SegmentHost, Claim), Failure> {
    let internal = |error: std::io::Error| Failure::new(ExitCode::Internal, &error);
    let mac = MacAddress::random().map_err(internal)?;
    let (from, claim) = claim_address(segment, from)?;
    Ok((SegmentHost::join(segment, mac, from, NETWORK_BITS)?, claim))
}

impl From<ClaimError> for Failure {
    fn from(error: ClaimError) -> Self {
        let code = match &error {
            ClaimError::Address { .. } | ClaimError::Addresses { .. } | ClaimError::Guest { .. } => {
                ExitCode::Unreachable
            }
            ClaimError::Unknown(_) => ExitCode::Internal,
        };
        Self::new(code, &error)
    }
}

fn duration(span: Span) -> Duration {
    Duration::from_nanos(span.ns())
}

fn run_echo(args: &EchoArgs) -> CommandResult {
    let signals = EndSignals::new()?;
    let (host, _address) = join(&args.segment, args.from)?;
    let plan = EchoPlan {
        to: args.to,
        connections: args.connections,
        datagrams: !args.no_datagrams,
        pause: args.pause.map_or(Duration::ZERO, duration),
        seed: args.seed,
        answer_time_max: duration(args.answer_time.unwrap_or(ANSWER_TIME)),
    };
    let deadline = monotonic() + args.time.unwrap_or(TIME);
    let (report, judged) = echo_load::run(&host, &plan, args.history.as_deref(), || {
        monotonic() >= deadline || signals.received().is_some()
    })?;
    output::json(&report)?;
    judged.map_err(|violation| Failure::new(ExitCode::ExpectationFailed, &violation))?;
    Ok(ExitStatus::Own(ExitCode::Ok))
}

impl From<EchoError> for Failure {
    fn from(error: EchoError) -> Self {
        let code = match &error {
            EchoError::Connect(_) => ExitCode::Unreachable,
            EchoError::History(_) => ExitCode::OutputFailed,
            EchoError::Port(_) => ExitCode::Internal,
        };
        Self::new(code, &error)
    }
}

fn run_kv(args: &KvArgs) -> CommandResult {
    let signals = EndSignals::new()?;
    let _guest = claim_guest(&args.segment, args.to)?;
    let (host, _address) = join(&args.segment, args.from)?;
    let plan = LoadPlan {
        to: args.to,
        clients: args.clients,
        keys: args.keys,
        pause: args.pause.map_or(Duration::ZERO, duration),
        seed: args.seed,
        answer_time_max: duration(args.answer_time.unwrap_or(ANSWER_TIME)),
    };
    let deadline = monotonic() + args.time.unwrap_or(TIME);
    let load = kv_load::run(&host, &plan, args.history.as_deref(), || {
        monotonic() >= deadline || signals.received().is_some()
    })?;
    output::json(&load.report)?;
    let checked = load.check();
    if args.stop {
        kv_load::stop(&host, &plan)?;
    }
    match checked {
        Ok(_) => Ok(ExitStatus::Own(ExitCode::Ok)),
        Err(violation) => Err(Failure::new(ExitCode::ExpectationFailed, &violation)),
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let code = match &error {
            LoadError::Connect(_) | LoadError::Look(_) => ExitCode::Unreachable,
            LoadError::History(_) => ExitCode::OutputFailed,
            LoadError::Protocol { .. } => ExitCode::ExpectationFailed,
        };
        Self::new(code, &error)
    }
}
