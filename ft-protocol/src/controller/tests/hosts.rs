//! Who can run what, and for how long.

use super::switchover::{switch, was_told_to_yield, yielded};
use super::*;

#[test]
fn a_drained_host_has_no_roles_and_gets_none() {
    let mut cluster = Cluster::protected();
    let request = Request::Drain { host: "h0".to_owned(), on: true };
    cluster.input(Input::FromClient { link: CLIENT, message: FromClient { id: 9, request } });
    assert!(was_told_to_yield(&cluster, 0));
    yielded(&mut cluster, 0, 1);
    cluster.live(1, 2);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h2"));
    cluster.ready(2, 2);
    assert!(cluster.status().at_risk.is_some());
    cluster.close(1);
    cluster.ask(2, 2);
    cluster.live(2, 3);
    assert_eq!(cluster.status().secondary, None, "the drained host is not asked");
    let request = Request::Drain { host: "h0".to_owned(), on: false };
    cluster.input(Input::FromClient { link: CLIENT, message: FromClient { id: 10, request } });
    assert_eq!(cluster.status().secondary.as_deref(), Some("h0"));
}

#[test]
fn a_vm_that_fits_no_host_is_refused() {
    let mut cluster = Cluster::new();
    cluster.join(0, &[]);
    cluster.input(Input::ClientHello { link: CLIENT, protocol: PROTOCOL_VERSION });
    let mut spec = Cluster::protected().persisted.vms[0].spec.clone();
    spec.memory_bytes = 2 << 30;
    let message = FromClient { id: 1, request: Request::CreateVm(spec) };
    cluster.input(Input::FromClient { link: CLIENT, message });
    assert!(cluster.core.status().vms.is_empty());
}

#[test]
fn a_standbys_memory_is_reserved() {
    let mut cluster = Cluster::protected();
    let mut spec = cluster.persisted.vms[0].spec.clone();
    spec.name = "large".to_owned();
    spec.memory_bytes = 1 << 30;
    let message = FromClient { id: 2, request: Request::CreateVm(spec) };
    cluster.input(Input::FromClient { link: CLIENT, message });
    let status = cluster.core.status().vms[1].clone();
    assert_eq!(status.primary.as_deref(), Some("h2"), "h0 and h1 have a MiB less than it needs");
}

#[test]
fn an_upgraded_host_takes_over_and_an_older_one_is_refused_with_the_reason() {
    let mut cluster = Cluster::protected();
    let newer = StateFormats { writes: 2, reads_from: 1 };
    cluster.close(2);
    cluster.join_with(2, 22, &[], newer);
    cluster.commit(0, 1, 3);
    switch(&mut cluster, Some("h2"));
    cluster.ready(2, 1);
    yielded(&mut cluster, 0, 1);
    assert_eq!(cluster.promotions(2), [(2, 3)], "a newer host reads what an older one wrote");
    cluster.live(2, 2);
    let reason = cluster.status().unprotected.unwrap();
    assert!(reason.contains("reads machine states of version 1 to 1, this one's is 2"), "{reason}");
    cluster.close(1);
    cluster.join_with(1, 11, &[], newer);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h1"));
}

#[test]
fn a_deleted_vm_is_sealed_forgotten_and_its_space_given_back() {
    let mut cluster = Cluster::protected();
    cluster.hold_applies = true;
    cluster.commit(0, 1, 1);
    let message = FromClient { id: 3, request: Request::DeleteVm(VM) };
    cluster.input(Input::FromClient { link: CLIENT, message });
    assert_eq!(cluster.deleted, [], "a record is being applied");
    let (vm, generation, epoch) = cluster.held.remove(0);
    cluster.apply(vm, generation, epoch);
    assert_eq!(cluster.deleted, [VM]);
    assert!(cluster.core.status().vms.is_empty() && cluster.persisted.vms.is_empty());
    for host in [0, 1] {
        let release = ToHost::Release { vm: VM, generation: Generation::FIRST, deposed: false };
        assert!(cluster.told.contains(&(LinkId::new(host), release)));
    }
    cluster.close(0);
    cluster.create();
    assert_eq!(cluster.status().generation, Generation::new(2), "above every generation of the VM that was here");
    cluster.join(0, &[HeldRole { vm: VM, generation: Generation::FIRST, role: Role::Primary { live: true } }]);
    let deposed = ToHost::Release { vm: VM, generation: Generation::FIRST, deposed: true };
    assert!(cluster.told.contains(&(LinkId::new(0), deposed)), "a host of the old VM is none of the new one");
}

#[test]
fn a_flapping_host_is_held_down_longer_each_time() {
    let mut cluster = Cluster::protected();
    let mut held = Vec::new();
    for life in 0..9 {
        cluster.close(2);
        cluster.join_as(2, 100 + life, &[]);
        let health = cluster.core.status().hosts[2].health.clone();
        held.push(health == "held-down");
    }
    assert_eq!(held, [false, false, false, false, false, true, true, true, true]);
    cluster.close(1);
    assert_eq!(cluster.status().secondary, None, "a flapping host is no secondary");
    cluster.now = Time::ZERO + CONFIG.hold_down.times(8);
    cluster.input(Input::Tick);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h2"), "the fourth hold-down is eight times the first");
}

#[test]
fn a_vm_without_any_other_host_runs_on_a_flapping_one() {
    let mut cluster = Cluster::protected();
    for life in 0..7 {
        cluster.close(2);
        cluster.join_as(2, 100 + life, &[]);
    }
    cluster.close(0);
    cluster.close(1);
    assert_eq!(cluster.promotions(2), [(2, 0)], "better than not at all");
}
