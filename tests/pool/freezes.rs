//! Primaries that freeze at random, are succeeded, and go on where they were: zombies. Each guest is in another mode than the one
//! before it.

use crate::chance::{Chance, rounds};
use crate::golden::{Golden, MODES};
use crate::run::{Plan, Run};
use crate::support::kvm;
use nix::sys::signal::Signal;
use std::time::Duration;

/// Enough for some freezes; when the guest has ended, another one follows.
const STEPS: u64 = 100_000_000;

#[test]
fn a_zombie_cannot_hurt_wherever_it_froze() {
    let Some(_machine) = kvm() else { return };
    let mut chance = Chance::new("freezes");
    let golden = Golden::torture(STEPS);
    let mut left = rounds(12);
    let (mut freezes, mut takeovers) = (0, 0);
    for mode in chance.below(MODES).. {
        if left == 0 {
            break;
        }
        let golden = golden.clone().in_mode(mode);
        let hosts = [("a", None), ("b", None), ("c", None)];
        let mut run = Run::start(&golden, &Plan { hosts: &hosts, ..Plan::default() });
        while left > 0 && freeze(&mut run, &mut chance) {
            left -= 1;
            freezes += 1;
        }
        takeovers += run.finish();
    }
    eprintln!("{freezes} freezes, {takeovers} takeovers");
    assert!(takeovers * 2 >= freezes, "most freezes end in a takeover: {takeovers} of {freezes}");
}

/// Freezes the primary at some moment, and waits until it was thawed after its successor had gone live. `false`: the guest
/// has ended.
fn freeze(run: &mut Run, chance: &mut Chance) -> bool {
    let mut primary = None;
    run.step_until("a protected primary", |run| {
        let vm = run.try_vm().filter(|vm| vm.unprotected.is_none());
        primary = vm.and_then(|vm| vm.primary);
        primary.is_some() || run.has_ended()
    });
    run.steps_for(Duration::from_micros(chance.below(20_000)));
    let Some(primary) = primary.filter(|_| !run.has_ended()) else { return false };
    run.host(&primary).signal(Signal::SIGSTOP);
    let before = run.freezes;
    run.step_until("the thaw", |run| run.has_ended() || (run.freezes > before && !run.is_frozen(&primary)));
    true
}
