//! A controller that comes back.

use super::*;

pub(super) fn recovered(word: Option<Word>, applied: u64) -> Recovered {
    Recovered { vm: VM, word, applied: Epoch::new(applied), console_end: 0, console_oldest: 0 }
}

pub(super) fn restart(cluster: &Cluster, found: &Recovered) -> Cluster {
    let mut next = Cluster::new();
    next.persisted = cluster.persisted.clone();
    next.committed = cluster.committed;
    let mut actions = Vec::new();
    next.core =
        Controller::recover(CONFIG, cluster.persisted.clone(), std::slice::from_ref(found), next.now, &mut actions);
    next.execute(actions);
    next
}

#[test]
fn a_restarted_controller_takes_its_hosts_back() {
    let mut cluster = Cluster::protected();
    cluster.commit(0, 1, 4);
    let word = Word { epoch: Epoch::new(4), sealed: false };
    let mut next = restart(&cluster, &recovered(Some(word), 4));
    let role = |role| [HeldRole { vm: VM, generation: Generation::FIRST, role }];
    next.join(0, &role(Role::Primary { live: true }));
    next.join(1, &role(Role::Secondary { prepared: true }));
    next.join(2, &[]);
    assert_eq!(next.status().unprotected, None);
    assert_eq!(next.status().takeovers, 0);
    assert_eq!(next.promotions(0).len() + next.promotions(1).len() + next.promotions(2).len(), 0);
}

#[test]
fn a_controller_that_died_after_the_seal_finishes_the_takeover() {
    let mut cluster = Cluster::protected();
    cluster.commit(0, 1, 4);
    cluster.committed = Epoch::new(5);
    let word = Word { epoch: Epoch::new(5), sealed: true };
    let mut next = restart(&cluster, &recovered(Some(word), 4));
    assert_eq!(next.status().applied, Epoch::new(5));
    next.join(0, &[HeldRole { vm: VM, generation: Generation::FIRST, role: Role::Primary { live: true } }]);
    assert!(next.told.iter().any(|(_, message)| matches!(message, ToHost::Release { deposed: true, .. })));
    assert_eq!(next.status().generation, Generation::new(2));
}

#[test]
fn a_controller_that_died_before_the_journal_was_made_gives_the_same_generation() {
    let mut cluster = Cluster::protected();
    cluster.commit(0, 1, 4);
    cluster.close(0);
    cluster.ask(1, 1);
    assert_eq!(cluster.persisted.vms[0].generation, Generation::new(2));
    let mut next = restart(&cluster, &recovered(None, 4));
    next.join_as(2, 77, &[]);
    assert_eq!(next.promotions(2), [(2, 4)]);
}

/// Whoever is not told of the end looks for a controller for ever.
#[test]
fn a_cluster_ends_when_all_that_come_back_can_be_told() {
    let cluster = Cluster::protected();
    let word = Word { epoch: Epoch::ZERO, sealed: false };
    let mut next = restart(&cluster, &recovered(Some(word), 0));
    next.join(0, &[HeldRole { vm: VM, generation: Generation::FIRST, role: Role::Primary { live: true } }]);
    next.input(Input::ClientHello { link: CLIENT, protocol: PROTOCOL_VERSION });
    next.request(Request::Shutdown);
    let ends = |cluster: &Cluster| -> Vec<u64> {
        let told = cluster.told.iter().filter(|(_, message)| *message == ToHost::Shutdown);
        told.map(|(link, _)| link.get()).collect()
    };
    next.join(1, &[]);
    assert_eq!((ends(&next), next.answered.len(), next.exits), (vec![], 0, 0), "host 2 is not back yet");
    // It died with the controller.
    next.input(Input::HostDied { host: HostId::new(2) });
    assert_eq!((ends(&next), next.answered.len(), next.exits), (vec![0, 1], 1, 1));
}

/// Who asked and does not wait for the answer has thought better of it.
#[test]
fn a_cluster_does_not_end_for_somebody_who_is_gone() {
    let cluster = Cluster::protected();
    let mut next = restart(&cluster, &recovered(Some(Word { epoch: Epoch::ZERO, sealed: false }), 0));
    next.input(Input::ClientHello { link: CLIENT, protocol: PROTOCOL_VERSION });
    next.request(Request::Shutdown);
    next.input(Input::LinkClosed { link: CLIENT });
    (0..3).for_each(|host| next.join(host, &[]));
    assert_eq!(next.exits, 0);
}

#[test]
fn a_primary_that_died_with_the_controller_is_found_silent() {
    let cluster = Cluster::protected();
    let word = Word { epoch: Epoch::new(0), sealed: false };
    let mut next = restart(&cluster, &recovered(Some(word), 0));
    next.join(2, &[]);
    for tick in 0..12 {
        next.now = Time::ZERO + Span::from_ms(5 * tick);
        next.input(Input::Beat { host: HostId::new(0), count: Some(1) });
        next.input(Input::Tick);
    }
    assert_eq!(next.promotions(2), [(2, 0)]);
}

#[test]
fn a_host_that_comes_back_as_another_incarnation_has_no_roles() {
    let mut cluster = Cluster::protected();
    cluster.close(1);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h2"));
    cluster.join_as(1, 55, &[]);
    cluster.close(2);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h1"));
}
