//! Pools of known content, damaged in known places, and one that is written to while it is read.

use super::test_pool::{DISK_BYTES, MEMORY_BYTES, SLOTS, STATE, World, console_bytes, geometry, lines, state};
use super::*;
use ft_protocol::commit_meta::CommitMeta;
use shared_mem::{
    Access, CommitWord, ControlBlock, Epoch, Generation, JournalWriter, Kept, LogPosition, LogWriter, Mapping, Offset,
    PageIndex, PoolWrite as _,
};
use std::fs;
use std::num::NonZeroU32;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[test]
fn a_sound_pool_is_described_alive_and_dead() {
    let mut world = World::new();
    let report = world.inspect();
    assert_eq!((lines(&report), report.verdict()), (Vec::new(), Verdict::Sound));
    assert!(report.held);
    let vm = &report.vms[0];
    assert_eq!(vm.control, Some(ControlReport { applied: 2, freed: 2, generation: 1 }));
    let journal = &vm.journals[0];
    assert_eq!((journal.role, journal.base, journal.committed, journal.sealed), {
        (JournalRole::Reigning, Some(0), Some(4), Some(false))
    });
    let pending: Vec<_> = journal.pending.iter().map(|record| (record.epoch, record.refused.is_some())).collect();
    assert_eq!(pending, [(3, false), (4, false)]);
    assert_eq!(vm.recoverable.epoch, Some(4), "{}", vm.recoverable.why);
    let states: Vec<_> = vm.machine_state.iter().map(|state| (state.slot, state.epoch, state.counts)).collect();
    assert_eq!(states, [('A', 2, true), ('B', 1, false)]);
    assert_eq!(vm.console.map(|console| console.tail), Some(console_bytes()));
    assert!(vm.used_bytes >= MEMORY_BYTES && vm.reserved_bytes >= MEMORY_BYTES);
    let host = &report.hosts[0];
    assert_eq!((host.name.as_str(), host.beats, host.incarnation, host.beating), ("a", Some(1), Some(7), false));
    drop(world.pool.take());
    let dead = world.inspect();
    assert!(!dead.held);
    assert_eq!(dead.vms, report.vms);
    serde_json::to_string(&dead).unwrap();
}

#[test]
fn a_record_that_is_being_applied_counts_wherever_its_journal_is() {
    let world = World::new();
    world.begin(3, Kept::Yes);
    assert_eq!(world.inspect().vms[0].kept, Some(3));
    let slot = geometry().journal.slot_at(Epoch::new(3)).get();
    world.flip("vm-0/journal.1", slot + 4096 + 9);
    let report = world.inspect();
    assert_eq!(report.vms[0].recoverable.epoch, Some(4), "{}", report.vms[0].recoverable.why);
    world.flip("vm-0/redo", 4096 + 9);
    let report = world.inspect();
    assert_eq!((report.vms[0].kept, report.vms[0].recoverable.epoch), (None, None), "it may be there in part");
}

#[test]
fn record_logs_are_described_and_their_damage_is_found() {
    let world = World::new();
    let (reigning, next) = (Generation::new(1), Generation::new(2));
    world.parts.create_log(reigning, LogPosition::new(800)).unwrap();
    world.parts.reserve_log(next).unwrap();
    let memory = || Mapping::read_write(&world.parts.log(reigning, Access::ReadWrite).unwrap()).unwrap();
    let mut log = LogWriter::new(memory(), geometry().log_bytes).unwrap();
    for number in 1..=3 {
        log.append(NonZeroU32::MIN, number, &[7; 24]).unwrap();
    }
    let report = world.inspect();
    assert_eq!((lines(&report), report.verdict()), (Vec::new(), Verdict::Sound));
    let found: Vec<_> =
        report.vms[0].logs.iter().map(|log| (log.generation, log.role, log.tail, log.entries)).collect();
    assert_eq!(
        found,
        [(1, JournalRole::Reigning, Some(800 + 3 * 64), Some(3)), (2, JournalRole::Reserved, None, None)]
    );
    let without = report.vms[0].reserved_bytes - 2 * (4096 + geometry().log_bytes);
    assert!(without >= MEMORY_BYTES + DISK_BYTES, "logs are part of what is reserved");
    world.flip("vm-0/log.1", 4096 + 800 + 64 + 8);
    let report = world.inspect();
    assert_eq!(report.vms[0].logs[0].entries, Some(1));
    assert_eq!(report.verdict(), Verdict::Damaged);
    world.flip("vm-0/log.1", 64);
    let report = world.inspect();
    assert_eq!(report.vms[0].logs[0].tail, None);
    assert_eq!(report.findings.len(), 1, "{:?}", lines(&report));
}

