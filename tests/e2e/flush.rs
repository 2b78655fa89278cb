//! `run --flush` holds for all processes that it starts.

use crate::support::{Place, await_some, await_true, count_of, kvm, read_events, signal};
use nix::sys::signal::Signal;

/// Every x86-64 processor has it.
const KIND: &str = "clflush";

/// The value of `--flush` that a process was started with.
fn flush_of(pid: u32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let at = arguments.iter().position(|argument| *argument == b"--flush")?;
    Some(String::from_utf8_lossy(arguments.get(at + 1)?).into_owned())
}

#[test]
fn a_forced_kind_is_handed_on_to_controller_and_hosts_also_later_ones() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let guest = ["builtin:torture", "--", "--steps", "300000000", "--progress", "5000000"];
    let golden = place.run(&[&["run", "--mode", "none"][..], &guest[..]].concat()).ok();
    let events = place.file("events");
    let options = ["run", "--flush", KIND, "--respawn", "--events", events.to_str().expect("text")];
    let run = place.start(&[&options[..], &guest[..]].concat());
    await_true("protection", || count_of(&read_events(&events), "protected") == 1);
    let host = run.host("a").expect("it lives");
    for pid in [run.controller().expect("it lives"), host, run.host("b").expect("it lives")] {
        assert_eq!(flush_of(pid).as_deref(), Some(KIND));
    }
    signal(host, Signal::SIGKILL);
    let again = await_some("its next life", || run.host("a").filter(|pid| *pid != host));
    assert_eq!(flush_of(again).as_deref(), Some(KIND));
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout == golden.stdout, "the console is not exact");
}

#[test]
fn a_kind_that_nobody_knows_is_refused_before_anything_is_started() {
    let place = Place::new();
    let line = place.run(&["run", "--flush", "sync", "builtin:counter"]);
    assert_eq!((line.code, line.stdout.len()), (Some(2), 0), "{line:?}");
    assert!(line.stderr.contains("expected none, clwb, clflushopt or clflush"), "{line:?}");
}
