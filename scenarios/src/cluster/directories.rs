//! The two directories of a private cluster, and the removal of those that dead clusters left.
//!
//! Each holds a file `lock` that the cluster's parent and its controller both keep locked (shared) while they live. A
//! directory whose lock is free belongs to nobody and is removed by the next cluster that starts. A directory without a
//! lock file is never touched: somebody kept it on purpose.

use super::ClusterError;
use nix::errno::Errno;
use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

const PREFIX: &str = "ftvm-";
const LOCK: &str = "lock";
/// Another cluster that cleans up can take an empty directory away before it is locked: then the next name is tried.
const CREATION_TRIES_MAX: u32 = 8;

/// A directory that is removed with its cluster.
#[derive(Debug)]
pub struct OwnedDirectory {
    path: PathBuf,
    /// Locked while this is held.
    lock: File,
}

/// Copies what the processes of a cluster said, life by life.
pub(super) fn copy_logs(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "stderr") {
            fs::copy(&path, to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

impl OwnedDirectory {
    /// Makes `PARENT/ftvm-PID-RANDOM`, for this user only.
    pub(crate) fn create(parent: &Path) -> Result<Self, ClusterError> {
        let failed = |source: io::Error| ClusterError::Directory { parent: parent.to_owned(), source };
        let mut tries = 0;
        loop {
            tries += 1;
            let name = format!("{PREFIX}{}-{:08x}", std::process::id(), RandomState::new().hash_one(tries) >> 32);
            let path = parent.join(name);
            match Self::create_at(path) {
                Ok(directory) => return Ok(directory),
                Err(error) if tries < CREATION_TRIES_MAX && may_pass(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    fn create_at(path: PathBuf) -> io::Result<Self> {
        DirBuilder::new().mode(0o700).create(&path)?;
        let locked = File::create_new(path.join(LOCK)).and_then(|lock| lock.lock_shared().map(|()| lock));
        match locked {
            Ok(lock) => Ok(Self { path, lock }),
            Err(error) => {
                // Left behind, it would stay for ever.
                let _ = fs::remove_dir_all(&path);
                Err(error)
            }
        }
    }

    /// Joins in the ownership of a directory that another process made.
    ///
    /// # Errors
    /// When it has no lock file, or is being removed.
    pub fn share(path: &Path) -> io::Result<Self> {
        let lock = File::open(path.join(LOCK))?;
        lock.try_lock_shared()?;
        Ok(Self { path: path.to_owned(), lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it with all that is in it.
    pub fn remove(self) {
        // The other owner may have removed it already; and where removal fails, the next cluster tries again.
        let _ = fs::remove_dir_all(&self.path);
        drop(self.lock);
    }

    /// Leaves it where it is, for good.
    pub fn keep(self) {
        let _ = fs::remove_file(self.path.join(LOCK));
    }
}

/// Lost the race against another cluster's cleaning, or hit a name that exists.
fn may_pass(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) && {
        // A parent that does not exist stays missing.
        !matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOTDIR))
    }
}

/// Removes what dead private clusters of this user left in `parent`.
pub(super) fn remove_stale(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_str().is_some_and(is_cluster_name)
            && entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == user());
        if ours {
            remove_if_stale(&entry.path());
        }
    }
}

fn remove_if_stale(path: &Path) {
    match File::open(path.join(LOCK)) {
        Ok(lock) => {
            if lock.try_lock().is_ok() {
                tracing::info!(path = %path.display(), "removing what a dead cluster left");
                let _ = fs::remove_dir_all(path);
            }
        }
        // Its maker died before the lock was there. Fails, as it should, when anything is inside.
        Err(_) => {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Whether a name is `ftvm-PID-RANDOM`.
fn is_cluster_name(name: &str) -> bool {
    name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).is_some_and(|(pid, random)| {
        !pid.is_empty()
            && pid.bytes().all(|byte| byte.is_ascii_digit())
            && random.len() == 8
            && random.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

fn user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_clusters_are_taken_for_stale() {
        assert!(is_cluster_name("ftvm-123-0a1b2c3d"));
        for name in ["ftvm", "ftvm-", "ftvm-1-2", "ftvm-x-0a1b2c3d", "ftvm-12-0a1b2c3d.bak", "other-12-0a1b2c3d"] {
            assert!(!is_cluster_name(name), "{name}");
        }
    }

    #[test]
    fn a_directory_is_stale_once_nobody_holds_its_lock() {
        let parent = tempfile::tempdir().unwrap();
        let held = OwnedDirectory::create(parent.path()).unwrap();
        let shared = OwnedDirectory::share(held.path()).unwrap();
        let path = held.path().to_owned();
        fs::write(path.join("image"), b"content").unwrap();
        remove_stale(parent.path());
        assert!(path.exists(), "both owners live");
        drop(held);
        remove_stale(parent.path());
        assert!(path.exists(), "one owner lives");
        drop(shared);
        remove_stale(parent.path());
        assert!(!path.exists(), "nobody owns it");
    }

    #[test]
    fn a_kept_directory_is_never_removed() {
        let parent = tempfile::tempdir().unwrap();
        let directory = OwnedDirectory::create(parent.path()).unwrap();
        let path = directory.path().to_owned();
        fs::write(path.join("image"), b"content").unwrap();
        directory.keep();
        remove_stale(parent.path());
        assert!(path.join("image").exists());
    }

    #[test]
    fn a_missing_parent_is_an_error() {
        let parent = tempfile::tempdir().unwrap();
        assert!(matches!(OwnedDirectory::create(&parent.path().join("missing")), Err(ClusterError::Directory { .. })));
    }
}
