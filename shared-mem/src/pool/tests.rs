use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::mman::{MapFlags, ProtFlags, mmap};

use super::*;
use crate::boot_image;
use crate::control::ControlBlock;
use crate::journal::{JournalGeometry, JournalWriter};
use crate::mem::{Access, MapError, Mapping};
use crate::numbers::{Epoch, Generation, HostSlot, LogPosition, VmSlot};
use crate::vm_directory::{VmGeometry, VmName};

mod device;
mod gone;
mod lock;
mod superblock;

const CONFIG: PoolConfig = PoolConfig { vm_slots: 4, host_slots: 3, cluster_bytes: 4096 };

fn geometry() -> VmGeometry {
    VmGeometry {
        memory_bytes: 1 << 20,
        journal: JournalGeometry::for_memory(1 << 20, 2, 64 << 10),
        log_bytes: 64 << 10,
        console_bytes: 64 << 10,
        disk_bytes: 1 << 16,
        state_slot_bytes: 1 << 16,
        sparse: false,
    }
}

fn name(text: &str) -> VmName {
    text.parse().unwrap()
}

fn on_tmpfs() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for (name, path) in open::list(dir).unwrap() {
        if path.is_dir() {
            found.extend(files_below(&path).into_iter().map(|file| format!("{name}/{file}")));
        }
        found.push(name);
    }
    found.sort();
    found
}

/// Makes a pool, which nobody else can open or make while it is held.
fn held_by_one(path: &Path) -> (Pool, PoolView) {
    let pool = Pool::create(path, &CONFIG).unwrap();
    assert!(matches!(Pool::open(path), Err(PoolError::AlreadyLocked(_))));
    assert!(matches!(Pool::create(path, &CONFIG), Err(PoolError::NotEmpty(_))));
    let view = Pool::inspect(path).unwrap();
    assert!(view.is_locked().unwrap());
    (pool, view)
}

/// A controller that is killed while it makes its pool is started again over the same directory.
#[test]
fn what_an_interrupted_creation_has_left_is_made_anew() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    let superblock = path.join(files::SUPERBLOCK);
    let interrupted = |keep: usize| {
        drop(Pool::create(&path, &CONFIG).unwrap());
        fs::remove_file(&superblock).unwrap();
        // In the order in which they were made.
        let made = [files::LOCK, files::VM_DIRECTORY, files::CLUSTER, "heartbeat.0", "heartbeat.1", "heartbeat.2"];
        made[keep..].iter().for_each(|name| fs::remove_file(path.join(name)).unwrap());
    };
    for keep in 0..=6 {
        interrupted(keep);
        // Cut off, as it was being filled.
        fs::write(path.join("heartbeat.1.new"), b"begun").unwrap();
        let pool = Pool::create(&path, &CONFIG).unwrap();
        assert!(!path.join("heartbeat.1.new").exists());
        pool.destroy().unwrap();
    }
    // What may be somebody's is not touched.
    for (others, is_lost) in [("notes", false), ("vm-0", true)] {
        interrupted(6);
        fs::create_dir(path.join(others)).unwrap();
        let before = files_below(&path);
        let refused = Pool::create(&path, &CONFIG).unwrap_err();
        assert_eq!(matches!(refused, PoolError::SuperblockMissing { .. }), is_lost, "{refused}");
        assert!(is_lost || matches!(refused, PoolError::NotEmpty(_)), "{refused}");
        assert_eq!(files_below(&path), before);
        fs::remove_dir_all(&path).unwrap();
    }
    // Nor what another controller is making.
    interrupted(1);
    let locked = super::lock::PoolLock::take(&path).unwrap();
    assert!(matches!(Pool::create(&path, &CONFIG), Err(PoolError::AlreadyLocked(_))));
    drop(locked);
    Pool::create(&path, &CONFIG).unwrap();
}

