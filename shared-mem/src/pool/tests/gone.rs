//! Files that somebody removes from a live pool.

use super::*;

#[test]
fn what_is_gone_is_made_again_where_it_is_known() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    let mut pool = Pool::create(&path, &CONFIG).unwrap();
    pool.cluster().store_twice(b"state").unwrap();
    let vm = pool.create_vm(&name("a"), &geometry()).unwrap();
    vm.store_boot(b"kernel").unwrap();
    assert_eq!(vm.gone(), [""; 0]);
    for file in ["vm-directory", "cluster", "superblock", "lock"] {
        fs::remove_file(path.join(file)).unwrap();
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
        fs::remove_file(path.join("vm-1").join(file)).unwrap();
        assert_eq!(other.gone(), all[..=at]);
    }
    fs::remove_dir_all(path.join("vm-0")).unwrap();
    assert_eq!(vm.gone().len(), 7);
    drop(pool);
    assert_eq!(Pool::open(&path).unwrap().vms().unwrap().len(), 2);
}

#[test]
fn a_file_that_is_cut_off_is_not_taken_for_one_that_others_still_have() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    let pool = Pool::create(&path, &CONFIG).unwrap();
    let vm = pool.create_vm(&name("a"), &geometry()).unwrap();
    vm.store_boot(b"kernel").unwrap();
    let all = ["image", "state", "control", "console", "boot", "redo", "disk"];
    for (at, file) in all.iter().enumerate() {
        cut_off(&path.join("vm-0").join(file), if at % 2 == 0 { 0 } else { 2 });
        assert_eq!((vm.cut_off(), vm.gone()), (all[..=at].to_vec(), vec![]));
    }
    fs::remove_file(path.join("vm-0").join("image")).unwrap();
    assert_eq!((vm.cut_off(), vm.gone()), (all[1..].to_vec(), vec!["image"]));
}

/// Whoever has such a file mapped has lost a part of it, and writes to nobody what it writes there.
#[test]
fn what_is_cut_off_is_made_again_with_what_its_controller_knows() {
    crate::mem::survive_truncation().unwrap();
    for part in [0, 2] {
        let dir = on_tmpfs();
        let path = dir.path().join("pool");
        let mut pool = Pool::create(&path, &CONFIG).unwrap();
        pool.store_cluster(b"state").unwrap();
        pool.create_vm(&name("a"), &geometry()).unwrap();
        for file in ["vm-directory", "cluster", "superblock"] {
            cut_off(&path.join(file), part);
            let refused = Pool::inspect(&path).and_then(|view| view.load_cluster());
            let is_refused = matches!(refused, Err(PoolError::FileLength { .. } | PoolError::Superblock { .. }));
            // Half a superblock is one of its two copies.
            assert!(is_refused || (file, part) == ("superblock", 2), "{file}: {refused:?}");
            let mended = pool.look_after(Some(b"state")).unwrap();
            assert!(matches!(&mended[..], [line] if line.contains(file)), "{file}: {mended:?}");
            assert_eq!(pool.look_after(Some(b"state")).unwrap(), [""; 0]);
            let view = Pool::inspect(&path).unwrap();
            assert_eq!((view.load_cluster().unwrap(), view.vms().unwrap().len()), (Some(b"state".to_vec()), 1));
        }
        drop(pool);
        assert_eq!(Pool::open(&path).unwrap().vms().unwrap().len(), 1);
    }
}

#[test]
fn what_is_stored_while_its_file_is_cut_off_is_stored_in_the_end_or_an_error() {
    crate::mem::survive_truncation().unwrap();
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    let mut pool = Pool::create(&path, &CONFIG).unwrap();
    pool.store_cluster(b"state").unwrap();
    pool.create_vm(&name("a"), &geometry()).unwrap();
    cut_off(&path.join("cluster"), 0);
    pool.store_cluster(b"later").unwrap();
    assert_eq!(Pool::inspect(&path).unwrap().load_cluster().unwrap(), Some(b"later".to_vec()));
    cut_off(&path.join("vm-directory"), 0);
    let refused = pool.create_vm(&name("b"), &geometry());
    assert!(matches!(refused, Err(PoolError::Directory(_) | PoolError::CutOff { .. })), "{refused:?}");
    let mended = pool.look_after(Some(b"later")).unwrap();
    assert!(mended.len() == 2 && mended.iter().all(|line| line.contains("cut off")), "{mended:?}");
    pool.create_vm(&name("b"), &geometry()).unwrap();
    drop(pool);
    let pool = Pool::open(&path).unwrap();
    assert_eq!((pool.vms().unwrap().len(), pool.mended()), (2, &[][..]));
}

fn cut_off(path: &std::path::Path, part: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len.checked_div(part).unwrap_or(0)).unwrap();
}