#[test]
fn looking_changes_nothing() {
    let world = World::new();
    let snapshot = || -> Vec<(PathBuf, Vec<u8>, i64, i64)> {
        let mut dirs = vec![world.dir.path().to_owned()];
        let mut found = Vec::new();
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::metadata(&path).unwrap();
                if metadata.is_dir() {
                    dirs.push(path.clone());
                }
                let content = if metadata.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
                found.push((path, content, metadata.mtime(), metadata.mtime_nsec()));
            }
        }
        found.sort();
        found
    };
    let before = snapshot();
    world.inspect();
    assert!(snapshot() == before, "something was changed");
}

/// Every place that is verified, one byte of it flipped, with what must be found and what is then recoverable.
#[test]
fn damage_is_found_where_it_is_and_what_it_costs_is_said() {
    let journal = geometry().journal;
    let slot_of = |epoch: u64| 4096 + epoch % u64::from(SLOTS) * journal.slot_bytes;
    let image_state = 256 << 10;
    let cases: &[(&str, u64, &str, Option<Option<u64>>)] = &[
        // The cluster state was stored once only here.
        ("cluster", 64 + 64 + 4096 + 64 + 3, "cluster: the cluster state cannot be used: blob CRC", None),
        ("cluster", 2, "cluster: the copy that counts: the selector", Some(Some(4))),
        ("superblock", 40, "superblock: the first copy: the superblock is refused: header CRC", Some(Some(4))),
        ("superblock", 2048 + 40, "superblock: the second copy: the superblock is refused: header CRC", Some(Some(4))),
        ("vm-directory", 16, "vm-directory: first header: header CRC", Some(Some(4))),
        ("vm-directory", 2048 + 16, "vm-directory: second header: header CRC", Some(Some(4))),
        ("vm-directory", 4096 + 2, "vm-directory: the copy of entry 0 that counts: the selector", Some(Some(4))),
        ("heartbeat.0", 20, "heartbeat.0: neither line", Some(Some(4))),
        ("vm-0/control", 8, "control: a copy of it: the header", Some(Some(4))),
        ("vm-0/control", 64, "control: a copy of it: a word", Some(Some(4))),
        ("vm-0/control", 128, "control: a copy of it: a word", Some(Some(4))),
        ("vm-0/control", 2048 + 192, "control: a copy of it: a word", Some(Some(4))),
        // The pending records carry a machine state of their own.
        ("vm-0/state", 30, "state: epoch 2: the header", Some(Some(4))),
        ("vm-0/state", 64 + 5, "state: epoch 2: machine state CRC", Some(Some(4))),
        ("vm-0/console", 1, "console: the console header", Some(Some(4))),
        ("vm-0/console", 64, "console: a word", Some(Some(4))),
        ("vm-0/console", 128, "console: a word", Some(Some(4))),
        ("vm-0/journal.1", 24, "journal.1: the journal header", Some(Some(4))),
        ("vm-0/journal.1", 64, "journal.1: the commit word", Some(Some(4))),
        ("vm-0/journal.1", slot_of(3) + 24, "journal.1: record of epoch 3", Some(Some(2))),
        (
            "vm-0/journal.1",
            slot_of(3) + 4096 + 77,
            "record of epoch 3: commit record of epoch 3 is refused: record CRC",
            { Some(Some(2)) },
        ),
        ("vm-0/journal.1", slot_of(4) + 4096 + 4096 + 2, "record of epoch 4", Some(Some(3))),
        ("vm-0/journal.1", slot_of(4) + 4096 + 4096 + 8 + 20, "record of epoch 4", Some(Some(3))),
    ];
    for (file, at, expected, recoverable) in cases {
        let world = World::new();
        world.flip(file, *at);
        let report = world.inspect();
        let lines = lines(&report);
        assert_eq!(report.verdict(), Verdict::Damaged, "{file} at {at}: {lines:?}");
        assert!(lines.iter().any(|line| line.contains(expected)), "{file} at {at}: {lines:?}");
        if let Some(recoverable) = recoverable {
            assert_eq!(report.vms[0].recoverable.epoch, *recoverable, "{file} at {at}: {lines:?}");
        }
    }
    for (at, expected) in [(8, "control: the header"), (64, "control: a word"), (192, "control: a word")] {
        let world = World::new();
        [at, 2048 + at].into_iter().for_each(|at| world.flip("vm-0/control", at));
        let report = world.inspect();
        assert!(lines(&report).iter().any(|line| line.contains(expected)), "{at}: {:?}", lines(&report));
        assert_eq!((report.verdict(), report.vms[0].recoverable.epoch), (Verdict::Damaged, None), "{at}");
    }
    let world = World::new();
    // The slot that does not count may be half written: no damage.
    world.flip("vm-0/state", image_state + 70);
    assert_eq!(lines(&world.inspect()), Vec::<String>::new());
}

