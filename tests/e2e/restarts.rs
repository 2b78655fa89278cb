//! Commands that begin while the controller is dead, and is about to be started again.

use crate::support::{ByHand, Running, SOCKET, await_true, is_protected, kvm};
use nix::sys::signal::Signal;

const GUEST: [&str; 5] = ["builtin:counter", "--", "--lines", "300", "--every-us"];

/// Waits until a command has said that it waits; one that ends instead has not waited.
fn await_notice(command: &mut Running, notice: &str) {
    await_true("a notice", || {
        let said = command.stderr();
        assert!(said.contains(notice) || command.runs(), "it has ended: {said}");
        said.contains(notice)
    });
}

#[test]
fn whoever_comes_while_there_is_no_controller_finds_the_next_one() {
    let Some(_machine) = kvm() else { return };
    let mut cluster = ByHand::start(&["a"]);
    let guest = [&GUEST[..], &["1000"]].concat();
    let golden = cluster.golden(&guest);
    cluster.command(&["run", "--detach", "--unread", "wait", "--name", "first"], &guest).ok();
    cluster.kill_pool();

    // What is now is told at once, and so is where there never was anybody.
    assert!(cluster.command(&["status"], &[]).one_line(75).contains("is `ftvm pool` running there?"));
    for command in [&["console", "first"][..], &["host", "--name", "c"], &["mode", "first"], &["events"]] {
        let nowhere = cluster.place.run(&[command, &["--pool", "nowhere"]].concat());
        assert!(nowhere.one_line(75).contains("is `ftvm pool` running there?"), "{nowhere:?}");
    }
    let impatient = cluster.command(&["console", "first", "--reconnect", "1ms"], &[]);
    assert!(impatient.one_line(75).contains("has been gone"), "{impatient:?}");
    let impatient = cluster.command(&["host", "--name", "c", "--reconnect", "1ms"], &[]);
    assert!(impatient.one_line(75).contains("is `ftvm pool` running there?"), "{impatient:?}");

    let waits = format!("waits for the controller at {SOCKET}");
    let mut ended_early = [("console", 130), ("events", 143)].map(|(command, code)| {
        let vm: &[&str] = if command == "console" { &["first"] } else { &[] };
        (cluster.start_command(&[&[command][..], vm].concat(), &[]), code)
    });
    let mut console = cluster.start_command(&["console", "first"], &[]);
    let mut run = cluster.start_command(&["run", "--name", "second"], &guest);
    let mut told_to_end = cluster.start_command(&["host", "--name", "c"], &[]);
    let mut host = cluster.start_command(&["host", "--name", "b"], &[]);
    let mut order = cluster.start_command(&["mode", "first"], &[]);
    for (command, _) in &mut ended_early {
        await_notice(command, &waits);
    }
    for command in [&mut console, &mut order] {
        await_notice(command, &waits);
    }
    for command in [&mut host, &mut told_to_end] {
        await_notice(command, &format!("the controller at {SOCKET} has died: it is waited for"));
    }
    await_notice(&mut run, "so far");
    for (command, code) in ended_early {
        command.signal(if code == 130 { Signal::SIGINT } else { Signal::SIGTERM });
        let ended = command.end();
        assert_eq!(ended.code, Some(code), "{ended:?}");
    }
    told_to_end.signal(Signal::SIGTERM);
    assert_eq!(told_to_end.end().code, Some(0));

    cluster.start_pool();
    assert_eq!(order.end().ok().stdout, b"first is protected in checkpoint mode\n");
    assert_eq!(console.end().ok().stdout, golden);
    assert_eq!(run.end().ok().stdout, golden);
    let endless = [&GUEST[..3], &["1000000000", "--every-us", "1000"]].concat();
    cluster.command(&["run", "--detach", "--name", "third"], &endless).ok();
    cluster.await_vm("third", "protection, for which host b is needed", is_protected);
    assert!(host.runs(), "{}", host.stderr());
}
