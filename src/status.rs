//! `ftvm status`: the hosts and VMs of a pool.

use crate::exit_code::ExitCode;
use crate::{CommandResult, ExitStatus, output};
use ft_protocol::wire::{Answer, Request, Status, VmStatus};
use std::fmt::Write as _;
use std::path::PathBuf;
use vmm::client::{Client, ClientError};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The controller's socket
    #[arg(long, value_name = "SOCKET")]
    pool: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let mut client = Client::connect(&args.pool)?;
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

fn describe(vm: &VmStatus) -> String {
    let host = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
    let protection = match &vm.unprotected {
        None => "protected".to_owned(),
        Some(reason) => format!("NOT protected: {reason}"),
    };
    let spare = vm.spare.as_ref().map(|spare| format!("; spare {spare}")).unwrap_or_default();
    let risk = vm.at_risk.as_ref().map(|risk| format!("; at risk: {risk}")).unwrap_or_default();
    format!(
        "{}  {}  primary {}  secondary {}  generation {}  epoch {}  takeovers {}  switchovers {}  {protection}{spare}{risk}",
        vm.name,
        vm.phase,
        host(&vm.primary),
        host(&vm.secondary),
        vm.generation.get(),
        vm.applied.get(),
        vm.takeovers,
        vm.switchovers,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ft_protocol::phi::Phi;
    use ft_protocol::spec::Mode;
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
            at_risk: None,
            spare: None,
            mode: Mode::Checkpoint,
            diverged: None,
        };
        let text = table(&Status { hosts: vec![host(0, "a"), host(1, "b")], vms: vec![vm] });
        assert_eq!(
            text,
            "host a  up         spare  phi 0.3  rack=r1\n\
             host b  up         primary of guest  phi 0.3  rack=r1\n\
             vm guest  running  primary b  secondary -  generation 2  epoch 57  takeovers 1  switchovers 2  \
             NOT protected: no healthy host is free\n"
        );
    }
}
