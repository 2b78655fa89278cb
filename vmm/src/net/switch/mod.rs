//! A learning switch over Unix datagram sockets, without any privilege.
//!
//! One thread. Ports are learned by the empty datagram that they begin with; each gets a socket of its own, so that a port
//! that hangs holds up nobody else, and one that has died refuses what is sent to it.

mod faults;
mod table;

pub use faults::{Faults, Stretch, Trouble};

use super::frame::MacAddress;
use super::segment::autobound;
use crate::machine::device::virtio::{FRAME_BYTES_MAX, FRAME_BYTES_MIN};
use crate::slice;
use faults::{Leg, Troubles, Weather};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{MsgFlags, UnixAddr, connect, recvfrom, send};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;
use table::{PortId, Table, Way};

/// Most ports; greetings beyond them get no answer.
pub(super) const PORTS_MAX: usize = 128;
/// Datagrams taken from one socket before the others have their turn.
const TURN_MAX: usize = 64;

/// Why a switch cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// Something is at its path already.
    #[error("{path} is taken: another switch runs there, or choose another path")]
    Taken {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot make a socket at {path}")]
    Bind {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No descriptors or threads.
    #[error("cannot start the switch")]
    Resources(#[source] io::Error),
}

/// What has become of frames.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct SwitchCounters {
    /// Ports that are there.
    pub ports: u64,
    /// Frames that came.
    pub received: u64,
    /// Frames that went on, once for each port.
    pub forwarded: u64,
    /// Frames that did not: faults, no room at the port, no frames at all.
    pub lost: u64,
    /// Frames for nobody: the receiver is behind the port that they came from, or there is no other port, or it is gone.
    pub nowhere: u64,
}

#[derive(Debug, Default)]
struct Shared {
    cut: AtomicBool,
    ports: AtomicU64,
    received: AtomicU64,
    forwarded: AtomicU64,
    lost: AtomicU64,
    nowhere: AtomicU64,
}

/// A running switch; it ends when this is dropped.
pub struct Switch {
    path: PathBuf,
    shared: Arc<Shared>,
    troubles: Troubles,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    /// Starts a switch at a path. A socket that a dead one has left there is replaced.
    ///
    /// # Errors
    /// The path is taken or cannot be used.
    pub fn start(path: &Path, faults: Faults) -> Result<Self, SwitchError> {
        let listener = listen(path)?;
        let stop = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(|errno| SwitchError::Resources(errno.into()))?;
        let (stop, shared) = (Arc::new(stop), Arc::new(Shared::default()));
        let troubles = Troubles::default();
        let running = Running {
            listener,
            stop: stop.clone(),
            shared: shared.clone(),
            ports: BTreeMap::new(),
            ports_ever: 0,
            table: Table::default(),
            weather: Weather::new(faults, troubles.clone()),
        };
        let thread = std::thread::Builder::new()
            .name("switch".to_owned())
            .spawn(move || {
                slice::run_soon();
                running.run();
            })
            .map_err(SwitchError::Resources)?;
        Ok(Self { path: path.to_owned(), shared, troubles, stop, thread: Some(thread) })
    }

    /// Cuts all cables, or mends them.
    pub fn set_cut(&self, cut: bool) {
        self.shared.cut.store(cut, Ordering::Relaxed);
    }

    /// From now on this goes wrong there, beside what goes wrong everywhere and always; `None`: nothing any more.
    pub fn set_trouble(&self, stretch: Stretch, trouble: Option<Trouble>) {
        self.troubles.set(stretch, trouble);
    }

    /// What has become of frames until now.
    #[must_use]
    pub fn counters(&self) -> SwitchCounters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SwitchCounters {
            ports: of(&self.shared.ports),
            received: of(&self.shared.received),
            forwarded: of(&self.shared.forwarded),
            lost: of(&self.shared.lost),
            nowhere: of(&self.shared.nowhere),
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // The counter has room for the only write there is.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
        // Already gone: somebody else has removed it.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn listen(path: &Path) -> Result<UnixDatagram, SwitchError> {
    let bind_failed = |source| SwitchError::Bind { path: path.to_owned(), source };
    let listener = match UnixDatagram::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let probe = UnixDatagram::unbound().map_err(SwitchError::Resources)?;
            // A socket that nobody has open refuses; anything else is alive, or no socket.
            match probe.connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                _ => return Err(SwitchError::Taken { path: path.to_owned() }),
            }
            if !is_socket(path) {
                return Err(SwitchError::Taken { path: path.to_owned() });
            }
            std::fs::remove_file(path).map_err(bind_failed)?;
            UnixDatagram::bind(path).map_err(bind_failed)?
        }
        other => other.map_err(bind_failed)?,
    };
    listener.set_nonblocking(true).map_err(SwitchError::Resources)?;
    Ok(listener)
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

struct Port {
    socket: OwnedFd,
    address: UnixAddr,
}

struct Running {
    listener: UnixDatagram,
    stop: Arc<EventFd>,
    shared: Arc<Shared>,
    ports: BTreeMap<PortId, Port>,
    ports_ever: u64,
    table: Table,
    weather: Weather,
}

impl Running {
    fn run(mut self) {
        loop {
            let Some(ready) = self.await_ready() else { return };
            self.admit();
            for port in ready {
                self.take_frames(port);
            }
            let now = Instant::now();
            while let Some((leg, frame)) = self.weather.due(now) {
                match leg {
                    Leg::In(from) => self.forward(from, &frame, now),
                    Leg::Out(to) => self.send(to, &frame),
                }
            }
        }
    }

