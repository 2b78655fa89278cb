//! `ftvm mode`, `ftvm switchover`, `ftvm drain`, `ftvm delete` and `ftvm shutdown`: planned changes.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::pool_address::PoolOption;
use crate::{CommandResult, ExitStatus, output};
use ft_protocol::spec::Mode;
use ft_protocol::wire::{Answer, Request, VmStatus};
use vmm::client::{Client, ClientError};
use vmm::clock::monotonic;

/// What is to be done so that VMs go on after the end of their cluster.
const AGAIN: &str = "a new `ftvm pool` over the same directory and new hosts go on from there";

#[derive(clap::Args)]
pub(crate) struct SwitchoverArgs {
    /// Name of the VM
    vm: String,
    #[command(flatten)]
    pool: PoolOption,
    /// The host to go to; without it the secondary's
    #[arg(long, value_name = "HOST")]
    to: Option<String>,
}

#[derive(clap::Args)]
pub(crate) struct ModeArgs {
    /// Name of the VM
    vm: String,
    /// How it is to be protected: checkpoint, replay or lockstep; without it, how it is protected is shown
    mode: Option<Mode>,
    #[command(flatten)]
    pool: PoolOption,
}

#[derive(clap::Args)]
pub(crate) struct DrainArgs {
    /// Name of the host
    host: String,
    #[command(flatten)]
    pool: PoolOption,
    /// Let the host have roles again
    #[arg(long)]
    off: bool,
}

#[derive(clap::Args)]
pub(crate) struct DeleteArgs {
    /// Name of the VM
    vm: String,
    #[command(flatten)]
    pool: PoolOption,
}

#[derive(clap::Args)]
pub(crate) struct ShutdownArgs {
    #[command(flatten)]
    pool: PoolOption,
}

pub(crate) fn shutdown(args: &ShutdownArgs) -> CommandResult {
    let mut client = args.pool.client()?;
    let (Answer::Status(status), _) = client.request(Request::Status, Vec::new())? else {
        return Err(ClientError::WrongAnswer.into());
    };
    client.request(Request::Shutdown, Vec::new())?;
    let alive = status.vms.iter().filter(|vm| vm.ended.is_none()).count();
    let vms = match alive {
        0 => "no VM was running".to_owned(),
        1 => format!("1 VM waits in the pool, as of its last commit; {AGAIN}"),
        _ => format!("{alive} VMs wait in the pool, as of their last commits; {AGAIN}"),
    };
    output::text(&format!("the cluster ends: {vms}\n"))?;
    Ok(ExitStatus::Own(ExitCode::Ok))
}

pub(crate) fn delete(args: &DeleteArgs) -> CommandResult {
    let mut client = args.pool.client()?;
    let vm = find(&mut client, &args.vm)?.vm;
    client.request(Request::DeleteVm(vm), Vec::new())?;
    output::text(&format!("{} is deleted\n", args.vm))?;
    Ok(ExitStatus::Own(ExitCode::Ok))
}

pub(crate) fn switchover(args: SwitchoverArgs) -> CommandResult {
    let mut client = args.pool.client()?;
    let before = find(&mut client, &args.vm)?;
    let started = monotonic();
    client.request(Request::Switchover { vm: before.vm, to: args.to }, Vec::new())?;
    let took = monotonic().since(started);
    let after = find(&mut client, &args.vm)?;
    let host = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
    // Of a host of an older version nobody knows.
    let stood = after.switchover_blackout.map_or(String::new(), |stood| format!(", its guest stood still for {stood}"));
    let how = if after.takeovers == before.takeovers {
        stood
    } else {
        ", by a takeover: a primary failed meanwhile".to_owned()
    };
    output::text(&format!(
        "{} moved from {} to {} in {took}{how}: generation {}, nothing lost\n",
        args.vm,
        host(&before.primary),
        host(&after.primary),
        after.generation.get()
    ))?;
    Ok(ExitStatus::Own(ExitCode::Ok))
}

pub(crate) fn mode(args: &ModeArgs) -> CommandResult {
    let mut client = args.pool.client()?;
    let before = find(&mut client, &args.vm)?;
    let Some(mode) = args.mode else {
        output::text(&format!("{} is protected in {} mode\n", args.vm, before.mode))?;
        return Ok(ExitStatus::Own(ExitCode::Ok));
    };
    client.request(Request::SetMode { vm: before.vm, mode }, Vec::new())?;
    output::text(&format!("{} is protected in {mode} mode from now on, before in {} mode\n", args.vm, before.mode))?;
    Ok(ExitStatus::Own(ExitCode::Ok))
}

pub(crate) fn drain(args: DrainArgs) -> CommandResult {
    let mut client = args.pool.client()?;
    client.request(Request::Drain { host: args.host.clone(), on: !args.off }, Vec::new())?;
    let what =
        if args.off { "may have roles again" } else { "is being drained; `ftvm status` shows when it is a spare" };
    output::text(&format!("host {} {what}\n", args.host))?;
    Ok(ExitStatus::Own(ExitCode::Ok))
}

pub(crate) fn find(client: &mut Client, name: &str) -> Result<VmStatus, Failure> {
    let (Answer::Status(status), _) = client.request(Request::Status, Vec::new())? else {
        return Err(ClientError::WrongAnswer.into());
    };
    let found = status.vms.into_iter().find(|vm| vm.name == name);
    found.ok_or_else(|| Failure::line(ExitCode::FileMissing, format!("there is no VM `{name}`: see `ftvm status`")))
}
