//! Lockstep: the secondary follows, compares, finishes the tail; and modes turn while the guest runs.

use crate::support::{ByHand, Running, await_some, await_true, has_ended, is_protected, kvm};
use serde_json::Value;

const HOSTS: [&str; 3] = ["a", "b", "c"];
const KILLS: usize = 4;

/// A guest for tests that say themselves when it is enough, however slow the machine is.
const ENDLESS: [&str; 6] = ["builtin:counter", "--", "--lines", "100000000", "--every-us", "1000"];

fn compared(vm: &Value) -> u64 {
    vm["following"]["compared"].as_u64().unwrap_or(0)
}

fn primary(cluster: &ByHand) -> String {
    await_some("a primary", || cluster.vm("g")?["primary"].as_str().map(str::to_owned))
}

/// Waits until [`ENDLESS`] has gone on, ends it, and holds what it said against an unprotected run. Gives its last status.
fn ends_well(cluster: &ByHand, run: Running) -> Value {
    let said = run.stdout().len();
    await_true("more output", || run.stdout().len() > said + 1000);
    let vm = cluster.vm("g").expect("it runs");
    assert_eq!(vm["diverged"], Value::Null, "{vm}");
    cluster.command(&["delete", "g"], &[]).ok();
    let ended = run.end();
    assert_eq!(ended.code, Some(81), "{ended:?}");
    let lines = (1 + ended.stdout.iter().filter(|byte| **byte == b'\n').count()).to_string();
    let golden = cluster.golden(&["builtin:counter", "--", "--lines", &lines]);
    assert!(golden.starts_with(&ended.stdout), "the console is another one: {} bytes", ended.stdout.len());
    vm
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
    let run = cluster.start_command(&["run", "--name", "g"], &ENDLESS);
    for mode in ["replay", "lockstep", "checkpoint", "lockstep", "replay", "checkpoint"] {
        cluster.await_vm("g", "protection", is_protected);
        cluster.command(&["mode"], &["g", mode]).ok();
        let vm = cluster.vm("g").expect("it is there");
        assert_eq!(vm["mode"].as_str().map(str::to_lowercase).as_deref(), Some(mode), "{vm}");
        if mode == "lockstep" {
            cluster.await_vm("g", "a compared epoch", |vm| compared(vm) >= 2);
        } else {
            assert_eq!(vm["following"], Value::Null);
        }
        let host = primary(&cluster);
        cluster.kill_host(&host);
        cluster.start_host(&host);
    }
    ends_well(&cluster, run);
}

/// Moves a guest from host to host, by hand.
fn survives_switchovers(mode: &str) {
    const MOVES: u64 = 4;
    let Some(_machine) = kvm() else { return };
    let cluster = ByHand::start(&HOSTS);
    let run = cluster.start_command(&["run", "--name", "g", "--mode", mode], &ENDLESS);
    for moved in 0..MOVES {
        let ready = |vm: &Value| is_protected(vm) && (mode != "lockstep" || compared(vm) >= 2);
        cluster.await_vm("g", "protection", ready);
        let before = primary(&cluster);
        cluster.command(&["switchover", "g"], &[]).ok();
        let vm = cluster.await_vm("g", "the other host", |vm| vm["switchovers"] == moved + 1);
        assert_ne!(vm["primary"], before, "{vm}");
    }
    let vm = ends_well(&cluster, run);
    assert_eq!(vm["takeovers"], 0, "{vm}");
}

#[test]
fn a_guest_in_lockstep_is_moved_and_repeats_nothing() {
    survives_switchovers("lockstep");
}

#[test]
fn a_guest_in_replay_mode_is_moved_and_repeats_nothing() {
    survives_switchovers("replay");
}

/// Long before its first regular commit.
#[test]
fn a_guest_with_long_epochs_is_followed_from_its_beginning() {
    let Some(_machine) = kvm() else { return };
    let cluster = ByHand::start(&["a", "b"]);
    let guest = ["builtin:idle", "--", "--ticks", "1000", "--tick-ms", "3600000"];
    let options = ["run", "--mode", "lockstep", "--epoch-ms", "60000", "--name", "g", "--detach"];
    cluster.command(&options, &guest).ok();
    cluster.await_vm("g", "its follower", |vm| !vm["following"].is_null());
    cluster.command(&["switchover", "g"], &[]).ok();
}

/// A guest that reads what no log has is found out by its follower, without any failure, and goes on in checkpoint mode.
#[test]
fn a_rebel_is_found_out_by_its_follower() {
    let Some(_machine) = kvm() else { return };
    let mut cluster = ByHand::start(&HOSTS);
    let guest = ["builtin:rebel", "--", "--lines", "2000", "--every-us", "5000"];
    let run = cluster.start_command(&["run", "--name", "g", "--mode", "lockstep"], &guest);
    let vm = cluster.await_vm("g", "the divergence", |vm| has_ended(vm) || !vm["diverged"].is_null());
    let report = vm["diverged"].as_str().expect("it is found out before its end");
    assert!(report.contains("exit") && report.contains("expected") && report.contains("got"), "{report}");
    assert!(report.contains("of page 0x"), "it is told what it has in its memory: {report}");
    cluster.await_vm("g", "checkpoint mode, protected", |vm| {
        has_ended(vm) || (vm["mode"] == "Checkpoint" && is_protected(vm))
    });
    let host = primary(&cluster);
    cluster.kill_host(&host);
    let ended = run.end().ok();
    let text = String::from_utf8_lossy(&ended.stdout);
    let numbers: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("line ")?.get(..6)).collect();
    let expected: Vec<_> = (1..=2000).map(|line| format!("{line:06}")).collect();
    assert_eq!(numbers, expected, "each line once, in order");
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
