//! A host on a segment for tests and load: TCP connections to guests, and UDP, without any privilege and without the host's own
//! network stack.
//!
//! [`SegmentHost`] has an address of its own on the segment; [`SegmentStream`]s are used like other blocking streams, from
//! any thread.

mod datagrams;

pub use datagrams::SegmentDatagrams;

use super::error::NetError;
use super::frame::MacAddress;
use super::port::NetPort;
use crate::machine::device::virtio::FRAME_BYTES_MAX;
use crossbeam_channel::{Receiver, Sender, after, bounded, select_biased};
use ft_protocol::spec::NetBackend;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{self, ConnectError};
use smoltcp::time::Instant as StackTime;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, Ipv4Address};
use std::io::{self, Read, Write};
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes that wait in each direction of a connection.
const STREAM_BUFFER_BYTES: usize = 64 << 10;
/// Frames handled before streams have their turn.
const FRAMES_PER_TURN_MAX: usize = 256;
/// The first port that connections are made from; they do not repeat before 16 Ki connections.
const LOCAL_PORT_FIRST: u16 = 49152;

/// Why a connection cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailure {
    /// The address cannot be connected to.
    #[error("cannot connect to {to}")]
    Refused {
        /// The guest's address.
        to: SocketAddrV4,
        /// Why not.
        source: ConnectError,
    },
    /// The guest said no.
    #[error("{to} refused the connection")]
    Reset {
        /// The guest's address.
        to: SocketAddrV4,
    },
    /// No answer.
    #[error("{to} does not answer within {timeout:?}")]
    Timeout {
        /// The guest's address.
        to: SocketAddrV4,
        /// How long it had.
        timeout: Duration,
    },
}

/// A host on a segment.
pub struct SegmentHost {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A TCP connection of a [`SegmentHost`].
pub struct SegmentStream {
    shared: Arc<Shared>,
    socket: SocketHandle,
    timeout: Duration,
}

struct Shared {
    stack: Mutex<Stack>,
    /// Something has changed in a socket.
    changed: Condvar,
    /// Somebody has written, or it is to end.
    nudge: Sender<()>,
}

struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    /// Sockets whose streams are gone, until the other side has been told.
    abandoned: Vec<SocketHandle>,
    local_port: u16,
    started: Instant,
    ending: bool,
}

/// The segment as smoltcp sees it.
struct Wire {
    port: NetPort,
    frames: Receiver<Vec<u8>>,
    next: Option<Vec<u8>>,
}

impl SegmentHost {
    /// Joins the segment of the switch at `switch`, with this hardware address and this address in a network of so many
    /// bits.
    ///
    /// # Errors
    /// The segment cannot be joined.
    pub fn join(switch: &Path, mac: MacAddress, address: Ipv4Address, network_bits: u8) -> Result<Self, NetError> {
        super::segment::check(switch)?;
        let backend = NetBackend::Segment(switch.to_string_lossy().into_owned());
        let (port, frames) = NetPort::open(&backend, || {})?;
        let mut wire = Wire { port, frames: frames.clone(), next: None };
        let started = Instant::now();
        let mut config = Config::new(EthernetAddress(mac.0).into());
        let seed = getrandom::u64().map_err(|error| NetError::Resources(io::Error::other(error)))?;
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, StackTime::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(address), network_bits)).expect("there is room for one");
        });
        let span = u64::from(u16::MAX - LOCAL_PORT_FIRST);
        let local_port = LOCAL_PORT_FIRST + u16::try_from(seed % span).expect("below the span");
        let stack = Stack {
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            abandoned: Vec::new(),
            local_port,
            started,
            ending: false,
        };
        let (nudge, nudges) = bounded(1);
        let shared = Arc::new(Shared { stack: Mutex::new(stack), changed: Condvar::new(), nudge });
        let thread = std::thread::Builder::new()
            .name("segment-host".to_owned())
            .spawn({
                let shared = shared.clone();
                move || run(&shared, &frames, &nudges)
            })
            .map_err(NetError::Resources)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Connects to a guest; `timeout` is also that of each read and write of the stream.
    ///
    /// # Errors
    /// The guest refuses, or does not answer in time.
    pub fn connect(&self, to: SocketAddrV4, timeout: Duration) -> Result<SegmentStream, ConnectFailure> {
        let mut guard = self.shared.lock();
        let stack = &mut *guard;
        let buffer = || tcp::SocketBuffer::new(vec![0; STREAM_BUFFER_BYTES]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        let local = stack.local_port;
        stack.local_port = local.checked_add(1).unwrap_or(LOCAL_PORT_FIRST);
        socket
            .connect(stack.interface.context(), (IpAddress::Ipv4(*to.ip()), to.port()), local)
            .map_err(|source| ConnectFailure::Refused { to, source })?;
        let socket = stack.sockets.add(socket);
        drop(guard);
        let stream = SegmentStream { shared: self.shared.clone(), socket, timeout };
        self.shared.nudge();
        let connected = self.shared.wait(timeout, |stack| {
            let socket = stack.sockets.get::<tcp::Socket<'_>>(socket);
            match socket.state() {
                tcp::State::Established | tcp::State::CloseWait => Some(Ok(())),
                tcp::State::Closed => Some(Err(ConnectFailure::Reset { to })),
                _ => None,
            }
        });
        connected.unwrap_or(Err(ConnectFailure::Timeout { to, timeout })).map(|()| stream)
    }
}

