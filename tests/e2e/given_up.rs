//! Commands that are ended while a controller makes a VM for them.

use crate::support::{ByHand, await_true, is_stopped, kvm};
use nix::sys::signal::Signal;

const ENDLESS: [&str; 6] = ["builtin:counter", "--", "--lines", "1000000000", "--every-us", "1000"];
/// Two hosts have joined before: the VM is made, and nobody knows of it yet.
const MAKING: &str = "controller.state.persisting=stop@3";

#[test]
fn nobody_has_to_wait_for_a_vm_that_is_being_made() {
    let Some(_machine) = kvm() else { return };
    for (options, signal, code) in [(&[][..], Signal::SIGINT, 130), (&["--detach"], Signal::SIGTERM, 143)] {
        let cluster = ByHand::start_armed(&["a", "b"], MAKING);
        let run = cluster.start_command(&[&["run", "--name", "g"], options].concat(), &ENDLESS);
        cluster.await_stopped_pool();
        run.signal(signal);
        let ended = run.end();
        assert_eq!((ended.code, &ended.stdout[..]), (Some(code), &b""[..]), "{ended:?}");
        let line = ended.stderr.lines().last().expect("a line");
        assert!(line.starts_with("ftvm: g may be made all the same: "), "{ended:?}");
        assert!(line.contains("`ftvm delete g --pool sock` deletes it"), "{ended:?}");
        cluster.continue_pool();
        cluster.await_vm("g", "the VM that may be made all the same", |vm| vm["phase"] == "running");
        cluster.command(&["delete", "g"], &[]).ok();
        assert_eq!(cluster.vm("g"), None);
    }
}

#[test]
fn a_vm_that_is_made_by_then_is_left_as_its_user_wants_it() {
    let Some(_machine) = kvm() else { return };
    for (options, left) in [(&[][..], "ftvm: g runs on: "), (&["--rm"], "ftvm: g is deleted")] {
        let cluster = ByHand::start_armed(&["a", "b"], MAKING);
        let run = cluster.start_command(&[&["run", "--name", "g"], options].concat(), &ENDLESS);
        cluster.await_stopped_pool();
        run.signal(Signal::SIGSTOP);
        await_true("the command's stop", || is_stopped(run.pid()));
        run.signal(Signal::SIGINT);
        cluster.continue_pool();
        cluster.await_vm("g", "the VM", |_| true);
        run.signal(Signal::SIGCONT);
        let ended = run.end();
        assert_eq!(ended.code, Some(130), "{ended:?}");
        assert!(ended.stderr.lines().last().is_some_and(|line| line.starts_with(left)), "{ended:?}");
        assert_eq!(cluster.vm("g").is_none(), options == ["--rm"]);
    }
}
