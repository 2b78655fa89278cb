//! `ftvm run --pool`, `ftvm console` and `ftvm delete`: VMs that go on without whoever started them.

use crate::guests::{assemble, printing};
use crate::support::{ByHand, SOCKET, await_true, count_of, has_ended, is_protected, kvm, read_events};
use nix::sys::signal::Signal;

const ENDLESS: [&str; 5] = ["builtin:counter", "--", "--lines", "1000000000", "--every-us"];
const LINES: [&str; 5] = ["builtin:counter", "--", "--lines", "300", "--every-us"];

#[test]
fn a_console_is_read_on_where_it_was_left() {
    let Some(_machine) = kvm() else { return };
    let cluster = ByHand::start(&["a", "b"]);
    let guest = [&LINES[..], &["1000"]].concat();
    let golden = cluster.golden(&guest);
    let run = cluster.start_command(&["run"], &guest);
    await_true("output", || run.stdout().len() > 100);
    run.signal(Signal::SIGINT);
    let ended = run.end();
    assert!(ended.one_line(130).starts_with("ftvm: counter runs on: "), "{ended:?}");
    let position = ended.stdout.len().to_string();
    assert!(ended.stderr.contains(&format!("--from {position}`")), "{ended:?}");

    let rest = cluster.command(&["console", "counter", "--from", &position], &[]).ok();
    assert_eq!([ended.stdout, rest.stdout].concat(), golden);
    let whole = cluster.command(&["console", "counter"], &[]).ok();
    assert_eq!(whole.stdout, golden, "an ended VM's console stays");
    let now = cluster.command(&["console", "counter", "--no-follow", "--from", "24"], &[]).ok();
    assert_eq!(now.stdout, golden[24..]);
    let ahead = cluster.command(&["console", "counter", "--from", "999999"], &[]);
    assert!(ahead.one_line(66).contains("has 3600 bytes so far"), "{ahead:?}");
}

#[test]
fn the_guests_exit_code_comes_through_and_rm_leaves_nothing() {
    let Some(_machine) = kvm() else { return };
    let cluster = ByHand::start(&["a", "b"]);
    let guest = assemble(&cluster.place, "My-Guest", &printing("hello", 42));
    let ended = cluster.command(&["run"], &[guest.to_str().unwrap()]);
    assert_eq!((ended.code, &ended.stdout[..], ended.stderr.as_str()), (Some(42), &b"hello\n"[..], ""), "{ended:?}");
    let console = cluster.command(&["console", "my-guest"], &[]);
    assert_eq!((console.code, &console.stdout[..]), (Some(42), &b"hello\n"[..]), "{console:?}");
    cluster.command(&["delete", "my-guest"], &[]).ok();
    assert_eq!(cluster.vm("my-guest"), None);

    let crash = assemble(&cluster.place, "crash", "ud2");
    let ended = cluster.command(&["run", "--rm"], &[crash.to_str().unwrap()]);
    assert!(ended.one_line(82).contains("the guest crashed"), "{ended:?}");
    assert_eq!(cluster.vm("crash"), None, "--rm has deleted it");

    let endless = [&ENDLESS[..], &["1000"]].concat();
    let run = cluster.start_command(&["run", "--rm", "--name", "endless"], &endless);
    await_true("output", || !run.stdout().is_empty());
    run.signal(Signal::SIGTERM);
    assert!(run.end().one_line(143).contains("endless is deleted"));
    assert_eq!(cluster.vm("endless"), None);
}

#[test]
fn names_are_unique_and_what_is_not_there_is_told() {
    let Some(_machine) = kvm() else { return };
    let cluster = ByHand::start(&["a"]);
    let endless = [&ENDLESS[..], &["1000"]].concat();
    let start = |name: &[&str]| cluster.command(&[&["run", "--detach"][..], name].concat(), &endless);
    assert_eq!(start(&[]).ok().stdout, b"counter\n");
    assert_eq!(start(&[]).ok().stdout, b"counter-2\n", "names that nobody gave get a number");
    assert!(start(&["--name", "counter"]).one_line(75).contains("a VM named `counter` exists already"));
    assert!(start(&["--name", "Not A Name"]).one_line(2).contains("its name must be"));
    assert!(start(&["--memory", "1000GiB"]).one_line(73).contains("above the most"));
    assert!(start(&["--memory", "60GiB"]).one_line(73).contains("no host has"));
    for command in [&["console", "none"][..], &["delete", "none"], &["switchover", "none"]] {
        let ended = cluster.command(command, &[]);
        assert!(ended.one_line(66).contains("there is no VM `none`"), "{ended:?}");
    }
    let nowhere = cluster.place.run(&["console", "counter", "--pool", "elsewhere"]);
    assert!(nowhere.one_line(75).contains("is `ftvm pool` running there?"), "{nowhere:?}");
    let meaningless = cluster.command(&["run", "--hosts", "3"], &endless);
    assert!(meaningless.one_line(2).contains("--hosts has no meaning with --pool"), "{meaningless:?}");

    let reader = cluster.start_command(&["console", "counter"], &[]);
    await_true("output", || !reader.stdout().is_empty());
    cluster.command(&["delete", "counter"], &[]).ok();
    let ended = reader.end();
    assert!(ended.one_line(81).contains("VM `counter` was deleted"), "{ended:?}");
}

