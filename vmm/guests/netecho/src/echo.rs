//! The two services.

use alloc::vec;
use flat_virtio::smoltcp::iface::SocketHandle;
use flat_virtio::smoltcp::socket::{tcp, udp};
use flat_virtio::{Network, answer_end, listen_again};

const TCP_BUFFER_BYTES: usize = 32 << 10;
const UDP_DATAGRAMS_MAX: usize = 64;
const UDP_BUFFER_BYTES: usize = 64 << 10;

/// The UDP service.
pub(crate) struct Datagrams(SocketHandle);

impl Datagrams {
    pub(crate) fn open(network: &mut Network, port: u16) -> Self {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; UDP_DATAGRAMS_MAX], vec![0; UDP_BUFFER_BYTES]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).expect("a port that is not zero");
        Self(network.sockets.add(socket))
    }

    pub(crate) fn serve(&self, network: &mut Network) {
        let socket = network.sockets.get_mut::<udp::Socket<'_>>(self.0);
        while socket.can_send() && socket.can_recv() {
            let Ok((datagram, from)) = socket.recv() else { return };
            let datagram = datagram.to_vec();
            // No room, or nobody to send it to: datagrams get lost.
            let _ = socket.send_slice(&datagram, from.endpoint);
        }
    }
}

/// A TCP connection, or a place for one.
pub(crate) struct Connection {
    socket: SocketHandle,
    port: u16,
    echoed: u64,
}

impl Connection {
    pub(crate) fn listen(network: &mut Network, port: u16) -> Self {
        Self { socket: network.listen(port, TCP_BUFFER_BYTES), port, echoed: 0 }
    }

    /// Echoes. Once the connection is over, gives its bytes and listens for the next.
    pub(crate) fn serve(&mut self, network: &mut Network) -> Option<u64> {
        let socket = network.sockets.get_mut::<tcp::Socket<'_>>(self.socket);
        let mut chunk = [0; 2048];
        loop {
            let room = (socket.send_capacity() - socket.send_queue()).min(chunk.len());
            match socket.recv_slice(&mut chunk[..room]) {
                Ok(count @ 1..) => {
                    let sent = socket.send_slice(&chunk[..count]);
                    // A reset between the two: there is nobody to send to.
                    if sent.is_ok() {
                        self.echoed += count as u64;
                    }
                }
                _ => break,
            }
        }
        if !socket.may_recv() && socket.send_queue() == 0 && socket.may_send() {
            answer_end(socket);
        }
        if socket.is_open() {
            return None;
        }
        listen_again(socket, self.port);
        // What has not had a peer is no connection.
        Some(core::mem::take(&mut self.echoed))
    }
}
