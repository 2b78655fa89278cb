//! The guest `disk` at every failpoint: whatever dies between two steps of commit and apply, every block is what was written
//! there last. The guest reads each block before it writes it again, and all of them in the end; its last line is their digest.
//!
//! Each failpoint is passed in one of the modes, the next one in another; three rounds (`FTVM_POOL_ROUNDS`) have all.

use crate::chance::{Chance, rounds};
use crate::failpoints::{FOLLOWING, RECORDING_ONLY, REPLAYED, one};
use crate::golden::{Golden, MODES};
use crate::replay::passage;
use crate::support::kvm;
use vmm::failpoint::FAILPOINTS;

/// Some seconds with a flush at every sixteenth step.
const ARGS: [&str; 8] = ["--steps", "4000", "--seed", "5", "--flush-every", "16", "--every-us", "300"];
const MEMORY_MIB: u64 = 8;

fn all(prefix: &str) {
    let Some(_machine) = kvm() else { return };
    let mut chance = Chance::new(&format!("disks, {prefix} kill"));
    let golden = Golden::of("disk", MEMORY_MIB, &ARGS);
    assert!(golden.console.ends_with(b"\n") && golden.console.windows(9).any(|word| word == b"verified "));
    let (recorded, followed) = (golden.clone().recorded(), golden.clone().followed());
    let first = chance.below(MODES);
    for (number, failpoint) in (first..).zip(FAILPOINTS.iter().filter(|name| name.starts_with(prefix))) {
        for round in 0..rounds(1).min(MODES) {
            let mode = match (number + round) % MODES {
                _ if failpoint.starts_with(FOLLOWING) => 2,
                0 if RECORDING_ONLY.contains(failpoint) => 1,
                // A secondary that follows replays nothing when it takes over warm, or little.
                2 if *failpoint == REPLAYED => 1,
                mode => mode,
            };
            let (name, golden) = [("checkpoint", &golden), ("replay", &recorded), ("lockstep", &followed)]
                [usize::try_from(mode).expect("a mode")];
            eprint!("{name}, ");
            one(golden, failpoint, "kill", passage(failpoint, &mut chance));
        }
    }
}

#[test]
fn a_disk_outlives_its_host_at_any_point() {
    all("host.");
}

#[test]
fn a_disk_outlives_the_controller_at_any_point() {
    all("controller.");
}
