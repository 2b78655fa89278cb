//! `ftvm status`: the hosts and VMs of a pool.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::pool_address::{PoolOption, waiting_for};
use crate::run_in_pool::{RECONNECT, duration};
use crate::signals::EndSignals;
use crate::{CommandResult, ExitStatus, output, progress};
use ft_protocol::Span;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::wire::{Answer, FollowStatus, Request, Status, VmStatus};
use scenarios::attached::Watcher;
use scenarios::units::{ByteCount, parse_span};
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use vmm::client::{Client, ClientError};
use vmm::clock::monotonic;

/// Between two looks at what nobody reports, such as the number of the last epoch.
const LOOK_INTERVAL: Span = Span::from_ms(500);
/// To the upper left corner, and everything away.
const CLEAR_SCREEN: &str = "\x1b[H\x1b[J";

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pool: PoolOption,
    /// Show it again whenever it has changed
    #[arg(long)]
    watch: bool,
    /// How long --watch waits for a controller that has died
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = RECONNECT)]
    reconnect: Span,
    /// Print JSON; with --watch a line for each change
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    output::require()?;
    if args.watch {
        return watch(args);
    }
    let mut client = Client::connect(args.pool.address()?)?;
    let (Answer::Status(status), _) = client.request(Request::Status, Vec::new())? else {
        return Err(ClientError::WrongAnswer.into());
    };
    if args.json {
        output::json(&status)?;
    } else {
        output::text(&table(&status))?;
    }
    Ok(ExitStatus::Own(ExitCode::Ok))
}

fn watch(args: &Args) -> CommandResult {
    let signals = EndSignals::new()?;
    let pool = args.pool.address()?;
    let found = progress::show(waiting_for(&pool), || Watcher::new(&pool, duration(args.reconnect), signals.as_fd()));
    let mut watcher = match found {
        Err(error) if error.gave_up() => return Ok(signals.end()),
        found => found?,
    };
    let mut shown = String::new();
    loop {
        let text = match watcher.status()? {
            Some(status) if args.json => json_line(&status)?,
            Some(status) => table(&status),
            // What was shown last stays, for programs; people are told.
            None if args.json => shown.clone(),
            None => "there is no controller at the moment\n".to_owned(),
        };
        if text != shown {
            match (io::stdout().is_terminal() && !args.json, args.json || shown.is_empty()) {
                (true, _) => output::text(&format!("{CLEAR_SCREEN}{text}"))?,
                (false, true) => output::text(&text)?,
                (false, false) => output::text(&format!("\n{text}"))?,
            }
            shown = text;
        }
        let (_, interrupted) = watcher.next(monotonic() + LOOK_INTERVAL, signals.as_fd())?;
        if interrupted {
            return Ok(signals.end());
        }
    }
}

fn json_line(status: &Status) -> Result<String, Failure> {
    let line = serde_json::to_string(status).map_err(|error| Failure::new(ExitCode::Internal, &error))?;
    Ok(line + "\n")
}

fn table(status: &Status) -> String {
    let mut text = String::new();
    let width = status.hosts.iter().map(|host| host.name.len()).max().unwrap_or(0);
    for host in &status.hosts {
        // Writing to a String cannot fail.
        let phi = host.phi.map(|phi| format!("  phi {phi}")).unwrap_or_default();
        let roles = roles(&host.name, &status.vms);
        let labels: String = host.labels.iter().map(|label| format!("  {label}")).collect();
        let _ = writeln!(text, "host {:<width$}  {:<9}  {roles}{phi}{labels}", host.name, host.health);
    }
    for vm in &status.vms {
        let _ = writeln!(text, "vm {}", describe(vm));
    }
    if text.is_empty() {
        text.push_str("no hosts, no VMs\n");
    }
    text
}

fn roles(host: &str, vms: &[VmStatus]) -> String {
    let role = |vm: &VmStatus| {
        let primary = vm.primary.as_deref() == Some(host);
        let secondary = vm.secondary.as_deref() == Some(host);
        primary.then(|| format!("primary of {}", vm.name)).or(secondary.then(|| format!("secondary of {}", vm.name)))
    };
    let roles: Vec<String> = vms.iter().filter_map(role).collect();
    if roles.is_empty() { "spare".to_owned() } else { roles.join(", ") }
}

