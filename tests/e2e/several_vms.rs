//! Several VMs over the same hosts: each has roles of its own, and the death of a host is the death of none of them.

use crate::support::{ByHand, Running, await_true, has_ended, is_protected, kvm};
use serde_json::Value;

const HOSTS: [&str; 3] = ["a", "b", "c"];
const VMS: [(&str, &[&str]); 4] = [
    ("one", &["--memory", "16MiB", "builtin:torture", "--", "--steps", "500000000", "--progress", "2000000"]),
    ("two", &["builtin:torture", "--", "--steps", "400000000", "--progress", "2000000", "--seed", "9"]),
    ("three", &["builtin:counter", "--", "--lines", "6000", "--every-us", "1000"]),
    ("four", &["--memory", "8MiB", "builtin:idle", "--", "--ticks", "500", "--tick-ms", "10"]),
];
const KILLS: usize = 6;

#[test]
fn four_vms_survive_the_death_of_host_after_host() {
    let Some(_machine) = kvm() else { return };
    let mut cluster = ByHand::start(&HOSTS);
    let golden = VMS.map(|(_, guest)| cluster.golden(guest));
    let runs = VMS.map(|(name, guest)| cluster.start_command(&["run", "--name", name], guest));
    for (name, _) in VMS {
        cluster.await_vm(name, "protection", is_protected);
    }
    for kill in 0..KILLS {
        await_true("protection of all", || all(&cluster, |vm| has_ended(vm) || is_protected(vm)));
        let host = HOSTS[kill % HOSTS.len()];
        cluster.kill_host(host);
        cluster.start_host(host);
    }
    let takeovers =
        |cluster: &ByHand| -> u64 { VMS.iter().filter_map(|(name, _)| cluster.vm(name)?["takeovers"].as_u64()).sum() };
    assert!(takeovers(&cluster) >= 3, "{} takeovers", takeovers(&cluster));
    for (((name, _), golden), run) in VMS.iter().zip(golden).zip(runs) {
        let ended = run.end().ok();
        assert!(ended.stdout == golden, "the console of {name} is another one: {} bytes", ended.stdout.len());
        assert!(has_ended(&cluster.vm(name).expect("it is kept")), "an ended VM stays until it is deleted");
    }
}

fn all(cluster: &ByHand, is_so: impl Fn(&Value) -> bool) -> bool {
    cluster.status()["vms"].as_array().expect("a list").iter().all(is_so)
}

#[test]
fn a_cluster_that_was_shut_down_goes_on_where_it_was() {
    let Some(_machine) = kvm() else { return };
    let mut cluster = ByHand::start(&HOSTS);
    let golden = cluster.golden(VMS[2].1);
    assert_eq!(cluster.command(&["run", "--detach", "--name", "three"], VMS[2].1).ok().stdout, b"three\n");
    cluster.await_vm("three", "output", |vm| vm["console_end"].as_u64() > Some(0));
    let said = String::from_utf8(cluster.command(&["shutdown"], &[]).ok().stdout).expect("text");
    assert!(said.contains("1 VM waits in the pool"), "{said}");
    cluster.has_ended();

    cluster.start_pool();
    for host in HOSTS {
        cluster.start_host(host);
    }
    let console = cluster.command(&["console", "three"], &[]).ok();
    assert!(console.stdout == golden, "{} bytes", console.stdout.len());
}

#[test]
fn a_controller_may_die_while_consoles_are_read() {
    let Some(_machine) = kvm() else { return };
    let mut cluster = ByHand::start(&HOSTS);
    let golden = cluster.golden(VMS[2].1);
    let run = cluster.start_command(&["run", "--name", "three"], VMS[2].1);
    cluster.await_vm("three", "protection", is_protected);
    let console = cluster.start_command(&["console", "three"], &[]);
    for _ in 0..3 {
        let before = lengths(&run, &console);
        await_true("output on both", || lengths(&run, &console).iter().zip(before).all(|(now, before)| *now > before));
        cluster.kill_pool();
        cluster.start_pool();
    }
    for reader in [run, console] {
        let ended = reader.end().ok();
        assert!(ended.stdout == golden, "{} bytes", ended.stdout.len());
        assert!(ended.stderr.contains("the controller is gone"), "{}", ended.stderr);
    }
}

fn lengths(run: &Running, console: &Running) -> [usize; 2] {
    [run.stdout().len(), console.stdout().len()]
}

#[test]
fn a_controller_that_does_not_come_back_is_not_waited_for_for_ever() {
    let Some(_machine) = kvm() else { return };
    let mut cluster = ByHand::start(&["a", "b"]);
    let run = cluster.start_command(&["run", "--reconnect", "300ms", "--name", "three"], VMS[2].1);
    await_true("output", || !run.stdout().is_empty());
    cluster.kill_pool();
    let ended = run.end();
    assert_eq!(ended.code, Some(75), "{ended:?}");
    let line = ended.stderr.lines().last().expect("a line");
    assert!(line.contains("has been gone") && line.contains("--from "), "{line}");
}
