//! `ftvm pool inspect` and `ftvm pool check` as a user has them.

use crate::golden::Golden;
use crate::run::{Plan, Run};
use crate::support::{Place, await_some, kvm};
use serde_json::Value;
use shared_mem::journal::JournalGeometry;
use shared_mem::{PAGE_SIZE, Pool, PoolConfig, VmGeometry};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Output;

fn ftvm(place: &Place, arguments: &[&str], dir: &Path) -> Output {
    place.ftvm(arguments).arg(dir).output().expect("the program can be started")
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn make_pool(place: &Place) {
    make_pool_with(place, |_| {});
}

fn make_pool_with(place: &Place, fill: impl FnOnce(&Pool)) {
    let config = PoolConfig { vm_slots: 4, host_slots: 4, cluster_bytes: 4096 };
    let pool = Pool::create(&place.pool(), &config).expect("a pool can be made");
    pool.cluster().store(&ft_protocol::controller::ClusterState::default().encode()).expect("it can be stored");
    fill(&pool);
    drop(pool);
    // Whatever another test is starting has our descriptors, and with them the lock, until it is a program of its own.
    let view = Pool::inspect(&place.pool()).expect("it is whole");
    await_some("the lock", || (!view.is_locked().expect("it can be asked for")).then_some(()));
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).expect("the pool's file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 4], at).expect("a byte");
}

#[test]
fn sound_damaged_missing_and_foreign_are_told_apart() {
    let place = Place::new();
    make_pool(&place);
    let dir = place.pool();
    let check = ftvm(&place, &["pool", "check"], &dir);
    assert_eq!(code(&check), Some(0), "{check:?}");
    assert!(text(&check.stdout).ends_with(": sound (0 VMs checked)\n"), "{check:?}");
    let inspect = ftvm(&place, &["pool", "inspect"], &dir);
    assert!(text(&inspect.stdout).contains("no controller holds it"), "{inspect:?}");

    flip(&dir.join("cluster"), 64 + 64 + 4096 + 20);
    let check = ftvm(&place, &["pool", "check"], &dir);
    assert_eq!(code(&check), Some(80), "{check:?}");
    let lines = text(&check.stdout);
    assert!(lines.starts_with("damaged: cluster: "), "{lines}");
    assert!(lines.contains("; no controller can start over this pool\n"), "{lines}");
    let check = ftvm(&place, &["pool", "check", "--json"], &dir);
    assert_eq!(code(&check), Some(80));
    let json: Value = serde_json::from_slice(&check.stdout).expect("JSON");
    assert_eq!((&json["verdict"], &json["findings"][0]["severity"]), (&"damaged".into(), &"damage".into()));
    // What can be shown is shown all the same.
    assert_eq!(code(&ftvm(&place, &["pool", "inspect", "--json"], &dir)), Some(0));

    flip(&dir.join("superblock"), 33);
    let check = ftvm(&place, &["pool", "check"], &dir);
    assert_eq!(code(&check), Some(80), "{check:?}");
    assert!(text(&check.stdout).contains("superblock: the first copy"), "{check:?}");
    flip(&dir.join("superblock"), 2048 + 33);
    let check = ftvm(&place, &["pool", "check"], &dir);
    assert_eq!(code(&check), Some(80), "{check:?}");
    assert!(text(&check.stderr).starts_with("ftvm: the pool is damaged: "), "{check:?}");
    for verb in ["check", "inspect"] {
        let lost = ftvm(&place, &["pool", verb, "--json"], &dir);
        assert_eq!(code(&lost), Some(80), "{lost:?}");
        let json: Value = serde_json::from_slice(&lost.stdout).expect("JSON");
        assert_eq!((&json["verdict"], &json["findings"][0]["severity"]), (&"damaged".into(), &"damage".into()));
    }

    assert_eq!(code(&ftvm(&place, &["pool", "check"], &dir.join("missing"))), Some(66));
    let empty = place.file("empty");
    fs::create_dir(&empty).expect("a directory");
    assert_eq!(code(&ftvm(&place, &["pool", "check"], &empty)), Some(73));
    assert_eq!(code(&place.ftvm(&["pool"]).output().expect("a start")), Some(2));
}

#[test]
fn a_pool_that_has_lost_its_superblock_is_kept_and_nobody_is_told_to_remove_it() {
    let place = Place::new();
    let dir = place.pool();
    let geometry = VmGeometry {
        memory_bytes: 16 * PAGE_SIZE,
        journal: JournalGeometry::for_memory(16 * PAGE_SIZE, 2, 16 << 10),
        log_bytes: PAGE_SIZE,
        console_bytes: PAGE_SIZE,
        disk_bytes: 0,
        state_slot_bytes: PAGE_SIZE,
        sparse: false,
    };
    make_pool_with(&place, |pool| drop(pool.create_vm(&"a".parse().expect("a name"), &geometry).expect("room")));
    let sound = ftvm(&place, &["pool", "check"], &dir);
    let superblock = fs::read(dir.join("superblock")).expect("a superblock");
    fs::remove_file(dir.join("superblock")).expect("it was there");
    let start = place.ftvm(&["pool", "--socket", "sock", "--dir"]).arg(&dir).output().expect("a start");
    let looks = ["check", "inspect"].map(|verb| ftvm(&place, &["pool", verb], &dir));
    for refused in [&start, &looks[0], &looks[1]] {
        assert_eq!(code(refused), Some(80), "{refused:?}");
        let line = text(&refused.stderr);
        for said in ["has no file `superblock`", "1 of its VMs", "put `superblock` back", "`ftvm pool check DIR`"] {
            assert!(line.contains(said), "{said} is missing: {line}");
        }
        assert!(!line.contains("remove"), "{line}");
    }
    let check = ftvm(&place, &["pool", "check", "--json"], &dir);
    let json: Value = serde_json::from_slice(&check.stdout).expect("JSON");
    assert_eq!((code(&check), &json["verdict"]), (Some(80), &"damaged".into()));
    fs::write(dir.join("superblock"), superblock).expect("it can be put back");
    let again = ftvm(&place, &["pool", "check"], &dir);
    assert_eq!((code(&again), text(&again.stdout)), (code(&sound), text(&sound.stdout)), "nothing was changed");
}

/// A file in place of a device: all of the above on it, from the command line.
#[test]
fn a_pool_on_a_device_is_shown_and_checked() {
    let place = Place::new();
    let device = place.pool();
    File::create(&device).and_then(|file| file.set_len(64 << 20)).expect("a sparse file");
    assert_eq!(code(&ftvm(&place, &["pool", "check"], &device)), Some(73), "it is empty");
    make_pool(&place);
    let check = ftvm(&place, &["pool", "check"], &device);
    assert_eq!(code(&check), Some(0), "{check:?}");
    assert!(text(&check.stdout).ends_with(": sound (0 VMs checked)\n"), "{check:?}");
    let inspect = ftvm(&place, &["pool", "inspect"], &device);
    assert!(text(&inspect.stdout).contains("device  64 MiB, "), "{inspect:?}");
    let inspect = ftvm(&place, &["pool", "inspect", "--json"], &device);
    let json: Value = serde_json::from_slice(&inspect.stdout).expect("JSON");
    assert_eq!((&json["device"]["bytes"], &json["held"]), (&(64 << 20).into(), &false.into()));
    // The selector of the table: the copies say which is the newer one.
    flip(&device, 4096);
    let check = ftvm(&place, &["pool", "check"], &device);
    assert_eq!(code(&check), Some(80), "{check:?}");
    assert!(text(&check.stdout).contains("device: the copy of the table that counts"), "{check:?}");
    flip(&device, 4096);
    // Both copies.
    let copies = [0, 64 + (512 << 10)].map(|copy| 4096 + 64 + copy + 70);
    copies.into_iter().for_each(|at| flip(&device, at));
    let check = ftvm(&place, &["pool", "check"], &device);
    assert_eq!(code(&check), Some(80), "{check:?}");
    assert!(text(&check.stderr).contains("its table cannot be used"), "{check:?}");
    let dir = device.to_str().expect("text");
    let start = place.ftvm(&["pool", "--socket", "sock", "--dir", dir]).output().expect("a start");
    assert_eq!(code(&start), Some(80), "no controller makes a new pool over it: {start:?}");
    copies.into_iter().for_each(|at| flip(&device, at));
    assert_eq!(code(&ftvm(&place, &["pool", "check"], &device)), Some(0), "nothing was changed");
}

#[test]
fn a_live_pool_is_looked_at_without_being_disturbed() {
    let Some(_machine) = kvm() else { return };
    let golden = Golden::torture(100_000_000);
    let mut run = Run::protected(&golden, &Plan { hosts: &[("a", None), ("b", None)], ..Plan::default() });
    let (mut looks, mut most) = (0, 0);
    while !run.has_ended() {
        run.step();
        run.place.check_pool("while the guest runs");
        let inspect = ftvm(&run.place, &["pool", "inspect", "--json"], &run.place.pool());
        let json: Value = serde_json::from_slice(&inspect.stdout).expect("JSON");
        assert_eq!((&json["held"], &json["hosts"][0]["name"]), (&Value::Bool(true), &"a".into()));
        let recoverable = json["vms"][0]["recoverable"]["epoch"].as_u64().expect("something is recoverable");
        assert!(recoverable >= most, "{recoverable} after {most}");
        most = recoverable;
        looks += 1;
    }
    assert!(looks > 1 && most > 0, "there was nothing to see");
    assert_eq!(run.finish(), 0, "somebody was disturbed");
}
