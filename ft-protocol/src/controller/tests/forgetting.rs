//! Whose place a newcomer gets.

use super::*;
use crate::fence::FenceOutcome;

/// All places of the pool are taken; hosts 3 to 7 have no role.
fn full() -> Cluster {
    let mut cluster = Cluster::protected();
    (3..8).for_each(|host| cluster.join(host, &[]));
    cluster
}

/// `host` goes, and after it some time.
fn leave(cluster: &mut Cluster, host: u64) {
    cluster.close(host);
    pass(cluster, 100);
}

fn pass(cluster: &mut Cluster, ms: u64) {
    cluster.now = cluster.now + Span::from_ms(ms);
}

fn refusal(cluster: &Cluster) -> Option<(&str, bool)> {
    match cluster.told.last() {
        Some((_, ToHost::Rejected { reason, retry })) => Some((reason, *retry)),
        _ => None,
    }
}

fn names(cluster: &Cluster) -> Vec<String> {
    cluster.persisted.hosts.iter().map(|host| host.name.clone()).collect()
}

/// The numbers whose heartbeat page was taken from whoever had it, of the hello's actions in order: before the state that
/// says so was stored, and before the page was watched and given to the newcomer.
fn forgotten_for(cluster: &mut Cluster, host: u64) -> Option<(HostId, String)> {
    let hello = HostHello { protocols: PROTOCOLS, profile: Cluster::profile(host), roles: Vec::new() };
    let mut actions = Vec::new();
    cluster.core.handle(cluster.now, Input::HostHello { link: LinkId::new(host), hello }, &mut actions);
    let at = |wanted: &dyn Fn(&Action) -> bool| actions.iter().position(wanted);
    let forgotten = actions.iter().find_map(|action| match action {
        Action::ForgetHost { host, name } => Some((*host, name.clone())),
        _ => None,
    });
    if forgotten.is_some() {
        let forget = at(&|action| matches!(action, Action::ForgetHost { .. }));
        let persist = at(&|action| matches!(action, Action::Persist(_)));
        let watch = at(&|action| matches!(action, Action::WatchHost { .. }));
        let welcome = at(&|action| matches!(action, Action::ToHost { message: ToHost::Welcome { .. }, .. }));
        assert!(forget < persist && persist < watch && watch < welcome, "{actions:?}");
    }
    cluster.execute(actions);
    forgotten
}

#[test]
fn a_newcomer_gets_the_place_of_the_host_that_is_down_for_longest() {
    let mut cluster = full();
    leave(&mut cluster, 5);
    leave(&mut cluster, 4);
    pass(&mut cluster, 5_000);
    assert_eq!(forgotten_for(&mut cluster, 20), Some((HostId::new(5), "h5".to_owned())));
    assert_eq!(names(&cluster), ["h0", "h1", "h2", "h3", "h4", "h20", "h6", "h7"]);
    assert_eq!(forgotten_for(&mut cluster, 21), Some((HostId::new(4), "h4".to_owned())));
    // What was forgotten is a newcomer when it comes back, and nobody is down now.
    assert_eq!(forgotten_for(&mut cluster, 5), None);
    let (reason, retry) = refusal(&cluster).expect("refused");
    assert!(!retry && reason.contains("all 8 places") && reason.contains("stop one that has no role"), "{reason}");
}

#[test]
fn what_became_of_fencing_a_forgotten_host_is_not_told_of_the_newcomer() {
    let tried = |cluster: &mut Cluster, name: &str| {
        let (host, name, outcome) = (HostId::new(5), name.to_owned(), FenceOutcome::Verified);
        cluster.happened.clear();
        cluster.input(Input::FenceTried { host, name, outcome });
        cluster.happened == [Happening::FenceTried { host, outcome: FenceOutcome::Verified }]
    };
    let mut cluster = full();
    leave(&mut cluster, 5);
    assert!(tried(&mut cluster, "h5"), "it is down, and not forgotten");
    pass(&mut cluster, 5_000);
    assert_eq!(forgotten_for(&mut cluster, 20), Some((HostId::new(5), "h5".to_owned())));
    assert!(!tried(&mut cluster, "h5") && cluster.happened.is_empty(), "{:?}", cluster.happened);
    assert!(tried(&mut cluster, "h20"));
}

