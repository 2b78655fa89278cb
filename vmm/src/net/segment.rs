//! A port's side of a segment.

use super::error::NetError;
use super::port::Link;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, recvfrom, send, sendto, socket};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a new port waits for its switch. A switch that runs answers far sooner.
const GREETING_TIME_MAX: Duration = Duration::from_millis(100);
/// How long one frame waits for a switch that has no room. After that frames are lost at once until one gets through.
const SEND_TIME_MAX: Duration = Duration::from_millis(10);

/// A datagram socket with a name that the kernel chose: nothing is left in any directory.
pub(super) fn autobound() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    bind(socket.as_raw_fd(), &UnixAddr::new_unnamed())?;
    Ok(socket)
}

/// Waits until the descriptor is ready for this; false if it takes longer.
fn await_ready(fd: BorrowedFd<'_>, flags: PollFlags, time: Duration) -> bool {
    let timeout = PollTimeout::try_from(time).expect("less than a day");
    poll(&mut [PollFd::new(fd, flags)], timeout).is_ok_and(|ready| ready > 0)
}

/// A port of a segment.
pub(super) struct Segment {
    socket: OwnedFd,
    path: PathBuf,
    /// Whether the switch has answered, so that the two sockets know each other.
    connected: AtomicBool,
    /// Whether the last frame found no room for as long as it may wait.
    stalled: AtomicBool,
}

/// Whether somebody listens at a segment's socket.
pub(super) fn check(path: &Path) -> Result<(), NetError> {
    let socket = UnixDatagram::unbound().map_err(NetError::Resources)?;
    socket.connect(path).map_err(|source| NetError::NoSwitch { path: path.to_owned(), source })
}

impl Segment {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let segment =
            Self { socket: autobound()?, path, connected: AtomicBool::new(false), stalled: AtomicBool::new(false) };
        let started = Instant::now();
        if segment.greet().is_ok() {
            while !segment.connected.load(Ordering::Relaxed) {
                let left = GREETING_TIME_MAX.saturating_sub(started.elapsed());
                if left.is_zero() || !await_ready(segment.socket.as_fd(), PollFlags::POLLIN, left) {
                    break;
                }
                // Whatever fails here, upkeep tries again.
                let _ = segment.receive(&mut []);
            }
        }
        Ok(segment)
    }

    /// Tells the switch that this port is here.
    fn greet(&self) -> io::Result<()> {
        let switch = UnixAddr::new(&self.path)?;
        sendto(self.socket.as_raw_fd(), &[], &switch, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    /// The switch is gone: perhaps another is there already.
    fn lose(&self) {
        self.connected.store(false, Ordering::Relaxed);
        // No switch yet: upkeep goes on trying.
        let _ = self.greet();
    }
}

impl Link for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn receive(&self, frame: &mut [u8]) -> io::Result<usize> {
        match recvfrom::<UnixAddr>(self.socket.as_raw_fd(), frame) {
            Ok((0, Some(switch))) if !self.connected.load(Ordering::Relaxed) => {
                connect(self.socket.as_raw_fd(), &switch)?;
                self.connected.store(true, Ordering::Relaxed);
                Ok(0)
            }
            Ok((length, _)) => Ok(length),
            Err(nix::Error::EAGAIN) => Err(io::ErrorKind::WouldBlock.into()),
            Err(errno) => {
                self.lose();
                Err(errno.into())
            }
        }
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        if !self.connected.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let mut sent = send(self.socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT);
        if sent == Err(nix::Error::EAGAIN) && !self.stalled.load(Ordering::Relaxed) {
            await_ready(self.socket.as_fd(), PollFlags::POLLOUT, SEND_TIME_MAX);
            sent = send(self.socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT);
        }
        self.stalled.store(sent == Err(nix::Error::EAGAIN), Ordering::Relaxed);
        match sent {
            Ok(_) => Ok(()),
            Err(nix::Error::EAGAIN) => Err(io::ErrorKind::WouldBlock.into()),
            Err(errno) => {
                self.lose();
                Err(errno.into())
            }
        }
    }

    fn upkeep(&self) {
        // The kernel tells of a peer's death to those who send.
        if self.connected.load(Ordering::Relaxed)
            && let Err(errno) = send(self.socket.as_raw_fd(), &[], MsgFlags::MSG_DONTWAIT)
            && errno != nix::Error::EAGAIN
        {
            self.connected.store(false, Ordering::Relaxed);
        }
        if !self.connected.load(Ordering::Relaxed) {
            // No switch yet: the next upkeep tries again.
            let _ = self.greet();
        }
    }
}