    /// Waits for something to do; the ports that have something to say, or nothing once the switch is to end.
    fn await_ready(&self) -> Option<Vec<PortId>> {
        let timeout = match self.weather.wait(Instant::now()) {
            None => PollTimeout::NONE,
            // Rounded up: a frame is due when its time is over, not before.
            Some(wait) => {
                let ms = wait.as_micros().div_ceil(1000);
                PollTimeout::try_from(i32::try_from(ms).unwrap_or(i32::MAX)).expect("not negative")
            }
        };
        let mut waited = vec![
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        waited.extend(self.ports.values().map(|port| PollFd::new(port.socket.as_fd(), PollFlags::POLLIN)));
        // Interrupted: nobody is ready, and the next round sees what is.
        let _ = poll(&mut waited, timeout);
        if waited[0].any().unwrap_or(false) {
            return None;
        }
        let ready = self.ports.keys().zip(&waited[2..]).filter(|(_, fd)| fd.any().unwrap_or(false));
        Some(ready.map(|(port, _)| *port).collect())
    }

    /// Answers ports that greet.
    fn admit(&mut self) {
        let mut probed = false;
        for _ in 0..TURN_MAX {
            let Ok((_, Some(address))) = recvfrom::<UnixAddr>(self.listener.as_raw_fd(), &mut []) else { return };
            let known = self.ports.iter().find(|(_, port)| port.address == address).map(|(port, _)| *port);
            // A port that greets again has lost its socket's other end.
            known.into_iter().for_each(|port| self.remove(port));
            if self.ports.len() >= PORTS_MAX && !std::mem::replace(&mut probed, true) {
                self.remove_dead();
            }
            if self.ports.len() >= PORTS_MAX {
                tracing::warn!("a port was turned away: there are {PORTS_MAX}");
                continue;
            }
            if let Ok(socket) = greet_back(&address) {
                self.ports_ever += 1;
                self.ports.insert(PortId(self.ports_ever), Port { socket, address });
                self.count_ports();
            }
        }
    }

    /// Nobody has sent anything to a port that died since, so nobody knows: the kernel tells those who send.
    fn remove_dead(&mut self) {
        let is_dead = |port: &Port| {
            let probed = send(port.socket.as_raw_fd(), &[], MsgFlags::MSG_DONTWAIT);
            !matches!(probed, Ok(_) | Err(nix::Error::EAGAIN | nix::Error::ENOBUFS | nix::Error::EINTR))
        };
        let dead: Vec<PortId> = self.ports.iter().filter(|(_, port)| is_dead(port)).map(|(port, _)| *port).collect();
        dead.into_iter().for_each(|port| self.remove(port));
    }

    fn take_frames(&mut self, port: PortId) {
        // One byte more than a frame has: what fills it was longer.
        let mut frame = [0; FRAME_BYTES_MAX + 1];
        for _ in 0..TURN_MAX {
            let Some(socket) = self.ports.get(&port).map(|port| port.socket.as_raw_fd()) else { return };
            let length = match recvfrom::<UnixAddr>(socket, &mut frame) {
                Ok((length, _)) => length,
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => return,
                Err(_) => return self.remove(port),
            };
            if length == 0 {
                continue;
            }
            let now = Instant::now();
            self.shared.received.fetch_add(1, Ordering::Relaxed);
            let fits = (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&length);
            let cut = self.shared.cut.load(Ordering::Relaxed);
            if cut || !fits || !self.weather.take(port, &frame[..length], now) {
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn forward(&mut self, port: PortId, frame: &[u8], now: Instant) {
        let (from, to) = MacAddress::of_frame(frame).expect("frames have a header");
        // The port may be gone, and with it what its frames would teach.
        if !self.ports.contains_key(&port) {
            return self.goes_nowhere();
        }
        match self.table.way(port, from, to, now) {
            Way::Nowhere => self.goes_nowhere(),
            Way::One(to) => self.hand_out(to, frame, now),
            Way::AllOthers => {
                let others: Vec<PortId> = self.ports.keys().copied().filter(|other| *other != port).collect();
                if others.is_empty() {
                    self.goes_nowhere();
                }
                others.into_iter().for_each(|other| self.hand_out(other, frame, now));
            }
        }
    }

    /// The last leg, to the devices behind a port.
    fn hand_out(&mut self, to: PortId, frame: &[u8], now: Instant) {
        let table = &self.table;
        match self.weather.hand_out(to, |device| table.port_of(device) == Some(to), frame, now) {
            faults::Way::Now => self.send(to, frame),
            faults::Way::Later => {}
            faults::Way::Lost => _ = self.shared.lost.fetch_add(1, Ordering::Relaxed),
        }
    }

    fn send(&mut self, to: PortId, frame: &[u8]) {
        let Some(port) = self.ports.get(&to) else { return self.goes_nowhere() };
        let counter = match send(port.socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT) {
            Ok(_) => &self.shared.forwarded,
            Err(nix::Error::EAGAIN | nix::Error::ENOBUFS) => &self.shared.lost,
            Err(_) => {
                self.remove(to);
                &self.shared.lost
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn goes_nowhere(&self) {
        self.shared.nowhere.fetch_add(1, Ordering::Relaxed);
    }

    fn remove(&mut self, port: PortId) {
        self.ports.remove(&port);
        self.table.forget(port);
        self.weather.forget(port);
        self.count_ports();
    }

    fn count_ports(&self) {
        self.shared.ports.store(self.ports.len() as u64, Ordering::Relaxed);
    }
}

/// A socket for one port, which has been told of it.
fn greet_back(address: &UnixAddr) -> io::Result<OwnedFd> {
    let socket = autobound()?;
    connect(socket.as_raw_fd(), address)?;
    send(socket.as_raw_fd(), &[], MsgFlags::MSG_DONTWAIT)?;
    Ok(socket)
}
