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
