//! Placement, admission with a spare, failure domains and failback.

use super::*;
use crate::controller::placement::Role as Place;
use crate::policy::Failback;
use proptest::prelude::*;

const MEMORY: u64 = 1 << 20;

impl Cluster {
    fn join_labelled(&mut self, host: u64, memory_bytes: u64, label: &str) {
        let labels = if label.is_empty() { Vec::new() } else { vec![label.to_owned()] };
        let profile = HostProfile { memory_bytes, labels, ..Self::profile(host) };
        self.hello(host, PROTOCOLS, profile, &[]);
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 5 {
            self.now = self.now + Span::from_ms(5);
            for host in 0..self.core.hosts.len() {
                let host = HostId::new(u16::try_from(host).expect("few hosts"));
                self.input(Input::Beat { host, count: Some(self.now.ns()) });
            }
            self.input(Input::Tick);
        }
    }

    fn vm(&self, vm: usize) -> crate::wire::VmStatus {
        self.core.status().vms[vm].clone()
    }
}

fn spared() -> Policy {
    Policy { require_spare: true, ..Policy::default() }
}

#[test]
fn with_two_hosts_a_vm_is_protected_and_at_risk_and_one_that_insists_is_refused() {
    let mut cluster = Cluster::new();
    cluster.join(0, &[]);
    cluster.join(1, &[]);
    cluster.create();
    cluster.live(0, 1);
    cluster.ready(1, 1);
    let status = cluster.status();
    assert_eq!((status.unprotected, status.spare), (None, None));
    let risk = "after the next failure no host could be secondary: start another, with the memory for it";
    assert_eq!(status.at_risk.as_deref(), Some(risk));
    cluster.create_with("insists", spared());
    let Some(Err(error @ RequestError::NoSpare(_))) = cluster.answered.last() else { panic!("not refused") };
    assert_eq!(
        error.to_string(),
        "the VM is to have a spare, but no capacity can be reserved for its re-protection: only two fit hosts have room \
         for it, three are needed; start another host, or make the VM without a spare"
    );
    cluster.join(2, &[]);
    let status = cluster.status();
    assert_eq!((status.at_risk, status.spare.as_deref()), (None, Some("h2")));
    cluster.create_with("insists", spared());
    assert!(matches!(cluster.answered.last(), Some(Ok(Answer::VmCreated(_)))));
}

/// What `status` calls protected, events do.
#[test]
fn a_vm_that_is_to_have_a_spare_is_told_to_be_protected_when_it_has_one() {
    let told = |cluster: &mut Cluster| -> Vec<String> {
        let of_protection = |happening| match happening {
            Happening::Protected { host, .. } => Some(format!("by {host}")),
            Happening::Unprotected { host, .. } => Some(format!("lost {host}")),
            _ => None,
        };
        cluster.happened.drain(..).filter_map(of_protection).collect()
    };
    let hosts = [0, 1, 2].map(HostId::new).map(|host| host.to_string());
    let mut cluster = Cluster::new();
    (0..3).for_each(|host| cluster.join(host, &[]));
    cluster.create_with("vm", spared());
    cluster.live(0, 1);
    cluster.close(2);
    cluster.ready(1, 1);
    assert_eq!(told(&mut cluster), [""; 0], "it has no spare");
    assert!(cluster.status().unprotected.is_some_and(|why| why.contains("spare")));
    for _ in 0..2 {
        cluster.join_as(2, 77, &[]);
        assert_eq!(told(&mut cluster), [format!("by {}", hosts[1])]);
        assert_eq!(cluster.status().unprotected, None);
        cluster.close(2);
        assert_eq!(told(&mut cluster), [format!("lost {}", hosts[2])]);
    }
    cluster.close(1);
    assert_eq!(told(&mut cluster), [""; 0], "that it is not protected is known");
}

