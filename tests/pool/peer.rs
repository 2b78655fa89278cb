//! Peers that speak to the controller as no program of ftvm does.

use ft_protocol::wire::{ExtentTag, Hello, HostHello, HostProfile, PROTOCOLS, Role, StateFormats, ToHost};
use ft_protocol::wire::{FromHost, HeldRole, Order, Part};
use ft_protocol::{Generation, Incarnation, VmId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared_mem::{Extent, HeartbeatWriter, Mapping};
use std::io::IoSlice;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};
use vmm::transport::{Connection, Outgoing, ReceiveError, Received, SendError};

/// How long the controller may take to answer.
const ANSWER_BOUND: Duration = Duration::from_secs(60);
/// Between two beats.
const BEAT_INTERVAL: Duration = Duration::from_millis(5);

/// A connection that sends what it likes.
pub(crate) struct Peer {
    connection: Connection,
}

impl Peer {
    pub(crate) fn connect(socket: &Path) -> Self {
        Self { connection: Connection::connect_uninvited(socket).expect("the controller listens") }
    }

    /// `None`: nobody listens.
    pub(crate) fn try_connect(socket: &Path) -> Option<Self> {
        Some(Self { connection: Connection::connect(socket).ok()? })
    }

    /// Whether the controller has hung up.
    pub(crate) fn is_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.connection.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::ZERO);
        fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }

    /// Sends bytes as one message, with these descriptors. A controller that has hung up already is not there to be hurt.
    pub(crate) fn send_raw(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let raw: Vec<RawFd> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        let data = [IoSlice::new(bytes)];
        let _ = sendmsg::<()>(self.connection.as_fd().as_raw_fd(), &data, control, MsgFlags::MSG_NOSIGNAL, None);
    }

    pub(crate) fn send<M: Serialize>(&self, message: M) {
        self.send_with(message, Vec::new());
    }

    pub(crate) fn send_with<M: Serialize>(&self, message: M, extents: Vec<(ExtentTag, Extent)>) {
        let _ = self.connection.send(&Outgoing::new(message, extents).expect("it can be encoded"));
    }

    /// Sends if there is room; `false`: the controller does not read at this moment, or has hung up.
    pub(crate) fn send_now<M: Serialize>(&self, message: M) -> Result<(), SendError> {
        self.connection.send_now(&Outgoing::new(message, Vec::new()).expect("it can be encoded"))
    }

    /// The next message; `None`: the controller has hung up.
    pub(crate) fn receive<M: DeserializeOwned>(&self) -> Option<Received<M>> {
        let deadline = Instant::now() + ANSWER_BOUND;
        loop {
            match self.connection.receive_now() {
                Ok(received) => return Some(received),
                Err(ReceiveError::WouldBlock) => {}
                Err(_) => return None,
            }
            assert!(Instant::now() < deadline, "the controller says nothing");
            self.wait(Duration::from_millis(50));
        }
    }

    /// A message if one comes in this time.
    pub(crate) fn receive_within<M: DeserializeOwned>(
        &self,
        time: Duration,
    ) -> Result<Option<Received<M>>, ReceiveError> {
        self.wait(time);
        match self.connection.receive_now() {
            Ok(received) => Ok(Some(received)),
            Err(ReceiveError::WouldBlock) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn wait(&self, time: Duration) {
        let mut fds = [PollFd::new(self.connection.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::try_from(time).expect("a short time"));
    }

    /// Waits until the controller hangs up.
    pub(crate) fn await_hang_up(&self, why: &str) {
        let deadline = Instant::now() + ANSWER_BOUND;
        loop {
            let mut fds = [PollFd::new(self.connection.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::from(50_u8));
            if fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)) {
                return;
            }
            assert!(Instant::now() < deadline, "the controller does not hang up on {why}");
        }
    }
}

/// A connection that never says anything; `None`: the controller's queue is full.
pub(crate) fn half_open(socket: &Path) -> Option<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = nix::sys::socket::socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("a socket");
    nix::sys::socket::connect(fd.as_raw_fd(), &UnixAddr::new(socket).expect("a short path")).ok()?;
    Some(fd)
}

