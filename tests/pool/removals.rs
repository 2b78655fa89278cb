//! Somebody removes files of a pool under a controller that lives and a guest that runs. What can be put back is, and is told;
//! what cannot, costs the VM its protection, and is told as well. Whatever is gone, no second controller begins.

use crate::golden::{Golden, TooShort, long_enough};
use crate::run::{Plan, Run};
use crate::support::await_some;
use ft_protocol::timeline::Happening;
use ft_protocol::wire::VmStatus;
use nix::sys::signal::Signal;

use crate::machine::kvm;

/// What `ftvm pool check` may say of a pool: sound, damaged, in change.
const VERDICTS: [i32; 3] = [0, 80, 84];

/// Exit codes of a controller over a pool that has one: that says so, or the pool looks damaged just now.
const REFUSED: [i32; 2] = [75, 80];

const HOSTS: [(&str, Option<&str>); 2] = [("a", None), ("b", None)];

fn plan() -> Plan<'static> {
    Plan { hosts: &HOSTS, unsound: true, loses: true, ..Plan::default() }
}

/// A guest with all the files that there are, in checkpoint mode, which takes some seconds, or so many times as long.
fn guest(times: u32) -> Golden {
    Golden::of("disk", 8, &["--steps", &(4000 * times).to_string(), "--every-us", "1000"])
}

/// A second controller over the pool ends at once, and harms nobody.
fn nobody_else_begins(run: &Run, when: &str) {
    let command = run.place.ftvm(&["pool", "--socket", "second.sock", "--dir"]).arg(run.place.pool()).output();
    let second = command.expect("the program can be started");
    let code = second.status.code().expect("it is not killed");
    let expected = if when == "superblock" { &REFUSED[..] } else { &REFUSED[..1] };
    assert!(expected.contains(&code), "{when}: {code}: {}", String::from_utf8_lossy(&second.stderr));
}

/// What `ftvm pool check` says, and its exit code.
fn check(run: &Run) -> (i32, String) {
    let output = run.place.ftvm(&["pool", "check"]).arg(run.place.pool()).output().expect("the program can be started");
    let code = output.status.code().expect("it is not killed");
    assert!(VERDICTS.contains(&code), "{code}: {}", String::from_utf8_lossy(&output.stderr));
    (code, String::from_utf8_lossy(&output.stdout).into_owned())
}

fn nothing_panicked(run: &Run) {
    let said = run.everything();
    assert!(!said.contains("panicked"), "{said}");
}

fn mended(run: &Run, file: &str) -> bool {
    mends(run, file) > 0
}

/// How often the cluster was told that a file has been mended.
fn mends(run: &Run, file: &str) -> usize {
    let name = format!("`{}`", file.rsplit('/').next().expect("a name"));
    let is_mended = |happening: &Happening| matches!(happening, Happening::PoolMended { what } if what.contains(&name));
    run.happenings.iter().filter(|happening| is_mended(happening)).count()
}

/// The pool's own files: the controller makes them anew.
#[test]
fn the_pools_own_files_are_made_again_by_who_knows_them() {
    let Some(_machine) = kvm() else { return };
    long_enough(&guest(2), |golden| {
        let mut run = Run::protected(golden, &plan());
        let pool = run.place.pool();
        for file in ["lock", "superblock", "vm-directory", "cluster"] {
            run.place.lose(file);
            nobody_else_begins(&run, file);
            run.await_or_end(file, |run| mended(run, file) || file == "superblock")?;
            run.await_or_end(file, |_| pool.join(file).exists())?;
            nobody_else_begins(&run, file);
        }
        run.place.check_pool("when all is back");
        run.restart_controller(|_| {});
        run.await_or_end("protection", |run| run.try_vm().is_some_and(|vm| vm.secondary.is_some()))?;
        nothing_panicked(&run);
        run.finish();
        Ok::<(), TooShort>(())
    });
}

