//! Flat guests where hardware virtualisation is real: exits leave the instruction pointer where the processor does, page
//! tables count as dirty, guests run at any privilege.

use crate::boot;
use nested::Machine;

/// Machines under emulation are slow, and more so when others compute beside them.
const SCENARIO: &str = r#"
description = "two primaries die one after the other"

[cluster]
hosts = 4
heartbeat = "10s"
stall = "60s"

[vm]
guest = "builtin:torture"
args = ["--steps", "4000000", "--progress", "200000"]
memory = "4MiB"

[[step]]
event = "protected"
repeat = 2
action = "kill"
host = "primary"

[expect]
exit-code = 0
console = "unprotected"
takeovers = 2
"#;

#[test]
fn guests_run_in_every_mode() {
    let Some((cluster, _turn)) = boot(1, 0) else { return };
    let machine = &cluster.machines[0];
    let bare = machine.check(&["ftvm", "run", "--mode", "none", "builtin:counter", "--", "--lines", "5"]).unwrap();
    assert_eq!(bare.lines().count(), 5, "{bare}");
    for mode in ["checkpoint", "replay", "lockstep"] {
        // A machine that waits for a processor is silent for longer than hosts usually may be.
        let patient = ["--mode", mode, "--heartbeat-ms", "20000", "--respawn"];
        let guest = ["builtin:counter", "--", "--lines", "5"];
        let run = [["ftvm", "run"].as_slice(), &patient, &guest].concat();
        let console = machine.check(&run);
        assert_eq!(console.unwrap(), bare, "{mode}");
    }
    check_log(machine);
}

#[test]
fn a_guest_outlives_its_hosts() {
    let Some((cluster, _turn)) = boot(1, 0) else { return };
    let machine = &cluster.machines[0];
    machine.put("/tmp/kills.toml", 0o644, SCENARIO.as_bytes()).unwrap();
    let run = machine.start(&["ftvm", "scenario", "run", "/tmp/kills.toml"]).unwrap();
    run.close_input().unwrap();
    let output = run.wait(crate::PATIENCE).unwrap();
    assert!(output.is_success(), "{}", output.text());
    check_log(machine);
}

/// The machine's kernel has nothing to complain about.
fn check_log(machine: &Machine) {
    let log = machine.shell("dmesg").unwrap();
    let trouble = ["Call Trace", "BUG:"];
    assert!(!trouble.iter().any(|word| log.contains(word)), "{log}");
}
