//! VMs' parts of the pool are made and removed while the cluster does everything else.

use crate::support::{ByHand, await_true, is_protected, kvm};

/// A guest that is long under way.
const GUEST: [&str; 6] = ["builtin:counter", "--", "--lines", "1500", "--every-us", "2000"];
/// What is made and removed beside it.
const OTHER: [&str; 6] = ["--memory", "8MiB", "builtin:idle", "--", "--ticks", "10"];

/// How many VMs have files.
fn vm_dirs(cluster: &ByHand) -> usize {
    let entries = std::fs::read_dir(cluster.place.pool().join("pool")).expect("there is a pool");
    entries.flatten().filter(|entry| entry.path().is_dir()).count()
}

/// How long files are made and removed depends on how large they are. It is held here, and a takeover of another VM is not.
#[test]
fn a_takeover_does_not_wait_for_the_making_or_the_removal_of_another_vm() {
    let Some(_machine) = kvm() else { return };
    for (failpoint, phase) in [("making", "creating"), ("made", "creating"), ("removing", "deleting")] {
        let mut cluster = ByHand::start(&[]);
        cluster.kill_pool();
        let gate = cluster.place.write("gate", "");
        if phase == "deleting" {
            std::fs::remove_file(&gate).expect("it is there");
        }
        cluster.start_pool_with(&[], &format!("controller.vm.{failpoint}=gate:{}", gate.display()));
        ["a", "b", "c"].iter().for_each(|host| cluster.start_host(host));
        // The gate is in the way of this one, too.
        let held = phase == "creating";
        let open =
            |is: bool| if is { drop(std::fs::remove_file(&gate)) } else { std::fs::write(&gate, "").expect("room") };
        open(true);
        let golden = cluster.golden(&GUEST);
        let run = cluster.start_command(&["run", "--name", "long"], &GUEST);
        cluster.await_vm("long", "protection", is_protected);
        if !held {
            cluster.command(&["run", "--detach", "--name", "other"], &OTHER).ok();
        }
        open(false);
        let asked = match held {
            true => cluster.start_command(&["run", "--detach", "--name", "other"], &OTHER),
            false => cluster.start_command(&["delete", "other"], &[]),
        };
        cluster.await_vm("other", phase, |vm| vm["phase"] == phase);
        let primary = cluster.vm("long").expect("it runs")["primary"].as_str().expect("a host").to_owned();
        cluster.kill_host(&primary);
        cluster.await_vm("long", "a takeover", |vm| vm["takeovers"] == 1 && vm["phase"] == "running");
        assert_eq!(cluster.vm("other").expect("it is held")["phase"], phase, "nobody has let it go on");
        // Who asks twice is not served twice.
        let again = cluster.command(&["run", "--detach", "--name", "other"], &OTHER);
        assert_ne!(again.code, Some(0), "{again:?}");
        open(true);
        asked.end().ok();
        assert_eq!(cluster.vm("other").is_some(), held);
        let ended = run.end().ok();
        assert!(ended.stdout == golden, "the console is another one: {} bytes", ended.stdout.len());
    }
}

/// Whatever there is of a VM whose making is cut short is nobody's, and whoever has asked for it gets one from the next controller.
#[test]
fn a_controller_that_dies_while_it_makes_or_removes_files_leaves_nothing_of_them() {
    let Some(_machine) = kvm() else { return };
    for failpoint in ["making", "made"] {
        let mut cluster = ByHand::start_armed(&["a", "b"], &format!("controller.vm.{failpoint}=kill"));
        let run = cluster.start_command(&["run", "--detach", "--name", "other"], &OTHER);
        cluster.await_dead_pool();
        cluster.start_pool();
        run.end().ok();
        await_true("one VM", || vm_dirs(&cluster) == 1);
        cluster.command(&["delete", "other"], &[]).ok();
        assert_eq!(vm_dirs(&cluster), 0, "{failpoint}");
    }
    let mut cluster = ByHand::start_armed(&["a", "b"], "controller.vm.removing=kill");
    cluster.command(&["run", "--detach", "--name", "other"], &OTHER).ok();
    let deleted = cluster.start_command(&["delete", "other"], &[]);
    cluster.await_dead_pool();
    cluster.start_pool();
    let _ = deleted.end();
    assert_eq!(vm_dirs(&cluster), 0);
    cluster.command(&["run", "--detach", "--name", "other"], &OTHER).ok();
}

/// What a client asked for is there whether the client is or not; a controller that is told to end makes nothing more, and what it was
/// at is gone with it.
#[test]
fn a_client_or_a_controller_may_go_while_a_vm_is_made() {
    let Some(_machine) = kvm() else { return };
    let mut cluster = ByHand::start(&[]);
    cluster.kill_pool();
    let gate = cluster.place.write("gate", "");
    cluster.start_pool_with(&[], &format!("controller.vm.making=gate:{}", gate.display()));
    ["a", "b"].iter().for_each(|host| cluster.start_host(host));
    let asked = cluster.start_command(&["run", "--detach", "--name", "other"], &OTHER);
    cluster.await_vm("other", "its making", |vm| vm["phase"] == "creating");
    asked.signal(nix::sys::signal::Signal::SIGKILL);
    asked.end();
    std::fs::remove_file(&gate).expect("it is there");
    cluster.await_vm("other", "protection", |vm| is_protected(vm) || vm["phase"] == "ended");
    cluster.command(&["delete", "other"], &[]).ok();

    std::fs::write(&gate, "").expect("room");
    let asked = cluster.start_command(&["run", "--detach", "--name", "other", "--reconnect", "300ms"], &OTHER);
    cluster.await_vm("other", "its making", |vm| vm["phase"] == "creating");
    cluster.terminate_pool();
    std::fs::remove_file(&gate).expect("it is there");
    cluster.has_ended();
    assert_ne!(asked.end().code, Some(0), "there is no VM");
    assert_eq!(vm_dirs(&cluster), 0);
}
