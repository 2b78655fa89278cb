//! Files that somebody removes from a pool, live and at rest.

use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::pool::kept::path_of;

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// A pool with a VM that has all files there are.
fn with_vm(path: &Path) -> (Pool, VmPartition) {
    let pool = Pool::create(path, &CONFIG).unwrap();
    pool.cluster().store_twice(b"state").unwrap();
    let vm = pool.create_vm(&name("a"), &geometry()).unwrap();
    vm.store_boot(b"kernel").unwrap();
    vm.create_journal(Generation::new(1), Epoch::ZERO).unwrap();
    vm.create_log(Generation::new(1), LogPosition::ZERO).unwrap();
    (pool, vm)
}

/// The pool's files, by their first names.
fn all_files(path: &Path) -> Vec<String> {
    let is_file = |name: &String| path.join(name).is_file() && !name.contains("kept/");
    files_below(path).into_iter().filter(is_file).collect()
}

#[test]
fn every_file_that_is_removed_from_a_live_pool_is_the_same_again() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    let (mut pool, vm) = with_vm(&path);
    let all = all_files(&path);
    assert!(all.len() == 4 + 3 + 9, "{all:?}");
    for file in all {
        let (first, before) = (path.join(&file), files_below(&path));
        let place = inode(&first);
        fs::remove_file(&first).unwrap();
        let mended = pool.look_after(None).unwrap();
        let looked = vm.look_after().unwrap();
        let lines: Vec<String> = mended.into_iter().chain(looked.again.iter().map(ToString::to_string)).collect();
        assert!(matches!(&lines[..], [line] if line.contains("gone")), "{file}: {lines:?}");
        assert_eq!(looked.gone, [""; 0], "{file}");
        assert_eq!((inode(&first), files_below(&path)), (place, before), "{file}");
        // The second name is put back quietly.
        fs::remove_file(path_of(&first)).unwrap();
        assert_eq!(pool.look_after(None).unwrap(), Vec::<String>::new());
        assert_eq!(vm.look_after().unwrap(), LookedAfter::default());
        assert_eq!(inode(&path_of(&first)), place, "{file}");
    }
}

#[test]
fn what_is_removed_from_a_pool_at_rest_is_read_all_the_same_and_put_back() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    drop(with_vm(&path));
    for file in all_files(&path) {
        let (first, before) = (path.join(&file), files_below(&path));
        fs::remove_file(&first).unwrap();
        let view = Pool::inspect(&path).unwrap();
        let parts = view.open_vm(VmSlot::new(0)).unwrap();
        let mut missing = view.missing_names().unwrap();
        missing.extend(parts.missing_names().unwrap().into_iter().map(|name| format!("vm-0/{name}")));
        assert_eq!(missing, [file.as_str()]);
        assert!(view.load_cluster().unwrap().is_some() && parts.control(Access::ReadOnly).is_ok());
        let pool = Pool::open(&path).unwrap();
        let expected = usize::from(file != "lock");
        assert_eq!(pool.mended().len(), expected, "{file}: {:?}", pool.mended());
        assert_eq!(files_below(&path), before, "{file}");
    }
}

#[test]
fn what_has_lost_both_names_is_made_again_where_it_is_known() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    let (mut pool, vm) = with_vm(&path);
    for file in ["vm-directory", "cluster", "superblock", "lock"] {
        lose(&path.join(file));
        let mended = pool.look_after(Some(b"state")).unwrap();
        assert!(matches!(&mended[..], [line] if line.contains("gone")), "{file}: {mended:?}");
    }
    // What is stored from now on is found by those who come.
    pool.cluster().store_twice(b"later").unwrap();
    let other = pool.create_vm(&name("other"), &geometry()).unwrap();
    let view = Pool::inspect(&path).unwrap();
    assert_eq!(view.load_cluster().unwrap(), Some(b"later".to_vec()));
    assert_eq!(view.vms().unwrap().len(), 2);
    // Of a VM nothing is: its hosts have the old files.
    other.store_boot(b"kernel").unwrap();
    let all = ["image", "state", "control", "console", "boot", "redo", "disk"];
    for (at, file) in all.iter().enumerate() {
        lose(&path.join("vm-1").join(file));
        assert_eq!(other.look_after().unwrap(), LookedAfter { again: Vec::new(), gone: all[..=at].to_vec() });
    }
    fs::remove_dir_all(path.join("vm-0")).unwrap();
    assert_eq!(vm.look_after().unwrap().gone.len(), 7);
    drop(pool);
    assert_eq!(Pool::open(&path).unwrap().vms().unwrap().len(), 2);
}

/// What the controller has open is the file; of what is only read by name another one is as good.
#[test]
fn another_file_in_the_place_of_one_does_not_stay() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    let (_pool, vm) = with_vm(&path);
    let replace = |file: &str| {
        let first = path.join("vm-0").join(file);
        fs::copy(&first, path.join("copy")).unwrap();
        fs::rename(path.join("copy"), &first).unwrap();
        inode(&first)
    };
    let control = inode(&path.join("vm-0/control"));
    replace("control");
    let again = vm.look_after().unwrap().again;
    assert!(matches!(&again[..], [file] if file.replaced && file.name == "control"), "{again:?}");
    assert_eq!(inode(&path.join("vm-0/control")), control);
    let boot = replace("boot");
    assert_eq!(vm.look_after().unwrap(), LookedAfter::default());
    assert_eq!((inode(&path.join("vm-0/boot")), inode(&path.join("vm-0/kept/boot"))), (boot, boot));
    // A file that is made anew, or removed, by who may, does not come back.
    vm.create_journal(Generation::new(1), Epoch::new(3)).unwrap();
    vm.delete_log(Generation::new(1)).unwrap();
    assert_eq!(vm.look_after().unwrap(), LookedAfter::default());
    assert!(vm.log_generations().unwrap().is_empty() && !path.join("vm-0/kept/log.1").exists());
}

/// Nothing tells a pool that is being removed by its second names, and a VM that is deleted leaves none.
#[test]
fn what_is_removed_by_who_may_stays_removed() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    let (pool, vm) = with_vm(&path);
    pool.delete_vm(vm.slot()).unwrap();
    assert!(!path.join("vm-0").exists());
    pool.begin_removal().unwrap();
    drop(pool);
    assert!(!Pool::is_at(&path).unwrap() && !path.join("kept").exists());
    // As a version without second names leaves it.
    fs::create_dir(path.join("kept")).unwrap();
    fs::hard_link(path.join("superblock.removed"), path.join("kept/superblock")).unwrap();
    assert!(!Pool::is_at(&path).unwrap() && Pool::open(&path).is_err());
    drop(Pool::create(&path, &CONFIG).unwrap());
}