#[test]
fn a_removal_that_was_interrupted_is_finished_by_the_next_pool() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    let with_vms = || {
        let pool = Pool::create(&path, &CONFIG).unwrap();
        pool.create_vm(&name("a"), &geometry()).unwrap();
        pool.create_vm(&name("b"), &geometry()).unwrap();
        pool
    };
    // At once, and later: in the middle of a VM, and when all VMs are gone.
    for gone in [&[][..], &["cluster", "heartbeat.0", "vm-0/image"], &["vm-0", "vm-1"]] {
        let pool = with_vms();
        pool.begin_removal().unwrap();
        drop(pool);
        for name in gone {
            let gone = path.join(name);
            if gone.is_dir() { fs::remove_dir_all(gone).unwrap() } else { fs::remove_file(gone).unwrap() }
        }
        assert!(!Pool::is_at(&path).unwrap() && Pool::open(&path).is_err());
        let pool = Pool::create(&path, &CONFIG).unwrap();
        assert!(pool.find_vm(&name("a")).is_err(), "it is a new one");
        assert!(!path.join("vm-1").exists() && !path.join("superblock.removed").exists());
        pool.destroy().unwrap();
        assert!(!path.exists());
    }
    // What is not the pool's is somebody's all the same, and a superblock that is lost tells of no removal.
    let pool = with_vms();
    pool.begin_removal().unwrap();
    drop(pool);
    fs::write(path.join("notes"), b"").unwrap();
    let before = files_below(&path);
    assert!(matches!(Pool::create(&path, &CONFIG), Err(PoolError::NotEmpty(_))));
    fs::remove_file(path.join("notes")).unwrap();
    fs::remove_file(path.join("superblock.removed")).unwrap();
    assert!(matches!(Pool::create(&path, &CONFIG), Err(PoolError::SuperblockMissing { .. })));
    assert_eq!(files_below(&path).len(), before.len() - 2);
}

#[test]
fn a_pool_is_made_opened_by_one_and_destroyed() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    assert!(matches!(Pool::open(&path), Err(PoolError::NotAPool(_))));
    let (pool, view) = held_by_one(&path);
    assert_eq!(view.superblock(), pool.superblock());
    pool.cluster().store(b"state").unwrap();
    let id = pool.superblock().pool_id;
    drop(pool);
    assert!(!view.is_locked().unwrap());
    let pool = Pool::open(&path).unwrap();
    assert_eq!(pool.superblock().pool_id, id);
    assert_eq!(pool.cluster().load(), Ok(Some(b"state".to_vec())));
    assert!(pool.heartbeat(HostSlot::new(2), Access::ReadWrite).is_ok());
    assert!(matches!(pool.heartbeat(HostSlot::new(3), Access::ReadOnly), Err(PoolError::NoSuchHost { .. })));
    let page = pool.heartbeat(HostSlot::new(1), Access::ReadWrite).unwrap();
    nix::unistd::ftruncate(&page, 0).unwrap();
    let refused = pool.heartbeat(HostSlot::new(1), Access::ReadOnly);
    assert!(matches!(refused, Err(PoolError::FileLength { .. })), "{refused:?}");
    pool.renew_heartbeat(HostSlot::new(1)).unwrap();
    assert!(pool.heartbeat(HostSlot::new(1), Access::ReadOnly).is_ok());
    pool.destroy().unwrap();
    assert!(!path.exists());
}

#[test]
fn an_onlooker_asks_for_the_lock_without_taking_it() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    drop(Pool::create(&path, &CONFIG).unwrap());
    fs::remove_file(path.join("lock")).unwrap();
    let view = Pool::inspect(&path).unwrap();
    let before = files_below(&path);
    assert!(!view.is_locked().unwrap(), "nobody has it");
    assert_eq!(files_below(&path), before, "the lock file was made by asking");
    let pool = Pool::open(&path).unwrap();
    assert!(view.is_locked().unwrap());
    assert!(view.available_bytes().unwrap() > 0);
    for name in view.file_names().unwrap() {
        assert_ne!(FileKind::of_pool_file(&name), FileKind::Unknown, "{name}");
    }
    assert_eq!(FileKind::of_pool_file("heartbeat.2"), FileKind::Heartbeat(HostSlot::new(2)));
    assert_eq!(FileKind::of_pool_file("vm-1"), FileKind::Vm(VmSlot::new(1)));
    assert_eq!(FileKind::of_pool_file("cluster.new"), FileKind::Unfinished);
    assert_eq!(FileKind::of_pool_file("notes"), FileKind::Unknown);
    drop(pool);
}

