//! A record log that is damaged: what lies before the damage is replayed, what has left is not said again, and it is told as
//! what it is.

use crate::support::{ByHand, await_some, await_true, is_protected, kvm};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where the word lies in a log's file that says how far it goes, and where its ring begins.
const TAIL_AT: u64 = 64;
const RING_AT: u64 = 4096;
/// The bits of that word that are a position.
const POSITION: u64 = (1 << 46) - 1;
/// How far before its end the log is damaged: in the last epoch, behind some of its entries.
const BEHIND: u64 = 300;

/// The log of a VM's newest generation that has begun.
fn log_of(vm: &Path) -> Option<(PathBuf, u64)> {
    let files = std::fs::read_dir(vm).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let generation = |path: &Path| path.file_name()?.to_str()?.strip_prefix("log.")?.parse::<u64>().ok();
    let mut logs: Vec<(u64, PathBuf)> = files.filter_map(|path| Some((generation(&path)?, path))).collect();
    logs.sort();
    let end_of = |path: &Path| {
        let mut word = [0; 8];
        File::open(path).ok()?.read_exact_at(&mut word, TAIL_AT).ok()?;
        Some(u64::from_le_bytes(word) & POSITION)
    };
    logs.into_iter().rev().find_map(|(_, path)| end_of(&path).filter(|end| *end > 4 * BEHIND).map(|end| (path, end)))
}

fn survives_a_damaged_log(mode: &str) {
    let Some(_machine) = kvm() else { return };
    let mut cluster = ByHand::start(&["a", "b", "c"]);
    let guest = ["builtin:counter", "--", "--lines", "3000", "--every-us", "2000"];
    let golden = cluster.golden(&guest);
    // One long epoch: the log holds all of the guest's life.
    let options = ["run", "--name", "g", "--mode", mode, "--epoch-ms", "60000"];
    let run = cluster.start_command(&options, &guest);
    let vm = cluster.await_vm("g", "protection", |vm| is_protected(vm) && vm["primary"].is_string());
    let directory = cluster.place.pool().join("pool/vm-0");
    let (log, end) = await_some("entries in the log", || log_of(&directory));
    assert!(end < 1 << 20, "the ring has not gone round");
    let file = File::options().read(true).write(true).open(&log).expect("the log");
    let mut byte = [0];
    file.read_exact_at(&mut byte, RING_AT + end - BEHIND).expect("inside");
    file.write_all_at(&[byte[0] ^ 0x40], RING_AT + end - BEHIND).expect("inside");
    cluster.kill_host(vm["primary"].as_str().expect("a name"));
    let vm = cluster.await_vm("g", "the damage to be told", |vm| !vm["log_lost"].is_null());
    let line = vm["log_lost"].as_str().expect("a line");
    assert!(line.contains("log of generation 1 is damaged behind entry"), "{line}");
    assert_eq!(vm["diverged"], serde_json::Value::Null, "{vm}");
    await_true("the warning", || run.stderr().contains("damaged behind entry"));
    let ended = run.end().ok();
    assert!(!ended.stderr.contains("diverged"), "{}", ended.stderr);
    assert!(ended.stdout == golden, "the console is another one: {} bytes", ended.stdout.len());
}

#[test]
fn a_damaged_log_costs_a_guest_in_replay_mode_no_output() {
    survives_a_damaged_log("replay");
}

#[test]
fn a_damaged_log_costs_a_guest_in_lockstep_no_output() {
    survives_a_damaged_log("lockstep");
}
