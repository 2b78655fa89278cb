//! The first network: TCP and UDP by smoltcp, idling at the wait port.

use crate::hal::FlatHal;
use crate::window::device;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::str::FromStr;
use flat_rt::{BootInfo, clock_ns, entropy, wait_us};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::{AnySocket as _, tcp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, Ipv4Address};
use virtio_drivers::device::net::{RxBuffer, TxBuffer, VirtIONet};
use virtio_drivers::transport::mmio::MmioTransport;

const QUEUE_SIZE: usize = 64;
/// Room for a header and any frame.
const BUFFER_BYTES: usize = 2048;
const FRAME_BYTES_MAX: usize = 1514;
const FIRST_NET_SLOT: usize = 0;
/// Longest wait with nothing planned; a packet ends it.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// A peer that says nothing is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// A peer that gives no sign of life is given up.
const SILENCE_MAX: Duration = Duration::from_secs(180);
/// A peer that has said its end, and heard ours, may be gone: what it has said last may be lost, and it says nothing more.
const CLOSING_MAX: Duration = Duration::from_secs(5);
/// Longest time for what is to be sent before the guest ends.
const DRAIN_MAX: Duration = Duration::from_secs(5);
const NS_PER_US: u64 = 1000;

/// An address and the bits of its network, as in `10.0.0.2/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub address: Ipv4Address,
    /// Bits of the network.
    pub bits: u8,
}

impl Cidr {
    /// An address in a network of so many bits.
    #[must_use]
    pub const fn new([a, b, c, d]: [u8; 4], bits: u8) -> Self {
        Self { address: Ipv4Address::new(a, b, c, d), bits }
    }
}

impl FromStr for Cidr {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = text.split_once('/').ok_or(())?;
        let (address, bits) = (address.parse().map_err(|_| ())?, bits.parse().map_err(|_| ())?);
        if bits <= 32 { Ok(Self { address, bits }) } else { Err(()) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

type Driver = VirtIONet<FlatHal, MmioTransport<'static>, QUEUE_SIZE>;

/// The network with its sockets.
pub struct Network {
    wire: Wire,
    interface: Interface,
    /// The sockets.
    pub sockets: SocketSet<'static>,
    now: Instant,
    /// Sockets may have changed since they were last served.
    unserved: bool,
}

impl Network {
    /// Brings the first network device up, if there is one.
    #[must_use]
    pub fn open(boot: &BootInfo, address: Cidr) -> Option<Self> {
        let driver = Driver::new(device(boot, FIRST_NET_SLOT)?, BUFFER_BYTES).expect("the network can be driven");
        let mac = driver.mac_address();
        let mut wire = Wire { driver: RefCell::new(driver) };
        let mut config = Config::new(EthernetAddress(mac).into());
        config.random_seed = u64::from(entropy()) << 32 | u64::from(entropy());
        let now = now();
        let mut interface = Interface::new(config, &mut wire, now);
        interface.update_ip_addrs(|addresses| {
            let cidr = IpCidr::new(IpAddress::Ipv4(address.address), address.bits);
            addresses.push(cidr).expect("there is room for one");
        });
        Some(Self { wire, interface, sockets: SocketSet::new(Vec::new()), now, unserved: false })
    }

    /// Opens a socket that listens for one TCP connection, with so many bytes of buffer in each direction. A connection whose
    /// peer gives no sign of life is given up after some minutes.
    pub fn listen(&mut self, port: u16, buffer_bytes: usize) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; buffer_bytes]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        listen_again(&mut socket, port);
        self.sockets.add(socket)
    }

    /// Takes what has come and sends what is to be sent, at the time of the last [`idle`](Self::idle). The sockets are to be
    /// served after this, and then [`flush`](Self::flush)ed.
    pub fn poll(&mut self) {
        self.interface.poll(self.now, &mut self.wire, &mut self.sockets);
    }

    /// Sends what the sockets were given. It takes what has come meanwhile, too: then nobody idles before they are served.
    pub fn flush(&mut self) {
        let changed = self.interface.poll(self.now, &mut self.wire, &mut self.sockets);
        self.unserved = changed == PollResult::SocketStateChanged;
    }

    /// Waits until something comes or is due.
    pub fn idle(&mut self) {
        let unserved = core::mem::take(&mut self.unserved);
        // What came since the last poll ends no wait.
        if !unserved && !self.wire.driver.borrow().can_recv() {
            let delay = self.interface.poll_delay(self.now, &self.sockets).unwrap_or(WAIT_MAX).min(WAIT_MAX);
            if delay > Duration::ZERO {
                wait_us(u32::try_from(delay.total_micros()).unwrap_or(u32::MAX));
            }
        }
        self.now = now();
    }

    /// Sends all that is still to be sent, and waits until the other sides have it, for at most some seconds.
    pub fn drain(&mut self) {
        let deadline = self.now + DRAIN_MAX;
        loop {
            self.poll();
            let sockets = self.sockets.iter();
            let is_sending = sockets.filter_map(|(_, socket)| tcp::Socket::downcast(socket)).any(is_closing);
            if !is_sending || self.now >= deadline {
                return;
            }
            self.idle();
        }
    }

    /// Guest time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }
}

/// Listens for the next connection, once the one before is over.
///
/// # Panics
/// If the socket is open, or the port zero.
pub fn listen_again(socket: &mut tcp::Socket<'_>, port: u16) {
    socket.set_keep_alive(Some(KEEP_ALIVE));
    socket.set_timeout(Some(SILENCE_MAX));
    socket.listen(port).expect("a closed socket, and a port that is not zero");
}

/// Ends a connection whose peer has said its end. Who then says nothing any more is not waited for for minutes: there is
/// nothing left that it could want.
pub fn answer_end(socket: &mut tcp::Socket<'_>) {
    socket.close();
    if socket.state() == tcp::State::LastAck {
        socket.set_timeout(Some(CLOSING_MAX));
    }
}

/// Whether the other side does not have everything yet, its end included.
fn is_closing(socket: &tcp::Socket<'_>) -> bool {
    let told =
        matches!(socket.state(), tcp::State::Closed | tcp::State::Listen | tcp::State::TimeWait | tcp::State::FinWait2);
    !told && socket.remote_endpoint().is_some() && (socket.send_queue() > 0 || !socket.may_send())
}

fn now() -> Instant {
    Instant::from_micros(i64::try_from(clock_ns() / NS_PER_US).expect("some hundred thousand years"))
}

/// smoltcp answers a frame while it looks at it, so the tokens share the driver.
struct Wire {
    driver: RefCell<Driver>,
}

struct Receiving<'a>(&'a RefCell<Driver>, RxBuffer);

struct Sending<'a>(&'a RefCell<Driver>);

impl phy::RxToken for Receiving<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        let result = take(self.1.packet());
        let recycled = self.0.borrow_mut().recycle_rx_buffer(self.1);
        recycled.expect("the queue has room for what came from it");
        result
    }
}

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut driver = self.0.borrow_mut();
        let mut frame: TxBuffer = driver.new_tx_buffer(length);
        let result = fill(frame.packet_mut());
        driver.send(frame).expect("the device takes frames");
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Receiving<'a>;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Receiving<'_>, Sending<'_>)> {
        let buffer = self.driver.borrow_mut().receive().ok()?;
        Some((Receiving(&self.driver, buffer), Sending(&self.driver)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        Some(Sending(&self.driver))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_BYTES_MAX;
        capabilities
    }
}
