//! Every kind of guest in every mode: primary after primary dies, and what the guest says is what it says unprotected. Those with
//! networks and disks are killed in `kv_kills` and `protected_devices`.
//!
//! `FTVM_GUEST_KILLS` makes the runs longer: so many kills of each guest in each mode.

use crate::support::{ByHand, has_ended, is_protected, kvm};
use serde_json::Value;

const HOSTS: [&str; 3] = ["a", "b", "c"];
const MODES: [&str; 3] = ["checkpoint", "replay", "lockstep"];
const KILLS_DEFAULT: u64 = 8;

fn kills() -> u64 {
    let text = std::env::var("FTVM_GUEST_KILLS").ok();
    text.map_or(KILLS_DEFAULT, |text| text.parse().expect("FTVM_GUEST_KILLS is a number"))
}

/// Runs a guest whose `option` says how long it lives: `each` for every kill.
fn survives_kills(guest: &str, option: &str, each: u64, others: &[&str]) {
    let Some(_machine) = kvm() else { return };
    let (kills, length) = (kills(), (each * kills()).to_string());
    let guest = [&[guest, "--", option, &length][..], others].concat();
    for mode in MODES {
        let mut cluster = ByHand::start(&HOSTS);
        let golden = cluster.golden(&guest);
        let run = cluster.start_command(&["run", "--name", "g", "--mode", mode], &guest);
        for _ in 0..kills {
            let vm = cluster.await_vm("g", "protection", |vm| has_ended(vm) || is_protected(vm));
            let Some(primary) = vm["primary"].as_str().filter(|_| !has_ended(&vm)) else { break };
            cluster.kill_host(primary);
            cluster.start_host(primary);
        }
        let ended = run.end().ok();
        assert!(ended.stdout == golden, "{guest:?} in {mode} mode says something else: {} bytes", ended.stdout.len());
        let vm = cluster.vm("g").expect("an ended VM is kept");
        let takeovers = vm["takeovers"].as_u64().expect("a number");
        eprintln!("{guest:?} in {mode} mode: {takeovers} takeovers");
        assert!(takeovers >= kills / 2, "it has hardly been tried: {vm}");
        assert_eq!(vm["diverged"], Value::Null, "{vm}");
    }
}

#[test]
fn one_that_writes_all_over_its_memory() {
    survives_kills("builtin:torture", "--steps", 80_000_000, &["--progress", "1000000"]);
}

#[test]
fn one_that_computes_without_an_exit() {
    survives_kills("builtin:burn", "--rounds", 800_000_000, &[]);
}

#[test]
fn one_that_prints_all_the_time() {
    survives_kills("builtin:counter", "--lines", 1_500, &["--every-us", "1000"]);
}

#[test]
fn one_that_waits() {
    survives_kills("builtin:idle", "--ticks", 15, &["--tick-ms", "100"]);
}
