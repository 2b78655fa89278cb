//! A record log that is damaged while its primary lives.

use super::*;

const GENERATION: Generation = Generation::FIRST;
const REASON: &str = "log entry at 64 is refused";

/// Protected in this mode, epoch 1 applied.
fn protected_in(mode: Mode) -> Cluster {
    let mut cluster = Cluster::protected();
    if mode.records() {
        cluster.request(Request::SetMode { vm: VM, mode });
        mode_is(&mut cluster, mode);
    }
    cluster.commit(0, 1, 1);
    cluster.told.clear();
    cluster.happened.clear();
    cluster
}

fn mode_is(cluster: &mut Cluster, mode: Mode) {
    cluster.said(0, FromHost::ModeIs { vm: VM, generation: GENERATION, mode });
}

fn refuse(cluster: &mut Cluster) {
    let outcome = DrainOutcome::Refused { console_end: 0, reason: REASON.to_owned() };
    cluster.said(0, FromHost::Logged { vm: VM, generation: GENERATION });
    cluster.input(Input::LogDrained { vm: VM, generation: GENERATION, outcome });
}

/// The modes that the primary was told to turn to.
fn orders(cluster: &Cluster) -> Vec<Mode> {
    let order = |(_, message): &(LinkId, ToHost)| match message {
        ToHost::SetMode { mode, .. } => Some(*mode),
        _ => None,
    };
    cluster.told.iter().filter_map(order).collect()
}

/// Whether the log was said to be damaged, and whether its primary was said to be gone for it.
fn said(cluster: &Cluster) -> (usize, usize) {
    let count = |is: fn(&Happening) -> bool| cluster.happened.iter().filter(|happening| is(happening)).count();
    let gone =
        |happening: &Happening| matches!(happening, Happening::PrimaryGone { reason: TakeoverReason::LogDamaged, .. });
    (count(|happening| matches!(happening, Happening::LogRefused { .. })), count(gone))
}

#[test]
fn a_primary_commits_before_it_is_deposed_for_its_log() {
    for mode in [Mode::Replay, Mode::Lockstep] {
        let mut cluster = protected_in(mode);
        refuse(&mut cluster);
        assert_eq!((said(&cluster), orders(&cluster)), ((1, 0), vec![Mode::Checkpoint]));
        assert_eq!(cluster.promotions(1), [], "it reigns until it has committed");
        cluster.said(0, FromHost::Logged { vm: VM, generation: GENERATION });
        cluster.input(Input::LogDamaged { vm: VM, generation: GENERATION, reason: REASON.to_owned() });
        assert_eq!((said(&cluster).0, orders(&cluster).len()), (1, 1), "once, and it is read no more");
        cluster.commit(0, 1, 2);
        mode_is(&mut cluster, Mode::Checkpoint);
        assert_eq!(said(&cluster), (1, 1));
        assert_eq!(cluster.promotions(1), [(2, 2)], "from what it has committed");
        assert_eq!(cluster.status().mode, mode, "the VM is protected as it was to be");
    }
}

#[test]
fn a_primary_that_does_not_turn_from_its_log_is_deposed_all_the_same() {
    let mut cluster = protected_in(Mode::Replay);
    refuse(&mut cluster);
    cluster.input(Input::Tick);
    assert_eq!(said(&cluster), (1, 0));
    cluster.now = cluster.now + CONFIG.stall_bound;
    cluster.input(Input::Tick);
    assert_eq!(said(&cluster), (1, 1));
    assert_eq!(cluster.promotions(1), [(2, 1)]);
}

#[test]
fn a_primary_that_was_told_a_mode_answers_to_that_first() {
    let mut cluster = protected_in(Mode::Replay);
    cluster.request(Request::SetMode { vm: VM, mode: Mode::Lockstep });
    refuse(&mut cluster);
    assert_eq!(orders(&cluster), [Mode::Lockstep]);
    mode_is(&mut cluster, Mode::Lockstep);
    assert_eq!(orders(&cluster), [Mode::Lockstep, Mode::Checkpoint]);
    mode_is(&mut cluster, Mode::Checkpoint);
    assert_eq!(said(&cluster), (1, 1));
}

#[test]
fn a_record_that_was_applied_without_its_log_ends_its_writers_reign_too() {
    let damaged = || Input::LogDamaged { vm: VM, generation: GENERATION, reason: REASON.to_owned() };
    let mut cluster = protected_in(Mode::Replay);
    cluster.input(damaged());
    assert_eq!((said(&cluster), orders(&cluster)), ((1, 0), vec![Mode::Checkpoint]));
    mode_is(&mut cluster, Mode::Checkpoint);
    assert_eq!(said(&cluster), (1, 1));
    cluster.input(damaged());
    assert_eq!(said(&cluster), (1, 1), "it is over");

    let mut cluster = protected_in(Mode::Checkpoint);
    cluster.input(damaged());
    assert_eq!((said(&cluster), orders(&cluster)), ((1, 1), vec![]), "nothing rests on that log");
}

/// It would be ended for what others do, and lose what lies behind the damage.
#[test]
fn a_primary_that_waits_for_others_may_take_its_time_to_turn() {
    let mut cluster = protected_in(Mode::Replay);
    cluster.hold_applies = true;
    cluster.commit(0, 1, 2);
    refuse(&mut cluster);
    for _ in 0..20 {
        cluster.now = cluster.now + CONFIG.stall_bound;
        cluster.input(Input::Tick);
    }
    assert_eq!(said(&cluster), (1, 0), "its record is not applied yet");
    let (vm, generation, epoch) = cluster.held.remove(0);
    cluster.hold_applies = false;
    let outcome = ApplyOutcome::Done { epoch, console_end: 0, ended: None };
    cluster.input(Input::Applied { vm, generation, outcome });
    cluster.input(Input::Tick);
    assert_eq!(said(&cluster), (1, 0));
    cluster.now = cluster.now + CONFIG.stall_bound;
    cluster.input(Input::Tick);
    assert_eq!(said(&cluster), (1, 1));
}

#[test]
fn who_has_asked_for_checkpoint_mode_is_answered() {
    let mut cluster = protected_in(Mode::Replay);
    cluster.request(Request::SetMode { vm: VM, mode: Mode::Checkpoint });
    let before = cluster.answered.len();
    refuse(&mut cluster);
    mode_is(&mut cluster, Mode::Checkpoint);
    assert_eq!(cluster.answered[before..], [Ok(Answer::Done)]);
    assert_eq!(said(&cluster), (1, 1));
}

#[test]
fn damage_that_is_found_behind_the_seal_is_told() {
    let mut cluster = protected_in(Mode::Replay);
    cluster.hold_applies = true;
    cluster.commit(0, 1, 2);
    cluster.ask(1, 1);
    cluster.input(Input::LogDamaged { vm: VM, generation: GENERATION, reason: REASON.to_owned() });
    assert_eq!((said(&cluster), orders(&cluster)), ((1, 0), vec![]));
}
