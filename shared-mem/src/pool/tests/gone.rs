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
