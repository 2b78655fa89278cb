//! `ftvm bench`: that it measures and says so, not what.

use crate::support::Place;

#[test]
fn a_suite_prints_a_table_and_writes_json() {
    let place = Place::new();
    let json = place.file("bench.json");
    let ended = place.run(&["bench", "--quick", "record", "--json", &json.to_string_lossy()]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let table = String::from_utf8(ended.stdout).unwrap();
    assert!(table.contains("append of an entry") && table.contains("copy of its bytes"), "{table}");
    let text = std::fs::read_to_string(&json).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let row = &report["suites"][0]["rows"][0];
    assert_eq!(report["suites"][0]["suite"], "record");
    for figure in [&row["measured"]["median"], &row["baseline"]["figures"]["median"], &row["ratio"]] {
        assert!(figure.as_f64().is_some_and(|value| value > 0.0), "{row}");
    }
}

#[test]
fn without_kvm_a_suite_is_skipped_aloud() {
    let place = Place::new();
    let mut command = place.ftvm(&["bench", "--quick", "pause"]);
    command.env("FTVM_KVM_DEVICE", "/nonexistent/kvm");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let (table, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(table.contains("SKIPPED: /nonexistent/kvm is missing"), "{table}");
    assert!(told.contains("pause: SKIPPED"), "{told}");
}

#[test]
fn a_suite_that_is_none_is_refused() {
    let place = Place::new();
    let ended = place.run(&["bench", "speed"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("there is no suite `speed`"), "{}", ended.stderr);
}
