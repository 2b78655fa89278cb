//! Bundled guests from start to end.

use super::support::{MIB, booted, kvm, run_to_end};
use crate::machine::Stop;

#[test]
fn counter_prints_its_lines_and_exits() {
    let Some(kvm) = kvm() else { return };
    let mut machine = booted(&kvm, 16 * MIB, "counter", &["--lines", "3"]);
    let (end, console) = run_to_end(&mut machine);
    assert_eq!((end, console.as_str()), (Stop::Exited(0), "line 000001\nline 000002\nline 000003\n"));
    assert_eq!(machine.run().expect("stays ended"), Stop::Exited(0));
}

#[test]
fn torture_is_deterministic() {
    let Some(kvm) = kvm() else { return };
    let run = || run_to_end(&mut booted(&kvm, 16 * MIB, "torture", &["--steps", "3000000"]));
    let first = run();
    assert_eq!(first.0, Stop::Exited(0));
    assert_eq!(first, run());
}
