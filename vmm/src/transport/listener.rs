//! The controller's end of the socket that hosts and clients come to.
//!
//! Whoever has the pool is the one to listen: the socket's file is only put in place behind the pool's lock. Two controllers of
//! different pools that are given one path are told apart by who listens there; what is left of a race between them is found by
//! the one that lives, which looks whether the file is still its own.

use super::{ConnectError, Connection, address, is_socket, new_socket, own};
use nix::errno::Errno;
use nix::sys::socket::{self, Backlog, SockFlag, UnixAddr};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A listening socket; its file is removed when it is dropped, if it still is its own.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    path: PathBuf,
    file: FileId,
}

/// Which file this is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(path: &Path) -> Result<Self, Errno> {
        let found = std::fs::symlink_metadata(path).map_err(|error| errno_of(&error))?;
        Ok(Self { device: found.dev(), inode: found.ino() })
    }
}

impl Listener {
    /// Listens at `path` for peers of the same user. A socket that a dead controller left there is replaced.
    pub fn bind(path: &Path) -> Result<Self, ConnectError> {
        let listen = |source| ConnectError::Listen { path: path.to_owned(), source };
        let fd = new_socket().map_err(listen)?;
        let file = match socket::bind(fd.as_raw_fd(), &address(path)?) {
            Ok(()) => listen_at(&fd, path).map_err(listen)?,
            Err(Errno::EADDRINUSE) => {
                check_not_in_use(path)?;
                replace(&fd, path).map_err(listen)?
            }
            Err(errno) => return Err(listen(errno)),
        };
        Ok(Self { fd, path: path.to_owned(), file })
    }

    /// Whether a controller could listen there, as far as that can be told before it does.
    pub fn check(path: &Path) -> Result<(), ConnectError> {
        address(path)?;
        let listen = |source| ConnectError::Listen { path: path.to_owned(), source };
        match std::fs::symlink_metadata(path) {
            Ok(_) => check_not_in_use(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let may = nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK;
                nix::unistd::access(dir, may).map_err(listen)
            }
            Err(error) => Err(listen(errno_of(&error))),
        }
    }

    /// Whether peers that come to its path come to it: its file is there, and no other one in its place.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        FileId::of(&self.path).is_ok_and(|found| found == self.file)
    }

    /// The next connection.
    pub fn accept(&self) -> Result<Connection, Errno> {
        let raw = socket::accept4(self.fd.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        Ok(Connection { fd: own(raw) })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody may have removed it already, and another controller may listen there by now.
        if self.is_reached() {
            let _ = nix::unistd::unlink(&self.path);
        }
    }
}

/// Only the socket of a controller that is dead may be replaced.
fn check_not_in_use(path: &Path) -> Result<(), ConnectError> {
    if Connection::connect(path).is_ok() {
        return Err(ConnectError::InUse { path: path.to_owned() });
    }
    if !is_socket(std::fs::symlink_metadata(path)) {
        return Err(ConnectError::Listen { path: path.to_owned(), source: Errno::EADDRINUSE });
    }
    Ok(())
}

/// Listens in place of a dead controller. Its socket stays until then: whoever looks finds one or the other, and never that there
/// was no controller.
fn replace(fd: &OwnedFd, path: &Path) -> Result<FileId, Errno> {
    // A name that nobody else has: another controller may be doing the same.
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{:08x}.new", RandomState::new().hash_one(std::process::id()) >> 32));
    let Ok(address) = UnixAddr::new(Path::new(&beside)) else {
        // The path is almost as long as any can be.
        nix::unistd::unlink(path)?;
        socket::bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        return listen_at(fd, path);
    };
    socket::bind(fd.as_raw_fd(), &address)?;
    let replaced = listen_at(fd, Path::new(&beside))
        .and_then(|file| std::fs::rename(&beside, path).map(|()| file).map_err(|error| errno_of(&error)));
    if replaced.is_err() {
        let _ = nix::unistd::unlink(Path::new(&beside));
    }
    replaced
}

fn listen_at(fd: &OwnedFd, path: &Path) -> Result<FileId, Errno> {
    use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
    fchmodat(nix::fcntl::AT_FDCWD, path, Mode::from_bits_truncate(0o600), FchmodatFlags::FollowSymlink)?;
    socket::listen(fd, Backlog::MAXCONN)?;
    FileId::of(path)
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Whoever found nothing there would take it that there never was a controller.
    #[test]
    fn while_a_dead_controllers_socket_is_replaced_there_always_is_one() {
        const ROUNDS: u32 = 500;
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("pool.sock");
        // Nobody removes the socket of this one.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let looks = scope.spawn(|| {
                let mut looks = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let refused = Connection::connect(&path).err();
                    assert!(refused.as_ref().is_none_or(ConnectError::is_away), "{refused:?}");
                    looks += 1;
                }
                looks
            });
            for _ in 0..ROUNDS {
                let fd = new_socket().unwrap();
                replace(&fd, &path).unwrap();
                Connection::connect(&path).unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
            assert!(looks.join().unwrap() > 0);
        });
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "nothing is left beside it");
        let listener = Listener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path), Err(ConnectError::InUse { .. })));
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_whose_path_has_no_room_for_another_beside_it_is_replaced_too() {
        let place = tempfile::tempdir().unwrap();
        let room = 107 - place.path().as_os_str().len() - 1;
        let path = place.path().join("s".repeat(room));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&path).unwrap();
        let _client = Connection::connect(&path).unwrap();
        listener.accept().unwrap();
    }

    /// What a controller that has ended leaves alone, and one that lives notices.
    #[test]
    fn who_is_not_reached_any_more_knows_and_leaves_the_others_socket_alone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("pool.sock");
        let first = Listener::bind(&path).unwrap();
        assert!(first.is_reached());
        std::fs::remove_file(&path).unwrap();
        assert!(!first.is_reached());
        let second = Listener::bind(&path).unwrap();
        assert!(second.is_reached() && !first.is_reached());
        drop(first);
        assert!(second.is_reached());
        let _client = Connection::connect(&path).unwrap();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn where_no_controller_could_listen_that_is_told_before_it_does() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("pool.sock");
        Listener::check(&path).unwrap();
        let listener = Listener::bind(&path).unwrap();
        assert!(matches!(Listener::check(&path), Err(ConnectError::InUse { .. })));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"a file").unwrap();
        assert!(matches!(Listener::check(&path), Err(ConnectError::Listen { source: Errno::EADDRINUSE, .. })));
        drop(listener);
        assert_eq!(std::fs::read(&path).unwrap(), b"a file");
        let nowhere = place.path().join("none").join("pool.sock");
        assert!(matches!(Listener::check(&nowhere), Err(ConnectError::Listen { source: Errno::ENOENT, .. })));
    }
}