#[test]
fn what_is_kept_free_for_a_spare_is_nobody_elses() {
    let mut cluster = Cluster::new();
    for host in 0..3 {
        cluster.join_labelled(host, MEMORY, "");
    }
    cluster.create_with("vm", spared());
    cluster.create_with("other", Policy::default());
    assert_eq!(cluster.answered.last(), Some(&Err(RequestError::NoCapacity(MEMORY))), "before it has its places");
    cluster.live(0, 1);
    cluster.ready(1, 1);
    assert_eq!(cluster.status().spare.as_deref(), Some("h2"));
    cluster.create_with("other", Policy::default());
    assert_eq!(cluster.answered.last(), Some(&Err(RequestError::NoCapacity(MEMORY))), "and while it is kept");
    cluster.close(0);
    cluster.ask(1, 1);
    cluster.live(1, 2);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h2"), "what it was kept for");
    cluster.ready(2, 2);
    let why = cluster.status().unprotected.expect("it is to have a spare");
    assert!(why.starts_with("it survives one failure"), "{why}");
}

#[test]
fn hosts_of_one_failure_domain_share_a_vm_only_while_they_must() {
    let mut cluster = Cluster::new();
    cluster.join_labelled(0, 1 << 30, "rack=1");
    cluster.join_labelled(1, 1 << 30, "rack=1");
    cluster.create();
    cluster.live(0, 1);
    cluster.ready(1, 1);
    assert_eq!(cluster.status().unprotected, None);
    cluster.pass(300);
    cluster.join_labelled(2, 1 << 30, "rack=2");
    cluster.pass(200);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h1"), "the newcomer has not proved itself");
    cluster.pass(100);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h2"));
    cluster.ready(2, 1);
    cluster.pass(2_000);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h2"));
}

#[test]
fn vms_of_one_group_run_on_different_hosts() {
    let mut cluster = Cluster::new();
    for host in 0..3 {
        cluster.join(host, &[]);
    }
    let group = Policy { anti_affinity: vec!["db".to_owned()], ..Policy::default() };
    for name in ["one", "two", "three"] {
        cluster.create_with(name, group.clone());
    }
    let mut primaries: Vec<_> = (0..3).map(|vm| cluster.vm(vm).primary).collect();
    primaries.sort();
    assert_eq!(primaries, ["h0", "h1", "h2"].map(|host| Some(host.to_owned())));
}

/// Three hosts with room for one role each: two VMs run, one of which is protected. Both as (number, primary).
fn one_place_short() -> (Cluster, (u16, HostId), (u16, HostId)) {
    let mut cluster = Cluster::new();
    for host in 0..3 {
        cluster.join_labelled(host, MEMORY, "");
    }
    cluster.create_with("a", Policy::default());
    cluster.create_with("b", Policy::default());
    let live = |cluster: &mut Cluster, vm: u16| {
        let vm = VmId::new(vm);
        let host = cluster.core.vms[&vm].primary().expect("it was given to a host");
        let report = LiveReport::default();
        cluster.said(u64::from(host.get()), FromHost::Live { vm, generation: Generation::FIRST, report });
        (vm.get(), host)
    };
    let (of_a, of_b) = (live(&mut cluster, 0), live(&mut cluster, 1));
    let protected = |vm: usize| cluster.vm(vm).secondary.is_some();
    assert!(protected(0) != protected(1), "there is room for one secondary");
    if protected(0) { (cluster, of_a, of_b) } else { (cluster, of_b, of_a) }
}

/// Better two guests that run than one that is protected.
#[test]
pub(super) fn a_secondary_makes_room_for_a_guest_that_runs_nowhere() {
    let (mut cluster, (victim, _), (lone, lost)) = one_place_short();
    cluster.close(u64::from(lost.get()));
    let (other, moved) = (cluster.vm(victim.into()), cluster.vm(lone.into()));
    assert_eq!((moved.phase.as_str(), other.secondary), ("promoting", None));
}

