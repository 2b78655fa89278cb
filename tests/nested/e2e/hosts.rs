//! Hosts that are machines: they share nothing but a memory device and a network, and die by the loss of their QEMU.

use crate::boot;
use crate::device_cluster::{SOCKET, STATUS, await_hosts, await_protection, said, start_controller, start_host};
use nested::fence;

#[test]
fn a_guest_outlives_the_machine_that_runs_it() {
    let Some((mut cluster, _turn)) = boot(3, 1024) else { return };
    let [a, b, c] = &cluster.machines[..] else { panic!("three were asked for") };
    let mut processes = vec![start_controller(a), start_host(b), start_host(c)];
    // Long enough that it runs when its machine dies.
    let guest = ["--memory", "4MiB", "builtin:torture", "--", "--steps", "12000000", "--progress", "100000"];
    let bare = [&["ftvm", "run", "--mode", "none"][..], &guest].concat();
    let expected = a.check(&bare).unwrap();
    await_hosts(a, &["b", "c"]);
    let protected = [&["ftvm", "run", "--pool", SOCKET, "--name", "one", "--prefer", "b"][..], &guest].concat();
    let mut run = a.start(&protected).unwrap();
    run.close_input().unwrap();
    let told = run.await_output(crate::PATIENCE, |output| output.stdout.len() > 200).unwrap();
    assert!(told.end.is_none(), "it ended early: {}", told.text());
    await_protection(a, "b", "c");
    let before = a.check(&STATUS).unwrap();
    assert!(before.contains("running"), "it ended before its machine: {before}");
    cluster.machines[1].kill();
    let output = run.wait(crate::PATIENCE).unwrap();
    assert!(output.is_success(), "{} {}", output.text(), said(&mut processes));
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    let after = cluster.machines[0].check(&STATUS).unwrap();
    assert!(after.contains("takeovers 1"), "{after}");
    let monitor = cluster.machines[1].monitor_path();
    let parameters = format!("action=status\nport=b\nmonitor={}", monitor.display());
    assert_eq!(fence::act(&parameters), Ok(fence::Verdict::Off), "a killed machine is known to be off");
}
