//! Connections to a controller on another machine: TCP, and a device that both machines have in place of passed descriptors.
//!
//! ```text
//!   host or client                                              controller
//!   Connection <─socket pair─> pumps <═══ TCP ═══> pumps <─its Unix socket─> Connection
//! ```
//! The two ends are ordinary connections; what lies between is carried message by message. A descriptor of the pool's device
//! goes as a word that says which access it has, and the other side puts its own of the same device in its place: offset and
//! length are in the message anyway. Any other descriptor (a guest's file, from a client) goes as its content.
//!
//! The address is `tcp:HOST:PORT,DEVICE`. Each connection begins with a greeting ([`key`](super::key)): where the controller has
//! a key, both sides prove that they have it. Without one whoever reaches the port is trusted, and whoever has the device is
//! trusted in any case: it must be the cluster's own.

use super::frame::{self, Carried, Frame, FrameError};
use super::key::{self, GreetingError, Key};
use super::{ConnectError, Connection, Outgoing, ReceiveError, SendError};
use crate::log_burst::LogBurst;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::stat::fstat;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What addresses of remote controllers begin with.
const SCHEME: &str = "tcp:";
/// A controller that is there answers the kernel's greeting within this.
const CONNECT_BOUND: Duration = Duration::from_secs(5);
/// A peer whose kernel has not acknowledged for so long is gone. Nothing is decided by it: heartbeats tell earlier.
const SILENCE_MS_MAX: u32 = 10_000;
/// Connections whose greeting is under way; what comes beyond them is closed.
const GREETINGS_MAX: usize = 64;
/// The pool's device as this machine has it, opened once: a host that has confined itself cannot open it again.
#[derive(Debug)]
struct Device {
    read_only: File,
    read_write: File,
}

static DEVICES: Mutex<BTreeMap<PathBuf, Arc<Device>>> = Mutex::new(BTreeMap::new());

/// The parts of a remote controller's address; `None`: it is the path of a local one's socket.
fn parse(address: &Path) -> Option<(&str, &Path)> {
    let (peer, device) = address.to_str()?.strip_prefix(SCHEME)?.split_once(',')?;
    Some((peer, Path::new(device)))
}

/// The address of a controller that is reached there, and has this device.
pub(crate) fn address(peer: &str, device: &Path) -> String {
    format!("{SCHEME}{peer},{}", device.display())
}

/// Whether an address is one of another machine's controller, or would like to be.
pub(super) fn is_remote(address: &Path) -> bool {
    address.to_str().is_some_and(|text| text.starts_with(SCHEME))
}

/// Whether nothing is missing of the address of another machine's controller.
pub(super) fn is_whole(address: &Path) -> bool {
    parse(address).is_some_and(|(peer, device)| peer.contains(':') && device.is_absolute())
}

/// Opens what connections to this address will need. To be called before a process gives up its right to open files.
///
/// # Errors
/// The device cannot be opened.
pub fn prepare(address: &Path) -> Result<(), ConnectError> {
    match parse(address) {
        Some((_, device)) => Device::get(device).map(drop),
        None if is_remote(address) => Err(ConnectError::Address { address: address.to_owned() }),
        None => Ok(()),
    }
}

/// Connects to a controller on another machine; `None`: the address is not one of those.
pub(super) fn connect(address: &Path, key: Option<&Key>) -> Option<Result<Connection, ConnectError>> {
    let (peer, device) = match parse(address) {
        Some(parts) => parts,
        None => return prepare(address).err().map(Err),
    };
    let unreachable =
        |source: io::Error| ConnectError::Unreachable { path: address.to_owned(), source: errno(&source) };
    Some(Device::get(device).and_then(|device| {
        let stream = dial(peer).map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        key::greet(&stream, key).map_err(|source| ConnectError::Refused { address: address.to_owned(), source })?;
        let (ours, theirs) = Connection::pair().map_err(|errno| unreachable(errno.into()))?;
        pump(stream, theirs, device).map_err(unreachable)?;
        Ok(ours)
    }))
}

