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

fn standby_orders(cluster: &Cluster) -> usize {
    cluster.told.iter().filter(|(_, message)| matches!(message, ToHost::Standby(_))).count()
}

fn blames_nobody(cluster: &Cluster) {
    let blamed = cluster.core.status().hosts.into_iter().find(|host| host.health != "up" && host.health != "down");
    assert_eq!(blamed, None);
}

/// Runs on host 0, and on host 2 it cannot stand by.
fn without_a_part() -> Cluster {
    let mut cluster = Cluster::protected();
    cluster.commit(0, 1, 1);
    cluster.gone = Some(Part::Boot(VM));
    cluster.told.clear();
    cluster.close(1);
    cluster.input(Input::Tick);
    cluster
}

fn gave_up(cluster: &Cluster) -> usize {
    cluster.happened.iter().filter(|happening| matches!(happening, Happening::GaveUp { .. })).count()
}

#[test]
fn a_vm_of_which_a_part_is_gone_loses_its_protection_and_not_its_life() {
    let mut cluster = without_a_part();
    let status = cluster.status();
    assert_eq!((status.phase.as_str(), status.secondary), ("running", None));
    assert!(status.unprotected.is_some_and(|why| why.contains("cannot open it")));
    assert_eq!((standby_orders(&cluster), tells(&cluster), gave_up(&cluster)), (0, 0, 1));
    blames_nobody(&cluster);
    // It may be put back.
    for again in [Some(Part::Boot(VM)), None] {
        cluster.gone = again;
        cluster.now = cluster.now + CONFIG.promotion_bound;
        cluster.input(Input::Tick);
        assert_eq!((standby_orders(&cluster), gave_up(&cluster)), (usize::from(again.is_none()), 1));
    }
    cluster.ready(2, 1);
    assert_eq!(cluster.status().unprotected, None);
    cluster.close(2);
    let unprotected = cluster.status().unprotected.expect("nobody is left to stand by");
    assert!(!unprotected.contains("cannot open it"), "{unprotected}");
}

#[test]
fn a_vm_of_which_a_part_is_gone_is_not_moved() {
    let mut cluster = without_a_part();
    cluster.answered.clear();
    cluster.request(Request::Switchover { vm: VM, to: Some("h2".to_owned()) });
    let why = "no host can stand by: cannot open it".to_owned();
    assert_eq!(cluster.answered, [Err(RequestError::NotNow(why))]);
    cluster.request(Request::Drain { host: "h0".to_owned(), on: true });
    (0..10).for_each(|_| cluster.input(Input::Tick));
    let began = |happening: &&Happening| matches!(happening, Happening::SwitchoverBegan { .. });
    assert_eq!(cluster.happened.iter().filter(began).count(), 0);
    cluster.gone = None;
    cluster.now = cluster.now + CONFIG.promotion_bound;
    cluster.input(Input::Tick);
    cluster.ready(2, 1);
    cluster.input(Input::Tick);
    assert_eq!(cluster.happened.iter().filter(began).count(), 1, "the drain goes on");
}

/// The files of a VM go while it is protected: its secondary has them open, and nobody else will.
#[test]
fn a_vm_whose_files_are_gone_is_not_protected_until_they_are_back() {
    let changes = |cluster: &Cluster| {
        let is_change =
            |happening: &&Happening| matches!(happening, Happening::Protected { .. } | Happening::Unprotected { .. });
        cluster.happened.iter().filter(is_change).count()
    };
    let lose = |cluster: &mut Cluster, gone: Option<&str>| {
        let gone = gone.map(|what| LostFiles { what: what.to_owned(), to_all: false });
        cluster.input(Input::FilesGone { vm: VM, gone });
    };
    let mut cluster = Cluster::protected();
    cluster.commit(0, 1, 1);
    let told = changes(&cluster);
    lose(&mut cluster, Some("its boot is gone"));
    lose(&mut cluster, Some("its boot is gone"));
    let status = cluster.status();
    assert_eq!((status.phase.as_str(), status.secondary.as_deref()), ("running", Some("h1")));
    assert!(status.unprotected.is_some_and(|why| why.contains("its boot is gone") && why.contains("still take over")));
    assert_eq!(changes(&cluster), told + 1);
    lose(&mut cluster, None);
    assert_eq!((cluster.status().unprotected, changes(&cluster)), (None, told + 2));
    // The secondary goes as well: without the files there is no other one, and with them there is at once.
    lose(&mut cluster, Some("its boot is gone"));
    cluster.told.clear();
    cluster.close(1);
    cluster.input(Input::Tick);
    assert_eq!(standby_orders(&cluster), 0);
    assert!(cluster.status().unprotected.is_some_and(|why| why.contains("its boot is gone")));
    lose(&mut cluster, None);
    assert_eq!(standby_orders(&cluster), 1);
    blames_nobody(&cluster);
}

/// Whoever has such a file open has lost a part of it as well: nobody is told that there is somebody who could go on.
#[test]
fn a_vm_whose_files_are_cut_off_is_not_said_to_have_a_secondary_that_could_take_over() {
    let mut cluster = Cluster::protected();
    cluster.commit(0, 1, 1);
    let lost = LostFiles { what: "the pool has lost a part of its state".to_owned(), to_all: true };
    cluster.input(Input::FilesGone { vm: VM, gone: Some(lost) });
    let why = cluster.status().unprotected;
    let told = "the pool has lost a part of its state, and its hosts have; no host can be counted on to take over";
    assert_eq!(why.as_deref(), Some(told));
    cluster.input(Input::FilesGone { vm: VM, gone: None });
    assert_eq!(cluster.status().unprotected, None);
}

#[test]
fn who_stands_by_goes_on_without_what_is_gone() {
    for part in [Part::Boot(VM), Part::State(VM), Part::Image(VM), Part::Control(VM)] {
        let mut cluster = Cluster::protected();
        cluster.commit(0, 1, 1);
        cluster.gone = Some(part);
        cluster.close(0);
        cluster.ask(1, 1);
        assert_eq!(cluster.promotions(1), [(2, 1)]);
        cluster.live(1, 2);
        assert_eq!((cluster.status().phase.as_str(), tells(&cluster)), ("running", 0));
    }
}

#[test]
fn a_vm_that_nobody_can_be_given_is_damaged() {
    let mut cluster = without_a_part();
    cluster.close(0);
    cluster.input(Input::Tick);
    assert_eq!((cluster.status().phase.as_str(), tells(&cluster)), ("damaged", 1));
    blames_nobody(&cluster);
}
