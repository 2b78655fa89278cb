//! What a VM takes of the pool, and gives back.

use crate::golden::Golden;
use crate::run::{Plan, Run};
use crate::support::kvm;

/// What was reserved for a takeover is of no more use when the guest has ended.
#[test]
fn a_guest_that_has_ended_keeps_no_space_for_a_generation_to_come() {
    let Some(_machine) = kvm() else { return };
    let golden = Golden::torture(100_000_000).recorded();
    let hosts = [("a", None), ("b", None)];
    let reserved = |run: &Run| ["journal.2", "log.2"].map(|file| run.place.pool().join("vm-0").join(file));
    let are_there = |run: &Run| reserved(run).map(|path| path.exists());
    let plan = Plan { hosts: &hosts, ..Plan::default() };
    let mut run = Run::until(&golden, &plan, "space for a takeover", |run| are_there(run) == [true; 2]);
    let taken: Vec<Vec<u8>> = reserved(&run).iter().map(|path| std::fs::read(path).expect("it is there")).collect();
    run.step_until("the guest's end", |run| run.has_ended());
    run.step_until("its space", |run| are_there(run) == [false; 2]);
    // Nor does one that ended just before its controller did.
    run.restart_controller(|run| {
        for (path, content) in reserved(run).iter().zip(&taken) {
            std::fs::write(path, content).expect("there is room");
        }
    });
    assert_eq!(run.try_status_patiently().vms[0].phase, "ended", "{}", run.everything());
    assert_eq!(are_there(&run), [false; 2]);
    assert!(run.place.pool().join("vm-0/journal.1").exists());
    run.finish();
}