impl Drop for SegmentHost {
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.nudge();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Read for SegmentStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let socket = self.socket;
        let read = self.shared.wait(self.timeout, |stack| {
            let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(socket);
            match socket.recv_slice(out) {
                Ok(0) if socket.may_recv() => None,
                Ok(count) => Some(Ok(count)),
                Err(tcp::RecvError::Finished) => Some(Ok(0)),
                Err(tcp::RecvError::InvalidState) => Some(Err(io::ErrorKind::ConnectionReset.into())),
            }
        });
        // Room was made: the other side may be waiting for it.
        self.shared.nudge();
        read.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Write for SegmentStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let socket = self.socket;
        let written = self.shared.wait(self.timeout, |stack| {
            let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(socket);
            match socket.send_slice(bytes) {
                Ok(0) if !bytes.is_empty() => None,
                Ok(count) => Some(Ok(count)),
                Err(tcp::SendError::InvalidState) => Some(Err(io::ErrorKind::ConnectionReset.into())),
            }
        });
        self.shared.nudge();
        written.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.shared.nudge();
        Ok(())
    }
}

impl SegmentStream {
    /// Tells the other side that nothing more will be written; what it still sends can be read.
    pub fn shut_down(&mut self) {
        self.shared.lock().sockets.get_mut::<tcp::Socket<'_>>(self.socket).close();
        self.shared.nudge();
    }
}

impl Drop for SegmentStream {
    fn drop(&mut self) {
        // What was not read or sent is gone, and the other side is told by a reset.
        let mut stack = self.shared.lock();
        stack.sockets.get_mut::<tcp::Socket<'_>>(self.socket).abort();
        stack.abandoned.push(self.socket);
        drop(stack);
        self.shared.nudge();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Stack> {
        // A user that panicked has left the stack between two of its operations.
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nudge(&self) {
        // Full: it is going to look anyway.
        let _ = self.nudge.try_send(());
    }

    /// Waits until `look` finds something.
    fn wait<T>(&self, timeout: Duration, mut look: impl FnMut(&mut Stack) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut stack = self.lock();
        loop {
            if let Some(found) = look(&mut stack) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            stack = self.changed.wait_timeout(stack, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn run(shared: &Shared, frames: &Receiver<Vec<u8>>, nudges: &Receiver<()>) {
    /// How long the stack may sleep when it has nothing planned.
    const IDLE: Duration = Duration::from_secs(1);
    loop {
        let wait = {
            let mut guard = shared.lock();
            let stack = &mut *guard;
            let now = stack.now();
            stack.interface.poll(now, &mut stack.wire, &mut stack.sockets);
            if stack.ending {
                return;
            }
            stack.bury();
            shared.changed.notify_all();
            let delay = stack.interface.poll_delay(now, &stack.sockets);
            delay.map_or(IDLE, |delay| Duration::from_micros(delay.total_micros()))
        };
        if wait.is_zero() {
            continue;
        }
        select_biased! {
            recv(nudges) -> _ => {}
            recv(frames) -> frame => match frame {
                Ok(frame) => shared.lock().wire.next = Some(frame),
                Err(_) => return,
            },
            recv(after(wait)) -> _ => {}
        }
    }
}

impl Stack {
    /// Removes abandoned sockets that have said so to the other side.
    fn bury(&mut self) {
        let sockets = &mut self.sockets;
        self.abandoned.retain(|abandoned| {
            let waits = sockets.get::<tcp::Socket<'_>>(*abandoned).remote_endpoint().is_some();
            if !waits {
                sockets.remove(*abandoned);
            }
            waits
        });
    }

    fn now(&self) -> StackTime {
        StackTime::from_micros(i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX))
    }
}

struct Received(Vec<u8>);

struct Sending<'a>(&'a NetPort);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.send(&frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: StackTime) -> Option<(Received, Sending<'_>)> {
        let frame = self.next.take().or_else(|| self.frames.try_recv().ok())?;
        Some((Received(frame), Sending(&self.port)))
    }

    fn transmit(&mut self, _now: StackTime) -> Option<Sending<'_>> {
        Some(Sending(&self.port))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_BYTES_MAX;
        capabilities.max_burst_size = Some(FRAMES_PER_TURN_MAX);
        capabilities
    }
}