#[test]
fn descriptors_carry_just_the_access_they_are_due() {
    let dir = on_tmpfs();
    let pool = Pool::create(&dir.path().join("pool"), &CONFIG).unwrap();
    let vm = pool.create_vm(&name("a"), &geometry()).unwrap();
    let image = vm.image(Access::ReadOnly).unwrap();
    assert_eq!(image.access().unwrap(), Access::ReadOnly);
    assert!(matches!(Mapping::read_write(&image), Err(MapError::ReadOnlyDescriptor)));
    let write = nix::unistd::write(image.as_fd(), b"x");
    assert_eq!(write, Err(nix::Error::EBADF));
    let length = std::num::NonZeroUsize::new(4096).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    #[allow(unsafe_code, reason = "the mapping must be refused")]
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of this program.
    let mapped = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, image.as_fd(), 0) };
    assert_eq!(mapped.err(), Some(nix::Error::EACCES));
    let other = vm.image(Access::ReadWrite).unwrap();
    assert_eq!(other.access().unwrap(), Access::ReadWrite);
    assert_eq!(image.access().unwrap(), Access::ReadOnly);
}

#[test]
fn a_vm_has_its_parts_and_leaves_nothing_behind() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    let pool = Pool::create(&path, &CONFIG).unwrap();
    let before = files_below(&path);
    let vm = pool.create_vm(&name("a"), &geometry()).unwrap();
    assert!(matches!(pool.create_vm(&name("a"), &geometry()), Err(PoolError::NameTaken(_))));
    assert_eq!(pool.find_vm(&name("a")).unwrap(), vm.slot());
    vm.store_boot(b"kernel").unwrap();
    let boot = Mapping::read_only(&vm.boot(Access::ReadOnly).unwrap()).unwrap();
    assert_eq!(boot_image::load(&boot), Ok(b"kernel".to_vec()));
    let control = Mapping::read_only(&vm.control(Access::ReadOnly).unwrap()).unwrap();
    assert_eq!(ControlBlock::open(control).unwrap().applied(), Ok(Epoch::ZERO));
    for generation in [Generation::new(1), Generation::new(2)] {
        vm.create_journal(generation, Epoch::new(5)).unwrap();
        vm.create_log(generation, LogPosition::ZERO).unwrap();
    }
    let journal = vm.journal(Generation::new(2), Access::ReadWrite).unwrap();
    let memory = Mapping::read_write(&journal).unwrap();
    let writer = JournalWriter::new(memory, journal, Generation::new(2), geometry().journal).unwrap();
    assert_eq!(writer.word().unwrap().epoch, Epoch::new(5));
    vm.delete_journal(Generation::new(1)).unwrap();
    vm.delete_log(Generation::new(1)).unwrap();
    assert_eq!(vm.journal_generations().unwrap(), [Generation::new(2)]);
    assert_eq!(vm.log_generations().unwrap(), [Generation::new(2)]);
    let view = Pool::inspect(&path).unwrap().open_vm(vm.slot()).unwrap();
    assert!(view.image(Access::ReadOnly).is_ok());
    assert!(matches!(view.image(Access::ReadWrite), Err(PoolError::Inspection)));
    pool.delete_vm(vm.slot()).unwrap();
    assert!(matches!(pool.open_vm(vm.slot()), Err(PoolError::SlotFree(_))));
    assert_eq!(files_below(&path), before);
}

#[test]
fn a_vm_that_does_not_fit_is_undone_and_slots_run_out() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    let pool = Pool::create(&path, &CONFIG).unwrap();
    let before = files_below(&path);
    let huge = VmGeometry { memory_bytes: 1 << 41, ..geometry() };
    let error = pool.create_vm(&name("huge"), &huge).unwrap_err();
    assert!(matches!(error, PoolError::NoSpace { needed, .. } if needed == 1 << 41), "{error:?}");
    assert_eq!(files_below(&path), before);
    let huge_disk = VmGeometry { disk_bytes: 1 << 41, ..geometry() };
    assert!(pool.create_vm(&name("huge"), &huge_disk).is_err());
    assert_eq!(files_below(&path), before);
    for number in 0..4 {
        pool.create_vm(&name(&format!("vm{number}")), &geometry()).unwrap();
    }
    assert!(matches!(pool.create_vm(&name("more"), &geometry()), Err(PoolError::NoFreeSlot { slots: 4 })));
    let odd = VmGeometry { memory_bytes: 4097, ..geometry() };
    assert!(matches!(pool.create_vm(&name("odd"), &odd), Err(PoolError::Geometry(_))));
}

