//! Stands between a host and the controller, so that their messages can be held: the network between them.
//!
//! Messages and the descriptors beside them pass unread and in order. Held messages wait where they are, as in a network
//! that does not let them through; the end of either side is held with them.

use super::child::wait_for;
use crossbeam_channel::{Receiver, Sender, unbounded};
use ft_protocol::wire::{EXTENTS_MAX, MESSAGE_BYTES_MAX};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::cmsg_space;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Connections that wait to be taken.
const BACKLOG: i32 = 16;

/// Which messages are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Those of the controller.
    pub to_host: bool,
    /// Those of the host.
    pub from_host: bool,
}

#[derive(Debug)]
enum Order {
    Hold(Held),
    End,
}

/// The relay of one host; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Relay {
    socket: PathBuf,
    orders: Sender<Order>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Listens at `socket` for a host, and connects each that comes with the controller at `controller`.
    pub(super) fn start(socket: PathBuf, controller: PathBuf) -> io::Result<Self> {
        let listener = new_socket()?;
        rustix::net::bind(&listener, &SocketAddrUnix::new(&socket)?)?;
        rustix::net::listen(&listener, BACKLOG)?;
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (orders, taken) = unbounded();
        let mut worker = Worker {
            listener,
            controller,
            orders: taken,
            wake: Arc::clone(&wake),
            held: Held::default(),
            pairs: Vec::new(),
        };
        let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(move || worker.work())?;
        Ok(Self { socket, orders, wake, thread: Some(thread) })
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Holds just these messages from now on.
    pub(super) fn hold(&self, held: Held) {
        self.order(Order::Hold(held));
    }

    fn order(&self, order: Order) {
        // The worker is gone only when it was told to end.
        let _ = self.orders.send(order);
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.order(Order::End);
        if let Some(thread) = self.thread.take() {
            // It cannot panic.
            let _ = thread.join();
        }
    }
}

struct Worker {
    listener: OwnedFd,
    controller: PathBuf,
    orders: Receiver<Order>,
    wake: Arc<OwnedFd>,
    held: Held,
    pairs: Vec<Pair>,
}

/// A host's connection and ours to the controller, and for each way the message that could not be passed on yet.
struct Pair {
    host: OwnedFd,
    controller: OwnedFd,
    to_host: Way,
    from_host: Way,
}

#[derive(Default)]
struct Way {
    waiting: Option<Message>,
}

