//! Replay mode: every bundled guest whose words follow from its arguments, killed at every failpoint. Its successor replays
//! what the pool has of its inputs, and says what an unprotected guest says.
//!
//! Each failpoint is passed by one of the guests, another one for each seed; more rounds (`FTVM_POOL_ROUNDS`) have all.

use crate::chance::{Chance, rounds};
use crate::failpoints::{FOLLOWING, RECORDING_ONLY, one};
use crate::golden::Golden;
use crate::support::kvm;
use vmm::failpoint::FAILPOINTS;

/// What a guest does in some seconds, so that there is time for protection, and for ten commits, on a slow machine.
const GUESTS: [(&str, &[&str]); 4] = [
    ("counter", &["--lines", "2500", "--every-us", "700"]),
    ("idle", &["--ticks", "400", "--tick-ms", "10"]),
    ("torture", &["--steps", "60000000", "--progress", "300000"]),
    // The last one: it takes no inputs, so there is nothing to be replayed.
    ("burn", &["--rounds", "500000000"]),
];
const MEMORY_MIB: u64 = 8;

fn all(prefix: &str, action: &str) {
    let Some(_machine) = kvm() else { return };
    let mut chance = Chance::new(&format!("replay mode, {prefix} {action}"));
    let first = chance.below(GUESTS.len() as u64);
    let of_prefix = |name: &&&str| name.starts_with(prefix) && !name.starts_with(FOLLOWING);
    for (number, failpoint) in (first..).zip(FAILPOINTS.iter().filter(of_prefix)) {
        let guests = if RECORDING_ONLY.contains(failpoint) { &GUESTS[..GUESTS.len() - 1] } else { &GUESTS[..] };
        for round in 0..rounds(1).min(guests.len() as u64) {
            let index = usize::try_from((number + round) % guests.len() as u64).expect("an index");
            let (guest, args) = guests[index];
            eprint!("{guest}, ");
            let golden = Golden::of(guest, MEMORY_MIB, args).recorded();
            one(&golden, failpoint, action, passage(failpoint, &mut chance));
        }
    }
}

/// The first passage, or one in the guest's life.
pub(crate) fn passage(failpoint: &str, chance: &mut Chance) -> u64 {
    match failpoint {
        "host.log.written" | "host.log.appended" => 1 + chance.below(40),
        _ if failpoint.contains(".commit.") || failpoint.contains(".apply.") => 1 + chance.below(6),
        _ => 1,
    }
}

#[test]
fn a_recorded_guest_outlives_its_host_at_any_point() {
    all("host.", "kill");
}

#[test]
fn a_recorded_guest_outlives_the_controller_at_any_point() {
    all("controller.", "kill");
}

#[test]
fn a_recorded_guest_has_no_second_self_when_a_frozen_host_thaws() {
    all("host.", "stop");
}

/// Between any two steps of a commit or of an append to the log, while a secondary follows.
#[test]
fn a_followed_guest_has_no_second_self_when_a_frozen_primary_thaws() {
    let Some(_machine) = kvm() else { return };
    let mut chance = Chance::new("lockstep mode, stop");
    let (guest, args) = GUESTS[2];
    let golden = Golden::of(guest, MEMORY_MIB, args).followed();
    let of_primary = |name: &&&str| name.starts_with("host.commit.") || name.starts_with("host.log.");
    for failpoint in FAILPOINTS.iter().filter(of_primary) {
        one(&golden, failpoint, "stop", passage(failpoint, &mut chance));
    }
}