#[test]
fn what_contradicts_itself_is_damage() {
    let found = |world: &World| lines(&world.inspect()).join("\n");
    let world = World::new();
    world.pool.as_ref().unwrap().cluster().store(&state(3, Some(0)).encode()).unwrap();
    assert!(found(&world).contains("generation 1 reigns, but the cluster state has given generation 3"));
    world.pool.as_ref().unwrap().cluster().store(&state(2, Some(0)).encode()).unwrap();
    assert!(found(&world).starts_with("notice: vm-0 (guest) control: generation 2 is given, but not opened yet"));
    let mut other = state(1, None);
    other.vms[0].spec.memory_bytes *= 2;
    other.vms[0].spec.name = "other".to_owned();
    other.vms.push(state(1, None).vms[0].clone());
    other.vms[1].spec.memory_bytes *= 2;
    world.pool.as_ref().unwrap().cluster().store(&other.encode()).unwrap();
    assert!(found(&world).contains("vm-directory (other): the cluster state names a VM that has no entry"));
    assert!(found(&world).contains("disagree about its shape"));
    let world = World::new();
    world.lose("journal.1");
    assert!(found(&world).contains("journal.1: the reigning generation has no journal"));
    let world = World::new();
    fs::File::options().write(true).open(world.dir.path().join("vm-0/journal.1")).unwrap().set_len(5000).unwrap();
    assert!(found(&world).contains("has 5000 bytes, expected"));
}

#[test]
fn leftovers_are_worth_a_notice_and_no_more() {
    let world = World::new();
    for name in ["cluster.new", "notes", "vm-0/journal.2.new", "vm-0/core"] {
        fs::write(world.dir.path().join(name), b"left").unwrap();
    }
    fs::create_dir(world.dir.path().join("vm-2")).unwrap();
    let report = world.inspect();
    assert_eq!(report.findings.len(), 5, "{:?}", lines(&report));
    assert_eq!(report.verdict(), Verdict::Sound);
}

/// A guest that has committed an epoch goes on from it: of what it was booted from only the kind of guest is asked for.
#[test]
fn what_a_guest_was_booted_from_is_not_needed_once_it_has_run() {
    for at in [12, 70] {
        let world = World::new();
        world.flip("vm-0/boot", at);
        let report = world.inspect();
        assert_eq!(report.verdict(), Verdict::Sound, "{at}: {:?}", lines(&report));
        let said = |line: &String| line.contains("notice: vm-0 (guest) boot: ") && line.contains("nothing is lost");
        assert!(matches!(&lines(&report)[..], [line] if said(line)), "{at}: {:?}", lines(&report));
        assert_eq!(report.vms[0].recoverable.epoch, Some(4));
        // Before it has committed anything there is nothing else to begin with.
        world.parts.create_journal(Generation::new(1), Epoch::ZERO).unwrap();
        ControlBlock::format(Mapping::read_write(&world.parts.control(Access::ReadWrite).unwrap()).unwrap()).unwrap();
        world.control().set_generation(Generation::new(1)).unwrap();
        let report = world.inspect();
        assert!(lines(&report).iter().any(|line| line.contains("cannot be booted")), "{at}: {:?}", lines(&report));
        assert_eq!((report.verdict(), report.vms[0].recoverable.epoch), (Verdict::Damaged, None), "{at}");
    }
    // A kind that the machine state is not of, a bundle whose beginning is damaged, and a file that is gone or cut off: a host cannot stand by.
    let linux = [&b"FTVMLNUX"[..], &[0; 64]].concat();
    let world = World::new();
    world.parts.store_boot(&linux).unwrap();
    world.flip("vm-0/boot", 100);
    let cut = World::new();
    fs::write(cut.path.join("vm-0/boot"), b"").unwrap();
    let gone = World::new();
    gone.lose("boot");
    for world in [world, cut, gone] {
        let report = world.inspect();
        assert!(lines(&report).iter().any(|line| line.contains("without protection")), "{:?}", lines(&report));
        assert_eq!((report.verdict(), report.vms[0].recoverable.epoch), (Verdict::Damaged, Some(4)));
    }
}