/// How the secondary follows, in a few words.
fn follows(status: &FollowStatus) -> String {
    let FollowStatus { behind, compared, adopted, lag, lag_max, .. } = status;
    let behind = if *behind == 0 { "up to date".to_owned() } else { format!("{behind} epochs behind") };
    format!("follows, {behind}, lag {lag} (at most {lag_max}), {compared} epochs compared, {adopted} adopted")
}

fn describe(vm: &VmStatus) -> String {
    let host = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
    let mut text = format!(
        "{}  {}  {}  {}  primary {}  secondary {}  generation {}  epoch {}  console {}  takeovers {}  switchovers {}  ",
        vm.name,
        vm.phase,
        ByteCount::new(vm.memory_bytes),
        vm.mode,
        host(&vm.primary),
        host(&vm.secondary),
        vm.generation.get(),
        vm.applied.get(),
        vm.console_end,
        vm.takeovers,
        vm.switchovers,
    );
    text.push_str(&match (&vm.ended, &vm.unprotected) {
        (Some(GuestEnd::Exited(code)), _) => format!("exited with {code}"),
        (Some(GuestEnd::Crashed(line)), _) => format!("crashed: {line}"),
        (None, None) => "protected".to_owned(),
        (None, Some(reason)) => format!("NOT protected: {reason}"),
    });
    if let Some(latency) = &vm.output_latency {
        // Writing to a String cannot fail.
        let _ = write!(text, "; outputs waited {latency}");
    }
    for net in &vm.nets {
        // Writing to a String cannot fail.
        let _ = write!(text, "; net {net}");
    }
    if vm.disk_bytes > 0 {
        let _ = write!(text, "; disk {}", ByteCount::new(vm.disk_bytes));
    }
    if let Some(following) = &vm.following {
        let _ = write!(text, "; {}", follows(following));
    }
    for (word, why) in [
        ("moving to", &vm.moving_to),
        ("spare", &vm.spare),
        ("diverged", &vm.diverged),
        ("log lost", &vm.log_lost),
        ("damage", &vm.damage),
        ("NOT followed", &vm.not_following),
        ("at risk", &vm.at_risk),
        ("waits", &vm.waits),
    ] {
        if let Some(why) = why {
            // Writing to a String cannot fail.
            let _ = write!(text, "; {word}: {why}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ft_protocol::phi::Phi;
    use ft_protocol::spec::{Mode, NetBackend, NetSpec};
    use ft_protocol::wire::HostStatus;
    use ft_protocol::{Epoch, Generation, HostId, VmId};

    #[test]
    fn roles_and_protection_are_shown() {
        let host = |number, name: &str| HostStatus {
            host: HostId::new(number),
            name: name.to_owned(),
            health: "up".to_owned(),
            phi: Some(Phi::from_thousandths(310)),
            protocol: Some(2),
            labels: vec!["rack=r1".to_owned()],
        };
        let vm = VmStatus {
            vm: VmId::new(0),
            name: "guest".to_owned(),
            phase: "running".to_owned(),
            generation: Generation::new(2),
            applied: Epoch::new(57),
            primary: Some("b".to_owned()),
            secondary: None,
            unprotected: Some("no healthy host is free".to_owned()),
            takeovers: 1,
            switchovers: 2,
            moving_to: None,
            at_risk: None,
            spare: None,
            mode: Mode::Checkpoint,
            diverged: None,
            log_lost: None,
            damage: None,
            following: None,
            not_following: None,
            memory_bytes: 64 << 20,
            nets: vec![NetSpec { mac: [2, 0, 0, 0, 0, 7], backend: NetBackend::Tap("tap0".to_owned()) }],
            disk_bytes: 1 << 20,
            output_latency: None,
            console_end: 1200,
            waits: None,
            ended: None,
            switchover_blackout: None,
        };
        let text = table(&Status { hosts: vec![host(0, "a"), host(1, "b")], vms: vec![vm] });
        assert_eq!(
            text,
            "host a  up         spare  phi 0.3  rack=r1\n\
             host b  up         primary of guest  phi 0.3  rack=r1\n\
             vm guest  running  64 MiB  checkpoint  primary b  secondary -  generation 2  epoch 57  console 1200  \
             takeovers 1  switchovers 2  NOT protected: no healthy host is free; net tap=tap0,mac=02:00:00:00:00:07; disk 1 MiB\n"
        );
    }
}
