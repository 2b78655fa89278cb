//! A VM whose part of the pool is damaged while its controller lives.

use super::*;

fn damaged(vm: VmId) -> Input {
    Input::PartitionDamaged { vm, reason: "a word of the control block is damaged".to_owned() }
}

fn tells(cluster: &Cluster) -> usize {
    cluster.happened.iter().filter(|happening| matches!(happening, Happening::Damaged { .. })).count()
}

#[test]
fn a_damaged_vm_is_left_alone_and_its_hosts_are_free() {
    let mut cluster = Cluster::protected();
    cluster.commit(0, 1, 4);
    let before = cluster.core.state();
    cluster.told.clear();
    cluster.input(damaged(VM));
    cluster.input(damaged(VM));
    assert_eq!(tells(&cluster), 1);
    let status = cluster.status();
    assert_eq!((status.phase.as_str(), status.primary, status.secondary), ("damaged", None, None));
    assert_eq!(status.damage.as_deref(), Some("a word of the control block is damaged"));
    let released = |link: u64| {
        let of = |(to, message): &&(LinkId, ToHost)| {
            *to == LinkId::new(link) && matches!(message, ToHost::Release { deposed: false, .. })
        };
        cluster.told.iter().filter(of).count()
    };
    assert_eq!((released(0), released(1)), (1, 1));
    assert_eq!(cluster.persisted, before, "a controller that finds it repaired goes on from there");
    // Whatever its primary did meanwhile, nobody is promoted.
    cluster.close(0);
    cluster.input(Input::Tick);
    assert_eq!(cluster.status().phase, "damaged");
    assert_eq!(cluster.promotions(1), []);
}

#[test]
fn a_takeover_that_finds_the_damage_ends_there() {
    let mut cluster = Cluster::protected();
    cluster.commit(0, 1, 4);
    cluster.hold_applies = true;
    cluster.commit(0, 1, 5);
    let (vm, generation, epoch) = cluster.held[0];
    cluster.input(damaged(VM));
    // What was with the driver is answered after it.
    let outcome = ApplyOutcome::Done { epoch, console_end: 50, ended: None };
    cluster.input(Input::Applied { vm, generation, outcome });
    assert_eq!((cluster.status().phase.as_str(), cluster.applies), ("damaged", 5));

    let mut cluster = Cluster::protected();
    cluster.hold_applies = true;
    cluster.commit(0, 1, 1);
    let (vm, generation, _) = cluster.held[0];
    let outcome = ApplyOutcome::Damaged { reason: "torn".to_owned() };
    cluster.input(Input::Applied { vm, generation, outcome });
    assert_eq!(cluster.status().damage.as_deref(), Some("torn"));
    assert_eq!(cluster.promotions(1), []);
}

#[test]
fn clients_of_a_damaged_vm_are_told_and_can_delete_it() {
    let mut cluster = Cluster::protected();
    cluster.hold_applies = true;
    cluster.commit(0, 1, 1);
    let attach = |id| FromClient { id, request: Request::AttachConsole { vm: VM, from: 0 } };
    cluster.input(Input::FromClient { link: CLIENT, message: attach(1) });
    cluster.input(damaged(VM));
    // The connection was closed; this is the next one.
    cluster.input(Input::ClientHello { link: CLIENT, protocol: PROTOCOL_VERSION });
    cluster.answered.clear();
    cluster.input(Input::FromClient { link: CLIENT, message: attach(2) });
    assert_eq!(cluster.answered, [Err(RequestError::Damaged(VM))]);
    cluster.input(Input::FromClient { link: CLIENT, message: FromClient { id: 3, request: Request::DeleteVm(VM) } });
    assert_eq!(cluster.deleted, [], "a record is with the driver");
    let (vm, generation, _) = cluster.held[0];
    cluster.input(Input::Applied { vm, generation, outcome: ApplyOutcome::Damaged { reason: "torn".to_owned() } });
    assert_eq!(cluster.deleted, [VM]);
}

#[test]
fn what_was_found_at_the_start_is_told_once() {
    let cluster = Cluster::protected();
    let mut next = Cluster::new();
    let (mut actions, state) = (Vec::new(), cluster.persisted.clone());
    next.core = Controller::recover(CONFIG, state, &[], next.now, &mut actions);
    next.execute(actions);
    next.input(damaged(VM));
    next.input(damaged(VM));
    assert_eq!(tells(&next), 1);
    assert_eq!(next.core.state().vms, cluster.persisted.vms);
}

fn gone() -> Input {
    Input::PartGone { vm: VM, reason: "cannot open boot".to_owned() }
}

fn standby_orders(cluster: &Cluster) -> usize {
    cluster.told.iter().filter(|(_, message)| matches!(message, ToHost::Standby(_))).count()
}

#[test]
fn a_vm_of_which_a_part_is_gone_loses_its_protection_and_not_its_life() {
    let mut cluster = Cluster::protected();
    cluster.join(2, &[]);
    cluster.told.clear();
    cluster.close(1);
    assert_eq!(standby_orders(&cluster), 1);
    cluster.input(gone());
    cluster.input(Input::Tick);
    let status = cluster.status();
    assert_eq!((status.phase.as_str(), status.secondary), ("running", None));
    assert!(status.unprotected.is_some_and(|why| why.contains("cannot open boot")));
    assert_eq!((standby_orders(&cluster), tells(&cluster)), (1, 0), "nobody is asked again");
    let blamed = cluster.core.status().hosts.into_iter().find(|host| host.health != "up" && host.health != "down");
    assert_eq!(blamed, None);
}

#[test]
fn a_vm_that_nobody_can_be_given_is_damaged() {
    let mut cluster = Cluster::protected();
    cluster.close(0);
    cluster.ask(1, 1);
    assert_eq!(cluster.promotions(1), [(2, 0)]);
    cluster.input(gone());
    assert_eq!((cluster.status().phase.as_str(), tells(&cluster)), ("damaged", 1));
}
