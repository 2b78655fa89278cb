//! A VM whose part of the pool is damaged while no controller looks is told to be lost, harms no other, and is not thrown
//! away: once repaired, it goes on.

use crate::flips::{SLOTS_AT, files};
use crate::golden::Golden;
use crate::process::Process;
use crate::run::{Plan, Run};
use crate::support::{await_some, kvm};
use ft_protocol::spec::{Mode, VmSpec};
use ft_protocol::timeline::Happening;
use ft_protocol::wire::{Request, RequestError, VmStatus};
use ft_protocol::{Epoch, Span};
use nix::sys::signal::Signal;
use shared_mem::{ConsoleRing, ControlBlock, Extent, Mapping, Offset, PoolWrite as _, ReadWrite};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use vmm::client::{Client, ClientError};

/// Where a record's pages begin in their slot, and a little further.
const RECORD_BODY_AT: u64 = 4096 + 100;

fn flip(run: &Run, file: &str, at: u64) {
    flip_in(run, "vm-0", file, at);
}

/// Where the words of a control block lie; each is there again half a page behind.
const APPLIED_AT: u64 = 64;
const FREED_AT: u64 = 128;
const GENERATION_AT: u64 = 192;

/// Flips a bit of both copies of a word of the control block.
fn flip_both(run: &Run, at: u64) {
    [at, 2048 + at].into_iter().for_each(|at| flip(run, "control", at));
}

/// Stores what is no word in the places of both copies.
fn spoil_both(run: &Run, vm: &str, at: u64) {
    let file = File::options().write(true).open(run.place.pool().join(vm).join("control")).expect("the VM's file");
    [at, 2048 + at].into_iter().for_each(|at| file.write_all_at(&[7; 8], at).expect("a word"));
}

/// Stores what is no header in both slots for machine state, and over the copy of the record that brought the last one.
fn spoil_state(run: &Run, vm: &str) {
    let directory = run.place.pool().join(vm);
    let spoil = |file: &str, places: &[u64]| {
        let file = File::options().write(true).open(directory.join(file)).expect("the VM's file");
        places.iter().for_each(|at| file.write_all_at(&[7; 8], *at).expect("a header"));
    };
    spoil("state", &[0, slot_of_state(run, vm, 1)]);
    spoil("redo", &[0]);
}

/// Where the slot for machine state of epochs that are even (0) or odd (1) begins.
fn slot_of_state(run: &Run, vm: &str, parity: u64) -> u64 {
    std::fs::metadata(run.place.pool().join(vm).join("state")).expect("the VM's file").len() / 2 * parity
}

fn blames_nobody(run: &mut Run) {
    let hosts = run.try_status_patiently().hosts;
    assert!(hosts.iter().all(|host| host.health != "held-down"), "no host is at fault: {hosts:?}");
}

fn control_is_whole(run: &Run) -> bool {
    let control = map(run, "control");
    ControlBlock::open(&control).is_ok_and(|control| control.damage().is_none())
}

fn console_is_whole(run: &Run) -> bool {
    ConsoleRing::open(&map(run, "console")).is_ok_and(|ring| ring.check().is_ok())
}

/// A file of the guest's VM, for reading and writing.
fn map(run: &Run, file: &str) -> Mapping<ReadWrite> {
    let path = run.place.pool().join("vm-0").join(file);
    let file = File::options().read(true).write(true).open(path).expect("the VM's file");
    let len = file.metadata().expect("a file").len();
    let extent = Extent::new(file.into(), Offset::ZERO, len).expect("all of it");
    Mapping::read_write(&extent).expect("it can be mapped")
}

