//! Messages over Unix sockets: SOCK_SEQPACKET keeps message boundaries, SCM_RIGHTS carries the pool's descriptors.
//!
//! Received bytes are hostile: a message that does not decode, is too long, or whose descriptors do not match its tags
//! closes the connection that it came over, and nothing else.

mod address;
pub mod frame;
mod key;
mod listener;
pub mod remote;

pub use address::Address;
pub use key::{Bound, GreetingError, Key, KeyError, answer, greet};
pub use listener::Listener;

use crate::membership::EtcdError;
use ft_protocol::wire::{EXTENTS_MAX, Envelope, ExtentTag, MESSAGE_BYTES_MAX};
use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, sockopt,
};
use nix::unistd::geteuid;
use rustix::cmsg_space;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared_mem::mem::ExtentError;
use shared_mem::{Extent, Offset};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// One end of a connection.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
}

/// A received message with the descriptors that came beside it, each with what it is good for.
#[derive(Debug)]
pub struct Received<M> {
    /// The message.
    pub message: M,
    /// Descriptors and their tags.
    pub extents: Vec<(ExtentTag, Extent)>,
}

/// Why a connection cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The path does not fit into a socket address.
    #[error("socket path {path} is too long (at most 107 bytes): use a shorter one")]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// Nobody listens there.
    #[error("cannot connect to {path}: is `ftvm pool` running there?")]
    Unreachable {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// Somebody listens there already.
    #[error("socket {path} is in use: another controller listens there; end it or choose another --socket")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The address of a controller on another machine says too little.
    #[error("{address} is no address of a controller: write a socket's path, or tcp:HOST:PORT,DEVICE")]
    Address {
        /// The address.
        address: PathBuf,
    },
    /// The pool's device cannot be opened.
    #[error("cannot open the pool's device {path}")]
    Device {
        /// The device.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// Somebody is there, and does not speak with us.
    #[error("{address} refuses the connection")]
    Refused {
        /// The address.
        address: PathBuf,
        /// Why.
        source: GreetingError,
    },
    /// Somebody is there, and serves others.
    #[error("the controller at {path} serves user {serves} and root, not user {user}: run this as one of them")]
    NotServed {
        /// The path.
        path: PathBuf,
        /// The controller's user.
        serves: u32,
        /// Ours.
        user: u32,
    },
    /// Nobody is at any of several places.
    #[error("no controller is reached at {address}")]
    Nowhere {
        /// The places.
        address: String,
        /// What became of the last try.
        source: Box<ConnectError>,
    },
    /// The register cannot be asked.
    #[error("the controller cannot be looked up in {address}")]
    Register {
        /// The address.
        address: String,
        /// Why not.
        source: EtcdError,
    },
    /// The register knows of no controller.
    #[error(
        "{address} has no controller at the moment: is `ftvm pool` running with the same --etcd and --cluster-name?"
    )]
    NotElected {
        /// The address.
        address: String,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {path}")]
    Listen {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
}

impl ConnectError {
    /// Whether a controller was there that is gone without having ended in good order, and may be started again: its socket is
    /// left, and nobody listens.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unreachable { path, source: Errno::ECONNREFUSED } => is_socket(std::fs::metadata(path)),
            Self::Nowhere { source, .. } => source.is_away(),
            _ => false,
        }
    }
}

