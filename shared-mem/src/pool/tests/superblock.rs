//! What becomes of a superblock that is damaged or gone.

use super::*;

#[test]
fn a_pool_without_its_superblock_is_kept_and_is_whole_when_that_is_put_back() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    let pool = Pool::create(&path, &CONFIG).unwrap();
    pool.create_vm(&name("a"), &geometry()).unwrap();
    pool.create_vm(&name("b"), &geometry()).unwrap();
    drop(pool);
    let superblock = fs::read(path.join("superblock")).unwrap();
    fs::remove_file(path.join("superblock")).unwrap();
    let before = files_below(&path);
    let errors = [Pool::open(&path).err(), Pool::create(&path, &CONFIG).err(), Pool::inspect(&path).err()];
    for error in errors {
        assert!(matches!(error, Some(PoolError::SuperblockMissing { vms: 2, .. })), "{error:?}");
    }
    assert_eq!(files_below(&path), before);
    fs::write(path.join("superblock"), superblock).unwrap();
    let pool = Pool::open(&path).unwrap();
    assert!(pool.find_vm(&name("a")).is_ok() && pool.find_vm(&name("b")).is_ok());
}

/// In place: a full pool has no room for another one.
#[test]
fn a_damaged_superblock_is_mended_where_it_is() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = on_tmpfs();
    let pool_dir = dir.path().join("pool");
    let superblock = pool_dir.join("superblock");
    let mut pool = Pool::create(&pool_dir, &CONFIG).unwrap();
    let (sound, place) = (fs::read(&superblock).unwrap(), fs::metadata(&superblock).unwrap().ino());
    let is_sound = || {
        assert!(fs::read(&superblock).unwrap() == sound);
        assert_eq!(fs::metadata(&superblock).unwrap().ino(), place, "it was made anew");
    };
    assert_eq!(pool.look_after(None).unwrap(), Vec::<String>::new());
    for (copies, at) in
        [(&["first copy"][..], &[20][..]), (&["second copy"], &[2060]), (&["first", "second"], &[40, 2088])]
    {
        at.iter().for_each(|at| flip(&superblock, *at));
        let mended = pool.look_after(None).unwrap();
        assert_eq!(mended.len(), copies.len(), "{mended:?}");
        assert!(mended.iter().zip(copies).all(|(line, copy)| line.contains(copy)), "{mended:?}");
        is_sound();
    }
    drop(pool);
    for at in [20, 2060] {
        flip(&superblock, at);
        let pool = Pool::open(&pool_dir).unwrap();
        assert!(pool.mended()[0].contains("a copy of the superblock"), "{:?}", pool.mended());
        is_sound();
    }
    fs::File::options().write(true).open(&superblock).unwrap().set_len(1000).unwrap();
    let mut pool = Pool::open(&pool_dir).unwrap();
    assert!(pool.mended()[0].contains("1000 bytes"), "{:?}", pool.mended());
    assert!(fs::read(&superblock).unwrap() == sound);
    // Whoever has the pool open knows it.
    fs::remove_file(&superblock).unwrap();
    let mended = pool.look_after(None).unwrap();
    assert!(matches!(&mended[..], [line] if line.contains("gone")), "{mended:?}");
    assert!(fs::read(&superblock).unwrap() == sound);
}
