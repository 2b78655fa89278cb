//! SIGKILL after SIGKILL of whoever is primary or secondary: the guest's checksum and console do not show it.

use crate::support::{Place, kvm};
use serde_json::Value;

/// Long enough that one kill in fifty has some epochs for itself, on any machine.
const STEPS: &str = "800000000";
const PROGRESS: &str = "1000000";

fn survives_fifty_kills(memory: &str, seed: &str) {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    // A loaded machine must not look like a hanging host: only the kills count here.
    let arguments = ["demo", "--json", "--kills", "50", "--memory", memory, "--seed", seed, "--heartbeat-ms", "2000"];
    let guest = ["--", "--steps", STEPS, "--progress", PROGRESS];
    let ended = place.run(&[&arguments[..], &guest[..]].concat());
    let text = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.code, Some(0), "seed {seed}: {text}{}", ended.stderr);
    let report: Value = serde_json::from_str(&text).expect("the report is JSON");
    assert_eq!(report["holds"], true, "{report}");
    assert_eq!(report["kills"], 50);
    let takeovers = report["summary"]["takeovers"].as_u64().expect("a number");
    // Kills of the same host's successors may fall together into one takeover, but most do not.
    assert!(takeovers >= 15, "{takeovers} takeovers");
    eprintln!(
        "{memory}, seed {seed}: {takeovers} takeovers, longest blackout {} ms, {} ms protected, {} ms unprotected",
        report["summary"]["blackout_max_ms"], report["summary"]["duration_ms"], report["unprotected_ms"]
    );
    assert_eq!(place.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn torture_of_16_mib_survives_fifty_kills() {
    survives_fifty_kills("16MiB", "1");
    survives_fifty_kills("16MiB", "2");
}

#[test]
fn torture_of_256_mib_survives_fifty_kills() {
    survives_fifty_kills("256MiB", "3");
}

#[test]
fn the_demo_tells_its_timeline() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let ended = place.run(&["demo", "--seed", "4", "--heartbeat-ms", "2000"]).ok();
    let text = String::from_utf8(ended.stdout).expect("the timeline is text");
    for expected in
        ["seed 4", "kill 6 of 6: SIGKILL to host", "detected:", "sealed:", "live on", "blackout", "equal: all"]
    {
        assert!(text.contains(expected), "no `{expected}` in:\n{text}");
    }
    assert_eq!(ended.stderr, "");
}

/// A demo that could not fail would show nothing.
#[test]
fn the_demo_fails_when_time_runs_out() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let ended = place.run(&["demo", "--time-limit", "1ms"]);
    assert!(ended.one_line(84).contains("did not end within"), "{ended:?}");
}