/// Whoever makes a VM's files, or removes them, does so beside the one who gives slots away.
#[test]
fn a_slot_is_nobody_elses_while_its_vm_is_made_or_removed() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("pool");
    let pool = Pool::create(&path, &CONFIG).unwrap();
    let new = pool.claim_vm(&name("a"), &geometry()).unwrap();
    assert!(matches!(pool.create_vm(&name("a"), &geometry()), Err(PoolError::NameTaken(_))));
    let other = pool.create_vm(&name("b"), &geometry()).unwrap();
    assert_ne!(new.parts().slot(), other.slot());
    new.make().unwrap();
    assert_eq!(pool.vms().unwrap().len(), 1, "it is not there before it is entered");
    let slot = pool.enter_vm(new).unwrap().slot();
    let leaving = pool.begin_delete(slot).unwrap();
    assert!(pool.begin_delete(slot).is_err(), "that is being done");
    leaving.remove_files().unwrap();
    assert_ne!(pool.create_vm(&name("c"), &geometry()).unwrap().slot(), slot);
    pool.end_delete(leaving).unwrap();
    assert_eq!(pool.create_vm(&name("a"), &geometry()).unwrap().slot(), slot);
}

#[test]
fn opening_removes_what_a_crash_left_half_made() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    let pool = Pool::create(&path, &CONFIG).unwrap();
    let kept = pool.create_vm(&name("kept"), &geometry()).unwrap();
    let deleting = pool.create_vm(&name("deleting"), &geometry()).unwrap();
    let mut entry = pool.directory.entry(deleting.slot()).unwrap().unwrap();
    entry.state = crate::vm_directory::VmState::Deleting;
    pool.directory.set_entry(deleting.slot(), Some(&entry)).unwrap();
    let kept_files = files_below(&files::vm_dir(&path, kept.slot()));
    fs::write(path.join("vm-0/journal.7.new"), b"half").unwrap();
    fs::write(path.join("cluster.new"), b"half").unwrap();
    fs::create_dir(path.join("vm-3")).unwrap();
    fs::write(path.join("vm-3/image"), b"half").unwrap();
    drop(pool);
    let pool = Pool::open(&path).unwrap();
    let vms = pool.vms().unwrap();
    assert_eq!(vms.len(), 1);
    assert_eq!(vms[0].0, VmSlot::new(0));
    assert!(!path.join("vm-1").exists() && !path.join("vm-3").exists());
    assert!(!path.join("cluster.new").exists());
    assert_eq!(files_below(&path.join("vm-0")), kept_files);
}

/// All zero, an entry reads as that of a slot which nobody has; what the guest that has run there left says otherwise.
#[test]
fn files_whose_entry_is_lost_are_kept_until_they_are_deleted() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    let control = path.join("vm-0").join(files::CONTROL);
    let pool = Pool::create(&path, &CONFIG).unwrap();
    let lost = VmSlot::new(0);
    let lose = |pool: Pool, reigned: u64| {
        let vm = pool.create_vm(&name("lost"), &geometry()).unwrap();
        assert_eq!(vm.slot(), lost);
        let memory = Mapping::read_write(&vm.control(Access::ReadWrite).unwrap()).unwrap();
        ControlBlock::open(memory).unwrap().set_generation(Generation::new(reigned)).unwrap();
        pool.directory.set_entry(lost, None).unwrap();
        drop(pool);
    };
    lose(pool, 0);
    let mut pool = Pool::open(&path).unwrap();
    assert!(!control.exists(), "no guest has run there: it is what the making of a VM has left");
    for unreadable in [false, true] {
        lose(pool, 1);
        if unreadable {
            let damaged = fs::read(&control).unwrap().iter().map(|byte| !byte).collect::<Vec<_>>();
            fs::write(&control, damaged).unwrap();
        }
        pool = Pool::open(&path).unwrap();
        assert!(control.exists());
        assert_eq!(pool.nameless().unwrap(), [lost]);
        let other = pool.create_vm(&name("other"), &geometry()).unwrap().slot();
        assert_ne!(other, lost, "the slot is taken");
        pool.delete_vm(other).unwrap();
        assert!(control.exists());
        pool.delete_vm(lost).unwrap();
        assert!(!control.exists());
        assert_eq!(pool.nameless().unwrap(), []);
    }
}

