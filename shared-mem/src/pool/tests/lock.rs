//! One controller has a pool, whatever becomes of the file that says so.

use super::*;

fn is_refused(path: &Path) -> bool {
    let refusals = [Pool::open(path).err(), Pool::create(path, &CONFIG).err()];
    let is_lock = |error: &Option<PoolError>| {
        matches!(
            error,
            Some(PoolError::AlreadyLocked(_) | PoolError::NotEmpty(_) | PoolError::SuperblockMissing { .. })
        )
    };
    matches!(refusals[0], Some(PoolError::AlreadyLocked(_))) && is_lock(&refusals[1])
}

/// Whatever somebody does to the file, a second controller does not find the pool free, and an onlooker does not, either.
#[test]
fn a_pool_is_held_whatever_becomes_of_its_lock_file() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    let lock = path.join(files::LOCK);
    let mut pool = Pool::create(&path, &CONFIG).unwrap();
    let view = Pool::inspect(&path).unwrap();
    let spoilers: [(&str, &dyn Fn()); 2] = [
        ("it was gone", &|| fs::remove_file(&lock).unwrap()),
        ("another file", &|| {
            fs::write(path.join("other"), b"").unwrap();
            fs::rename(path.join("other"), &lock).unwrap();
        }),
    ];
    for (said, spoil) in spoilers {
        spoil();
        assert!(view.is_locked().unwrap() && is_refused(&path), "{said}: before it is put back");
        let mended = pool.look_after(None).unwrap();
        assert!(matches!(&mended[..], [line] if line.contains("`lock`") && line.contains(said)), "{mended:?}");
        assert_eq!(pool.look_after(None).unwrap(), Vec::<String>::new());
        assert!(lock.exists());
        assert!(view.is_locked().unwrap() && is_refused(&path), "{said}: when it is back");
        // A program of a version that knows of the file alone.
        let file = fs::File::options().write(true).open(&lock).unwrap();
        let lock = crate::pool::lock::whole_file(libc::F_WRLCK);
        let taken = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock));
        assert_eq!(taken, Err(nix::Error::EAGAIN), "{said}");
    }
    drop(pool);
    assert!(!view.is_locked().unwrap());
    drop(Pool::open(&path).unwrap());
}

/// Who only asks keeps no controller from its pool.
#[test]
fn onlookers_keep_nobody_from_a_pool() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    drop(Pool::create(&path, &CONFIG).unwrap());
    let view = Pool::inspect(&path).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                view.is_locked().unwrap();
            }
        });
        let opened = (0..50).try_for_each(|_| Pool::open(&path).map(drop));
        over.store(true, Ordering::Relaxed);
        opened.unwrap();
    });
}

#[test]
fn a_controller_of_an_older_version_is_heeded() {
    let dir = on_tmpfs();
    let path = dir.path().join("pool");
    drop(Pool::create(&path, &CONFIG).unwrap());
    let file = fs::File::options().write(true).open(path.join(files::LOCK)).unwrap();
    let lock = crate::pool::lock::whole_file(libc::F_WRLCK);
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    assert!(Pool::inspect(&path).unwrap().is_locked().unwrap());
    assert!(matches!(Pool::open(&path), Err(PoolError::AlreadyLocked(_))));
    drop(file);
    drop(Pool::open(&path).unwrap());
}
