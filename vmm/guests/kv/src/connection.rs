//! A client's connection, or a place for one.

use crate::request::{LINE_BYTES_MAX, Reply, Request};
use crate::store::Store;
use alloc::vec::Vec;
use flat_virtio::smoltcp::iface::SocketHandle;
use flat_virtio::smoltcp::socket::tcp;
use flat_virtio::{Network, answer_end, listen_again};

const BUFFER_BYTES: usize = 16 << 10;
/// Answers that nobody takes: with more the client's requests wait.
const ANSWERS_BYTES_MAX: usize = 32 << 10;

/// A connection.
pub(crate) struct Connection {
    socket: SocketHandle,
    port: u16,
    /// What has come and is no whole line yet.
    line: Vec<u8>,
    /// What is to be sent.
    answers: Vec<u8>,
    is_ending: bool,
}

impl Connection {
    pub(crate) fn listen(network: &mut Network, port: u16) -> Self {
        let socket = network.listen(port, BUFFER_BYTES);
        Self { socket, port, line: Vec::new(), answers: Vec::new(), is_ending: false }
    }

    /// Serves what has come. Says whether the guest was told to stop.
    pub(crate) fn serve(&mut self, network: &mut Network, store: &mut Store) -> bool {
        let socket = network.sockets.get_mut::<tcp::Socket<'_>>(self.socket);
        let mut is_stopped = false;
        loop {
            self.send(socket);
            if self.is_ending || self.answers.len() >= ANSWERS_BYTES_MAX {
                break;
            }
            let mut chunk = [0; 2048];
            let Ok(count @ 1..) = socket.recv_slice(&mut chunk) else { break };
            self.line.extend_from_slice(&chunk[..count]);
            is_stopped |= self.execute_lines(store);
            if self.line.len() > LINE_BYTES_MAX {
                Reply::Error("a line has at most 4096 bytes").write(&mut self.answers);
                self.is_ending = true;
            }
        }
        let is_done = self.answers.is_empty() && (self.is_ending || !socket.may_recv());
        if is_done && socket.may_send() {
            answer_end(socket);
        }
        if !socket.is_open() {
            *self =
                Self { socket: self.socket, port: self.port, line: Vec::new(), answers: Vec::new(), is_ending: false };
            listen_again(socket, self.port);
        }
        is_stopped
    }

    /// Executes all whole lines.
    fn execute_lines(&mut self, store: &mut Store) -> bool {
        let mut is_stopped = false;
        let mut start = 0;
        while let Some(length) = self.line[start..].iter().position(|byte| *byte == b'\n') {
            let line = &self.line[start..start + length];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            match Request::parse(line) {
                Ok(Request::Operation { key, operation }) => store.execute(key, operation).write(&mut self.answers),
                Ok(Request::Sequence) => Reply::Sequence(store.sequence()).write(&mut self.answers),
                Ok(Request::Stop) => {
                    Reply::Bye.write(&mut self.answers);
                    is_stopped = true;
                    self.is_ending = true;
                }
                Err(why) => Reply::Error(why).write(&mut self.answers),
            }
            start += length + 1;
        }
        self.line.drain(..start);
        is_stopped
    }

    fn send(&mut self, socket: &mut tcp::Socket<'_>) {
        if self.answers.is_empty() {
            return;
        }
        match socket.send_slice(&self.answers) {
            Ok(sent) => drop(self.answers.drain(..sent)),
            // Nobody is there to be answered any more.
            Err(_) => self.answers.clear(),
        }
    }
}
