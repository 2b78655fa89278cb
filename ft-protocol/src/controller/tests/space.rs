//! A pool without space.

use super::*;
use crate::controller::space::{ASKED_EVERY, PATIENCE};

fn of_record(epoch: u64, needed: u64) -> Shortage {
    Shortage { wanted: Wanted::Record(Epoch::new(epoch)), needed, available: 4096 }
}

fn told_of_space(cluster: &mut Cluster) -> Vec<Happening> {
    let is_of_space = |happening: &Happening| {
        matches!(happening, Happening::PoolFull { .. } | Happening::SpaceAgain { .. } | Happening::GaveUp { .. })
    };
    std::mem::take(&mut cluster.happened).into_iter().filter(is_of_space).collect()
}

#[test]
fn a_primary_that_waits_for_space_is_told_of_once_and_shown_while_it_waits() {
    let mut cluster = Cluster::protected();
    cluster.commit(0, 1, 7);
    let generation = Generation::FIRST;
    let shortage = of_record(8, 1 << 20);
    cluster.said(0, FromHost::OutOfSpace { vm: VM, generation, shortage });
    assert_eq!(told_of_space(&mut cluster), [], "it may be given space at once");
    cluster.now = cluster.now + PATIENCE;
    cluster.input(Input::Tick);
    assert_eq!(told_of_space(&mut cluster), [Happening::PoolFull { vm: VM, generation, shortage }]);
    let waits = cluster.status().waits.unwrap();
    assert_eq!(
        waits,
        "the pool has no space for the commit record of epoch 8: 1048576 more bytes are needed, 4096 are left"
    );
    // The host says it again to a controller that it has lost meanwhile; the numbers may have changed.
    let now = of_record(8, 1 << 19);
    cluster.said(0, FromHost::OutOfSpace { vm: VM, generation, shortage: now });
    assert_eq!(told_of_space(&mut cluster), []);
    assert!(cluster.status().waits.unwrap().contains("524288"));
    // Others have no say in it.
    cluster.said(1, FromHost::SpaceAgain { vm: VM, generation });
    cluster.said(0, FromHost::SpaceAgain { vm: VM, generation: Generation::new(2) });
    assert!(cluster.status().waits.is_some());
    cluster.input(Input::Tick);
    assert_eq!(told_of_space(&mut cluster), [], "still the same");
    cluster.said(0, FromHost::SpaceAgain { vm: VM, generation });
    let waited = PATIENCE;
    assert_eq!(told_of_space(&mut cluster), [Happening::SpaceAgain { vm: VM, generation, waited }]);
    assert_eq!(cluster.status().waits, None);
}

#[test]
fn a_commit_says_that_there_was_space() {
    let mut cluster = Cluster::protected();
    let generation = Generation::FIRST;
    let shortage = of_record(8, 1);
    cluster.said(0, FromHost::OutOfSpace { vm: VM, generation, shortage });
    cluster.now = cluster.now + PATIENCE;
    cluster.input(Input::Tick);
    cluster.commit(0, 1, 7);
    assert!(cluster.status().waits.is_some(), "that was the epoch before");
    cluster.commit(0, 1, 8);
    assert_eq!(cluster.status().waits, None);
    let told = told_of_space(&mut cluster);
    assert!(matches!(told[..], [Happening::PoolFull { .. }, Happening::SpaceAgain { .. }]), "{told:?}");
    cluster.said(0, FromHost::SpaceAgain { vm: VM, generation });
    assert_eq!(told_of_space(&mut cluster), []);
}

#[test]
fn a_record_without_space_is_given_some_until_it_has_it() {
    let mut cluster = Cluster::protected();
    cluster.commit(0, 1, 7);
    let (vm, generation, epoch) = (VM, Generation::FIRST, Epoch::new(8));
    let given = |cluster: &mut Cluster| std::mem::take(&mut cluster.given);
    cluster.said(0, FromHost::OutOfSpace { vm, generation, shortage: of_record(8, 1) });
    assert_eq!(given(&mut cluster), [(vm, generation, epoch)]);
    cluster.input(Input::Tick);
    assert_eq!(given(&mut cluster), [], "asked for just now");
    for _ in 0..3 {
        cluster.now = cluster.now + ASKED_EVERY;
        cluster.input(Input::Tick);
        assert_eq!(given(&mut cluster), [(vm, generation, epoch)]);
    }
    cluster.said(1, FromHost::OutOfSpace { vm, generation, shortage: of_record(8, 1) });
    assert_eq!(given(&mut cluster), [], "a host that does not run it has no say in it");
    cluster.commit(0, 1, 8);
    cluster.now = cluster.now + ASKED_EVERY;
    cluster.input(Input::Tick);
    assert_eq!(given(&mut cluster), []);
    cluster.said(0, FromHost::OutOfSpace { vm, generation, shortage: of_record(9, 1) });
    cluster.commit(0, 1, 9);
    let told = told_of_space(&mut cluster);
    assert!(
        matches!(told[..], [Happening::PoolFull { .. }, Happening::SpaceAgain { .. }]),
        "the long wait only: {told:?}"
    );
}

