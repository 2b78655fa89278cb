use super::{Finding, Table, Verdict, examine, is_usable};

fn finding(verdict: Verdict) -> Finding {
    let advice = (verdict != Verdict::Ok).then(|| "buy one".to_owned());
    Finding { name: "thing", verdict, detail: "seen".to_owned(), advice }
}

#[test]
fn table_has_a_line_for_each_finding_and_one_for_its_advice() {
    let table = Table(&[finding(Verdict::Ok), finding(Verdict::Missing)]).to_string();
    assert_eq!(table, "ok        thing  seen\nMISSING   thing  seen\n                 -> buy one\n");
}

#[test]
fn only_what_is_missing_makes_a_host_unusable() {
    assert!(is_usable(&[finding(Verdict::Ok), finding(Verdict::Degraded)]));
    assert!(!is_usable(&[finding(Verdict::Degraded), finding(Verdict::Missing)]));
}

#[test]
fn whatever_is_not_ok_comes_with_advice() {
    let findings = examine();
    assert!(findings.iter().any(|finding| finding.name == "/dev/kvm"));
    assert!(findings.iter().any(|finding| finding.name == "/dev/shm"));
    for finding in &findings {
        assert_eq!(finding.verdict == Verdict::Ok, finding.advice.is_none(), "{finding:?}");
        assert!(!finding.detail.is_empty() && !finding.detail.contains('\n'), "{finding:?}");
    }
    assert!(findings.iter().all(|a| findings.iter().filter(|b| a.name == b.name).count() == 1), "names are unique");
}

#[test]
fn findings_are_json_objects() {
    let json = serde_json::to_value(finding(Verdict::Degraded)).expect("plain data");
    let expected = serde_json::json!({"name": "thing", "verdict": "degraded", "detail": "seen", "advice": "buy one"});
    assert_eq!(json, expected);
}

#[test]
fn a_host_with_kvm_runs_flat_guests() {
    let findings = examine();
    if findings.iter().any(|finding| finding.name == "/dev/kvm" && finding.verdict != Verdict::Ok) {
        assert!(
            std::env::var_os("FTVM_REQUIRE_KVM").is_none_or(|value| value != "1"),
            "FTVM_REQUIRE_KVM=1 without KVM"
        );
        eprintln!("SKIPPED: no /dev/kvm");
        return;
    }
    let flat = findings.iter().find(|finding| finding.name == "flat guests").expect("it is tried");
    assert_eq!(flat.verdict, Verdict::Ok, "{flat:?}");
}
