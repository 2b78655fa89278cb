//! Hosts that are machines: they share nothing but a memory device and a network, and die by the loss of their QEMU.

use crate::boot;
use nested::fence;
use nested::{Cluster, Machine};
use std::thread;
use std::time::{Duration, Instant};

/// The controller's address, and the pool's device.
const POOL: &str = "tcp:10.77.0.1:7700,/dev/dax0.0";
/// Heartbeats go through the device; machines that wait for a processor are silent meanwhile.
const HEARTBEAT_MS: &str = "5000";

/// What a command says when it is asked until the answer is liked.
fn await_output(machine: &Machine, argv: &[&str], what: &str, liked: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + crate::PATIENCE;
    loop {
        let output = machine.run(argv).unwrap_or_else(|error| panic!("{what}: {}", crate::chain(&error)));
        let text = output.text();
        if liked(&text) {
            return text;
        }
        assert!(Instant::now() < deadline, "{what} did not come in time: {text}");
        thread::sleep(Duration::from_millis(500));
    }
}

/// Starts the controller on the first machine, and a host on each of the others.
fn start_cluster(cluster: &Cluster) -> Vec<nested::machine::Process> {
    let controller = [
        "ftvm",
        "pool",
        "--socket",
        "/run/ftvm.sock",
        "--listen",
        "10.77.0.1:7700",
        "--dir",
        "/dev/dax0.0",
        "--heartbeat-ms",
        HEARTBEAT_MS,
        "--stall-ms",
        "60000",
        "--suspicion",
        "none",
    ];
    let mut processes = vec![cluster.machines[0].start(&controller).unwrap()];
    await_output(&cluster.machines[0], &["ftvm", "status", "--pool", "/run/ftvm.sock"], "the controller", |text| {
        !text.contains("cannot connect")
    });
    for machine in &cluster.machines[1..] {
        processes.push(machine.start(&["ftvm", "host", "--name", machine.name(), "--pool", POOL]).unwrap());
    }
    processes
}

#[test]
fn a_guest_outlives_the_machine_that_runs_it() {
    let Some((mut cluster, _turn)) = boot(3, 1024) else { return };
    let mut processes = start_cluster(&cluster);
    // Long enough that it runs when its machine dies.
    let guest = ["--memory", "4MiB", "builtin:torture", "--", "--steps", "12000000", "--progress", "100000"];
    let bare = [&["ftvm", "run", "--mode", "none"][..], &guest].concat();
    let expected = cluster.machines[0].check(&bare).unwrap();
    let status = ["ftvm", "status", "--pool", "/run/ftvm.sock", "--json"];
    await_output(&cluster.machines[0], &status, "two hosts", |text| {
        text.contains("\"name\":\"b\"") && text.contains("\"name\":\"c\"")
            || text.contains("\"name\": \"b\"") && text.contains("\"name\": \"c\"")
    });
    let protected =
        [&["ftvm", "run", "--pool", "/run/ftvm.sock", "--name", "one", "--prefer", "b"][..], &guest].concat();
    let mut run = cluster.machines[0].start(&protected).unwrap();
    run.close_input().unwrap();
    let told = run.await_output(crate::PATIENCE, |output| output.stdout.len() > 200).unwrap();
    assert!(told.end.is_none(), "it ended early: {}", told.text());
    await_output(&cluster.machines[0], &["ftvm", "status", "--pool", "/run/ftvm.sock"], "protection", |text| {
        text.contains("primary b") && text.contains("secondary c")
    });
    let before = cluster.machines[0].check(&["ftvm", "status", "--pool", "/run/ftvm.sock"]).unwrap();
    assert!(before.contains("running"), "it ended before its machine: {before}");
    cluster.machines[1].kill();
    let output = run.wait(crate::PATIENCE).unwrap();
    let said = processes.iter_mut().filter_map(|process| process.look().ok().map(|output| output.text()));
    assert!(output.is_success(), "{} {}", output.text(), said.collect::<String>());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    let after = cluster.machines[0].check(&["ftvm", "status", "--pool", "/run/ftvm.sock"]).unwrap();
    assert!(after.contains("takeovers 1"), "{after}");
    let monitor = cluster.machines[1].monitor_path();
    let parameters = format!("action=status\nport=b\nmonitor={}", monitor.display());
    assert_eq!(fence::act(&parameters), Ok(fence::Verdict::Off), "a killed machine is known to be off");
}