/// What is gone is so for those who do not have it open.
#[test]
fn what_is_gone_is_told_by_what_it_costs() {
    for (file, cost) in
        [("control", "what is applied is not known"), ("state", "no takeover"), ("image", "memory is lost")]
    {
        let mut world = World::new();
        world.lose(file);
        for lives in [true, false] {
            let report = world.inspect();
            let said = |line: &&String| line.contains(cost) && line.contains("goes on with what it has open") == lives;
            assert_eq!(lines(&report).iter().filter(said).count(), 1, "{file}: {:?}", lines(&report));
            assert_eq!(report.verdict(), Verdict::Damaged);
            if file == "control" {
                let why = &report.vms[0].recoverable.why;
                assert_eq!(why.contains("only the controller that has it open"), lives, "{why}");
            }
            world.pool = None;
        }
    }
}

/// Space that nobody uses, or that is written anew before anybody does, cannot be damaged.
#[test]
fn what_nobody_will_read_is_worth_a_notice_and_no_more() {
    let world = World::new();
    world.flip("heartbeat.1", 20);
    world.parts.create_journal(Generation::new(2), Epoch::new(0)).unwrap();
    world.parts.reserve_log(Generation::new(2)).unwrap();
    world.flip("vm-0/journal.2", 24);
    world.flip("vm-0/log.2", 64);
    let report = world.inspect();
    assert!(report.findings.len() >= 3, "it is told all the same: {:?}", lines(&report));
    assert_eq!(report.verdict(), Verdict::Sound, "{:?}", lines(&report));
    // The journal of a guest that has ended.
    let slot = 4096 + 3 % u64::from(SLOTS) * geometry().journal.slot_bytes;
    world.flip("vm-0/journal.1", slot + 24);
    world.flip("vm-0/journal.1", 24);
    assert_eq!(world.inspect().verdict(), Verdict::Damaged);
    let mut state = state(1, None);
    state.vms[0].ended = Some(ft_protocol::commit_meta::GuestEnd::Exited(0));
    world.pool.as_ref().unwrap().cluster().store(&state.encode()).unwrap();
    let report = world.inspect();
    assert_eq!(report.verdict(), Verdict::Sound, "{:?}", lines(&report));
    assert!(lines(&report).iter().any(|line| line.contains("the guest's life is over")), "{:?}", lines(&report));
}

#[test]
fn what_is_no_pool_is_told_apart() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    assert!(matches!(inspect(&dir.path().join("missing")), Err(InspectError::Missing(_))));
    assert!(matches!(inspect(dir.path()), Err(InspectError::Pool(PoolError::NotAPool(_)))));
    for (file, at) in [("superblock", 40), ("vm-directory", 16)] {
        let world = World::new();
        world.flip(file, at);
        world.flip(file, 2048 + at);
        assert!(matches!(inspect(world.dir.path()), Err(InspectError::Damaged(_))), "{file}");
    }
}

/// Whatever is flipped, looking at it neither panics nor hangs; sizes that a flip blows up are refused.
#[test]
fn no_flip_anywhere_upsets_the_inspection() {
    let world = World::new();
    let journal = geometry().journal;
    let ranges = [
        ("superblock", 0..128),
        ("vm-directory", 0..64),
        ("vm-directory", 4096..4096 + 700),
        ("cluster", 0..600),
        ("heartbeat.0", 0..128),
        ("vm-0/control", 0..200),
        ("vm-0/console", 0..136),
        ("vm-0/boot", 0..64),
        ("vm-0/state", 0..128),
        ("vm-0/journal.1", 0..72),
        ("vm-0/journal.1", 4096 + 3 * journal.slot_bytes..4096 + 3 * journal.slot_bytes + 64),
    ];
    for (file, range) in ranges {
        for at in range.step_by(3) {
            world.flip(file, at);
            // Most are refused, some are in bytes that mean nothing.
            let _ = check(world.dir.path());
            world.flip(file, at);
        }
    }
    assert_eq!(lines(&world.inspect()), Vec::<String>::new());
}

/// What a controller says when it starts over such a pool.
#[test]
fn an_epoch_that_is_applied_in_part_and_lost_leaves_nothing_to_recover() {
    let world = World::new();
    world.begin(3, Kept::Yes);
    let recoverable = |world: &World| world.inspect().vms[0].recoverable.epoch;
    assert_eq!(recoverable(&world), Some(4));
    let slot = 4096 + (3 % u64::from(geometry().journal.slots)) * geometry().journal.slot_bytes;
    world.flip("vm-0/journal.1", slot + 4096 + 5);
    assert_eq!(recoverable(&world), Some(4), "the copy is whole");
    world.flip("vm-0/redo", 4096 + 5);
    assert_eq!(recoverable(&world), None);
    let lines = lines(&world.inspect());
    assert!(lines.iter().any(|line| line.contains("vm-0 (guest) redo: epoch 3 was begun")), "{lines:?}");
    world.flip("vm-0/journal.1", slot + 4096 + 5);
    assert_eq!(recoverable(&world), Some(4), "the record is whole");
}

