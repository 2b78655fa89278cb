//! How written lines get into the pool can be forced, and a guest says the same whatever is forced.

use crate::golden::Golden;
use crate::run::{Plan, Run};
use crate::support::{Place, kvm};
use nix::sys::signal::Signal;
use shared_mem::FlushKind;

const KINDS: [FlushKind; 4] = [FlushKind::None, FlushKind::Clwb, FlushKind::ClflushOpt, FlushKind::Clflush];

#[test]
fn what_the_processor_lacks_is_refused_in_one_line() {
    let place = Place::new();
    let dir = place.pool();
    let dir = dir.to_str().expect("text");
    for kind in KINDS.into_iter().filter(|kind| !kind.is_supported()) {
        for command in [&["pool", "--socket", "sock", "--dir", dir][..], &["host", "--id", "a", "--pool", "sock"]] {
            let output = place.ftvm(command).args(["--flush", &kind.to_string()]).output().expect("a start");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
            assert!(said.contains(&format!("this processor has no {kind}")), "{said}");
        }
    }
    let output = place.ftvm(&["pool", "--socket", "sock", "--dir", dir, "--flush", "sync"]).output().expect("a start");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("expected none, clwb, clflushopt or clflush"), "{said}");
    assert!(!place.pool().exists(), "a refused controller makes no pool");
}

#[test]
fn a_guest_says_the_same_whatever_is_forced() {
    let Some(_machine) = kvm() else { return };
    let golden = Golden::torture(60_000_000);
    for kind in KINDS.into_iter().filter(|kind| kind.is_supported()) {
        let kind = kind.to_string();
        let plan = Plan { hosts: &[("a", None), ("b", None)], flush: Some(&kind), ..Plan::default() };
        let run = Run::protected(&golden, &plan);
        run.host("a").signal(Signal::SIGKILL);
        assert!(run.finish() > 0, "nobody took over");
    }
}