#[test]
fn more_names_than_places_come_and_go() {
    let mut cluster = Cluster::new();
    for host in 0..100 {
        cluster.join(host, &[]);
        assert_eq!(refusal(&cluster), None, "host {host}");
        leave(&mut cluster, host);
        pass(&mut cluster, 1_000);
    }
    assert_eq!(cluster.persisted.hosts.len(), usize::from(CONFIG.hosts_max));
}

#[test]
fn a_host_that_somebody_would_miss_keeps_its_place() {
    let mut cluster = full();
    let policy = Policy { preferred: Some("h7".to_owned()), ..Policy::default() };
    cluster.create_with("other", policy);
    // A spare, one with a drain order, one that is preferred; the rest is up.
    let spare = cluster.core.status().vms[0].spare.clone().expect("there are enough");
    let drained = (3..7).find(|host| spare != format!("h{host}")).expect("there are more");
    cluster.request(Request::Drain { host: format!("h{drained}"), on: true });
    leave(&mut cluster, drained);
    leave(&mut cluster, 7);
    pass(&mut cluster, 60_000);
    assert_eq!(forgotten_for(&mut cluster, 20), None);
    assert!(matches!(refusal(&cluster), Some((_, false))));
    // The drain ends: nothing speaks for it any more.
    cluster.request(Request::Drain { host: format!("h{drained}"), on: false });
    assert_eq!(forgotten_for(&mut cluster, 20).map(|(_, name)| name), Some(format!("h{drained}")));
}

#[test]
fn a_host_that_has_only_just_gone_is_waited_for() {
    let mut cluster = full();
    leave(&mut cluster, 6);
    assert_eq!(forgotten_for(&mut cluster, 20), None);
    assert!(matches!(refusal(&cluster), Some((_, true))), "the newcomer is to try again");
    cluster.join(6, &[]);
    assert_eq!(refusal(&cluster), None, "it is back, and has its place");
    leave(&mut cluster, 6);
    pass(&mut cluster, 2_000);
    assert_eq!(forgotten_for(&mut cluster, 20), Some((HostId::new(6), "h6".to_owned())));
}

#[test]
fn a_controller_that_starts_again_forgets_nobody_who_may_come_back() {
    let mut cluster = full();
    leave(&mut cluster, 6);
    // How long the earlier controller ran says nothing of how long a host has been down for this one.
    pass(&mut cluster, 60_000);
    let mut actions = Vec::new();
    let state = cluster.persisted.clone();
    cluster.core =
        Controller::recover(CONFIG, ClusterState { vms: Vec::new(), ..state }, &[], cluster.now, &mut actions);
    assert_eq!(forgotten_for(&mut cluster, 20), None, "all are awaited");
    assert!(matches!(refusal(&cluster), Some((_, true))));
    for _ in 0..20 {
        (0..8).for_each(|host| cluster.input(Input::Beat { host: HostId::new(host), count: None }));
        pass(&mut cluster, 5);
    }
    assert_eq!(forgotten_for(&mut cluster, 20), None, "all have only just been found silent");
    assert!(matches!(refusal(&cluster), Some((_, true))));
    pass(&mut cluster, 2_000);
    assert_eq!(
        forgotten_for(&mut cluster, 20),
        Some((HostId::new(0), "h0".to_owned())),
        "of those that are down alike"
    );
}

#[test]
fn beats_of_a_forgotten_host_are_not_the_newcomers() {
    let mut cluster = full();
    leave(&mut cluster, 6);
    pass(&mut cluster, 2_000);
    assert!(forgotten_for(&mut cluster, 20).is_some());
    let host = HostId::new(6);
    assert!(cluster.core.counts_beats_of(host, 20));
    assert!(!cluster.core.counts_beats_of(host, 6));
}