/// The pool had no space for a copy: there is only the record in the journal.
#[test]
fn an_epoch_that_is_applied_without_a_copy_stands_and_falls_with_its_record() {
    let begun = || {
        let world = World::new();
        assert_eq!(world.begin(3, Kept::No), Kept::No);
        let journal = world.parts.journal(Generation::new(1), Access::ReadWrite).unwrap();
        (world, Mapping::read_write(&journal).unwrap())
    };
    let (world, journal) = begun();
    let vm = world.inspect().vms.remove(0);
    assert_eq!((vm.begun, vm.kept, vm.recoverable.epoch), (Some(3), None, Some(4)), "{}", vm.recoverable.why);
    // Nobody goes back to before what was begun, whatever the word says.
    let word = CommitWord::open(Epoch::new(2)).encode();
    journal.store_u64(Offset::new(64), word, Ordering::Release).unwrap();
    let report = world.inspect();
    assert_eq!(report.vms[0].recoverable.epoch, Some(3), "{}", report.vms[0].recoverable.why);
    assert!(lines(&report)[0].contains("is at epoch 2, but epoch 3 was begun to be applied"), "{:?}", lines(&report));
    for damage in ["replaced", "damaged", "gone"] {
        let (world, journal) = begun();
        let slot = geometry().journal.slot_at(Epoch::new(3));
        match damage {
            "replaced" => {
                let extent = world.parts.journal(Generation::new(1), Access::ReadWrite).unwrap();
                let zombie = JournalWriter::new(journal, extent, Generation::new(1), geometry().journal).unwrap();
                let mut record = zombie.begin(Epoch::new(3), Epoch::new(2)).unwrap();
                record.push_page_bytes(PageIndex::new(9), &[9; 4096]).unwrap();
                let meta =
                    CommitMeta { console_start: console_bytes(), console: &[], machine_state: STATE, ended: None };
                record.finish(&meta.encode()).unwrap();
            }
            "damaged" => world.flip("vm-0/journal.1", slot.get() + 4096 + 5),
            _ => world.lose("journal.1"),
        }
        let report = world.inspect();
        assert_eq!(report.vms[0].recoverable.epoch, None, "{damage}: {}", report.vms[0].recoverable.why);
        let lines = lines(&report);
        assert!(lines.iter().any(|line| line.contains("vm-0 (guest) redo: epoch 3 was begun")), "{damage}: {lines:?}");
    }
}

/// What was begun is finished from its copy by whoever goes on, with a journal or without.
#[test]
fn an_epoch_whose_record_is_copied_is_recoverable_without_its_journal() {
    let world = World::new();
    world.begin(3, Kept::Yes);
    world.lose("journal.1");
    let vm = world.inspect().vms.remove(0);
    assert_eq!((vm.kept, vm.recoverable.epoch), (Some(3), Some(3)), "{}", vm.recoverable.why);
}

/// The writer goes as fast as it can; the reader must never take a half-done commit or apply for damage, and must see
/// real damage all the same.
#[test]
fn a_pool_under_load_is_never_called_damaged() {
    const LOOKS: u32 = 60;
    /// So many commits there must be while it is looked at.
    const COMMITS: u64 = 10;
    let world = World::new();
    let (done, committed) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            world.apply(3);
            world.apply(4);
            let mut epoch = 4;
            while !done.load(Ordering::Relaxed) {
                epoch += 1;
                world.commit(epoch);
                world.apply(epoch);
                committed.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut looks = 0;
        // Where the writer has no processor, it is waited for: looks at a pool at rest prove nothing.
        while looks < LOOKS || committed.load(Ordering::Relaxed) < COMMITS && !writer.is_finished() {
            let report = world.inspect();
            let sound = report.verdict() != Verdict::Damaged;
            done.store(!sound, Ordering::Relaxed);
            assert!(sound, "{:?}", lines(&report));
            looks += 1;
        }
        world.flip("vm-directory", 16);
        let report = world.inspect();
        done.store(true, Ordering::Relaxed);
        assert_eq!(report.verdict(), Verdict::Damaged, "{:?}", lines(&report));
    });
}