/// What a host says of itself: able to run anything that a real one here can.
pub(crate) fn profile(name: &str, memory_bytes: u64) -> HostProfile {
    let kvm = vmm::machine::open_kvm().expect("KVM is there");
    HostProfile {
        name: name.to_owned(),
        incarnation: Incarnation::new(u64::from(std::process::id())),
        memory_bytes,
        cpu: vmm::machine::host_profile(&kvm).expect("KVM tells"),
        states: StateFormats { writes: vmm::machine::STATE_VERSION, reads_from: vmm::machine::STATE_VERSION_OLDEST },
        labels: Vec::new(),
    }
}

pub(crate) fn hello(profile: HostProfile, roles: Vec<HeldRole>) -> Hello {
    Hello::Host(HostHello { protocols: PROTOCOLS, profile, roles })
}

pub(crate) fn claim(vm: u16, generation: u64, role: Role) -> HeldRole {
    HeldRole { vm: VmId::new(vm), generation: Generation::new(generation), role }
}

/// A host that the controller takes for a sound one: it beats, and does what it was made for.
pub(crate) struct FakeHost {
    pub(crate) peer: Peer,
    heart: HeartbeatWriter<Mapping<shared_mem::ReadWrite>>,
    /// Its heartbeat page, as it came.
    pub(crate) page: Extent,
}

impl FakeHost {
    /// Joins.
    pub(crate) fn join(socket: &Path, hello: Hello) -> Self {
        let peer = Peer::connect(socket);
        peer.send(hello);
        let Some(Received { message, extents }) = peer.receive::<ToHost>() else { panic!("not welcome") };
        let ToHost::Welcome { .. } = message else { panic!("{message:?} is no welcome") };
        let (_, page) = extents.into_iter().next().expect("the heartbeat page");
        let heart =
            HeartbeatWriter::new(Mapping::read_write(&page).expect("it can be mapped"), u64::from(std::process::id()));
        Self { peer, heart, page }
    }

    pub(crate) fn beat(&mut self) {
        self.heart.beat(vmm::clock::monotonic().ns()).expect("the page is there");
    }

    /// Beats until a message comes. `None`: the controller has hung up.
    pub(crate) fn next(&mut self) -> Option<Received<ToHost>> {
        loop {
            self.beat();
            match self.peer.receive_within(BEAT_INTERVAL) {
                Ok(Some(received)) => return Some(received),
                Ok(None) => {}
                Err(_) => return None,
            }
        }
    }

    /// Stands by when told so, asks for the takeover when told so, and gives the order to become primary with what came
    /// beside it, and beside the order to stand by. `None`: it never was.
    pub(crate) fn serve_until_promoted(&mut self) -> Option<(Order, Vec<(ExtentTag, Extent)>)> {
        let mut held = Vec::new();
        loop {
            let Received { message, extents } = self.next()?;
            match message {
                ToHost::Standby(order) => {
                    held = extents;
                    self.peer.send(FromHost::StandbyReady { vm: order.vm, generation: order.generation });
                }
                ToHost::PrimaryGone { vm, generation, reason } => {
                    self.peer.send(FromHost::AskTakeover { vm, generation, reason });
                }
                ToHost::Promote(order) => return Some((order, [extents, held].into_iter().flatten().collect())),
                ToHost::Shutdown => return None,
                _ => {}
            }
        }
    }

    /// Beats on until it is told that it is deposed, or the controller hangs up on it.
    pub(crate) fn await_release(mut self) {
        while let Some(received) = self.next() {
            if matches!(received.message, ToHost::Release { deposed: true, .. } | ToHost::Shutdown) {
                return;
            }
        }
    }
}

/// The descriptor of a part among those that came.
pub(crate) fn part(extents: &[(ExtentTag, Extent)], is_it: impl Fn(Part) -> bool) -> &Extent {
    let found = extents.iter().find(|(tag, _)| is_it(tag.grant.part));
    &found.expect("the order comes with all that it needs").1
}
