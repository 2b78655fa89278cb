//! What watchers hear of the mode that a VM is protected in: each change, and nothing but changes.

use super::restart::{recovered, restart};
use super::*;

const GENERATION: Generation = Generation::FIRST;

fn set_mode(cluster: &mut Cluster, mode: Mode) {
    cluster.request(Request::SetMode { vm: VM, mode });
}

fn mode_is(cluster: &mut Cluster, host: u64, generation: u64, mode: Mode) {
    cluster.said(host, FromHost::ModeIs { vm: VM, generation: Generation::new(generation), mode });
}

/// What was told since the last look, as generation and mode.
fn told(cluster: &mut Cluster) -> Vec<(u64, Mode)> {
    let changed = |happening| match happening {
        Happening::ModeChanged { generation, mode, .. } => Some((generation.get(), mode)),
        _ => None,
    };
    cluster.happened.drain(..).filter_map(changed).collect()
}

/// Protected in replay mode, which was told.
fn recording() -> Cluster {
    let mut cluster = Cluster::protected();
    set_mode(&mut cluster, Mode::Replay);
    assert_eq!(told(&mut cluster), [], "it is only wanted yet");
    mode_is(&mut cluster, 0, 1, Mode::Replay);
    assert_eq!(told(&mut cluster), [(1, Mode::Replay)]);
    cluster
}

/// Host 1 reigns next.
fn taken_over(cluster: &mut Cluster) {
    cluster.ask(1, 1);
    cluster.live(1, 2);
    assert_eq!(cluster.status().generation, Generation::new(2));
}

#[test]
fn a_mode_that_is_said_once_more_has_not_changed() {
    let mut cluster = recording();
    mode_is(&mut cluster, 0, 1, Mode::Replay);
    taken_over(&mut cluster);
    assert_eq!(told(&mut cluster), [], "the successor goes on in it");
    set_mode(&mut cluster, Mode::Checkpoint);
    mode_is(&mut cluster, 1, 2, Mode::Checkpoint);
    mode_is(&mut cluster, 1, 2, Mode::Checkpoint);
    assert_eq!(told(&mut cluster), [(2, Mode::Checkpoint)]);
}

#[test]
fn a_successor_that_begins_in_another_mode_has_changed_it() {
    let mut cluster = Cluster::protected();
    set_mode(&mut cluster, Mode::Replay);
    taken_over(&mut cluster);
    assert_eq!(told(&mut cluster), [(2, Mode::Replay)], "the primary died before it could turn to it");
}

#[test]
fn a_primary_that_could_not_replay_what_it_began_with_has_changed_the_mode() {
    let (report, generation) = ("it went another way".to_owned(), Generation::new(2));
    for said in [
        FromHost::Diverged { vm: VM, generation, report: report.clone() },
        FromHost::LogLost { vm: VM, generation, report },
    ] {
        let mut cluster = recording();
        taken_over(&mut cluster);
        cluster.said(1, said.clone());
        assert_eq!(told(&mut cluster), [(2, Mode::Checkpoint)], "{said:?}");
        cluster.said(1, said);
        assert_eq!(told(&mut cluster), []);
    }
}

#[test]
fn a_guest_that_cannot_be_recorded_was_in_no_other_mode() {
    let mut cluster = Cluster::protected();
    set_mode(&mut cluster, Mode::Replay);
    let report = "it is not deterministic between exits".to_owned();
    cluster.said(0, FromHost::Diverged { vm: VM, generation: GENERATION, report });
    mode_is(&mut cluster, 0, 1, Mode::Checkpoint);
    assert_eq!(told(&mut cluster), []);
}

/// Found by an acceptance test: each controller that came back told of a change, since its primary says its mode again.
#[test]
fn a_controller_that_comes_back_has_changed_nothing() {
    let cluster = recording();
    let mut next = restart(&cluster, &recovered(Some(Word { epoch: Epoch::ZERO, sealed: false }), 0));
    next.join(0, &[HeldRole { vm: VM, generation: GENERATION, role: Role::Primary { live: true } }]);
    mode_is(&mut next, 0, 1, Mode::Replay);
    assert_eq!(told(&mut next), []);
    set_mode(&mut next, Mode::Checkpoint);
    mode_is(&mut next, 0, 1, Mode::Checkpoint);
    assert_eq!(told(&mut next), [(1, Mode::Checkpoint)]);
}