struct Message {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// Whether a connection goes on.
#[derive(PartialEq, Eq)]
enum Passed {
    On,
    Ended,
}

impl Worker {
    fn work(&mut self) {
        loop {
            if self.wait().is_err() {
                // Without a way to wait there is no relay: what is connected ends, and the host finds out.
                return;
            }
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
            while let Ok(order) = self.orders.try_recv() {
                match order {
                    Order::Hold(held) => self.held = held,
                    Order::End => return,
                }
            }
            self.accept();
            let held = self.held;
            self.pairs.retain_mut(|pair| pair.pass(held) == Passed::On);
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        fds.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        for pair in &self.pairs {
            fds.extend(pair.to_host.waits_for(self.held.to_host, pair.controller.as_fd(), pair.host.as_fd()));
            fds.extend(pair.from_host.waits_for(self.held.from_host, pair.host.as_fd(), pair.controller.as_fd()));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn accept(&mut self) {
        while let Ok(host) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            // Without a controller the host is hung up on, and tries again.
            if let Ok(controller) = connect(&self.controller) {
                self.pairs.push(Pair { host, controller, to_host: Way::default(), from_host: Way::default() });
            }
        }
    }
}

impl Pair {
    fn pass(&mut self, held: Held) -> Passed {
        let Self { host, controller, to_host, from_host } = self;
        if !held.to_host && to_host.pass(controller, host) == Passed::Ended {
            return Passed::Ended;
        }
        if !held.from_host && from_host.pass(host, controller) == Passed::Ended {
            return Passed::Ended;
        }
        Passed::On
    }
}

impl Way {
    /// What is to be waited for: that the sender says something, or that the receiver has room.
    fn waits_for<'f>(&self, held: bool, from: BorrowedFd<'f>, to: BorrowedFd<'f>) -> Option<PollFd<'f>> {
        match (held, &self.waiting) {
            (true, _) => None,
            (false, None) => Some(PollFd::new(from, PollFlags::POLLIN)),
            (false, Some(_)) => Some(PollFd::new(to, PollFlags::POLLOUT)),
        }
    }

    /// Passes on all that is there, and that there is room for.
    fn pass(&mut self, from: &OwnedFd, to: &OwnedFd) -> Passed {
        loop {
            let message = match self.waiting.take() {
                Some(message) => message,
                None => match receive(from) {
                    Ok(Some(message)) => message,
                    Ok(None) => return Passed::On,
                    Err(_) => return Passed::Ended,
                },
            };
            match send(to, &message) {
                Ok(()) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    self.waiting = Some(message);
                    return Passed::On;
                }
                Err(_) => return Passed::Ended,
            }
        }
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    let address = SocketAddrUnix::new(path)?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            // Its queue of connections is full for a moment.
            Err(rustix::io::Errno::AGAIN) => wait_for(&[], Duration::from_millis(1))?,
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The next message, if there is one already; an error at the end of the connection.
fn receive(from: &OwnedFd) -> io::Result<Option<Message>> {
    let mut bytes = vec![0_u8; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(EXTENTS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = match rustix::net::recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
        Ok(received) => received,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 && descriptors.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(received.bytes);
    Ok(Some(Message { bytes, descriptors }))
}

fn send(to: &OwnedFd, message: &Message) -> rustix::io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = message.descriptors.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(EXTENTS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(&descriptors));
        assert!(fits, "as many descriptors are passed on as were received");
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(to, &[IoSlice::new(&message.bytes)], &mut control, flags).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read as _, Seek as _, Write as _};

    fn message(text: &str) -> Message {
        Message { bytes: text.as_bytes().to_vec(), descriptors: Vec::new() }
    }

    fn next(from: &OwnedFd, within: Duration) -> Option<Message> {
        wait_for(&[from.as_fd()], within).unwrap();
        receive(from).unwrap()
    }

    const SOON: Duration = Duration::from_secs(30);

    #[test]
    fn messages_pass_with_their_descriptors_and_can_be_held_either_way() {
        let directory = tempfile::tempdir().unwrap();
        let (here, there) = (directory.path().join("a.sock"), directory.path().join("pool.sock"));
        let listener = new_socket().unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&there).unwrap()).unwrap();
        rustix::net::listen(&listener, BACKLOG).unwrap();
        let relay = Relay::start(here, there).unwrap();
        let host = connect(relay.socket()).unwrap();
        wait_for(&[listener.as_fd()], SOON).unwrap();
        let controller = rustix::net::accept(&listener).unwrap();

        let mut file: File = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        let with_file = Message { bytes: b"one".to_vec(), descriptors: vec![file.try_clone().unwrap().into()] };
        send(&host, &with_file).unwrap();
        let got = next(&controller, SOON).unwrap();
        assert_eq!(got.bytes, b"one");
        let mut passed = File::from(got.descriptors.into_iter().next().expect("it came along"));
        passed.rewind().unwrap();
        let mut content = String::new();
        passed.read_to_string(&mut content).unwrap();
        assert_eq!(content, "content");

        // The answer to a message says that the order before it has been taken.
        relay.hold(Held { to_host: true, from_host: false });
        send(&host, &message("two")).unwrap();
        assert_eq!(next(&controller, SOON).unwrap().bytes, b"two");
        send(&controller, &message("held")).unwrap();
        assert!(next(&host, Duration::from_millis(30)).is_none());
        relay.hold(Held::default());
        assert_eq!(next(&host, SOON).unwrap().bytes, b"held");

        drop(host);
        wait_for(&[controller.as_fd()], SOON).unwrap();
        assert!(receive(&controller).is_err(), "the end of one side is the end of the other");
    }
}
