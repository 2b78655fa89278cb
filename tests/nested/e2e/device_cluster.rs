//! A cluster over machines that share a memory device: its controller on the first one, hosts wherever they are wanted.

use crate::{PATIENCE, chain};
use nested::Machine;
use nested::machine::Process;
use std::thread;
use std::time::{Duration, Instant};

/// The controller's address from other machines, and the pool's device.
pub(crate) const POOL: &str = "tcp:10.77.0.1:7700,/dev/dax0.0";
/// The controller's address on its own machine.
pub(crate) const SOCKET: &str = "/run/ftvm.sock";
/// What the cluster is, to be read by people.
pub(crate) const STATUS: [&str; 4] = ["ftvm", "status", "--pool", SOCKET];

/// Heartbeats go through the device; machines that wait for a processor are silent meanwhile.
const HEARTBEAT_MS: &str = "5000";

/// What a command says when it is asked until the answer is liked.
pub(crate) fn await_output(
    machine: &Machine,
    argv: &[&str],
    what: &str,
    mut liked: impl FnMut(&str) -> bool,
) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = machine.run(argv).unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
        let text = output.text();
        if liked(&text) {
            return text;
        }
        assert!(Instant::now() < deadline, "{what} did not come in time: {text}");
        thread::sleep(Duration::from_millis(500));
    }
}

/// Starts the controller, and waits until it answers.
pub(crate) fn start_controller(machine: &Machine) -> Process {
    let place = ["ftvm", "pool", "--socket", SOCKET, "--listen", "10.77.0.1:7700", "--dir", "/dev/dax0.0"];
    let bounds = ["--heartbeat-ms", HEARTBEAT_MS, "--stall-ms", "60000", "--suspicion", "none"];
    let controller = machine.start(&[&place[..], &bounds].concat()).unwrap();
    await_output(machine, &STATUS, "the controller", |text| !text.contains("cannot connect"));
    controller
}

/// Starts a host that has its machine's name.
pub(crate) fn start_host(machine: &Machine) -> Process {
    machine.start(&["ftvm", "host", "--name", machine.name(), "--pool", POOL]).unwrap()
}

/// Waits until these hosts have joined.
pub(crate) fn await_hosts(machine: &Machine, names: &[&str]) {
    let status = [&STATUS[..], &["--json"]].concat();
    await_output(machine, &status, &format!("hosts {}", names.join(", ")), |text| {
        let text = text.replace(": ", ":");
        names.iter().all(|name| text.contains(&format!("\"name\":\"{name}\"")))
    });
}

/// Waits until these hosts have their roles, and returns what is said then. A secondary that is named may still be preparing.
pub(crate) fn await_protection(machine: &Machine, primary: &str, secondary: &str) -> String {
    let (primary, secondary) = (format!("primary {primary}"), format!("secondary {secondary}"));
    await_output(machine, &STATUS, "protection", |text| {
        text.contains(&primary) && text.contains(&secondary) && !text.contains("NOT protected")
    })
}

/// What cluster and guest have said, for whoever has to find out why a test failed.
pub(crate) fn said(processes: &mut [Process]) -> String {
    processes.iter_mut().filter_map(|process| process.look().ok().map(|output| output.text())).collect()
}