#[test]
fn a_log_goes_on_in_the_next_generation() {
    use crate::record_log::{LogRange, LogReader, LogWriter};
    let dir = on_tmpfs();
    let pool = Pool::create(&dir.path().join("pool"), &CONFIG).unwrap();
    let vm = pool.create_vm(&name("a"), &geometry()).unwrap();
    let (first, second) = (Generation::new(1), Generation::new(2));
    let ring_bytes = geometry().log_bytes;
    let open = |generation| Mapping::read_write(&vm.log(generation, Access::ReadWrite).unwrap()).unwrap();
    vm.reserve_log(first).unwrap();
    assert!(LogWriter::new(open(first), ring_bytes).is_err(), "a reserved log is nobody's yet");
    vm.create_log(first, LogPosition::ZERO).unwrap();
    let mut writer = LogWriter::new(open(first), ring_bytes).unwrap();
    let tag = std::num::NonZeroU32::MIN;
    let from = writer.append(tag, 1, b"covered").unwrap();
    writer.append(tag, 2, b"carried").unwrap();
    let to = LogReader::new(open(first), ring_bytes).unwrap().seal().unwrap();
    let range = LogRange { from, to, after_sequence: Some(1) };
    // Over a reserved log, over an earlier try, and where there is none.
    vm.reserve_log(second).unwrap();
    for _ in 0..2 {
        assert_eq!(vm.continue_log(first, range, second).unwrap().last_sequence, Some(2));
    }
    vm.delete_log(second).unwrap();
    assert_eq!(vm.continue_log(first, range, second).unwrap().entries, 1);
    let mut writer = LogWriter::resume(open(second), ring_bytes, to, 2).unwrap();
    writer.append(tag, 3, b"new").unwrap();
    vm.delete_log(first).unwrap();
    assert_eq!(vm.log_generations().unwrap(), [second]);
    assert!(vm.continue_log(first, range, second).is_err());
}

#[test]
fn a_disk_is_filled_from_a_file_and_goes_with_its_vm() {
    use crate::mem::PoolRead;
    use crate::numbers::Offset;
    let dir = on_tmpfs();
    let pool = Pool::create(&dir.path().join("pool"), &CONFIG).unwrap();
    let vm = pool.create_vm(&name("a"), &geometry()).unwrap();
    let source = dir.path().join("source");
    fs::write(&source, b"boot sector").unwrap();
    vm.fill_disk(fs::File::open(&source).unwrap()).unwrap();
    let disk = Mapping::read_only(&vm.disk(Access::ReadOnly).unwrap()).unwrap();
    assert_eq!(disk.len(), geometry().disk_bytes);
    let mut found = [1; 12];
    disk.read(Offset::ZERO, &mut found).unwrap();
    assert_eq!(&found, b"boot sector\0");
    fs::write(&source, vec![1; 1 << 17]).unwrap();
    assert!(matches!(vm.fill_disk(fs::File::open(&source).unwrap()), Err(PoolError::FillDisk(_))));
    let view = Pool::inspect(pool.path()).unwrap();
    let looked_at = view.open_vm(vm.slot()).unwrap();
    assert!(matches!(looked_at.fill_disk(fs::File::open(&source).unwrap()), Err(PoolError::Inspection)));
    fs::remove_file(&source).unwrap();
    let without = VmGeometry { disk_bytes: 0, ..geometry() };
    let other = pool.create_vm(&name("b"), &without).unwrap();
    assert!(matches!(other.disk(Access::ReadOnly), Err(PoolError::NoDisk)));
    drop(disk);
    pool.delete_vm(vm.slot()).unwrap();
    pool.delete_vm(other.slot()).unwrap();
    assert!(!files_below(pool.path()).iter().any(|file| file.contains("disk")), "nothing of the disk stays");
}

