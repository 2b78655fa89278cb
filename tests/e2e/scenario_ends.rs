//! Scenarios end: at their time limit and at a signal, whatever stands still meanwhile.

use crate::support::{Place, Running, await_some, await_true, kvm, signal};
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A guest that does not end by itself.
const VM: &str = "[vm]\nguest = \"builtin:idle\"\nargs = [\"--ticks\", \"100000000\"]\nmemory = \"4MiB\"\n";
/// Well below the 60 s that an answer of the controller may take, and far above what a run of a second does.
const WITHOUT_THE_ANSWER: Duration = Duration::from_secs(45);

fn start(place: &Place, text: &str) -> Running {
    let file = place.write("endless.toml", text);
    place.start(&["scenario", "run", file.to_str().expect("it is text")])
}

#[test]
fn a_controller_that_stands_still_does_not_outlast_the_time_limit() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    // Slow and cut off, too: whoever is to end must hear of it.
    let steps = "[[step]]\nevent = \"protected\"\ndo = [{ action = \"slow\", host = \"primary\", percent = 50 }, \
                 { action = \"cut\", host = \"secondary\", from = \"both\" }, { action = \"stop\", host = \"primary\" }, \
                 { action = \"stop\", host = \"controller\" }]\n[[step]]\nat = \"500ms\"\naction = \"delete\"\noptional = true\n";
    let since = Instant::now();
    let ended = start(&place, &format!("time-limit = \"2s\"\n{VM}{steps}[expect]\n")).end();
    let out = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.code, Some(84), "{out}{}", ended.stderr);
    assert!(since.elapsed() < WITHOUT_THE_ANSWER, "the controller's answer was waited for: {:?}", since.elapsed());
    assert_eq!(place.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn a_signal_ends_a_run_whose_controller_was_stopped_by_somebody() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let running = start(&place, &format!("time-limit = \"600s\"\n{VM}[expect]\n"));
    let console = place.file("scenario-runs/endless-1/events.jsonl");
    await_true("the guest is protected", || {
        std::fs::read_to_string(&console).is_ok_and(|text| text.contains("\"protected\""))
    });
    let controller = running.controller().expect("it lives");
    signal(controller, Signal::SIGSTOP);
    // By then the runner has asked it how far the VM is: it does so every 250 ms.
    std::thread::sleep(Duration::from_secs(1));
    running.signal(Signal::SIGTERM);
    let ended = running.end();
    assert_eq!(ended.code, Some(143), "{}", ended.stderr);
    assert_eq!(place.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn a_signal_ends_the_unprotected_run() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let running = start(&place, &format!("time-limit = \"600s\"\n{VM}[expect]\nconsole = \"unprotected\"\n"));
    let console = place.file("scenario-runs/endless-1/console.unprotected");
    await_some("the unprotected run begins", || std::fs::metadata(&console).ok());
    running.signal(Signal::SIGINT);
    let ended = running.end();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    assert_eq!(place.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn what_time_cut_short_is_told_after_the_cause_and_fails_nothing_else() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let rest = "[[workload]]\nname = \"a.1\"\ncommand = [\"sh\", \"-c\", \"echo working >&2; sleep 1000\"]\n\
                [[step]]\nname = \"never\"\nconsole = \"no such line\"\naction = \"mark\"\n[expect]\nconsole-contains = \"none\"\ntakeovers = 1\n";
    let ended = start(&place, &format!("time-limit = \"1s\"\n{VM}{rest}")).end();
    let out = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.code, Some(84), "{out}{}", ended.stderr);
    let marks: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    assert_eq!(marks, ["FAIL", "open", "open", "open", "open", "open", "see", "again"], "{out}");
    let cause = "FAIL  the run ends within 1.00 s (line 1): time ran out: VM guest still ran, workload a.1 still ran, never had not fired";
    assert!(out.contains(cause), "{out}");
    // Its name is that of a process's file, too.
    let said = |file: &str| std::fs::read_to_string(place.file("scenario-runs/endless-1").join(file)).expect(file);
    assert_eq!(said("a.1.err"), "working\n");
    assert!(!said("a.1.stderr").contains("working"));
}

#[test]
fn an_unprotected_run_that_runs_out_of_time_is_told_with_its_line() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let ended = start(&place, &format!("time-limit = \"300ms\"\n{VM}[expect]\nconsole = \"unprotected\"\n")).end();
    let out = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.code, Some(84), "{out}{}", ended.stderr);
    assert!(out.contains("FAIL  the unprotected run ends within 300.0 ms (line 1): it had not ended after "), "{out}");
    assert!(!out.contains("(seed 1, 0.0 s)"), "it took its time: {out}");
}

#[test]
fn a_guest_that_is_missing_fails_its_own_scenario_only() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let files = place.file("files");
    std::fs::create_dir(&files).expect("a directory can be made");
    place.write("files/1-missing.toml", "[vm]\nmemory = \"4MiB\"\nguest = \"gest.elf\"\n[expect]\n");
    place.write("files/guest.elf", "no guest");
    let good = "[vm]\nguest = \"builtin:counter\"\nargs = [\"--lines\", \"20\"]\nmemory = \"4MiB\"\n[expect]\n";
    place.write("files/2-good.toml", good);
    let files = files.to_str().expect("it is text");
    let ended = place.run(&["scenario", "run", "--junit", "junit.xml", files]);
    let out = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.code, Some(80), "{out}{}", ended.stderr);
    assert!(out.contains("1 scenarios hold, 1 fail: 1-missing"), "{out}");
    assert!(out.contains("(line 3): the guest cannot be used: there is no guest file"), "{out}");
    let xml = std::fs::read_to_string(place.file("junit.xml")).expect("it was written");
    assert!(xml.contains("tests=\"2\"") && xml.contains("errors=\"1\"") && xml.contains("<error message="), "{xml}");
    let checked = place.run(&["scenario", "check", files]);
    let line = checked.one_line(66);
    assert!(line.contains("1-missing.toml:3: there is no guest file"), "{line}");
    assert!(line.ends_with("did you mean `guest.elf`?"), "{line}");
    assert!(String::from_utf8_lossy(&checked.stdout).contains("2-good.toml"), "the others are told");
}
