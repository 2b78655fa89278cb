//! At random and without mercy: hosts and controller are killed and frozen, bytes flip in journals, garbage comes over the
//! socket. The guest says what an unprotected one says, to the last byte of its checksum, in whichever mode it is protected.

use crate::chance::{Chance, rounds};
use crate::golden::{Golden, MODES};
use crate::run::{Plan, Run};
use crate::support::kvm;
use crate::{flips, garbage};
use nix::sys::signal::Signal;
use std::time::Duration;

const STEPS: u64 = 150_000_000;
/// After so many strikes the guest is let get on.
const STRIKES_IN_A_ROW: u64 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    KillHost,
    KillController,
    FreezeHost,
    /// Not longer than its peers are patient: a frozen controller is nobody's failure, and nothing detects it.
    PauseController,
    Flip,
    Garbage,
}

/// What leaves the pool sound, so that it is checked after each death.
const KILLS: [Attack; 5] =
    [Attack::KillHost, Attack::KillHost, Attack::KillController, Attack::FreezeHost, Attack::PauseController];
const EVERYTHING: [Attack; 7] = [
    Attack::KillHost,
    Attack::KillController,
    Attack::FreezeHost,
    Attack::PauseController,
    Attack::Flip,
    Attack::Flip,
    Attack::Garbage,
];

fn strike(run: &mut Run, attack: Attack, chance: &mut Chance) {
    let host = *chance.pick(&["a", "b", "c"]);
    match attack {
        Attack::KillHost => run.host(host).signal(Signal::SIGKILL),
        Attack::KillController => run.controller().signal(Signal::SIGKILL),
        Attack::FreezeHost => run.host(host).signal(Signal::SIGSTOP),
        Attack::PauseController => {
            run.controller().signal(Signal::SIGSTOP);
            std::thread::sleep(Duration::from_millis(chance.below(40)));
            run.controller().signal(Signal::SIGCONT);
        }
        Attack::Flip => {
            for _ in 0..=chance.below(3) {
                if chance.below(2) == 0 {
                    flips::flip(run, chance)
                } else {
                    flips::flip_log(run, chance)
                };
            }
        }
        Attack::Garbage => garbage::send(&run.socket(), chance),
    }
}

/// Strikes until the guest has ended. Gives how often, and the takeovers that there were.
fn storm(golden: &Golden, attacks: &[Attack], unsound: bool, chance: &mut Chance) -> (u64, u64) {
    let hosts = [("a", None), ("b", None), ("c", None)];
    let mut run = Run::start(golden, &Plan { hosts: &hosts, unsound, ..Plan::default() });
    run.step_until("a primary", |run| run.has_ended() || run.try_vm().is_some_and(|vm| vm.phase == "running"));
    let mut strikes = 0;
    while !run.has_ended() {
        strike(&mut run, *chance.pick(attacks), chance);
        strikes += 1;
        // Sometimes in a burst, sometimes with time to recover.
        let pause_ms = if chance.below(3) == 0 { chance.below(400) } else { chance.below(60) };
        run.steps_for(Duration::from_millis(pause_ms));
        // Without any pause nothing would ever get done.
        if strikes % STRIKES_IN_A_ROW == 0 {
            run.step_until("something new on the console", Run::has_moved);
        }
    }
    (strikes, run.finish())
}

fn rounds_of(what: &str, attacks: &[Attack], unsound: bool) {
    let Some(_machine) = kvm() else { return };
    let mut chance = Chance::new(what);
    let golden = Golden::torture(STEPS);
    let (mut strikes, mut takeovers) = (0, 0);
    let first = chance.below(MODES);
    for mode in (first..).take(usize::try_from(rounds(3)).expect("a number of rounds")) {
        let golden = golden.clone().in_mode(mode);
        let (more_strikes, more_takeovers) = storm(&golden, attacks, unsound, &mut chance);
        strikes += more_strikes;
        takeovers += more_takeovers;
    }
    eprintln!("{what}: {strikes} strikes, {takeovers} takeovers");
    assert!(strikes > 5 && takeovers > 0, "there was no storm: {strikes} strikes, {takeovers} takeovers");
}

#[test]
fn random_kills_and_freezes_change_nothing() {
    rounds_of("kills", &KILLS, false);
}

#[test]
fn everything_at_once_changes_nothing() {
    rounds_of("storm", &EVERYTHING, true);
}