fn dial(peer: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in peer.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_BOUND) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Takes connections from other machines on a controller's behalf, until the process ends; with a key, from those that have it.
///
/// # Errors
/// The port or the device cannot be had.
pub fn listen(
    address: SocketAddr,
    device: &Path,
    controller: &Path,
    key: Option<Key>,
) -> Result<SocketAddr, ConnectError> {
    let refused = |source: io::Error| ConnectError::Listen {
        path: PathBuf::from(format!("{SCHEME}{address}")),
        source: errno(&source),
    };
    let device = Device::get(device)?;
    let listener = TcpListener::bind(address).map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    let door = Arc::new(Door { controller: controller.to_owned(), device, key, greetings: AtomicUsize::new(0) });
    std::thread::Builder::new()
        .name("tcp-listener".to_owned())
        .spawn(move || {
            for stream in listener.incoming() {
                match stream {
                    Ok(stream) => door.knocked(stream),
                    Err(error) => tracing::warn!("a connection from another machine was not taken: {error}"),
                }
            }
        })
        .map_err(refused)?;
    Ok(bound)
}

/// Where connections from other machines come in.
struct Door {
    controller: PathBuf,
    device: Arc<Device>,
    key: Option<Key>,
    /// How many are greeted at the moment.
    greetings: AtomicUsize,
}

impl Door {
    /// Takes a connection, in a thread of its own: whoever is silent keeps nobody else waiting.
    fn knocked(self: &Arc<Self>, stream: TcpStream) {
        if self.greetings.fetch_add(1, Ordering::Relaxed) >= GREETINGS_MAX {
            self.greetings.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let door = Arc::clone(self);
        let greeter = std::thread::Builder::new().name("tcp-greeter".to_owned()).spawn(move || {
            let peer = stream.peer_addr().map_or_else(|_| "another machine".to_owned(), |peer| peer.to_string());
            let taken = door.take(stream);
            door.greetings.fetch_sub(1, Ordering::Relaxed);
            if let Err(error) = taken {
                tell_end(&format!("from {peer}"), Err(error));
            }
        });
        if let Err(error) = greeter {
            self.greetings.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!("a connection from another machine was not taken: {error}");
        }
    }

    fn take(&self, stream: TcpStream) -> Result<(), CarryError> {
        stream.set_nodelay(true)?;
        key::answer(&stream, self.key.as_ref())?;
        let link = Connection::connect(&self.controller).map_err(Box::new)?;
        Ok(pump(stream, link, Arc::clone(&self.device))?)
    }
}

/// Carries messages both ways until one side ends; the other is ended then.
fn pump(stream: TcpStream, link: Connection, device: Arc<Device>) -> io::Result<()> {
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &1)?;
    setsockopt(&stream, sockopt::TcpKeepInterval, &1)?;
    setsockopt(&stream, sockopt::TcpUserTimeout, &SILENCE_MS_MAX)?;
    let (outward, from) = (stream.try_clone()?, link.try_clone()?);
    let theirs = Arc::clone(&device);
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
    };
    spawn(
        "to-remote",
        Box::new(move || {
            let mut stream = outward;
            let ended = carry_out(&from, &mut stream, &theirs);
            tell_end("to another machine", ended);
            // Fails when it is closed already.
            let _ = stream.shutdown(Shutdown::Both);
            from.shut_down();
        }),
    )?;
    spawn(
        "from-remote",
        Box::new(move || {
            let mut stream = stream;
            let ended = carry_in(&mut stream, &link, &device);
            tell_end("from another machine", ended);
            let _ = stream.shutdown(Shutdown::Both);
            link.shut_down();
        }),
    )
}

/// What peers send that no program of ftvm sends is told, in bursts; connections end for many good reasons.
fn tell_end(which: &str, ended: Result<(), CarryError>) {
    static REFUSED: Mutex<Option<LogBurst>> = Mutex::new(None);
    let Err(error) = ended else { return };
    let refused = match &error {
        CarryError::Frame(FrameError::Head { .. } | FrameError::Kind(_) | FrameError::TooLarge(_)) => true,
        CarryError::Greeting(error) => !matches!(error, GreetingError::Stream(_)),
        CarryError::Controller(_) => true,
        _ => false,
    };
    let mut bursts = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
    let burst = bursts.get_or_insert_default();
    let now = crate::clock::monotonic();
    if let Some(more) = burst.ended(now) {
        tracing::warn!("{more} more connections with other machines were given up for what came over them");
    }
    if refused && burst.begins(now) {
        tracing::warn!("a connection {which} is given up: {}", crate::chain(&error));
    } else {
        tracing::debug!("a connection {which} has ended: {}", crate::chain(&error));
    }
}

