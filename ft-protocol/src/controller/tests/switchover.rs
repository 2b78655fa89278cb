//! Planned changes.

use super::restart::{recovered, restart};
use super::*;

pub(super) fn switch(cluster: &mut Cluster, to: Option<&str>) {
    let request = Request::Switchover { vm: VM, to: to.map(str::to_owned) };
    cluster.input(Input::FromClient { link: CLIENT, message: FromClient { id: 9, request } });
}

pub(super) fn was_told_to_yield(cluster: &Cluster, host: u64) -> bool {
    cluster.told.iter().any(|(link, message)| *link == LinkId::new(host) && matches!(message, ToHost::Yield { .. }))
}

pub(super) fn yielded(cluster: &mut Cluster, host: u64, generation: u64) {
    cluster.said(host, FromHost::Yielded { vm: VM, generation: Generation::new(generation) });
}

#[test]
fn a_switchover_moves_the_guest_to_its_secondary() {
    let mut cluster = Cluster::protected();
    switch(&mut cluster, None);
    assert!(was_told_to_yield(&cluster, 0));
    assert_eq!(cluster.promotions(1), [], "not before the primary has stopped");
    cluster.committed = Epoch::new(5);
    yielded(&mut cluster, 0, 1);
    assert_eq!(cluster.promotions(1), [(2, 5)]);
    cluster.live(1, 2);
    let status = cluster.status();
    assert_eq!((status.takeovers, status.switchovers), (0, 1));
    assert_eq!(status.secondary.as_deref(), Some("h0"), "the old primary's host can be secondary");
}

#[test]
fn how_long_the_guest_stood_still_is_told_and_believed_within_reason() {
    let blackouts = |cluster: &Cluster| -> Vec<Span> {
        let of = |happening: &Happening| match happening {
            Happening::SwitchedOver { blackout, .. } => Some(*blackout),
            _ => None,
        };
        cluster.happened.iter().filter_map(of).collect()
    };
    let ms = Span::from_ms;
    for (stood, told) in [(ms(3), ms(3 + 2)), (ms(20), ms(10 + 2)), (Span::from_ns(u64::MAX), ms(10 + 2))] {
        let mut cluster = Cluster::protected();
        let generation = Generation::new(1);
        let stood_for = |cluster: &mut Cluster, host| cluster.said(host, FromHost::Stood { vm: VM, generation, stood });
        stood_for(&mut cluster, 0);
        switch(&mut cluster, None);
        // What it still commits meanwhile is a reason to wait for longer, and none to forget when it was asked.
        cluster.now = cluster.now + ms(6);
        cluster.said(0, FromHost::Doorbell { vm: VM, generation, epoch: Epoch::new(1) });
        cluster.input(Input::Tick);
        cluster.now = cluster.now + ms(4);
        stood_for(&mut cluster, 2);
        stood_for(&mut cluster, 0);
        yielded(&mut cluster, 0, 1);
        cluster.now = cluster.now + ms(2);
        cluster.live(1, 2);
        assert_eq!(blackouts(&cluster), [told], "it was asked 10 ms before");
        assert_eq!(cluster.status().switchover_blackout, Some(told));
        cluster.close(1);
        cluster.live(0, 3);
        assert_eq!(blackouts(&cluster).len(), 1, "a takeover is none");
        assert_eq!(cluster.status().switchover_blackout, Some(told));
    }
    // The target dies behind the yield: the guest goes on elsewhere, which is no switchover.
    let mut cluster = Cluster::protected();
    switch(&mut cluster, None);
    cluster.said(0, FromHost::Stood { vm: VM, generation: Generation::new(1), stood: ms(3) });
    yielded(&mut cluster, 0, 1);
    cluster.close(1);
    cluster.live(0, 3);
    cluster.live(2, 3);
    assert_eq!((blackouts(&cluster).len(), cluster.status().switchover_blackout), (0, None));
    // A host of an older version does not say it.
    let mut cluster = Cluster::protected();
    switch(&mut cluster, None);
    yielded(&mut cluster, 0, 1);
    cluster.live(1, 2);
    assert_eq!((blackouts(&cluster).len(), cluster.status().switchover_blackout), (0, None));
}

#[test]
fn a_switchover_to_another_host_prepares_it_first() {
    let mut cluster = Cluster::protected();
    switch(&mut cluster, Some("h2"));
    assert!(!was_told_to_yield(&cluster, 0));
    cluster.ready(2, 1);
    assert!(was_told_to_yield(&cluster, 0));
    yielded(&mut cluster, 0, 1);
    assert_eq!(cluster.promotions(2), [(2, 0)]);
}