/// Nobody has what was behind their end any more but the controller, and that as its own knowledge.
#[test]
fn the_pools_own_files_are_made_again_when_they_are_cut_off() {
    let Some(_machine) = kvm() else { return };
    long_enough(&guest(2), |golden| {
        let mut run = Run::protected(golden, &plan());
        let pool = run.place.pool();
        for (file, left) in [("vm-directory", 0), ("cluster", 0), ("vm-directory", 4096), ("cluster", 4096)] {
            let before = mends(&run, file);
            let opened = std::fs::OpenOptions::new().write(true).open(pool.join(file)).expect("it is there");
            opened.set_len(left).expect("it can be cut off");
            run.await_or_end(file, |run| mends(run, file) > before)?;
        }
        run.place.check_pool("when all is back");
        run.restart_controller(|_| {});
        run.await_or_end("protection", |run| run.try_vm().is_some_and(|vm| vm.secondary.is_some()))?;
        nothing_panicked(&run);
        run.finish();
        Ok::<(), TooShort>(())
    });
}

/// A file of the VM: the guest goes on, its secondary takes over, and what that means is said.
#[test]
fn a_vm_without_one_of_its_files_goes_on_and_is_said_to_be_unprotected() {
    let Some(_machine) = kvm() else { return };
    for file in ["boot", "state", "control", "console", "image", "redo", "disk"] {
        long_enough(&guest(2), |golden| without(golden, file));
    }
}

/// A secondary could not watch a primary whose page is gone: that host comes again, and gets another page.
#[test]
fn a_host_whose_page_is_gone_gets_another_one() {
    let Some(_machine) = kvm() else { return };
    long_enough(&guest(2), |golden| {
        let mut run = Run::protected(golden, &plan());
        let vm = run.try_vm().expect("the controller lives");
        let (primary, secondary) = (vm.primary.expect("it runs"), vm.secondary.expect("it is protected"));
        assert_eq!(primary, "a", "the first host that joined");
        run.place.lose("heartbeat.0");
        nobody_else_begins(&run, "heartbeat.0");
        run.host(&secondary).signal(Signal::SIGKILL);
        run.await_or_end("the secondary's end", |run| run.deaths > 0)?;
        let pool = run.place.pool();
        run.await_or_end("another page", |_| pool.join("heartbeat.0").exists())?;
        run.await_or_end("protection", |run| run.try_vm().is_some_and(|vm| vm.unprotected.is_none()))?;
        nothing_panicked(&run);
        run.finish();
        Ok::<(), TooShort>(())
    });
}

fn without(golden: &Golden, file: &str) -> Result<(), TooShort> {
    let mut run = Run::protected(golden, &plan());
    run.await_or_end("a commit", |run| run.try_vm().is_some_and(|vm| vm.applied > ft_protocol::Epoch::ZERO))?;
    run.place.lose(&format!("vm-0/{file}"));
    nobody_else_begins(&run, file);
    let says_so = |vm: &VmStatus| vm.unprotected.as_ref().is_some_and(|why| why.contains(file));
    run.await_or_end(file, |run| run.try_vm().is_some_and(|vm| says_so(&vm)))?;
    let unprotected = |happening: &Happening| matches!(happening, Happening::Unprotected { .. });
    run.await_or_end("word of it", |run| run.happenings.iter().any(unprotected))?;
    let (code, said) = check(&run);
    let line = said.lines().find(|line| line.starts_with("damaged: ") && line.contains(file));
    assert!(code == 80 && line.is_some(), "{file}: {code}: {said}");
    // The secondary has it open.
    let primary = run.try_vm().and_then(|vm| vm.primary).expect("it runs");
    run.host(&primary).signal(Signal::SIGKILL);
    run.await_or_end("a takeover", |run| {
        run.try_vm().is_some_and(|vm| vm.phase == "running" && vm.takeovers == 1 && says_so(&vm))
    })?;
    run.has_moved();
    run.await_or_end("output", Run::has_moved)?;
    nobody_else_begins(&run, file);
    let hosts = run.try_status_patiently().hosts;
    assert!(hosts.iter().all(|host| host.health != "held-down"), "{file}: no other host is at fault: {hosts:?}");
    nothing_panicked(&run);
    run.restart_controller(|_| {});
    let vm = await_some("the VM's state", || {
        run.try_status_patiently().vms.into_iter().find(|vm| vm.phase == "running" || vm.phase == "damaged")
    });
    if file == "boot" {
        // It has run, and does without.
        assert_eq!(vm.phase, "running", "{vm:?}");
        run.finish();
    } else {
        assert_eq!(vm.phase, "damaged", "{file}: {vm:?}");
        assert!(vm.damage.as_ref().is_some_and(|why| why.contains(file)), "{vm:?}");
    }
    Ok(())
}