/// While the pool has no space for its journal, a guest runs nowhere whoever makes room for it.
#[test]
fn no_secondary_makes_room_for_a_guest_that_the_pool_has_no_space_for() {
    let (mut cluster, (victim, primary), (lone, lost)) = one_place_short();
    let secondary = cluster.vm(victim.into()).secondary;
    let stands_by = cluster.core.vms[&VmId::new(victim)].standby.expect("it is protected").host;
    let ready = FromHost::StandbyReady { vm: VmId::new(victim), generation: Generation::FIRST };
    cluster.said(u64::from(stands_by.get()), ready);
    cluster.pool_refuses = true;
    cluster.close(u64::from(lost.get()));
    for _ in 0..3 {
        cluster.pass(CONFIG.hold_down.ns() / 1_000_000);
        assert!(cluster.vm(lone.into()).waits.is_some(), "{:?}", cluster.vm(lone.into()));
        assert_eq!(cluster.vm(victim.into()).secondary, secondary);
    }
    let is_loss = |happening: &&Happening| matches!(happening, Happening::Unprotected { .. });
    assert_eq!(cluster.happened.iter().filter(is_loss).count(), 0);
    cluster.pool_refuses = false;
    cluster.pass(CONFIG.hold_down.ns() / 1_000_000);
    let (other, moved) = (cluster.vm(victim.into()), cluster.vm(lone.into()));
    assert_eq!((moved.phase.as_str(), other.secondary), ("promoting", None));
    assert_eq!(cluster.core.vms[&VmId::new(victim)].primary(), Some(primary));
}

/// The primary of the VM that would make room dies while the pool works: its secondary is needed where it is.
#[test]
fn a_secondary_that_is_needed_meanwhile_makes_no_room() {
    let (mut cluster, (victim, primary), (lone, lost)) = one_place_short();
    let stands_by = cluster.core.vms[&VmId::new(victim)].standby.expect("it is protected").host;
    let ready = FromHost::StandbyReady { vm: VmId::new(victim), generation: Generation::FIRST };
    cluster.said(u64::from(stands_by.get()), ready);
    cluster.hold_opens = true;
    cluster.close(u64::from(lost.get()));
    assert_eq!(cluster.vm(lone.into()).phase, "promoting");
    cluster.close(u64::from(primary.get()));
    cluster.hold_opens = false;
    for (vm, generation) in std::mem::take(&mut cluster.opens) {
        cluster.input(Input::GenerationOpened { vm, generation, result: Ok(()) });
    }
    let (other, moved) = (cluster.vm(victim.into()), cluster.vm(lone.into()));
    assert_eq!((moved.phase.as_str(), moved.primary.as_deref()), ("stranded", None), "{moved:?}");
    let ask = FromHost::AskTakeover {
        vm: VmId::new(victim),
        generation: Generation::FIRST,
        reason: TakeoverReason::LinkClosed,
    };
    assert!(other.secondary.is_some(), "{other:?}");
    cluster.said(u64::from(stands_by.get()), ask);
    assert_eq!(cluster.core.vms[&VmId::new(victim)].primary(), Some(stands_by));
}

/// A VM that was driven from its preferred host 0 to host 1, protected again by host 2.
fn driven_off(failback: Option<Failback>) -> Cluster {
    let mut cluster = Cluster::new();
    for host in 0..3 {
        cluster.join(host, &[]);
    }
    let preferred = Some("h0".to_owned());
    cluster.create_with("vm", Policy { preferred, failback, ..Policy::default() });
    cluster.live(0, 1);
    cluster.ready(1, 1);
    cluster.close(0);
    cluster.ask(1, 1);
    cluster.live(1, 2);
    cluster.ready(2, 2);
    cluster
}

const HOLD: Failback = Failback { hold: Span::from_ms(2_000) };

fn moved(cluster: &Cluster) -> usize {
    cluster.happened.iter().filter(|happening| matches!(happening, Happening::SwitchoverBegan { .. })).count()
}