/// A console ring holds 1 MiB.
#[test]
fn a_guest_waits_for_its_reader_only_if_that_was_asked_for() {
    let Some(_machine) = kvm() else { return };
    let cluster = ByHand::start(&["a", "b"]);
    let much = ["builtin:counter", "--", "--lines", "100000"];
    cluster.command(&["run", "--detach", "--name", "free"], &much).ok();
    cluster.await_vm("free", "the end of a guest that nobody reads", has_ended);
    let cut = cluster.command(&["console", "free", "--from", "0"], &[]);
    assert!(cut.one_line(66).contains("are overwritten, the oldest left is"), "{cut:?}");
    let golden = cluster.golden(&much);
    let rest = cluster.command(&["console", "free"], &[]).ok();
    assert!(
        rest.stdout.len() >= (1 << 20) - (1 << 16) && golden.ends_with(&rest.stdout),
        "{} bytes",
        rest.stdout.len()
    );

    cluster.command(&["run", "--detach", "--unread", "wait", "--name", "kept"], &much).ok();
    // On the way there it may wait for other things too: that a record is applied.
    cluster.await_vm("kept", "a full console", |vm| {
        vm["waits"].as_str().is_some_and(|why| why.contains("nobody reads it"))
    });
    let whole = cluster.command(&["console", "kept"], &[]).ok();
    assert!(whole.stdout == golden, "{} bytes of {}", whole.stdout.len(), golden.len());
}

#[test]
fn events_and_status_can_be_watched() {
    let Some(_machine) = kvm() else { return };
    let mut cluster = ByHand::start(&["a", "b"]);
    let events = cluster.start_command(&["events", "--json"], &[]);
    let status = cluster.start_command(&["status", "--watch", "--json"], &[]);
    cluster.command(&["run", "--detach", "--name", "watched"], &[&LINES[..], &["1000"]].concat()).ok();
    cluster.await_vm("watched", "protection", is_protected);
    cluster.kill_pool();
    cluster.start_pool();
    cluster.await_vm("watched", "the end of the guest", has_ended);
    await_true("the guest's end among the events", || text(&events.stdout()).contains("\"ended\""));
    await_true("the guest's end in the status", || text(&status.stdout()).contains("\"Exited\":0"));
    for watcher in [&events, &status] {
        watcher.signal(Signal::SIGINT);
    }
    let told = events.end();
    assert_eq!(told.code, Some(130), "{told:?}");
    let lines = text(&told.stdout);
    for expected in ["host-joined", "vm-created", "live", "protected", "controller-gone", "controller-back"] {
        assert!(lines.contains(expected), "no {expected} in {lines}");
    }
    for line in text(&status.end().stdout).lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("every line is JSON");
    }
    let past = cluster.place.ftvm(&["events", "--no-follow", "--vm", "watched"]).env("FTVM_POOL", SOCKET).output();
    let past = text(&past.expect("the program can be started").stdout);
    assert!(past.contains("vm watched: exited with 0") && !past.contains("host a joined"), "{past}");
}

#[test]
fn a_host_that_has_joined_is_noted_once_however_often_it_is_told() {
    let Some(_machine) = kvm() else { return };
    let mut cluster = ByHand::start(&["a", "b"]);
    let events = cluster.place.file("events.jsonl");
    let options = ["--rm", "--name", "noted", "--events", events.to_str().expect("a plain path")];
    let guest = cluster.start_command(&["run"], &[&options[..], &ENDLESS[..], &["1000"]].concat());
    cluster.await_vm("noted", "protection", is_protected);
    // The hosts join the next controller, which tells so, and has them in its state.
    cluster.kill_pool();
    cluster.start_pool();
    cluster.start_host("c");
    cluster.await_vm("noted", "protection", is_protected);
    let joined = || count_of(&read_events(&events), "host-joined");
    await_true("all are noted", || joined() >= 3);
    guest.signal(Signal::SIGTERM);
    let ended = guest.end();
    assert!(ended.code == Some(143) && ended.stderr.contains("noted is deleted"), "{ended:?}");
    assert_eq!(joined(), 3, "{}", std::fs::read_to_string(&events).expect("they can be read"));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
