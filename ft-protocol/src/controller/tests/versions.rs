//! Hosts and controllers of different versions.

use super::*;

impl Cluster {
    /// A host of this version: it speaks and reads all up to it.
    fn join_version(&mut self, host: u64, version: u32) {
        let profile = HostProfile { states: StateFormats { writes: version, reads_from: 1 }, ..Self::profile(host) };
        self.hello(host, VersionRange { min: 1, max: version }, profile, &[]);
    }

    fn protocol_of(&self, host: usize) -> Option<u32> {
        self.core.status().hosts[host].protocol
    }
}

#[test]
fn the_highest_common_protocol_is_spoken() {
    let mut cluster = Cluster::new();
    cluster.join_version(0, 1);
    cluster.join_version(1, 2);
    cluster.join_version(2, PROTOCOL_VERSION + 6);
    assert_eq!([0, 1, 2].map(|host| cluster.protocol_of(host)), [Some(1), Some(2), Some(PROTOCOL_VERSION)]);
    let welcomes: Vec<u32> = cluster
        .told
        .iter()
        .filter_map(|(_, message)| match message {
            ToHost::Welcome { protocol, .. } => Some(*protocol),
            _ => None,
        })
        .collect();
    assert_eq!(welcomes, [1, 2, PROTOCOL_VERSION]);
    cluster.close(1);
    assert_eq!(cluster.protocol_of(1), None);
}

#[test]
fn a_host_without_a_common_protocol_is_refused_and_told_why() {
    let mut cluster = Cluster::new();
    let too_new = VersionRange { min: PROTOCOL_VERSION + 1, max: PROTOCOL_VERSION + 1 };
    cluster.hello(0, too_new, Cluster::profile(0), &[]);
    let Some((_, ToHost::Rejected { reason, retry: false })) = cluster.told.last() else { panic!("not refused") };
    let (theirs, ours) = (PROTOCOL_VERSION + 1, PROTOCOL_VERSION);
    let expected = format!(
        "host `h0` speaks protocol {theirs}, the controller 1 to {ours}: use versions of ftvm that have one in common"
    );
    assert_eq!(*reason, expected);
    assert_eq!(cluster.core.status().hosts, []);
}

#[test]
fn a_host_of_a_version_without_activity_words_is_not_judged_by_them() {
    let mut cluster = Cluster::new();
    cluster.join_version(0, 1);
    cluster.create();
    cluster.live(0, 1);
    assert_eq!(cluster.core.running().count(), 0);
}

/// A VM that was moved from a host of version 1 to one of version 2.
fn moved_to_a_newer_host() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.join_version(0, 1);
    cluster.join_version(1, 1);
    cluster.create();
    cluster.live(0, 1);
    cluster.ready(1, 1);
    cluster.commit(0, 1, 4);
    cluster.join_version(2, 2);
    cluster.request(Request::Switchover { vm: VM, to: Some("h2".to_owned()) });
    cluster.ready(2, 1);
    cluster.said(0, FromHost::Yielded { vm: VM, generation: Generation::new(1) });
    cluster.live(2, 2);
    cluster
}

/// Found by a reviewer in the planned profile: the VM was stranded as long as the newer host was away.
#[test]
fn a_newer_host_that_dies_before_its_first_commit_has_changed_nothing() {
    let mut cluster = moved_to_a_newer_host();
    cluster.close(2);
    assert_eq!(cluster.promotions(0).last(), Some(&(3, 4)), "an older host reads what is there");
    let mut cluster = moved_to_a_newer_host();
    cluster.commit(2, 2, 5);
    cluster.close(2);
    assert_eq!(cluster.status().phase, "stranded", "no older host reads what is there now");
    cluster.join_version(2, 2);
    assert_eq!(cluster.promotions(2).last(), Some(&(3, 5)));
}

/// The same, where the controller dies, too: what it has stored tells the next one.
#[test]
fn a_controller_knows_after_its_restart_what_was_committed_by_whom() {
    for (epoch, stranded) in [(4, false), (5, true)] {
        let cluster = moved_to_a_newer_host();
        let word = Word { epoch: Epoch::new(epoch), sealed: false };
        let found = super::restart::recovered(Some(word), 4);
        let mut next = super::restart::restart(&cluster, &found);
        next.committed = Epoch::new(epoch);
        next.join_version(0, 1);
        next.input(Input::HostDied { host: HostId::new(2) });
        assert_eq!(next.status().phase == "stranded", stranded, "epoch {epoch}: {:?}", next.status());
    }
}

#[test]
fn a_host_whose_machine_states_the_controller_cannot_read_is_refused() {
    let mut cluster = Cluster::new();
    let states = Some(StateFormats { writes: 2, reads_from: 1 });
    cluster.core = Controller::new(ControllerConfig { states, ..CONFIG });
    cluster.join_version(0, 2);
    assert_eq!(cluster.core.status().hosts.len(), 1);
    cluster.join_version(1, 3);
    let Some((_, ToHost::Rejected { reason, retry: false })) = cluster.told.last() else { panic!("not refused") };
    let expected = "host `h1` writes machine states of version 3, the controller reads 1 to 2: use a newer ftvm for the \
                    controller first";
    assert_eq!(reason, expected);
}

#[test]
fn a_rolling_upgrade_goes_from_old_to_new_and_never_back() {
    let mut cluster = Cluster::new();
    for host in 0..3 {
        cluster.join_version(host, 1);
    }
    cluster.create();
    cluster.live(0, 1);
    cluster.ready(1, 1);
    // One after the other comes back newer; the VM moves to the first of them.
    cluster.close(2);
    cluster.join_version(2, 2);
    cluster.request(Request::Switchover { vm: VM, to: Some("h2".to_owned()) });
    cluster.ready(2, 1);
    cluster.said(0, FromHost::Yielded { vm: VM, generation: Generation::new(1) });
    cluster.live(2, 2);
    assert_eq!(cluster.status().primary.as_deref(), Some("h2"));
    let why = "host `h0` reads machine states of version 1 to 1, this one's is 2: use a newer ftvm there";
    cluster.commit(2, 2, 1);
    assert_eq!(cluster.status().unprotected.as_deref(), Some(why), "refused before it is called protected");
    cluster.request(Request::Switchover { vm: VM, to: Some("h0".to_owned()) });
    assert_eq!(cluster.answered.last(), Some(&Err(RequestError::NotNow(why.to_owned()))), "not by hand either");
    cluster.close(0);
    cluster.join_version(0, 2);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h0"));
    cluster.ready(0, 2);
    assert_eq!(cluster.status().unprotected, None);
}

#[test]
fn a_host_whose_kvm_does_not_take_all_registers_is_refused_before_protection() {
    let mut cluster = Cluster::new();
    let join = |cluster: &mut Cluster, host: u64, msrs: &[u32]| {
        let cpu = CpuProfile::default().with_msrs(msrs.iter().copied());
        cluster.hello(host, PROTOCOLS, HostProfile { cpu, ..Cluster::profile(host) }, &[]);
    };
    join(&mut cluster, 0, &[0x10, 0x200]);
    cluster.create();
    cluster.live(0, 1);
    cluster.commit(0, 1, 1);
    join(&mut cluster, 1, &[0x10]);
    let why = "host `h1`: its KVM does not take the model-specific register 0x200: use a newer kernel there";
    assert_eq!(cluster.status().unprotected.as_deref(), Some(why));
    join(&mut cluster, 2, &[0x10, 0x200, 0x201]);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h2"));
    cluster.ready(2, 1);
    assert_eq!(cluster.status().unprotected, None);
}