#[test]
fn a_vm_goes_back_when_its_old_place_has_held_and_nothing_else_is_under_way() {
    let mut cluster = driven_off(Some(HOLD));
    cluster.join(0, &[]);
    cluster.pass(1_900);
    assert_eq!(moved(&cluster), 0, "not yet");
    cluster.close(2);
    cluster.pass(200);
    assert_eq!(moved(&cluster), 0, "not while it is not protected");
    cluster.ready(0, 2);
    cluster.pass(10);
    assert_eq!(moved(&cluster), 1);
    cluster.said(1, FromHost::Yielded { vm: VM, generation: Generation::new(2) });
    cluster.live(0, 3);
    assert_eq!((cluster.status().primary.as_deref(), cluster.status().switchovers), (Some("h0"), 1));
    cluster.pass(10_000);
    assert_eq!(moved(&cluster), 1, "it is at home");
}

#[test]
fn without_the_wish_or_to_a_flapping_or_draining_place_nothing_goes_back() {
    let mut unwished = driven_off(None);
    unwished.join(0, &[]);
    unwished.pass(20_000);
    assert_eq!(moved(&unwished), 0);
    let mut flapping = driven_off(Some(HOLD));
    for _ in 0..5 {
        flapping.join(0, &[]);
        flapping.pass(1_000);
        flapping.close(0);
    }
    flapping.join(0, &[]);
    flapping.pass(3_000);
    assert_eq!(moved(&flapping), 0);
    let mut draining = driven_off(Some(HOLD));
    draining.join(0, &[]);
    draining.request(Request::Drain { host: "h0".to_owned(), on: true });
    draining.pass(20_000);
    assert_eq!(moved(&draining), 0);
}

#[test]
fn an_old_place_that_is_not_better_is_left_alone() {
    let mut cluster = Cluster::new();
    for host in 0..3 {
        cluster.join(host, &[]);
    }
    cluster.create_with("vm", Policy { failback: Some(HOLD), ..Policy::default() });
    cluster.live(0, 1);
    cluster.ready(1, 1);
    cluster.close(0);
    cluster.ask(1, 1);
    cluster.live(1, 2);
    cluster.ready(2, 2);
    cluster.join(0, &[]);
    cluster.pass(20_000);
    assert_eq!(moved(&cluster), 0, "both places are the same to it");
}

/// One host of a random cluster: free memory in VMs, rack, draining.
type Shape = (u64, u8, bool);

proptest! {
    /// The choice against a small oracle that tries every host.
    #[test]
    fn the_best_host_is_chosen(shapes in prop::collection::vec((0_u64..4, 0_u8..3, any::<bool>()), 1..7), rivals in 0_usize..3) {
        let mut cluster = Cluster::new();
        for (host, (room, rack, _)) in (0..).zip(&shapes) {
            cluster.join_labelled(host, room * MEMORY, &format!("rack={rack}"));
        }
        let group = Policy { anti_affinity: vec!["g".to_owned()], ..Policy::default() };
        for rival in 0..rivals {
            cluster.create_with(&format!("rival{rival}"), group.clone());
        }
        cluster.create_with("vm", group);
        for (host, (_, _, draining)) in shapes.iter().enumerate() {
            if *draining {
                cluster.request(Request::Drain { host: format!("h{host}"), on: true });
            }
        }
        let core = &cluster.core;
        let Some(vm) = core.vms.values().find(|vm| vm.spec.name == "vm") else { return Ok(()) };
        let runs = |host: HostId| core.vms.values().filter(|other| other.id != vm.id && other.primary() == Some(host)).count();
        let all = || (0..shapes.len()).map(|host| HostId::new(u16::try_from(host).expect("few hosts")));
        let shape = |host: HostId| -> Shape { shapes[usize::from(host.get())] };
        let able = |host: HostId| !shape(host).2 && shape(host).0 > u64::try_from(runs(host)).expect("few");
        for partner in all() {
            let key = |host: HostId| {
                let shares = shape(host).1 == shape(partner).1;
                let own = usize::from(vm.primary() == Some(host));
                (shares, runs(host), 4 * (runs(host) + own), host)
            };
            let expected = all().filter(|host| *host != partner && able(*host)).min_by_key(|host| key(*host));
            prop_assert_eq!(core.place(vm.id, &[partner], Place::Secondary), expected);
            prop_assert_eq!(core.place(vm.id, &[partner], Place::Secondary), expected, "the same again");
        }
    }
}
