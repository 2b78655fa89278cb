//! Secondaries that die, and all hosts that die at once.

use crate::support::{Place, await_some, await_true, children_of, count_of, kvm, read_events, signal};
use nix::sys::signal::Signal;

const GUEST: [&str; 6] = ["builtin:torture", "--", "--steps", "300000000", "--progress", "3000000"];

#[test]
fn the_guest_does_not_notice_a_dead_secondary() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let golden = place.run(&[&["run", "--mode", "none"][..], &GUEST[..]].concat()).ok();
    let events = place.file("events");
    let options = ["run", "--heartbeat-ms", "2000", "--events", events.to_str().unwrap()];
    let run = place.start(&[&options[..], &GUEST[..]].concat());
    await_true("protection", || count_of(&read_events(&events), "protected") == 1);
    signal(await_some("host b", || run.host("b")), Signal::SIGKILL);
    await_true("protection by the spare", || count_of(&read_events(&events), "protected") == 2);
    let ended = run.end().ok();
    assert_eq!(ended.stdout, golden.stdout);
    let events = read_events(&events);
    assert_eq!((count_of(&events, "live"), count_of(&events, "sealed")), (1, 0), "nobody took over");
}

#[test]
fn without_any_host_the_end_is_clear_and_says_what_is_left() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let events = place.file("events");
    let options = ["run", "--hosts", "2", "--keep", "--events", events.to_str().unwrap()];
    let run = place.start(&[&options[..], &GUEST[..]].concat());
    await_true("protection", || count_of(&read_events(&events), "protected") == 1);
    await_true("committed output", || !run.stdout().is_empty());
    // Stopped first, so that neither sees the other die.
    let hosts: Vec<u32> = ["a", "b"].iter().map(|name| await_some("a host", || run.host(name))).collect();
    for number in [Signal::SIGSTOP, Signal::SIGKILL] {
        hosts.iter().for_each(|host| signal(*host, number));
    }
    let pid = run.pid();
    let ended = run.end();
    assert_eq!(ended.code, Some(81), "{ended:?}");
    let line = ended.stderr.lines().last().expect("a line");
    assert!(line.contains("no host is left"), "{line}");
    assert!(line.contains("the pool held everything up to epoch "), "{line}");
    let kept = line.split("it is kept in ").nth(1).expect("the place where it is kept");
    assert!(std::path::Path::new(kept).join("pool").join("superblock").exists(), "{kept}");
    assert!(children_of(pid).is_empty());
}

#[test]
fn without_any_host_and_without_keep_nothing_is_left() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let events = place.file("events");
    let options = ["run", "--hosts", "1", "--events", events.to_str().unwrap()];
    let run = place.start(&[&options[..], &GUEST[..]].concat());
    await_true("the guest's start", || count_of(&read_events(&events), "live") == 1);
    signal(await_some("host a", || run.host("a")), Signal::SIGKILL);
    let ended = run.end();
    assert!(ended.one_line(81).contains("--keep"), "{ended:?}");
    assert_eq!(place.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn with_respawn_even_the_death_of_all_is_survived() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let golden = place.run(&[&["run", "--mode", "none"][..], &GUEST[..]].concat()).ok();
    let events = place.file("events");
    let options = ["run", "--hosts", "2", "--respawn", "--heartbeat-ms", "2000", "--events", events.to_str().unwrap()];
    let run = place.start(&[&options[..], &GUEST[..]].concat());
    await_true("protection", || count_of(&read_events(&events), "protected") == 1);
    for child in children_of(run.pid()).iter().filter(|child| child.host().is_some()) {
        signal(child.pid, Signal::SIGKILL);
    }
    let ended = run.end().ok();
    assert_eq!(ended.stdout, golden.stdout);
    assert!(count_of(&read_events(&events), "live") >= 2, "somebody took over");
}
