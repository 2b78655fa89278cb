//! What protection costs in memory: the pool holds the guest once, a standby next to nothing.

use crate::support::{Place, await_some, await_true, count_of, kvm, read_events, signal};
use nix::sys::signal::Signal;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

const MIB: u64 = 1 << 20;
const GUEST_MIB: u64 = 256;
/// Journals, record logs, console, machine state: everything but the image.
const POOL_EXTRA_MIB_MAX: u64 = 64;
/// The program itself, its threads, and the pages that a standby VM needs.
const STANDBY_MIB_MAX: u64 = 24;

/// A field of /proc/PID/smaps_rollup in bytes.
fn rollup(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the host lives");
    let line = text.lines().find(|line| line.starts_with(field)).unwrap_or_else(|| panic!("no {field} in {text}"));
    let kib: u64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
    kib * 1024
}

/// Memory that nobody else shares.
fn private(pid: u32) -> u64 {
    rollup(pid, "Private_Clean:") + rollup(pid, "Private_Dirty:")
}

/// Bytes that the files of a directory take.
fn allocated(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).expect("the pool is there").flatten();
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => allocated(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

#[test]
fn the_pool_holds_the_guest_once_and_a_standby_nearly_nothing() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let events = place.file("events");
    let memory = format!("{GUEST_MIB}MiB");
    // Every page is written: the worst case for whoever keeps copies.
    let guest = ["builtin:torture", "--", "--steps", "3000000000", "--progress", "10000000"];
    let options = ["run", "--memory", &memory, "--heartbeat-ms", "2000", "--events", events.to_str().unwrap()];
    let mut run = place.start(&[&options[..], &guest[..]].concat());
    await_true("protection", || count_of(&read_events(&events), "protected") == 1);
    let progress = |line: &str| run.stdout().windows(line.len()).any(|window| window == line.as_bytes());
    await_true("a guest that has written all its memory", || progress("progress 000030"));

    let standby = await_some("the secondary", || run.host("b"));
    let spare = await_some("the spare", || run.host("c"));
    let primary = await_some("the primary", || run.host("a"));
    let (standby, spare, primary) = (private(standby), private(spare), private(primary));
    let pool = allocated(place.pool());
    eprintln!(
        "guest {GUEST_MIB} MiB: pool {} MiB, primary {} MiB, standby {} MiB, spare {} MiB (private memory)",
        pool / MIB,
        primary / MIB,
        standby / MIB,
        spare / MIB
    );
    assert!(run.runs());
    assert!(pool >= GUEST_MIB * MIB, "the image is reserved in full");
    assert!(pool <= (GUEST_MIB + POOL_EXTRA_MIB_MAX) * MIB, "the pool takes {} MiB", pool / MIB);
    assert!(standby <= STANDBY_MIB_MAX * MIB, "the standby takes {} MiB", standby / MIB);
    run.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(run.end().code, Some(143));
}

/// What a primary's private memory may be above its bound: the program, its threads, and the pages of epochs that are not
/// applied yet.
const BOUND_SLACK_MIB: u64 = 32;

#[test]
fn a_primary_keeps_no_more_copies_than_its_bound_and_loses_nothing_by_it() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let guest = ["--memory", "96MiB", "builtin:torture", "--", "--steps", "600000000", "--progress", "2000000"];
    let golden = place.run(&[&["run", "--mode", "none"][..], &guest[..]].concat()).ok();
    // What a primary held most of the time in the first half of the guest's life, in MiB. An epoch that was cut late, on a machine
    // with much else to do, is no typical one.
    let held = |name: &str, bound: &[&str]| {
        let events = place.file(name);
        let options =
            ["run", "--respawn", "--epoch-ms", "4", "--heartbeat-ms", "2000", "--events", events.to_str().unwrap()];
        let mut run = place.start(&[&options[..], bound, &guest[..]].concat());
        await_true("protection", || count_of(&read_events(&events), "protected") == 1);
        let primary = await_some("the primary", || run.host("a"));
        let mut samples = Vec::new();
        await_true("half of the guest's life", || {
            samples.push(private(primary) / MIB);
            run.stdout().len() * 2 > golden.stdout.len()
        });
        assert!(run.runs());
        signal(primary, Signal::SIGKILL);
        let ended = run.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout == golden.stdout, "{bound:?}: the console is not exact");
        assert!(count_of(&read_events(&events), "live") >= 2, "there was a takeover");
        samples.sort_unstable();
        samples[samples.len() / 2]
    };
    let free = held("events.free", &[]);
    let bounded = held("events.bounded", &["--working-set", "16MiB"]);
    eprintln!("private memory of the primary: {free} MiB without a bound, {bounded} MiB with one of 16 MiB");
    assert!(free > 80, "the guest does not write enough to show anything: {free} MiB");
    assert!(bounded <= 16 + BOUND_SLACK_MIB, "{bounded} MiB");
}
