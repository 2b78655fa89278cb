//! A console that nobody reads any more.

use super::*;

fn say(cluster: &mut Cluster, request: Request) {
    cluster.input(Input::FromClient { link: CLIENT, message: FromClient { id: 9, request } });
}

#[test]
fn a_console_is_waited_for_until_its_reader_gives_it_up() {
    let mut cluster = Cluster::protected();
    assert_eq!(cluster.status().waits, None);
    cluster.hold_applies = true;
    cluster.commit(0, 1, 1);
    let (vm, generation, epoch) = cluster.held.remove(0);
    cluster.input(Input::Applied { vm, generation, outcome: ApplyOutcome::ConsoleFull { epoch, console_end: 0 } });
    assert_eq!(cluster.held, [], "it waits for a reader");
    assert!(cluster.status().waits.is_some_and(|why| why.contains("nobody reads it")));

    say(&mut cluster, Request::ReleaseConsole(VM));
    assert_eq!(cluster.held, [(vm, generation, epoch)], "it goes on");
    assert_eq!(cluster.status().waits, None);
    assert!(!cluster.persisted.vms[0].spec.console_lossless, "the next controller knows");
}

#[test]
fn a_reader_that_is_attached_is_waited_for_all_the_same() {
    let mut cluster = Cluster::protected();
    say(&mut cluster, Request::ReleaseConsole(VM));
    say(&mut cluster, Request::AttachConsole { vm: VM, from: 0 });
    cluster.hold_applies = true;
    cluster.commit(0, 1, 1);
    let (vm, generation, epoch) = cluster.held.remove(0);
    cluster.input(Input::Applied { vm, generation, outcome: ApplyOutcome::ConsoleFull { epoch, console_end: 0 } });
    assert_eq!(cluster.held, []);
    assert!(cluster.status().waits.is_some_and(|why| why.contains("its reader is slow")));
    cluster.input(Input::LinkClosed { link: CLIENT });
    assert_eq!(cluster.held, [(vm, generation, epoch)], "it is gone, and nobody said to wait for another");
}

/// Found in the simulator: a network cut held the doorbells of a log back, whose output filled the ring when the next record was
/// applied. Its reader never heard of it, and gave no room back.
#[test]
fn a_reader_hears_of_what_a_full_console_has() {
    let mut cluster = Cluster::protected();
    say(&mut cluster, Request::AttachConsole { vm: VM, from: 0 });
    cluster.hold_applies = true;
    cluster.commit(0, 1, 1);
    let (vm, generation, epoch) = cluster.held.remove(0);
    cluster.input(Input::Applied { vm, generation, outcome: ApplyOutcome::ConsoleFull { epoch, console_end: 80 } });
    assert_eq!((cluster.status().console_end, cluster.held.len()), (80, 0));
    say(&mut cluster, Request::ConsoleConsumed { vm: VM, position: 80 });
    assert_eq!(cluster.held, [(vm, generation, epoch)], "it goes on");
}

#[test]
fn a_record_that_lags_behind_the_log_takes_nothing_back_of_the_console() {
    let mut cluster = Cluster::protected();
    say(&mut cluster, Request::AttachConsole { vm: VM, from: 0 });
    let generation = Generation::FIRST;
    cluster.hold_applies = true;
    cluster.commit(0, 1, 1);
    cluster.said(0, FromHost::Logged { vm: VM, generation });
    cluster.input(Input::LogDrained { vm: VM, generation, outcome: DrainOutcome::Done { console_end: 50 } });
    say(&mut cluster, Request::ConsoleConsumed { vm: VM, position: 50 });
    // The record is of a time at which the guest had said less.
    let (vm, generation, epoch) = cluster.held.remove(0);
    cluster.apply(vm, generation, epoch);
    assert_eq!(cluster.status().console_end, 50);
    say(&mut cluster, Request::ConsoleConsumed { vm: VM, position: 51 });
    assert_eq!(cluster.status().console_end, 50);
}

#[test]
fn a_log_is_not_asked_for_before_it_is_known_to_be_there() {
    let mut cluster = Cluster::protected();
    let generation = Generation::FIRST;
    cluster.request(Request::SetMode { vm: VM, mode: Mode::Replay });
    say(&mut cluster, Request::AttachConsole { vm: VM, from: 0 });
    cluster.input(Input::LogDrained { vm: VM, generation, outcome: DrainOutcome::Done { console_end: 10 } });
    cluster.close(0);
    let mut handle = |input| {
        let mut actions = Vec::new();
        cluster.core.handle(cluster.now, input, &mut actions);
        actions
    };
    let read = || {
        let request = Request::ConsoleConsumed { vm: VM, position: 5 };
        Input::FromClient { link: CLIENT, message: FromClient { id: 9, request } }
    };
    let drains = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::DrainLog { .. }));
    let ask = FromHost::AskTakeover { vm: VM, generation, reason: TakeoverReason::LinkClosed };
    handle(Input::FromHost { link: LinkId::new(1), message: ask });
    let opens = handle(Input::Sealed { vm: VM, generation, final_epoch: Epoch::ZERO });
    assert!(opens.iter().any(|action| matches!(action, Action::OpenGeneration { .. })));
    // Its answer is still to come: it may be that the pool has no space.
    assert!(!drains(&handle(read())));
    handle(Input::GenerationOpened { vm: VM, generation: generation.next(), result: Ok(()) });
    assert!(drains(&handle(read())));
}
