//! `ftvm host`: a host.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::flush::Flush;
use crate::lineage::Parent;
use crate::pool_address::PoolOption;
use crate::run_in_pool::{RECONNECT, duration};
use crate::{CommandResult, ExitStatus};
use ft_protocol::Span;
use scenarios::units::{ByteCount, parse_span};
use vmm::host::{HostEnd, HostOptions, serve};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The host's name: 1 to 63 of a-z 0-9 . _ -
    #[arg(long, visible_alias = "name", value_name = "NAME")]
    id: String,
    #[command(flatten)]
    pool: PoolOption,
    /// Memory that guests may take here; without it all that the machine has
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteCount>,
    /// A failure domain of this host, such as rack=r1; may be repeated. A VM's hosts share none where that can be
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// How long a controller that has died is waited for when the host starts; later it is waited for as long as it takes
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = RECONNECT)]
    reconnect: Span,
    /// How written cache lines get into the pool: `auto` (nothing on tmpfs, the processor's best on DAX), none, clwb, clflushopt
    /// or clflush
    #[arg(long, value_name = "KIND", env = "FTVM_FLUSH", default_value = "auto")]
    flush: Flush,
    /// The process whose private cluster this is: dies with it
    #[arg(long, value_name = "PID", hide = true)]
    private_to: Option<i32>,
}

pub(crate) fn run(args: Args) -> CommandResult {
    args.flush.apply()?;
    if let Some(parent) = args.private_to
        && !Parent::new(parent).die_with()
    {
        return Err(Failure::line(ExitCode::Terminated, "the process that started this host is gone"));
    }
    let name = args.id;
    match serve(&HostOptions {
        name: name.clone(),
        pool: args.pool.address()?,
        memory_bytes: args.memory.map(ByteCount::get),
        labels: args.label,
        patience: duration(args.reconnect),
        lifeline: false,
    })? {
        HostEnd::Shutdown => Ok(ExitStatus::Own(ExitCode::Ok)),
        HostEnd::Fenced { vm, generation } => Err(Failure::line(
            ExitCode::Fenced,
            format!(
                "host {name} was fenced: generation {generation} of {vm} is sealed, and {vm} goes on elsewhere or waits in the \
                 pool for a host; start it again to make it a spare"
            ),
        )),
    }
}
