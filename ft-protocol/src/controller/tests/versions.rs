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