fn carry_out(from: &Connection, to: &mut TcpStream, device: &Device) -> Result<(), CarryError> {
    loop {
        let (bytes, descriptors) = match from.receive_raw() {
            Ok(received) => received,
            Err(ReceiveError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        frame::write_message(to, &bytes, descriptors.len())?;
        for descriptor in descriptors {
            frame::write_carried(to, &mut device.carried(File::from(descriptor))?)?;
        }
    }
}

fn carry_in(from: &mut TcpStream, to: &Connection, device: &Device) -> Result<(), CarryError> {
    while let Some(Frame { message, carried }) = frame::read_frame(from, receive_content)? {
        let descriptors =
            carried.into_iter().map(|carried| device.descriptor(carried)).collect::<io::Result<Vec<_>>>()?;
        to.send(&Outgoing::raw(message, descriptors))?;
    }
    Ok(())
}

fn receive_content(mut content: io::Take<&mut TcpStream>) -> io::Result<(File, u64)> {
    let mut file = File::from(memfd_create(c"from-remote", MFdFlags::MFD_CLOEXEC)?);
    let copied = io::copy(&mut content, &mut file)?;
    Ok((file, copied))
}

/// Why a connection between machines ended.
#[derive(Debug, thiserror::Error)]
enum CarryError {
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the other end does not take it")]
    Send(#[from] SendError),
    #[error("a descriptor cannot be carried")]
    Descriptor(#[from] io::Error),
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    #[error("the controller itself cannot be reached")]
    Controller(#[from] Box<ConnectError>),
}

/// A file from its beginning, wherever its own position is.
struct FromStart {
    file: File,
    at: u64,
}

impl Read for FromStart {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(bytes, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Device {
    fn get(path: &Path) -> Result<Arc<Self>, ConnectError> {
        let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = devices.get(path) {
            return Ok(Arc::clone(device));
        }
        let open = |write| OpenOptions::new().read(true).write(write).open(path);
        let opened = open(false).and_then(|read_only| Ok(Self { read_only, read_write: open(true)? }));
        let device =
            Arc::new(opened.map_err(|source| ConnectError::Device { path: path.to_owned(), source: errno(&source) })?);
        devices.insert(path.to_owned(), Arc::clone(&device));
        Ok(device)
    }

    /// What goes in place of a descriptor.
    fn carried(&self, descriptor: File) -> io::Result<Carried<(FromStart, u64)>> {
        if !self.is(&descriptor)? {
            let bytes = descriptor.metadata()?.len();
            return Ok(Carried::Content((FromStart { file: descriptor, at: 0 }, bytes)));
        }
        let flags = OFlag::from_bits_truncate(fcntl(&descriptor, FcntlArg::F_GETFL)?);
        let read_only = flags & OFlag::O_ACCMODE == OFlag::O_RDONLY;
        Ok(if read_only { Carried::DeviceReadOnly } else { Carried::DeviceReadWrite })
    }

    /// The descriptor that something came in place of.
    fn descriptor(&self, carried: Carried<File>) -> io::Result<OwnedFd> {
        Ok(match carried {
            Carried::DeviceReadOnly => self.read_only.try_clone()?.into(),
            Carried::DeviceReadWrite => self.read_write.try_clone()?.into(),
            Carried::Content(file) => file.into(),
        })
    }

    /// Whether a descriptor is one of this device.
    fn is(&self, other: impl AsFd) -> io::Result<bool> {
        let (ours, theirs) = (fstat(&self.read_only)?, fstat(other)?);
        Ok((ours.st_dev, ours.st_ino, ours.st_rdev) == (theirs.st_dev, theirs.st_ino, theirs.st_rdev))
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Listener, Received, tagged};
    use ft_protocol::wire::{Access, Grant, Part};
    use shared_mem::{Extent, Offset};
    use std::io::Write;

    #[test]
    fn messages_and_what_comes_with_them_arrive_on_the_other_machine() {
        let place = tempfile::tempdir().unwrap();
        let device = place.path().join("device");
        std::fs::write(&device, [7; 16384]).unwrap();
        let socket = place.path().join("socket");
        let local = Listener::bind(&socket).unwrap();
        let bound = listen("127.0.0.1:0".parse().unwrap(), &device, &socket, None).unwrap();
        let address = PathBuf::from(format!("tcp:{bound},{}", device.display()));
        prepare(&address).unwrap();
        let host = Connection::connect(&address).unwrap();
        let controller = local.accept().unwrap();

        let mut content = tempfile::tempfile().unwrap();
        content.write_all(b"a guest").unwrap();
        let upload = Extent::new(content.into(), Offset::ZERO, 7).unwrap();
        let grant = |part, access| Grant { part, access };
        let extents = vec![tagged(grant(Part::Upload, Access::ReadOnly), upload)];
        host.send(&Outgoing::new("hello".to_owned(), extents).unwrap()).unwrap();
        let Received { message, mut extents } = controller.receive::<String>().unwrap();
        assert_eq!(message, "hello");
        let mut copy = [0; 7];
        File::from(extents.remove(0).1.into_fd()).read_exact_at(&mut copy, 0).unwrap();
        assert_eq!(&copy, b"a guest");

        let part = |write| {
            let file = OpenOptions::new().read(true).write(write).open(&device).unwrap();
            Extent::new(file.into(), Offset::new(8192), 4096).unwrap()
        };
        let vm = ft_protocol::VmId::new(1);
        let extents = vec![
            tagged(grant(Part::Image(vm), Access::ReadOnly), part(false)),
            tagged(grant(Part::Console(vm), Access::ReadWrite), part(true)),
        ];
        controller.send(&Outgoing::new("welcome".to_owned(), extents).unwrap()).unwrap();
        let Received { message, extents } = host.receive::<String>().unwrap();
        assert_eq!(message, "welcome");
        let found: Vec<_> = extents.iter().map(|(_, extent)| (extent.offset().get(), extent.len())).collect();
        assert_eq!(found, [(8192, 4096), (8192, 4096)]);
        assert_eq!(extents[0].1.access().unwrap(), shared_mem::Access::ReadOnly);
        assert_eq!(extents[1].1.access().unwrap(), shared_mem::Access::ReadWrite);

        drop((host, extents));
        assert!(matches!(controller.receive::<String>(), Err(ReceiveError::Closed)));
        assert!(matches!(Connection::connect(Path::new("tcp:nowhere")), Err(ConnectError::Address { .. })));
    }

    #[test]
    fn who_does_not_have_the_key_is_told_so() {
        let place = tempfile::tempdir().unwrap();
        let [device, socket] = ["device", "socket"].map(|name| place.path().join(name));
        std::fs::write(&device, [7; 4096]).unwrap();
        let local = Listener::bind(&socket).unwrap();
        let key = || Key::new(b"the cluster's own key");
        let bound = listen("127.0.0.1:0".parse().unwrap(), &device, &socket, Some(key())).unwrap();
        let address = PathBuf::from(format!("tcp:{bound},{}", device.display()));
        for (key, word) in [(None, "--key-file"), (Some(Key::new(b"another cluster's key")), "another key")] {
            let refused = connect(&address, key.as_ref()).unwrap().unwrap_err();
            assert!(
                matches!(refused, ConnectError::Refused { .. }) && crate::chain(&refused).contains(word),
                "{refused}"
            );
        }
        // Who says nothing keeps nobody waiting.
        let _silent = TcpStream::connect(bound).unwrap();
        let host = connect(&address, Some(&key())).unwrap().unwrap();
        let controller = local.accept().unwrap();
        host.send(&Outgoing::new("hello".to_owned(), Vec::new()).unwrap()).unwrap();
        assert_eq!(controller.receive::<String>().unwrap().message, "hello");
    }
}
