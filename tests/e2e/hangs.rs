//! A host that hangs (SIGSTOP) and comes back (SIGCONT): a zombie that must not harm anybody.

use crate::support::{Place, await_some, await_true, children_of, count_of, kvm, read_events, signal};
use nix::sys::signal::Signal;

const GUEST: [&str; 6] = ["builtin:torture", "--", "--steps", "600000000", "--progress", "3000000"];

#[test]
fn a_zombie_is_fenced_and_emits_nothing() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let golden = place.run(&[&["run", "--mode", "none"][..], &GUEST[..]].concat()).ok();

    let events = place.file("events");
    let options = ["run", "--heartbeat-ms", "100", "--keep", "--events", events.to_str().unwrap()];
    let run = place.start(&[&options[..], &GUEST[..]].concat());
    await_true("protection", || count_of(&read_events(&events), "protected") == 1);
    await_true("output under protection", || run.stdout().len() > 500);
    let zombie = await_some("host a", || run.host("a"));
    signal(zombie, Signal::SIGSTOP);
    await_true("the takeover", || count_of(&read_events(&events), "live") == 2);
    signal(zombie, Signal::SIGCONT);
    await_true("the end of the zombie", || children_of(run.pid()).iter().all(|child| child.pid != zombie));
    await_true("its successor as a spare", || run.host("a").is_some());

    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stdout, golden.stdout, "the console is exact");

    let events = read_events(&events);
    let exit = events.iter().filter_map(|event| event.get("host-exited")).find(|exit| exit["host"] == "a");
    let exit = exit.expect("the zombie's end was seen");
    assert_eq!(exit["exit"]["code"], 83, "{exit}");
    let line = exit["stderr"].as_str().expect("its last words");
    assert!(line.starts_with("ftvm: host a was fenced: "), "{line}");
    assert!(!line.contains('\n'), "one line: {line}");
    assert_eq!(count_of(&events, "fenced"), 1);
}

/// A takeover by heartbeat while the host is only slow is allowed; that both write is not.
#[test]
fn a_host_that_flaps_harms_nobody() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let golden = place.run(&[&["run", "--mode", "none"][..], &GUEST[..]].concat()).ok();
    let events = place.file("events");
    let options = ["run", "--heartbeat-ms", "50", "--events", events.to_str().unwrap()];
    let mut run = place.start(&[&options[..], &GUEST[..]].concat());
    await_true("protection", || count_of(&read_events(&events), "protected") == 1);
    for round in 0..6 {
        let before = count_of(&read_events(&events), "live");
        for child in children_of(run.pid()).iter().filter(|child| child.host().is_some()) {
            if round % 3 == 0 || child.host() == Some(["a", "b", "c"][round % 3]) {
                signal(child.pid, Signal::SIGSTOP);
                signal(child.pid, Signal::SIGCONT);
            }
        }
        await_true("progress", || {
            let now = read_events(&events);
            count_of(&now, "live") > before || now.len() > 100 * (round + 1) || !run.runs()
        });
    }
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stdout, golden.stdout);
}
