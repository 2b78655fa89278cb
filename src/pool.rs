//! `ftvm pool`: the pool controller.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::flush::Flush;
use crate::lineage::Parent;
use crate::{CommandResult, ExitStatus, output};
use ft_protocol::phi::{BadPhi, Phi};
use scenarios::cluster::OwnedDirectory;
use scenarios::cluster_file::ClusterFile;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use vmm::controller::{ControllerOptions, Election, serve};
use vmm::fence::{FenceAgent, FenceConfig};
use vmm::membership::{LeaseTime, Registry};
use vmm::transport::Key;

/// Silence after which a host is suspected. Nothing but a hang is found by it: a dead host's socket closes at once.
const HEARTBEAT_MS: u64 = 100;
/// A primary that owes a commit for so long, while its host lives, is suspected.
const STALL_MS: u64 = 2_000;
/// The degree of suspicion at which a silent host is suspected before the bound: on a quiet machine, a sixth sooner.
const SUSPICION: &str = "16";
/// Beats that fit into the bound: each wakes the host and whoever watches it, which is most of what an idle VM costs.
const BEATS_PER_BOUND: u32 = 3;

const ELECTION: &str = "One controller among several machines";

// No part of it in a struct of its own: it would not be known then whether any of it was given.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to listen for hosts and clients
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Where to listen for hosts and clients of other machines, which have the pool's device too: ADDRESS:PORT. Without a key
    /// whoever reaches it is trusted
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// The key that is asked for between machines: a file of 16 bytes or more, the same on all
    #[arg(long, value_name = "FILE", env = "FTVM_KEY_FILE")]
    key_file: Option<PathBuf>,
    /// Be elected in this etcd, and wait until then: http://HOST:PORT, several between commas
    #[arg(long, value_name = "ENDPOINTS", requires = "cluster_name", help_heading = ELECTION)]
    etcd: Option<String>,
    /// The cluster's name in etcd
    #[arg(long, value_name = "NAME", requires = "etcd", help_heading = ELECTION)]
    cluster_name: Option<String>,
    /// A file that says all this, and the key: the same as that of hosts and clients
    #[arg(long, value_name = "FILE", conflicts_with = "etcd", help_heading = ELECTION)]
    cluster: Option<PathBuf>,
    /// How long the place of a controller that is gone is kept for it, in seconds
    #[arg(long, value_name = "N", default_value_t = LeaseTime::default(), help_heading = ELECTION)]
    lease_seconds: LeaseTime,
    /// Where other machines reach this one, HOST:PORT, if it is not what --listen says
    #[arg(long, value_name = "ADDRESS", requires = "listen", help_heading = ELECTION)]
    advertise: Option<String>,
    /// The pool's directory, on a tmpfs or hugetlbfs, made if it does not exist; or a DAX device, or a file in its place
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Silence after which a host is suspected, in milliseconds
    #[arg(long, value_name = "N", default_value_t = HEARTBEAT_MS, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    heartbeat_ms: u64,
    /// Suspect a host earlier, when its silence is so unlikely by its beats so far (phi: 8 is a chance of one in 10^8), or `none`
    #[arg(long, value_name = "PHI", default_value = SUSPICION)]
    suspicion: Suspicion,
    /// Suspect a primary that neither commits nor says why it need not for so long, in milliseconds, while its host lives
    #[arg(long, value_name = "N", default_value_t = STALL_MS, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    stall_ms: u64,
    /// What ends deposed hosts, beside the seal: `none`, `kill` (processes of this machine), or the path of an agent that
    /// speaks the Pacemaker fence-agents protocol
    #[arg(long, value_name = "AGENT", default_value = "none")]
    fence_agent: FenceAgent,
    /// A KEY=VALUE line for the fence agent; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    fence_parameter: Vec<String>,
    /// Time for the fence agent to act and verify, in milliseconds
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    fence_timeout_ms: u64,
    /// Record the VM of this name, from its birth, to a file, for `ftvm replay`; may be repeated
    #[arg(long, value_name = "VM=FILE", value_parser = parse_record)]
    record: Vec<(String, PathBuf)>,
    /// How written cache lines get into the pool: `auto` (nothing on tmpfs, the processor's best on DAX), none, clwb, clflushopt
    /// or clflush
    #[arg(long, value_name = "KIND", env = "FTVM_FLUSH", default_value = "auto")]
    flush: Flush,
    /// Keep the pool of a private cluster at its end
    #[arg(long)]
    keep: bool,
    /// The process whose private cluster this is: ends with it
    #[arg(long, value_name = "PID", hide = true)]
    private_to: Option<i32>,
    /// A directory to remove at the end of a private cluster
    #[arg(long, value_name = "DIR", hide = true, requires = "private_to")]
    owns: Vec<PathBuf>,
}

