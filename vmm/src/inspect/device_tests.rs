//! The pool of [`super::test_pool`] on a device.

use super::test_pool::{World, lines};
use super::*;
use shared_mem::{Access, Extent, Offset};
use std::fs;

/// Where the second head, the table's blob store, and its copies lie (docs/pool-layout.md).
const HEAD_COPY_AT: u64 = 2048;
const SELECTOR_AT: u64 = 4096;
const COPY_BYTES: u64 = 64 + (512 << 10);

fn at(part: Result<Extent, PoolError>) -> Offset {
    part.unwrap().offset()
}

#[test]
fn a_sound_pool_on_a_device_is_shown_and_found_sound() {
    let mut world = World::on_device();
    for held in [true, false] {
        let report = inspect(&world.path).unwrap();
        assert_eq!(lines(&report), Vec::<String>::new());
        assert_eq!((report.verdict(), report.held), (Verdict::Sound, held));
        let device = report.device.unwrap();
        assert_eq!(device.bytes, fs::metadata(&world.path).unwrap().len());
        assert!(device.files > 10 && device.controllers_end < device.hosts_begin, "{device:?}");
        let vm = &report.vms[0];
        assert_eq!(vm.recoverable.epoch, Some(4));
        assert!(vm.used_bytes >= vm.reserved_bytes, "all space is taken from the start: {vm:?}");
        world.pool = None;
    }
}

#[test]
fn damage_is_found_in_the_parts_of_a_device() {
    type Part = fn(&World) -> Offset;
    let journal: Part = |world| at(world.parts.journal(shared_mem::Generation::new(1), Access::ReadOnly));
    let cases: [(Part, u64, &str, Option<u64>); 4] = [
        (|world| at(world.parts.control(Access::ReadOnly)), 64, "control: a copy of it: a word", Some(4)),
        (|world| at(world.parts.console(Access::ReadOnly)), 1, "console: the console header", Some(4)),
        (journal, 64, "journal.1: the commit word", Some(4)),
        (journal, 24, "journal.1: the journal header", Some(4)),
    ];
    for (part, offset, expected, recoverable) in cases {
        let world = World::on_device();
        world.flip("device", part(&world).get() + offset);
        let report = world.inspect();
        let lines = lines(&report);
        assert_eq!(report.verdict(), Verdict::Damaged, "{expected}: {lines:?}");
        assert!(lines.iter().any(|line| line.contains(expected)), "{expected}: {lines:?}");
        assert_eq!(report.vms[0].recoverable.epoch, recoverable, "{lines:?}");
    }
}

/// Whichever byte of head, selector and table flips: it is told, and costs nothing, since there is another copy.
#[test]
fn a_flip_in_a_table_is_told_and_costs_nothing() {
    let world = World::on_device();
    let copies = [0, COPY_BYTES].map(|copy| SELECTOR_AT + 64 + copy);
    let table = copies.into_iter().flat_map(|at| (at..at + 400).step_by(7));
    for at in (0..64).chain(HEAD_COPY_AT..HEAD_COPY_AT + 64).chain(SELECTOR_AT..SELECTOR_AT + 8).chain(table) {
        world.flip("device", at);
        let report = world.inspect();
        let lines = lines(&report);
        assert!(matches!(&lines[..], [line] if line.contains("device: ")), "byte {at}: {lines:?}");
        assert_eq!(report.vms[0].recoverable.epoch, Some(4), "byte {at}");
        world.flip("device", at);
    }
    assert_eq!(lines(&world.inspect()), Vec::<String>::new());
}

/// Whichever byte of both heads or both copies of the table flips: it is damage, and no controller makes a new pool over the
/// old one.
#[test]
fn a_damaged_table_is_damage_and_never_an_empty_device() {
    let world = World::on_device();
    let config = shared_mem::PoolConfig { vm_slots: 4, host_slots: 3, cluster_bytes: 4096 };
    let copy = SELECTOR_AT + 64;
    let twins = (0..64).map(|at| [at, HEAD_COPY_AT + at]).chain((copy..copy + 400).map(|at| [at, COPY_BYTES + at]));
    for at in twins {
        at.into_iter().for_each(|at| world.flip("device", at));
        let found = inspect(&world.path);
        assert!(matches!(found, Err(InspectError::Damaged(PoolError::Device { .. }))), "bytes {at:?}: {found:?}");
        for refused in [Pool::open(&world.path), Pool::create(&world.path, &config)] {
            assert!(matches!(refused, Err(PoolError::Device { .. })), "bytes {at:?}: {refused:?}");
        }
        assert!(matches!(Pool::is_at(&world.path), Err(PoolError::Device { .. })), "bytes {at:?}");
        at.into_iter().for_each(|at| world.flip("device", at));
    }
    assert_eq!(lines(&world.inspect()), Vec::<String>::new());
    fs::File::options().write(true).open(&world.path).unwrap().set_len(257 << 20).unwrap();
    assert!(matches!(inspect(&world.path), Err(InspectError::Damaged(PoolError::Device { .. }))));
}

#[test]
fn a_device_without_a_pool_is_told_apart() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("device");
    for content in [vec![0; 8 << 20], vec![b'x'; 8 << 20], Vec::new()] {
        fs::write(&path, content).unwrap();
        assert!(matches!(inspect(&path), Err(InspectError::Pool(PoolError::NotAPool(_)))));
    }
}
