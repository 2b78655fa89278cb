//! However a run ends, no process and no file of it stays.

use crate::support::{Place, Running, await_some, await_true, children_of, is_alive, kvm, signal};
use nix::sys::signal::Signal;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::Stdio;

const NOTHING: [PathBuf; 0] = [];

fn endless(place: &Place) -> (Running, Vec<u32>) {
    let run = place.start(&["run", "builtin:counter", "--", "--lines", "1000000000", "--every-us", "1000"]);
    await_true("output", || !run.stdout().is_empty());
    let children: Vec<u32> = children_of(run.pid()).iter().map(|child| child.pid).collect();
    assert_eq!(children.len(), 4, "a controller and three hosts");
    assert_eq!(place.leftovers().len(), 2, "one directory for the pool, one for the sockets");
    (run, children)
}

fn ends_clean(place: &Place, children: &[u32]) {
    await_true("the end of all children", || !children.iter().any(|pid| is_alive(*pid)));
    await_true("the removal of all files", || place.leftovers() == NOTHING);
}

#[test]
fn after_ctrl_c_and_sigterm() {
    let Some(_machine) = kvm() else { return };
    let codes = [(Signal::SIGINT, 130), (Signal::SIGQUIT, 131), (Signal::SIGTERM, 143), (Signal::SIGHUP, 143)];
    for (number, code) in codes {
        let place = Place::new();
        let (run, children) = endless(&place);
        run.signal(number);
        let ended = run.end();
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert_eq!(ended.stderr, "");
        assert!(!children.iter().any(|pid| is_alive(*pid)), "all were waited for");
        assert_eq!(place.leftovers(), NOTHING);
    }
}

#[test]
fn after_its_own_sigkill() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let (run, children) = endless(&place);
    run.signal(Signal::SIGKILL);
    assert_eq!(run.end().code, None);
    ends_clean(&place, &children);
}

#[test]
fn after_sigkill_with_hosts_that_hang() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let (run, children) = endless(&place);
    for host in ["a", "b", "c"] {
        signal(run.host(host).expect("it lives"), Signal::SIGSTOP);
    }
    run.signal(Signal::SIGKILL);
    assert_eq!(run.end().code, None);
    ends_clean(&place, &children);
}

/// Nobody is left to clean up: the next run does.
#[test]
fn after_sigkill_of_run_and_controller() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let (run, children) = endless(&place);
    // Stopped, so that it cannot start another controller.
    run.signal(Signal::SIGSTOP);
    signal(run.controller().expect("it lives"), Signal::SIGKILL);
    run.signal(Signal::SIGKILL);
    assert_eq!(run.end().code, None);
    await_true("the end of all children", || !children.iter().any(|pid| is_alive(*pid)));
    assert_eq!(place.leftovers().len(), 2);
    place.run(&["run", "builtin:counter", "--", "--lines", "1"]).ok();
    assert_eq!(place.leftovers(), NOTHING);
}

#[test]
fn after_its_reader_has_gone() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let mut command = place.ftvm(&["run", "builtin:counter", "--", "--lines", "1000000000", "--every-us", "1000"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the program can be started");
    let mut first = [0; 12];
    child.stdout.take().expect("a pipe").read_exact(&mut first).expect("a first line");
    assert_eq!(&first, b"line 000001\n");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(141));
    assert_eq!(place.leftovers(), NOTHING);
}

/// A reader that sleeps makes the guest wait, not the signals.
#[test]
fn after_ctrl_c_while_nobody_reads() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let mut command = place.ftvm(&["run", "builtin:counter", "--", "--lines", "1000000000"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the program can be started");
    let mut out = child.stdout.take().expect("a pipe");
    // The smallest pipe there is: one write fills it for whoever asks before writing.
    nix::fcntl::fcntl(&out, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).expect("a pipe can be made smaller");
    let mut first = [0; 12];
    out.read_exact(&mut first).expect("a first line");
    await_true("a full pipe", || rustix::io::ioctl_fionread(&out).is_ok_and(|waiting| waiting > 0));
    signal(child.id(), Signal::SIGINT);
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert_eq!(place.leftovers(), NOTHING);
}

#[test]
fn after_a_controller_that_was_killed_and_started_again() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let (run, children) = endless(&place);
    let controller = run.controller().expect("it lives");
    signal(controller, Signal::SIGKILL);
    let successor = await_some("another controller", || run.controller().filter(|pid| *pid != controller));
    let before = run.stdout().len();
    await_true("output again", || run.stdout().len() > before);
    run.signal(Signal::SIGTERM);
    assert_eq!(run.end().code, Some(143));
    assert!(!is_alive(successor));
    ends_clean(&place, &children);
}

/// Its unprotected run is a process of its own, too.
#[test]
fn after_a_demo_that_was_killed() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let demo = place.start(&["demo", "--", "--steps", "100000000000"]);
    let child = await_some("the unprotected run", || children_of(demo.pid()).first().map(|child| child.pid));
    demo.signal(Signal::SIGKILL);
    assert_eq!(demo.end().code, None);
    await_true("the end of the unprotected run", || !is_alive(child));
    place.run(&["run", "builtin:counter", "--", "--lines", "1"]).ok();
    assert_eq!(place.leftovers(), NOTHING, "the next run has removed what was left");
}