#[test]
fn a_switchover_whose_target_dies_is_cancelled() {
    let mut cluster = Cluster::protected();
    switch(&mut cluster, Some("h2"));
    cluster.close(2);
    assert!(cluster.happened.iter().any(|happening| matches!(happening, Happening::SwitchoverCancelled { .. })));
    assert_eq!(cluster.status().secondary.as_deref(), Some("h1"));
    switch(&mut cluster, None);
    cluster.ready(1, 1);
    switch(&mut cluster, None);
    assert!(was_told_to_yield(&cluster, 0), "another one can begin");
}

#[test]
fn a_primary_that_does_not_yield_is_sealed() {
    let mut cluster = Cluster::protected();
    switch(&mut cluster, None);
    cluster.now = Time::ZERO + Span::from_ms(1_001);
    cluster.input(Input::Tick);
    assert_eq!(cluster.promotions(1), [(2, 0)]);
    assert_eq!(cluster.status().takeovers, 1, "nobody yielded");
}

#[test]
fn a_target_that_dies_after_the_yield_is_replaced() {
    let mut cluster = Cluster::protected();
    switch(&mut cluster, None);
    cluster.close(1);
    yielded(&mut cluster, 0, 1);
    assert_eq!(cluster.promotions(0), [(1, 0), (2, 0)], "the least loaded fit host is the old one");
    cluster.live(0, 2);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h2"));
}

#[test]
fn a_controller_that_dies_in_a_switchover_resumes_it() {
    let mut cluster = Cluster::protected();
    switch(&mut cluster, None);
    assert_eq!(cluster.persisted.vms[0].moving_to, Some(HostId::new(1)));
    let word = Word { epoch: Epoch::ZERO, sealed: false };
    let mut next = restart(&cluster, &recovered(Some(word), 0));
    let role = |role| [HeldRole { vm: VM, generation: Generation::FIRST, role }];
    next.join(0, &role(Role::Primary { live: true }));
    next.join(1, &role(Role::Secondary { prepared: true }));
    assert!(was_told_to_yield(&next, 0));
    yielded(&mut next, 0, 1);
    assert_eq!(next.promotions(1), [(2, 0)]);
}

/// A controller that died in a switchover to host 2, and the next one with hosts 0 and 1 back.
fn restarted_in_a_switchover() -> Cluster {
    let mut cluster = Cluster::protected();
    switch(&mut cluster, Some("h2"));
    let mut next = restart(&cluster, &recovered(Some(Word { epoch: Epoch::ZERO, sealed: false }), 0));
    let role = |role| [HeldRole { vm: VM, generation: Generation::FIRST, role }];
    next.join(0, &role(Role::Primary { live: true }));
    next.join(1, &role(Role::Secondary { prepared: true }));
    next.input(Input::Tick);
    assert_eq!(next.status().moving_to.as_deref(), Some("h2"), "its target is awaited");
    assert_eq!(next.status().secondary.as_deref(), Some("h1"), "and it is protected until then");
    next
}

#[test]
fn a_resumed_switchover_prepares_its_target_when_it_is_there() {
    let mut cluster = restarted_in_a_switchover();
    cluster.join(2, &[]);
    cluster.input(Input::Tick);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h2"));
    cluster.ready(2, 1);
    assert!(was_told_to_yield(&cluster, 0));
    yielded(&mut cluster, 0, 1);
    assert_eq!(cluster.promotions(2), [(2, 0)]);
}

#[test]
fn a_resumed_switchover_is_given_up_with_its_target() {
    let mut cluster = restarted_in_a_switchover();
    cluster.input(Input::HostDied { host: HostId::new(2) });
    cluster.input(Input::Tick);
    assert!(cluster.happened.iter().any(|happening| matches!(happening, Happening::SwitchoverCancelled { .. })));
    assert_eq!((cluster.status().moving_to, cluster.status().secondary.as_deref()), (None, Some("h1")));
    assert_eq!(cluster.persisted.vms[0].moving_to, None);
}

/// Found by the simulator (planned profile, seed 10491949): each new reign was sealed at the next tick, 170 times over.
#[test]
fn a_yield_that_is_overdue_ends_one_reign_only() {
    let mut cluster = Cluster::protected();
    let request = Request::Switchover { vm: VM, to: None };
    cluster.input(Input::FromClient { link: CLIENT, message: FromClient { id: 2, request } });
    cluster.now = cluster.now + CONFIG.ask_bound.times(2);
    cluster.input(Input::Tick);
    assert_eq!(cluster.promotions(1), [(2, 0)]);
    cluster.input(Input::Tick);
    assert_eq!(cluster.status().generation, Generation::new(2), "who was never asked to yield is not overdue");
}
