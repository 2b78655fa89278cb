//! UDP sockets of a host on a segment.

use super::{SegmentHost, Shared};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp;
use smoltcp::wire::IpAddress;
use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

/// Datagrams that wait in each direction, and their bytes together.
const DATAGRAMS_MAX: usize = 256;
const BUFFER_BYTES: usize = 256 << 10;

/// A UDP socket of a [`SegmentHost`].
pub struct SegmentDatagrams {
    shared: Arc<Shared>,
    socket: SocketHandle,
}

impl SegmentHost {
    /// Opens a UDP port.
    ///
    /// # Errors
    /// The port is zero.
    pub fn open_udp(&self, port: u16) -> io::Result<SegmentDatagrams> {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; DATAGRAMS_MAX], vec![0; BUFFER_BYTES]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).map_err(io::Error::other)?;
        let socket = self.shared.lock().sockets.add(socket);
        Ok(SegmentDatagrams { shared: self.shared.clone(), socket })
    }
}

impl SegmentDatagrams {
    /// Sends a datagram, or loses it.
    ///
    /// # Errors
    /// There is no room for it, or it can go nowhere.
    pub fn send_to(&self, bytes: &[u8], to: SocketAddrV4) -> io::Result<()> {
        let mut stack = self.shared.lock();
        let socket = stack.sockets.get_mut::<udp::Socket<'_>>(self.socket);
        let sent = socket.send_slice(bytes, (IpAddress::Ipv4(*to.ip()), to.port()));
        drop(stack);
        self.shared.nudge();
        sent.map_err(io::Error::other)
    }

    /// The next datagram, with its sender; none if none comes in time.
    #[must_use]
    pub fn receive(&self, timeout: Duration) -> Option<(Vec<u8>, SocketAddrV4)> {
        let socket = self.socket;
        self.shared.wait(timeout, |stack| {
            let (bytes, from) = stack.sockets.get_mut::<udp::Socket<'_>>(socket).recv().ok()?;
            // The stack speaks nothing else.
            let IpAddress::Ipv4(address) = from.endpoint.addr;
            Some((bytes.to_vec(), SocketAddrV4::new(address, from.endpoint.port)))
        })
    }
}

impl Drop for SegmentDatagrams {
    fn drop(&mut self) {
        self.shared.lock().sockets.remove(self.socket);
    }
}