#[test]
fn a_shortage_ends_with_its_generation() {
    let mut cluster = Cluster::protected();
    cluster.said(0, FromHost::OutOfSpace { vm: VM, generation: Generation::FIRST, shortage: of_record(1, 1) });
    cluster.close(0);
    cluster.ask(1, 1);
    cluster.live(1, 2);
    assert_eq!(cluster.status().waits, None);
    cluster.said(0, FromHost::OutOfSpace { vm: VM, generation: Generation::FIRST, shortage: of_record(1, 1) });
    assert_eq!(cluster.status().waits, None, "its host reigns no more");
}

#[test]
fn who_is_dead_is_given_nothing_and_gives_back_what_it_was_given() {
    let mut cluster = Cluster::protected();
    let (vm, generation) = (VM, Generation::FIRST);
    cluster.commit(0, 1, 7);
    cluster.said(0, FromHost::OutOfSpace { vm, generation, shortage: of_record(8, 1) });
    assert_eq!(std::mem::take(&mut cluster.given), [(vm, generation, Epoch::new(8))]);
    for host in [0, 1, 2] {
        cluster.close(host);
    }
    assert_eq!((cluster.status().phase.as_str(), cluster.status().waits), ("stranded", None));
    assert!(!cluster.released.is_empty(), "others wait for it");
    cluster.now = cluster.now + ASKED_EVERY + PATIENCE;
    cluster.input(Input::Tick);
    assert_eq!(cluster.given, []);
}

#[test]
fn a_guest_that_has_ended_waits_for_nothing() {
    let mut cluster = Cluster::protected();
    let (vm, generation) = (VM, Generation::FIRST);
    cluster.hold_applies = true;
    cluster.commit(0, 1, 1);
    cluster.said(0, FromHost::OutOfSpace { vm, generation, shortage: of_record(2, 1) });
    let end = Some(crate::commit_meta::GuestEnd::Exited(0));
    let outcome = ApplyOutcome::Done { epoch: Epoch::new(1), console_end: 0, ended: end };
    cluster.input(Input::Applied { vm, generation, outcome });
    assert_eq!((cluster.status().waits, cluster.released.as_slice()), (None, &[vm][..]));
    cluster.given.clear();
    cluster.now = cluster.now + ASKED_EVERY;
    cluster.input(Input::Tick);
    assert_eq!(cluster.given, []);
}

#[test]
fn a_generation_without_space_for_its_journal_is_told_of_and_opened_when_there_is() {
    let mut cluster = Cluster::protected();
    cluster.pool_refuses = true;
    cluster.close(0);
    cluster.ask(1, 1);
    let told = told_of_space(&mut cluster);
    assert!(matches!(told[..], [Happening::PoolFull { .. }]), "said once, and nobody gave up: {told:?}");
    assert!(cluster.status().waits.unwrap().contains("the next generation's journal"));
    cluster.now = Time::ZERO + CONFIG.hold_down;
    cluster.input(Input::Tick);
    assert_eq!(told_of_space(&mut cluster), [], "still the same");
    cluster.pool_refuses = false;
    cluster.now = cluster.now + CONFIG.hold_down;
    cluster.input(Input::Tick);
    assert!(matches!(told_of_space(&mut cluster)[..], [Happening::SpaceAgain { .. }]));
    assert_eq!((cluster.promotions(1), cluster.status().waits), (vec![(2, 0)], None));
}

#[test]
fn a_vm_whose_description_the_cluster_state_could_not_hold_is_refused() {
    let mut cluster = Cluster::new();
    cluster.core = Controller::new(ControllerConfig { state_bytes_max: 4_000, ..CONFIG });
    cluster.join(0, &[]);
    cluster.create();
    let created = |cluster: &Cluster| cluster.core.vms.len();
    assert_eq!(created(&cluster), 0);
    cluster.core = Controller::new(CONFIG);
    cluster.join(0, &[]);
    cluster.create();
    assert_eq!(created(&cluster), 1);
}