fn flip_in(run: &Run, vm: &str, file: &str, at: u64) {
    let path = run.place.pool().join(vm).join(file);
    let file = File::options().read(true).write(true).open(path).expect("the VM's file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 4], at).expect("a byte");
}

#[test]
fn a_damaged_vm_is_kept_for_repair() {
    let Some(_machine) = kvm() else { return };
    let golden = Golden::torture(300_000_000);
    for word in [APPLIED_AT, GENERATION_AT] {
        let mut run = Run::spoilable(&golden, 2);
        // Twice, since what the first life stores is what the second one finds.
        run.restart_controller(|run| flip_both(run, word));
        for _ in 0..2 {
            let status = run.try_status_patiently();
            assert_eq!(status.vms[0].phase, "damaged", "{word}: {}", run.everything());
            let mut client = Client::connect(run.socket()).expect("it listens");
            let attach = Request::AttachConsole { vm: status.vms[0].vm, from: 0 };
            let refused = client.request(attach, Vec::new()).expect_err("there is nothing to be read");
            assert!(matches!(refused, ClientError::Refused(RequestError::Damaged(_))), "{refused}");
            let taken = client.request(Request::CreateVm(golden.spec("guest")), vec![golden.upload()]);
            assert!(matches!(taken, Err(ClientError::Refused(RequestError::NameTaken(_)))), "{taken:?}");
            run.restart_controller(|_| {});
        }
        run.restart_controller(|run| flip_both(run, word));
        run.finish();
    }
}

/// What the controller alone writes of one VM is damaged while it lives: that VM is lost, and no other.
#[test]
fn damage_of_one_vm_harms_no_other() {
    let Some(_machine) = kvm() else { return };
    let golden = Golden::torture(300_000_000);
    let boot = "boot";
    for (file, at) in [("control", APPLIED_AT), ("control", GENERATION_AT), ("state", 0), (boot, 100)] {
        let mut run = Run::spoilable(&golden, 2);
        let mut client = Client::connect(run.socket()).expect("it listens");
        // What a guest is booted from matters as long as it has not committed anything.
        let (mode, epoch_interval) = (Mode::Replay, Span::from_ms(60_000));
        let spec = match file {
            _ if file == boot => VmSpec { mode, epoch_interval, ..golden.spec("other") },
            _ => golden.spec("other"),
        };
        client.request(Request::CreateVm(spec), golden.uploads()).expect("there is room for two");
        let other = |run: &mut Run| -> VmStatus {
            run.step();
            let status = run.try_status().expect("the controller lives");
            status.vms.into_iter().find(|vm| vm.name == "other").expect("it was created")
        };
        run.step_until("the other VM's protection", |run| {
            let vm = other(run);
            vm.phase == "running" && vm.secondary.is_some()
        });
        let spoil = |run: &Run| match file {
            "state" => spoil_state(run, "vm-1"),
            _ => spoil_both(run, "vm-1", at),
        };
        if file == boot {
            flip_in(&run, "vm-1", file, at);
        } else {
            spoil(&run);
        }
        let kill = |run: &Run, primary: Option<String>| {
            primary.into_iter().for_each(|primary| run.host(&primary).signal(Signal::SIGKILL));
        };
        let primary = other(&mut run).primary;
        kill(&run, primary);
        run.step_until("the damage to be told", |run| {
            // What is stored anew, or mended in between, is whole again.
            if file != boot {
                spoil(run);
            }
            let vm = other(run);
            // Who began from nothing, or was faster than the spoiler, goes on until somebody needs the state again.
            if file == "state" && vm.phase == "running" && vm.applied > Epoch::ZERO {
                kill(run, vm.primary);
            }
            vm.phase == "damaged"
        });
        let vm = other(&mut run);
        assert!(vm.damage.as_deref().is_some_and(|line| line.contains("damaged")), "{vm:?}");
        assert_eq!((vm.primary, vm.secondary), (None, None));
        blames_nobody(&mut run);
        assert!(
            run.happenings.iter().any(|happening| matches!(happening, Happening::Damaged { vm, .. } if vm.get() == 1))
        );
        client.request(Request::DeleteVm(vm.vm), Vec::new()).expect("it can be deleted");
        assert!(!run.place.pool().join("vm-1").exists(), "its space was not given back");
        run.finish();
    }
}

/// What a guest was booted from, nobody needs any more once it has run; what is left of it says what kind of guest it was.
#[test]
fn a_guest_that_runs_outlives_what_it_was_booted_from() {
    let Some(_machine) = kvm() else { return };
    let golden = Golden::torture(300_000_000);
    // Two are left in the end, for both roles.
    let mut run = Run::spoilable(&golden, 4);
    run.step_until("a commit", |run| run.try_status().is_some_and(|status| status.vms[0].applied > Epoch::ZERO));
    flip(&run, "boot", 10);
    for role in [|vm: &VmStatus| vm.secondary.clone(), |vm: &VmStatus| vm.primary.clone()] {
        let vm = run.try_status_patiently().vms.swap_remove(0);
        let host = role(&vm).expect("it is protected");
        run.host(&host).signal(Signal::SIGKILL);
        run.step_until("another secondary", |run| {
            let Some(status) = run.try_status() else { return false };
            let known = |name: &Option<String>| name.as_ref().is_some_and(|name| *name != host);
            status.vms[0].phase == "running" && known(&status.vms[0].primary) && known(&status.vms[0].secondary)
                || run.has_ended()
        });
        blames_nobody(&mut run);
    }
    run.finish();
}

/// A part that a new secondary would need is gone: the guest runs on without one, and the hosts run others.
#[test]
fn a_vm_of_which_a_part_is_gone_runs_on_without_protection() {
    let Some(_machine) = kvm() else { return };
    let golden = Golden::torture(300_000_000);
    let mut run = Run::spoilable(&golden, 3);
    run.place.lose("vm-0/boot");
    let secondary = run.try_status_patiently().vms[0].secondary.clone().expect("it is protected");
    run.host(&secondary).signal(Signal::SIGKILL);
    run.step_until("its protection to be given up", |run| {
        let vm = run.try_status().and_then(|status| status.vms.into_iter().next());
        vm.and_then(|vm| vm.unprotected).is_some_and(|why| why.contains("boot")) || run.has_ended()
    });
    let status = run.try_status_patiently();
    let lost = status.hosts.iter().filter(|host| host.health != "up").count();
    assert_eq!(lost, 1, "no other host is at fault: {:?}", status.hosts);
    run.finish();
}

/// Nobody can tell from damaged entries which VM has which slot; who has a VM open knows.
#[test]
fn deleting_a_vm_without_an_entry_harms_no_other_without_one() {
    const ENTRIES_AT: u64 = 4096;
    let lose_entry = |run: &Run, slot: u64| {
        let copies = [64 + 64 + 10, 64 + 448 + 64 + 10];
        copies.into_iter().for_each(|at| flip_in(run, ".", "vm-directory", ENTRIES_AT + 1024 * slot + at));
    };
    let Some(_machine) = kvm() else { return };
    let golden = Golden::torture(300_000_000);
    let mut run = Run::spoilable(&golden, 2);
    let mut client = Client::connect(run.socket()).expect("it listens");
    for (name, slot) in [("second", 1), ("third", 2)] {
        client.request(Request::CreateVm(golden.spec(name)), golden.uploads()).expect("there is room for three");
        let running = |run: &mut Run| {
            let status = run.try_status().expect("the controller lives");
            status.vms.into_iter().find(|vm| vm.name == name && vm.phase == "running")
        };
        run.step_until("another VM", |run| running(run).is_some());
        assert!(run.place.pool().join(format!("vm-{slot}")).exists());
    }
    run.restart_controller(|run| lose_entry(run, 1));
    let vms = run.try_status_patiently().vms;
    let phase = |name: &str| vms.iter().find(|vm| vm.name == name).expect("it was created").phase.clone();
    assert_eq!(phase("second"), "damaged");
    // Those of two VMs that are open go as well; one of them is deleted.
    lose_entry(&run, 0);
    lose_entry(&run, 2);
    let mut client = Client::connect(run.socket()).expect("it listens");
    for (name, slot) in [("second", 1), ("third", 2)] {
        let vm = vms.iter().find(|vm| vm.name == name).expect("it was created").vm;
        client.request(Request::DeleteVm(vm), Vec::new()).expect("it can be deleted");
        run.step_until("its space", |run| !run.place.pool().join(format!("vm-{slot}")).exists());
        assert!(run.place.pool().join("vm-0").exists(), "{name} was deleted, and the guest with it");
    }
    run.finish();
}

/// All zero, an entry reads as that of a slot that nobody has.
#[test]
fn a_vm_whose_entry_reads_as_free_keeps_its_files() {
    const ENTRY: std::ops::Range<usize> = 4096..4096 + 1024;
    let Some(_machine) = kvm() else { return };
    let golden = Golden::torture(300_000_000);
    let mut run = Run::spoilable(&golden, 2);
    let path = run.place.pool().join("vm-directory");
    let entry = std::fs::read(&path).expect("the directory")[ENTRY].to_vec();
    let store = |bytes: &[u8]| {
        let file = File::options().write(true).open(&path).expect("the directory");
        file.write_all_at(bytes, ENTRY.start as u64).expect("an entry");
    };
    run.restart_controller(|_| store(&[0; ENTRY.end - ENTRY.start]));
    assert_eq!(run.try_status_patiently().vms[0].phase, "damaged", "{}", run.everything());
    let mut client = Client::connect(run.socket()).expect("it listens");
    client.request(Request::CreateVm(golden.spec("other")), golden.uploads()).expect("there is room for two");
    assert!(run.place.pool().join("vm-1").exists(), "another VM has its place");
    let other = run.try_status_patiently().vms.into_iter().find(|vm| vm.name == "other").expect("it was created").vm;
    client.request(Request::DeleteVm(other), Vec::new()).expect("it can be deleted");
    run.restart_controller(|_| store(&entry));
    run.finish();
}

/// What a live controller knows it writes anew: nobody who reads the console, and no controller after it, can tell.
#[test]
fn what_flips_under_a_live_controller_is_mended() {
    let Some(_machine) = kvm() else { return };
    let golden = Golden::torture(300_000_000);
    let hosts = [("a", None), ("b", None)];
    let mended =
        |run: &Run| run.happenings.iter().filter(|happening| matches!(happening, Happening::PoolMended { .. })).count();
    for (vm, file, at) in [
        ("vm-0", "console", 64),
        ("vm-0", "console", 128),
        ("vm-0", "console", 3),
        ("vm-0", "control", 2),
        ("vm-0", "control", 2048 + 2),
        ("vm-0", "control", APPLIED_AT + 1),
        ("vm-0", "control", FREED_AT + 1),
        ("vm-0", "control", GENERATION_AT + 1),
        ("vm-0", "control", 2048 + GENERATION_AT + 1),
        (".", "superblock", 20),
        (".", "superblock", 2060),
        (".", "cluster", 2),
        (".", "cluster", 64 + 16),
        (".", "cluster", 64 + 64 + (2 << 20) + 16),
        (".", "vm-directory", 4096 + 3),
        (".", "vm-directory", 20),
    ] {
        let mut run = Run::protected(&golden, &Plan { hosts: &hosts, unsound: true, ..Plan::default() });
        flip_in(&run, vm, file, at);
        // What the controller stores as the guest goes on, and at its end, may be stored anew before anybody has looked at it.
        let is_whole = |run: &Run| match file {
            "control" => control_is_whole(run),
            "console" => console_is_whole(run),
            "cluster" => run.has_ended(),
            _ => false,
        };
        // On a slow machine the guest may end first; what it has said is looked at all the same.
        run.step_until("the damage to be mended", |run| mended(run) > 0 || is_whole(run));
        // What the next one finds is whole.
        run.restart_controller(|run| run.place.check_pool("after it was mended"));
        run.finish();
    }
}

/// The controller's thread that stores these words meets some of the damage in the middle of its work: that is no other damage.
#[test]
fn what_flips_again_and_again_under_a_live_controller_costs_nothing() {
    const FLIPS: u64 = 60;
    let Some(_machine) = kvm() else { return };
    let golden = Golden::torture(300_000_000);
    for golden in [golden.clone(), golden.recorded()] {
        let mut run = Run::spoilable(&golden, 2);
        let (control, console) = (map(&run, "control"), map(&run, "console"));
        let places = [APPLIED_AT, FREED_AT, GENERATION_AT, 2048 + APPLIED_AT].map(|at| (&control, at));
        let places = places.into_iter().chain([64, 128].map(|at| (&console, at)));
        for (flip, (part, at)) in (0..FLIPS).zip(places.cycle()) {
            // A bit that is set already is none that flips: the next one is another.
            part.fetch_or_u64(Offset::new(at), 1 << (flip * 7 % 46)).expect("a word");
            run.step_until("whole words", |_| {
                let control = ControlBlock::open(&control).expect("its headers are whole");
                control.damage().is_none() && ConsoleRing::open(&console).is_ok_and(|ring| ring.check().is_ok())
            });
        }
        let damaged = run.happenings.iter().find(|happening| matches!(happening, Happening::Damaged { .. }));
        assert_eq!(damaged, None, "{}", run.everything());
        run.finish();
    }
}

/// No flipped bit in what a pool says of itself keeps a controller from starting over it, nor costs the VM.
#[test]
fn what_flips_in_a_dead_pool_is_mended_by_the_next_controller() {
    mended_at_start(&Golden::torture(300_000_000));
}

/// Where outputs leave with the log, the console is further than the last commit.
#[test]
fn what_flips_in_a_dead_pool_of_recorded_vms_is_mended_by_the_next_controller() {
    mended_at_start(&Golden::torture(300_000_000).recorded());
}

fn mended_at_start(golden: &Golden) {
    let Some(_machine) = kvm() else { return };
    let mut run = Run::spoilable(golden, 2);
    for (dir, file, at) in [
        (".", "superblock", 20),
        (".", "superblock", 2060),
        (".", "vm-directory", 2),
        (".", "vm-directory", 4097),
        (".", "cluster", 1),
        ("vm-0", "console", 3),
        ("vm-0", "console", 64),
        ("vm-0", "console", 128),
        ("vm-0", "control", 2),
        ("vm-0", "control", APPLIED_AT),
        ("vm-0", "control", FREED_AT),
        ("vm-0", "control", GENERATION_AT),
        ("vm-0", "control", 2048 + APPLIED_AT),
    ] {
        run.restart_controller(|run| flip_in(run, dir, file, at));
        let status = run.try_status_patiently();
        assert_ne!(status.vms[0].phase, "damaged", "{file} at {at}: {}", run.everything());
        run.restart_controller(|run| run.place.check_pool("after it was mended"));
    }
    // The record that brought it is kept until the next one comes.
    for within in [4, 70] {
        run.restart_controller(|run| {
            [0, 1].into_iter().for_each(|parity| flip(run, "state", slot_of_state(run, "vm-0", parity) + within));
        });
        assert_eq!(run.try_status_patiently().vms[0].damage, None, "{}", run.everything());
    }
    run.finish();
}

/// One bit of every record in the journals, beside the headers.
fn flip_records(run: &Run) {
    let journal = run.golden.spec("guest").journal;
    for path in files(&run.place.pool(), "journal.") {
        let file = File::options().read(true).write(true).open(path).expect("the VM's file");
        for slot in 0..u64::from(journal.slots) {
            let (mut byte, at) = ([0], SLOTS_AT + slot * journal.slot_bytes + RECORD_BODY_AT);
            file.read_exact_at(&mut byte, at).expect("a byte");
            file.write_all_at(&[byte[0] ^ 4], at).expect("a byte");
        }
    }
}

/// The controller dies in the middle of a record that is larger than the space its copy has always, and the record is
/// damaged before the next one comes: the copy has all of it.
#[test]
fn a_large_record_is_finished_from_its_copy() {
    let Some(_machine) = kvm() else { return };
    let golden = Golden::of("torture", 16, &["--steps", "600000000", "--progress", "5000000"]).seldom_committed();
    let hosts = [("a", None), ("b", None)];
    for step in ["pages-written", "console-durable"] {
        let armed = format!("controller.apply.{step}=kill@4");
        let between_controllers = Some(flip_records as fn(&Run));
        let plan =
            Plan { controller: Some(&armed), hosts: &hosts, between_controllers, unsound: true, ..Plan::default() };
        Run::until(&golden, &plan, &armed, |run| run.deaths > 0).finish();
    }
}

/// The controller dies in the middle of a record, and neither the record nor its copy survives: image and disk hold a part of
/// it, and nobody may go on from them as if they were those of an epoch.
#[test]
fn a_record_that_was_begun_and_is_lost_costs_its_vm() {
    fn flip_all(run: &Run) {
        flip_records(run);
        flip(run, "redo", RECORD_BODY_AT);
    }
    let Some(_machine) = kvm() else { return };
    let golden = Golden::of("torture", 16, &["--steps", "600000000", "--progress", "5000000"]).seldom_committed();
    let hosts = [("a", None), ("b", None)];
    let armed = "controller.apply.pages-written=kill@4";
    let between_controllers = Some(flip_all as fn(&Run));
    let plan = Plan {
        controller: Some(armed),
        hosts: &hosts,
        between_controllers,
        unsound: true,
        loses: true,
        ..Plan::default()
    };
    let mut run = Run::until(&golden, &plan, armed, |run| run.deaths > 0);
    let vm = run.try_status_patiently().vms[0].clone();
    assert_eq!(vm.phase, "damaged", "the guest goes on from a torn image: {}", run.everything());
    assert!(vm.damage.as_deref().is_some_and(|line| line.contains("died while it applied")), "{vm:?}");
}

#[test]
fn a_damaged_vm_can_be_given_up() {
    given_up(|run| flip_both(run, APPLIED_AT));
}

/// Which slot was its own can only be told from the others'.
#[test]
fn a_vm_without_an_entry_can_be_given_up() {
    const ENTRY_AT: u64 = 4096;
    given_up(|run| {
        [64 + 64 + 10, 64 + 448 + 64 + 10].into_iter().for_each(|at| flip_in(run, ".", "vm-directory", ENTRY_AT + at))
    });
}

fn given_up(damage: impl FnOnce(&Run)) {
    let Some(_machine) = kvm() else { return };
    let golden = Golden::torture(300_000_000);
    let hosts = [("a", None), ("b", None)];
    let mut run = Run::start(&golden, &Plan { hosts: &hosts, unsound: true, ..Plan::default() });
    run.step_until("a primary", |run| run.try_vm().is_some_and(|vm| vm.phase == "running"));
    run.restart_controller(|run| damage(run));
    let damaged = run.try_status_patiently().vms[0].clone();
    assert_eq!(damaged.phase, "damaged", "{}", run.everything());
    let mut client = Client::connect(run.socket()).expect("it listens");
    client.request(Request::DeleteVm(damaged.vm), Vec::new()).expect("it can be deleted");
    assert!(!run.place.pool().join("vm-0").exists(), "its space was not given back");
    client.request(Request::CreateVm(golden.spec("guest")), vec![golden.upload()]).expect("its name is free");
    // The guest is another one now, from the beginning.
    run.finish();
}

/// The word by which slots are given back is stored anew for the next generation: the guest does not move from host to host for ever.
#[test]
fn a_word_that_ends_a_primary_ends_no_other_one() {
    let Some(_machine) = kvm() else { return };
    let golden = Golden::torture(100_000_000).recorded();
    let run = Run::spoilable(&golden, 3);
    spoil_both(&run, "vm-0", FREED_AT);
    run.finish();
}

#[test]
fn who_reads_the_console_of_a_damaged_vm_is_told_so() {
    let Some(_machine) = kvm() else { return };
    let hosts = [("a", None), ("b", None)];
    let golden = Golden::torture(300_000_000);
    let mut run = Run::start(&golden, &Plan { hosts: &hosts, unsound: true, ..Plan::default() });
    run.step_until("something on the console", Run::has_moved);
    let socket = run.socket();
    let events = run.place.file("reader.events");
    let mut command = run.place.ftvm(&["console", "guest", "--pool"]);
    command.arg(&socket).arg("--events").arg(&events);
    let mut reader = Process::start(&run.place, "reader", command);
    // It notes what there is when it has attached.
    run.step_until("an attached reader", |_| std::fs::metadata(&events).is_ok_and(|file| file.len() > 0));
    run.restart_controller(|run| flip_both(run, APPLIED_AT));
    let end = await_some("the reader's end", || reader.end());
    let said = reader.stderr();
    assert!(!said.contains("deleted") && said.contains("damaged"), "{end:?}: {said}");
}
