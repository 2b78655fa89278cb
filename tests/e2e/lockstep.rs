//! Lockstep: the secondary follows, compares, finishes the tail; and modes turn while the guest runs.

use crate::support::{ByHand, await_some, await_true, has_ended, is_protected, kvm};
use serde_json::Value;

const HOSTS: [&str; 3] = ["a", "b", "c"];
const KILLS: usize = 4;

fn compared(vm: &Value) -> u64 {
    vm["following"]["compared"].as_u64().unwrap_or(0)
}

fn primary(cluster: &ByHand) -> String {
    await_some("a primary", || cluster.vm("g")?["primary"].as_str().map(str::to_owned))
}

/// Kills primary after primary, each when its secondary has compared some epochs.
fn survives_kills(guest: &[&str], mode: &str) {
    let Some(_machine) = kvm() else { return };
    let mut cluster = ByHand::start(&HOSTS);
    let golden = cluster.golden(guest);
    let run = cluster.start_command(&["run", "--name", "g", "--mode", mode], guest);
    for _ in 0..KILLS {
        let ready = |vm: &Value| is_protected(vm) && (mode != "lockstep" || compared(vm) >= 3);
        cluster.await_vm("g", "protection", |vm| has_ended(vm) || ready(vm));
        let host = primary(&cluster);
        cluster.kill_host(&host);
        cluster.start_host(&host);
    }
    let ended = run.end().ok();
    assert!(ended.stdout == golden, "the console is another one: {} bytes", ended.stdout.len());
    let vm = cluster.vm("g").expect("an ended VM is kept");
    assert!(vm["takeovers"].as_u64().is_some_and(|takeovers| takeovers >= 3), "{vm}");
    assert_eq!(vm["diverged"], Value::Null);
}

#[test]
fn a_chatty_guest_in_lockstep_survives_its_primaries() {
    survives_kills(&["builtin:counter", "--", "--lines", "12000", "--every-us", "1000"], "lockstep");
}

#[test]
fn a_busy_guest_in_lockstep_survives_its_primaries() {
    survives_kills(&["builtin:torture", "--", "--steps", "600000000", "--progress", "1000000"], "lockstep");
}

#[test]
fn a_guest_without_exits_is_followed_by_its_records() {
    let Some(_machine) = kvm() else { return };
    let mut cluster = ByHand::start(&HOSTS);
    let guest = ["builtin:burn", "--", "--rounds", "3000000000"];
    let golden = cluster.golden(&guest);
    let run = cluster.start_command(&["run", "--name", "g", "--mode", "lockstep"], &guest);
    let adopted = |vm: &Value| vm["following"]["adopted"].as_u64().is_some_and(|adopted| adopted >= 2);
    cluster.await_vm("g", "an adopted epoch", adopted);
    let host = primary(&cluster);
    cluster.kill_host(&host);
    assert!(run.end().ok().stdout == golden);
}

#[test]
fn modes_turn_while_the_guest_runs_and_its_hosts_die() {
    let Some(_machine) = kvm() else { return };
    let mut cluster = ByHand::start(&HOSTS);
    // Longer than all that is done to it takes.
    let guest = ["builtin:counter", "--", "--lines", "40000", "--every-us", "1000"];
    let golden = cluster.golden(&guest);
    let run = cluster.start_command(&["run", "--name", "g"], &guest);
    for mode in ["replay", "lockstep", "checkpoint", "lockstep", "replay", "checkpoint"] {
        cluster.await_vm("g", "protection", is_protected);
        cluster.command(&["mode"], &["g", mode]).ok();
        let vm = cluster.vm("g").expect("it is there");
        assert_eq!(vm["mode"].as_str().map(str::to_lowercase).as_deref(), Some(mode), "{vm}");
        if mode == "lockstep" {
            let vm = cluster.await_vm("g", "a compared epoch", |vm| has_ended(vm) || compared(vm) >= 2);
            assert!(!has_ended(&vm), "the guest is too short for this machine: {vm}");
        } else {
            assert_eq!(vm["following"], Value::Null);
        }
        let host = primary(&cluster);
        cluster.kill_host(&host);
        cluster.start_host(&host);
    }
    let ended = run.end().ok();
    assert!(ended.stdout == golden, "the console is another one: {} bytes", ended.stdout.len());
    assert_eq!(cluster.vm("g").expect("it is kept")["diverged"], Value::Null);
}

#[test]
fn a_mode_that_there_is_not_is_refused() {
    let Some(_machine) = kvm() else { return };
    let cluster = ByHand::start(&["a"]);
    let refused = cluster.command(&["mode"], &["g", "backwards"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("unknown mode `backwards`"), "{}", refused.stderr);
    let unknown = cluster.command(&["mode"], &["g", "replay"]);
    await_true("a line that says so", || unknown.stderr.contains("no VM `g`"));
}
