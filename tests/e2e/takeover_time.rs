//! Takeover time does not grow with the guest's memory.

use crate::support::{Place, kvm_alone};
use serde_json::Value;

const KILLS: &str = "6";
/// What a noisy machine adds to the median of some takeovers.
const NOISE_MS: f64 = 60.0;

/// Milliseconds from detection to the running successor, of each takeover; smallest first.
fn takeovers(memory: &str) -> Vec<f64> {
    let place = Place::new();
    let arguments = ["demo", "--json", "--kills", KILLS, "--memory", memory, "--seed", "11", "--heartbeat-ms", "2000"];
    let guest = ["--", "--steps", "500000000", "--progress", "2000000"];
    let ended = place.run(&[&arguments[..], &guest[..]].concat()).ok();
    let report: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    let steps = report["summary"]["takeover_steps"].as_array().expect("a list");
    let mut times: Vec<f64> =
        steps.iter().filter_map(|step| Some(step["live_ms"].as_f64()? - step["detected_ms"].as_f64()?)).collect();
    times.sort_by(f64::total_cmp);
    assert!(!times.is_empty(), "{report}");
    eprintln!("{memory}: detection to running guest, ms: {times:.2?}");
    times
}

#[test]
fn from_16_mib_to_1_gib_a_takeover_takes_the_same() {
    let Some(_machine) = kvm_alone() else { return };
    let median = |times: &[f64]| times[times.len() / 2];
    let small = median(&takeovers("16MiB"));
    let large = median(&takeovers("1GiB"));
    // Memory is 64 times as much. If takeover time were to follow it, even a noisy machine would show.
    assert!(large <= 4.0 * small + NOISE_MS, "16 MiB: {small} ms, 1 GiB: {large} ms");
}