/// Why a message could not be received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The peer is gone.
    #[error("the peer closed the connection")]
    Closed,
    /// Nothing is there (non-blocking connections).
    #[error("no message is waiting")]
    WouldBlock,
    /// The kernel refused.
    #[error("cannot receive")]
    Kernel(#[source] Errno),
    /// The message is longer than any message may be, or has more descriptors.
    #[error("a message longer than {MESSAGE_BYTES_MAX} bytes, or with more than {EXTENTS_MAX} descriptors")]
    TooLong,
    /// The bytes are no message.
    #[error("a message that does not decode ({0})")]
    Malformed(postcard::Error),
    /// Bytes behind the message.
    #[error("a message with {extra} bytes behind its end")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A tag that no descriptor can have.
    #[error("a message with an impossible extent")]
    Extent(#[source] ExtentError),
    /// Descriptors and tags do not match.
    #[error("a message with {tags} tags but {descriptors} descriptors")]
    Descriptors {
        /// Tags in the message.
        tags: usize,
        /// Descriptors beside it.
        descriptors: usize,
    },
}

/// Why a message could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The peer is gone.
    #[error("the peer closed the connection")]
    Closed,
    /// The socket's buffer is full (non-blocking sends).
    #[error("the peer does not read")]
    WouldBlock,
    /// The kernel refused.
    #[error("cannot send")]
    Kernel(#[source] Errno),
    /// The message is longer than any message may be.
    #[error("the message has {bytes} bytes, at most {MESSAGE_BYTES_MAX} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

/// A message ready to be sent.
#[derive(Debug)]
pub struct Outgoing {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Outgoing {
    /// Encodes a message with its extents.
    pub fn new<M: Serialize>(message: M, extents: Vec<(ExtentTag, Extent)>) -> Result<Self, SendError> {
        assert!(extents.len() <= EXTENTS_MAX, "too many descriptors for one message");
        let (tags, descriptors): (Vec<_>, Vec<_>) =
            extents.into_iter().map(|(tag, extent)| (tag, extent.into_fd())).unzip();
        let envelope = Envelope { message, extents: tags };
        let bytes = postcard::to_stdvec(&envelope).map_err(|_| SendError::TooLong { bytes: usize::MAX })?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(SendError::TooLong { bytes: bytes.len() });
        }
        Ok(Self { bytes, descriptors })
    }

    /// A message that was encoded elsewhere.
    fn raw(bytes: Vec<u8>, descriptors: Vec<OwnedFd>) -> Self {
        Self { bytes, descriptors }
    }

    /// How many descriptors it holds until it is sent.
    #[must_use]
    pub fn descriptor_count(&self) -> usize {
        self.descriptors.len()
    }
}

/// Whether a controller of one user serves another.
#[must_use]
pub(crate) fn may_join(user: u32, controller: u32) -> bool {
    user == 0 || user == controller
}

/// Tags a part of the pool for the descriptor that gives it away.
#[must_use]
pub fn tagged(grant: ft_protocol::wire::Grant, extent: Extent) -> (ExtentTag, Extent) {
    (ExtentTag { grant, offset: extent.offset().get(), len: extent.len() }, extent)
}

impl Connection {
    /// Connects to a listening controller: by its socket's path, or over the network (see [`remote`]).
    pub fn connect(path: &Path) -> Result<Self, ConnectError> {
        Self::connect_with(path, None)
    }

    /// The same, with the key that is asked for over the network.
    fn connect_with(path: &Path, key: Option<&Key>) -> Result<Self, ConnectError> {
        if let Some(connected) = remote::connect(path, key) {
            return connected;
        }
        let connection = Self::connect_uninvited(path)?;
        let unreachable = |source| ConnectError::Unreachable { path: path.to_owned(), source };
        // It would close the connection without a word: to whom it does not speak it says nothing.
        let (serves, user) = (connection.peer().map_err(unreachable)?.uid(), geteuid().as_raw());
        if !may_join(user, serves) {
            return Err(ConnectError::NotServed { path: path.to_owned(), serves, user });
        }
        Ok(connection)
    }

    /// Connects to the socket at a path, whomever its controller serves.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect_uninvited(path: &Path) -> Result<Self, ConnectError> {
        let address = address(path)?;
        let unreachable = |source| ConnectError::Unreachable { path: path.to_owned(), source };
        let fd = new_socket().map_err(unreachable)?;
        socket::connect(fd.as_raw_fd(), &address).map_err(unreachable)?;
        Ok(Self { fd })
    }

    /// Two connected ends, as between threads of a test.
    pub fn pair() -> Result<(Self, Self), Errno> {
        let (one, other) = socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self { fd: one }, Self { fd: other }))
    }

    /// Another handle for the same end.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    /// Who is at the other end, as the kernel knows it.
    pub fn peer(&self) -> Result<UnixCredentials, Errno> {
        socket::getsockopt(&self.fd, sockopt::PeerCredentials)
    }

    /// Ends the connection for both sides, whatever handles exist.
    pub fn shut_down(&self) {
        // Failing means that it is closed already.
        let _ = socket::shutdown(self.fd.as_raw_fd(), socket::Shutdown::Both);
    }

    /// Sends without waiting for the peer to read: [`SendError::WouldBlock`] when its buffer is full.
    pub fn send_now(&self, outgoing: &Outgoing) -> Result<(), SendError> {
        self.send_with(outgoing, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)
    }

    /// Sends, waiting while the peer's buffer is full.
    pub fn send(&self, outgoing: &Outgoing) -> Result<(), SendError> {
        self.send_with(outgoing, MsgFlags::MSG_NOSIGNAL)
    }

    fn send_with(&self, outgoing: &Outgoing, flags: MsgFlags) -> Result<(), SendError> {
        let raw: Vec<RawFd> = outgoing.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        let data = [IoSlice::new(&outgoing.bytes)];
        loop {
            return match socket::sendmsg::<()>(self.fd.as_raw_fd(), &data, control, flags, None) {
                Ok(_) => Ok(()),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Err(SendError::WouldBlock),
                Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => Err(SendError::Closed),
                Err(errno) => Err(SendError::Kernel(errno)),
            };
        }
    }

    /// Receives the next message, waiting for it.
    pub fn receive<M: DeserializeOwned>(&self) -> Result<Received<M>, ReceiveError> {
        self.receive_with(RecvFlags::CMSG_CLOEXEC)
    }

    /// Receives the next message if it is there already.
    pub fn receive_now<M: DeserializeOwned>(&self) -> Result<Received<M>, ReceiveError> {
        self.receive_with(RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)
    }

    fn receive_with<M: DeserializeOwned>(&self, flags: RecvFlags) -> Result<Received<M>, ReceiveError> {
        let (bytes, descriptors) = self.receive_raw_with(flags)?;
        unpack(&bytes, descriptors)
    }

    /// Receives the next message as it is.
    fn receive_raw(&self) -> Result<(Vec<u8>, Vec<OwnedFd>), ReceiveError> {
        self.receive_raw_with(RecvFlags::CMSG_CLOEXEC)
    }

    fn receive_raw_with(&self, flags: RecvFlags) -> Result<(Vec<u8>, Vec<OwnedFd>), ReceiveError> {
        let mut bytes = vec![0_u8; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(EXTENTS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut data = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.fd, &mut data, &mut control, flags) {
                Ok(received) => break received,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Err(ReceiveError::WouldBlock),
                Err(rustix::io::Errno::CONNRESET) => return Err(ReceiveError::Closed),
                Err(errno) => return Err(ReceiveError::Kernel(Errno::from_raw(errno.raw_os_error()))),
            }
        };
        // Also of a message that is refused, every descriptor that came is owned, and so closed.
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.bytes == 0 && descriptors.is_empty() {
            return Err(ReceiveError::Closed);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(ReceiveError::TooLong);
        }
        bytes.truncate(received.bytes);
        Ok((bytes, descriptors))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether a controller could be there: a path, or `tcp:HOST:PORT,DEVICE`.
#[must_use]
pub fn is_place(place: &Path) -> bool {
    !remote::is_remote(place) || remote::is_whole(place)
}

/// Decodes the bytes of a message and joins its tags with its descriptors.
pub fn unpack<M: DeserializeOwned>(bytes: &[u8], descriptors: Vec<OwnedFd>) -> Result<Received<M>, ReceiveError> {
    let (envelope, rest): (Envelope<M>, _) = postcard::take_from_bytes(bytes).map_err(ReceiveError::Malformed)?;
    if !rest.is_empty() {
        return Err(ReceiveError::Trailing { extra: rest.len() });
    }
    if envelope.extents.len() != descriptors.len() {
        return Err(ReceiveError::Descriptors { tags: envelope.extents.len(), descriptors: descriptors.len() });
    }
    let extents = envelope
        .extents
        .into_iter()
        .zip(descriptors)
        .map(|(tag, fd)| Ok((tag, Extent::new(fd, Offset::new(tag.offset), tag.len)?)))
        .collect::<Result<_, _>>()
        .map_err(ReceiveError::Extent)?;
    Ok(Received { message: envelope.message, extents })
}

#[allow(unsafe_code, reason = "an accepted connection is a raw number that nobody owns yet")]
fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

fn is_socket(metadata: std::io::Result<std::fs::Metadata>) -> bool {
    use std::os::unix::fs::FileTypeExt;
    metadata.is_ok_and(|metadata| metadata.file_type().is_socket())
}

fn address(path: &Path) -> Result<UnixAddr, ConnectError> {
    UnixAddr::new(path).map_err(|_| ConnectError::PathTooLong { path: path.to_owned() })
}

fn new_socket() -> Result<OwnedFd, Errno> {
    socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
}