/// What a controller has to know of its cluster: the key, and how it is elected.
fn membership(args: &Args) -> Result<(Option<Key>, Option<Election>), Failure> {
    let (key, registry) = match &args.cluster {
        Some(file) => ClusterFile::read(file)?.into_parts(),
        None => (None, None),
    };
    let registry = match (&args.etcd, &args.cluster_name) {
        (Some(etcd), Some(name)) => Some(parse_registry(etcd, name)?),
        _ => registry,
    };
    let key = args.key_file.as_deref().map(Key::read).transpose()?.or(key);
    let Some(registry) = registry else { return Ok((key, None)) };
    if args.listen.is_some_and(|listen| listen.ip().is_unspecified()) && args.advertise.is_none() {
        let line =
            "other machines have to be told where this one is: --advertise HOST:PORT, as --listen names no address";
        return Err(Failure::line(ExitCode::Usage, line));
    }
    let (advertise, lease_time) = (args.advertise.clone(), args.lease_seconds);
    Ok((key, Some(Election { registry: Arc::new(registry), advertise, lease_time })))
}

/// Where a cluster is registered.
#[derive(clap::Args)]
pub(crate) struct MembersArgs {
    /// The cluster's etcd: http://HOST:PORT, several between commas
    #[arg(long, value_name = "ENDPOINTS", requires = "cluster_name", required_unless_present = "cluster")]
    etcd: Option<String>,
    /// The cluster's name in etcd
    #[arg(long, value_name = "NAME", requires = "etcd")]
    cluster_name: Option<String>,
    /// A file that says both
    #[arg(long, value_name = "FILE", conflicts_with = "etcd")]
    cluster: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows who is registered in etcd.
pub(crate) fn members(args: &MembersArgs) -> CommandResult {
    let registry = match (&args.etcd, &args.cluster_name, &args.cluster) {
        (Some(etcd), Some(name), _) => Some(parse_registry(etcd, name)?),
        (_, _, Some(file)) => ClusterFile::read(file)?.into_parts().1,
        _ => None,
    };
    let Some(registry) = registry else {
        return Err(Failure::line(ExitCode::Usage, "the cluster's file names no etcd"));
    };
    let unreachable = |error| Failure::new(ExitCode::Unreachable, &error);
    let (controller, hosts) = (registry.controller().map_err(unreachable)?, registry.hosts().map_err(unreachable)?);
    if args.json {
        output::json(&serde_json::json!({ "controller": controller, "hosts": hosts }))?;
    } else {
        let controller = controller.map_or_else(|| "none".to_owned(), |place| place.to_string());
        let hosts = hosts.iter().map(|place| format!("host {}: process {}\n", place.host, place.process));
        output::text(&format!("controller: {controller}\n{}", hosts.collect::<String>()))?;
    }
    Ok(ExitStatus::Own(ExitCode::Ok))
}

fn parse_registry(etcd: &str, name: &str) -> Result<Registry, Failure> {
    Registry::parse(etcd, name).map_err(|error| Failure::new(ExitCode::Usage, &error))
}

/// A degree of suspicion, or none.
#[derive(Clone, Copy, Debug)]
struct Suspicion(Option<Phi>);

impl FromStr for Suspicion {
    type Err = BadPhi;
    fn from_str(text: &str) -> Result<Self, BadPhi> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(Some).map(Self) }
    }
}

fn parse_record(text: &str) -> Result<(String, PathBuf), &'static str> {
    match text.split_once('=') {
        Some((vm, path)) if !vm.is_empty() && !path.is_empty() => Ok((vm.to_owned(), PathBuf::from(path))),
        _ => Err("a VM's name, `=`, and a file"),
    }
}

pub(crate) fn run(args: Args) -> CommandResult {
    args.flush.apply()?;
    let (key, election) = membership(&args)?;
    let parent = args.private_to.map(Parent::new);
    let heartbeat_bound = Duration::from_millis(args.heartbeat_ms);
    let owned = args.owns.iter().map(|path| OwnedDirectory::share(path)).collect::<Result<Vec<_>, _>>();
    let owned = owned.map_err(|error| Failure::new(ExitCode::Internal, &error))?;
    let served = serve(&ControllerOptions {
        socket: args.socket,
        listen: args.listen,
        key,
        election,
        dir: args.dir,
        heartbeat_bound,
        heartbeat_interval: (heartbeat_bound / BEATS_PER_BOUND).max(Duration::from_millis(1)),
        suspicion: args.suspicion.0,
        stall_bound: Duration::from_millis(args.stall_ms),
        private: parent.is_some(),
        keep: args.keep,
        fence: FenceConfig {
            agent: args.fence_agent,
            parameters: args.fence_parameter,
            bound: Duration::from_millis(args.fence_timeout_ms),
        },
        lifeline: parent.is_some(),
        record: args.record,
    });
    // A parent that lives still wants to read what is there, and cleans up by itself.
    if parent.is_some_and(|parent| !parent.lives()) {
        for directory in owned {
            if args.keep { directory.keep() } else { directory.remove() }
        }
    }
    served?;
    Ok(ExitStatus::Own(ExitCode::Ok))
}