#[test]
fn a_spilled_record_takes_and_gives_back_space() {
    use crate::journal::SpillSpace;
    use crate::numbers::{Offset, PAGE_BYTES, PageIndex};
    use std::os::unix::fs::MetadataExt;
    let dir = on_tmpfs();
    let pool = Pool::create(&dir.path().join("pool"), &CONFIG).unwrap();
    let vm = pool.create_vm(&name("a"), &geometry()).unwrap();
    let generation = Generation::new(1);
    vm.create_journal(generation, Epoch::ZERO).unwrap();
    let file = dir.path().join("pool/vm-0/journal.1");
    let blocks = || fs::metadata(&file).unwrap().blocks() * 512;
    let reserved = blocks();
    assert_eq!(reserved, geometry().journal.reserved_total());
    let extent = vm.journal(generation, Access::ReadWrite).unwrap();
    let memory = Mapping::read_write(&extent).unwrap();
    let writer = JournalWriter::new(&memory, &extent, generation, geometry().journal).unwrap();
    let mut record = writer.begin(Epoch::new(1), Epoch::ZERO).unwrap();
    for page in 0..256 {
        record.push_page_bytes(PageIndex::new(page), &[3; PAGE_BYTES]).unwrap();
    }
    writer.publish(record.finish(b"meta").unwrap()).unwrap();
    let taken = blocks();
    assert!(taken > reserved);
    let reader = crate::journal::JournalReader::new(&memory, generation, geometry().journal).unwrap();
    reader.release_spill_beyond(Epoch::new(1), geometry().journal.slot_bytes, &extent).unwrap();
    assert_eq!(blocks(), taken, "all of it is kept");
    writer.release_free_slots(Epoch::new(2), Epoch::ZERO).unwrap();
    assert_eq!(blocks(), taken, "its slot is not free");
    writer.release_free_slots(Epoch::new(2), Epoch::new(1)).unwrap();
    assert_eq!(blocks(), reserved, "another record needs the space more");
    let next = Epoch::new(2);
    assert!(writer.prepare(next, Epoch::new(1), taken - reserved, || true) && blocks() > reserved);
    writer.release_free_slots(Epoch::new(1), Epoch::new(1)).unwrap();
    assert_eq!(blocks(), reserved, "and so it is with what was prepared");
    let mut record = writer.begin(next, Epoch::new(1)).unwrap();
    record.push_page_bytes(PageIndex::new(0), &[4; PAGE_BYTES]).unwrap();
    assert!(writer.prepare(Epoch::new(3), Epoch::new(1), taken - reserved, || true));
    reader.release_spill(Epoch::new(1), &extent).unwrap();
    assert_eq!(blocks(), reserved);
    assert!(!writer.is_pool_short(4096).unwrap() && writer.is_pool_short(u64::MAX / 64).unwrap());
    // What an idle VM keeps goes back as a whole, whichever slots it lies in.
    assert!(writer.prepare(Epoch::new(3), Epoch::new(2), taken - reserved, || true));
    assert!(blocks() > reserved);
    writer.release_free_slots(Epoch::new(3), Epoch::new(2)).unwrap();
    assert_eq!(blocks(), reserved);
    assert!(extent.reserve(Offset::ZERO, 1 << 45).is_err());
    // Room that is taken at once is all there, whatever is asked for afterwards.
    let mut record = writer.begin(Epoch::new(3), Epoch::new(2)).unwrap();
    record.take_room(64).unwrap();
    let taken = blocks();
    assert!(taken > reserved);
    record.push_page_bytes(PageIndex::new(0), &[5; PAGE_BYTES]).unwrap();
    assert_eq!(blocks(), taken);
}

#[test]
fn space_is_held_and_given_back() {
    let dir = on_tmpfs();
    let pool = Pool::create(&dir.path().join("pool"), &CONFIG).unwrap();
    let reserve = pool.space_reserve().unwrap().expect("this is no device");
    assert_eq!(reserve.held().unwrap(), 0);
    while !reserve.take(40 << 20).unwrap() {
        assert!(reserve.held().unwrap().is_multiple_of(16 << 20));
    }
    assert_eq!(reserve.held().unwrap(), 40 << 20);
    assert!(reserve.available().unwrap() > 0);
    // A later controller finds what is held; somebody has damaged it.
    let again = pool.space_reserve().unwrap().unwrap();
    assert_eq!(again.held().unwrap(), 40 << 20);
    fs::OpenOptions::new().write(true).open(pool.path().join("reserve")).unwrap().set_len(5000).unwrap();
    while !again.take(20 << 20).unwrap() {}
    assert_eq!(again.held().unwrap(), 20 << 20);
    again.give_back(4096).unwrap();
    assert_eq!(reserve.held().unwrap(), 4096);
    again.give_back(0).unwrap();
    assert_eq!(reserve.held().unwrap(), 0);
    assert!(again.take(1 << 45).is_ok_and(|all| !all), "step by step");
    again.give_back(0).unwrap();
    assert!(Pool::inspect(pool.path()).unwrap().file_names().unwrap().contains(&"reserve".to_owned()));
}

fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}
