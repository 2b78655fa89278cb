//! Who has a pool: one controller, for as long as it lives, however it ends.
//!
//! The pool's directory is locked, which nobody can replace without replacing the pool, and the file `lock` in it, which is what
//! older versions go by. Where somebody has removed the file, the directory tells; the controller makes the file anew.
//! Others can ask about either without taking it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};

use super::device;
use super::error::PoolError;
use super::files;

/// The lock of a pool, held.
#[derive(Debug)]
pub(super) struct PoolLock {
    /// The pool's directory; a device is a file itself.
    directory: Option<Flock<File>>,
    /// The file `lock`, or the device.
    file: File,
}

impl PoolLock {
    /// Takes a pool for one controller.
    ///
    /// # Errors
    /// When another one has it, or the file system refuses.
    pub(super) fn take(dir: &Path) -> Result<Self, PoolError> {
        if device::whole(dir).is_some() {
            return Ok(Self { directory: None, file: lock_file(dir, dir, false)? });
        }
        // First: who has it may make the file.
        let directory = Some(lock_directory(dir)?);
        Ok(Self { directory, file: lock_own_file(dir)? })
    }

    /// Makes the file again if it is gone, and locks another one that is in its place. For the controller that has the pool.
    pub(super) fn look_after(&mut self, dir: &Path) -> Result<Option<String>, PoolError> {
        let path = dir.join(files::LOCK);
        if self.directory.is_none() {
            return Ok(None);
        }
        let own = self.file.metadata().map_err(|error| PoolError::file("examine", &path, error))?;
        let what = match fs::symlink_metadata(&path) {
            Ok(found) if (found.dev(), found.ino()) == (own.dev(), own.ino()) => return Ok(None),
            Ok(_) => "another file was in its place",
            Err(error) if error.kind() == io::ErrorKind::NotFound => "it was gone",
            Err(error) => return Err(PoolError::file("examine", &path, error)),
        };
        self.file = lock_own_file(dir)?;
        Ok(Some(format!("the file `lock`: {what}")))
    }

    /// A file of the pool's file system.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

/// Whether a controller has the pool. The lock is not taken: a controller that starts meanwhile does not notice.
pub(super) fn is_held(dir: &Path) -> Result<bool, PoolError> {
    let path = lock_path(dir);
    match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path) {
        // Only a writer's lock stands in a reader's way.
        Ok(file) if is_locked_for(&file, &path, libc::F_RDLCK)? => return Ok(true),
        Ok(_) => {}
        // Made by the first controller that opens the pool.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(PoolError::file("open", &path, error)),
    }
    // Another file may be in the place of the one that is locked.
    if path == dir { Ok(false) } else { is_locked_for(&open_directory(dir)?, dir, libc::F_WRLCK) }
}

/// Whether a lock of this kind could not be had.
fn is_locked_for(file: &File, path: &Path, kind: libc::c_int) -> Result<bool, PoolError> {
    let mut found = whole_file(kind);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).map_err(|errno| PoolError::file("examine", path, errno))?;
    Ok(i32::from(found.l_type) != libc::F_UNLCK)
}

fn open_directory(dir: &Path) -> Result<File, PoolError> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECTORY);
    options.open(dir).map_err(|error| PoolError::file("open", dir, error))
}

/// Two locks: nobody else gets the first; the second, which a descriptor that only reads can have, is the one to ask about.
fn lock_directory(dir: &Path) -> Result<Flock<File>, PoolError> {
    let directory = match Flock::lock(open_directory(dir)?, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => locked,
        Err((_, nix::Error::EAGAIN)) => return Err(PoolError::AlreadyLocked(dir.to_owned())),
        Err((_, errno)) => return Err(PoolError::file("lock", dir, errno)),
    };
    fcntl(&*directory, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_RDLCK)))
        .map_err(|errno| PoolError::file("lock", dir, errno))?;
    Ok(directory)
}

/// Locks the file `lock`, which is made if it is not there.
fn lock_own_file(dir: &Path) -> Result<File, PoolError> {
    lock_file(dir, &dir.join(files::LOCK), true)
}

/// Takes a lock that belongs to the open file, so that it ends with it however the process ends, and that others can ask about
/// without taking it (which `flock` does not offer).
fn lock_file(dir: &Path, path: &Path, make: bool) -> Result<File, PoolError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(make).truncate(false).mode(0o600);
    let file = options.open(path).map_err(|error| PoolError::file("open", path, error))?;
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
        Ok(_) => Ok(file),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Err(PoolError::AlreadyLocked(dir.to_owned())),
        Err(errno) => Err(PoolError::file("lock", path, errno)),
    }
}

/// What a pool is locked by: a file of its own, or the device itself, for the controllers of one machine. (Those of several are
/// one by whoever starts them.)
fn lock_path(dir: &Path) -> PathBuf {
    if device::whole(dir).is_some() { dir.to_owned() } else { dir.join(files::LOCK) }
}

/// A lock of this kind on all of a file.
pub(super) fn whole_file(kind: libc::c_int) -> libc::flock {
    let short = |number: libc::c_int| libc::c_short::try_from(number).expect("the kernel's constants are small");
    libc::flock { l_type: short(kind), l_whence: short(libc::SEEK_SET), l_start: 0, l_len: 0, l_pid: 0 }
}
