//! A host's end of a network.

use super::error::NetError;
use super::frame::MacAddress;
use super::segment::Segment;
use super::tap;
use crate::machine::device::virtio::{FRAME_BYTES_MAX, FRAME_BYTES_MIN};
use crate::slice;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use ft_protocol::spec::NetBackend;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Frames that wait for the guest; what comes beyond them is lost.
const QUEUE_FRAMES_MAX: usize = 1024;
/// Frames taken from the kernel before the reader looks at anything else.
const FRAMES_PER_TURN_MAX: usize = 64;
/// How often a port looks after its connection when nothing comes.
const UPKEEP_INTERVAL: Duration = Duration::from_millis(500);

/// What a network is behind a descriptor.
pub(super) trait Link: Send + Sync {
    /// What to wait on.
    fn as_fd(&self) -> BorrowedFd<'_>;
    /// Takes one frame, or `WouldBlock`.
    fn receive(&self, frame: &mut [u8]) -> io::Result<usize>;
    /// Sends one frame.
    fn send(&self, frame: &[u8]) -> io::Result<()>;
    /// Mends the connection.
    fn upkeep(&self) {}
}

/// What has become of frames.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PortCounters {
    /// Sent to the network.
    pub sent: u64,
    /// Not sent: the network had no room, or was not there.
    pub send_lost: u64,
    /// Put into the queue of the guest.
    pub received: u64,
    /// Not put there: it was full.
    pub receive_lost: u64,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    send_lost: AtomicU64,
    received: AtomicU64,
    receive_lost: AtomicU64,
}

/// A queue for the frames that come from a network.
#[must_use]
pub fn frame_queue() -> (Sender<Vec<u8>>, Receiver<Vec<u8>>) {
    bounded(QUEUE_FRAMES_MAX)
}

/// A host's end of a network, until it is dropped.
pub struct NetPort {
    link: Arc<dyn Link>,
    counters: Arc<Counters>,
    stop: Arc<EventFd>,
    reader: Option<JoinHandle<()>>,
}

impl NetPort {
    /// Opens a network; the frames that come from it are in the queue that is given back. `wake` is called after each
    /// that was put there, from another thread. A segment without a switch is no error: the port connects as soon as there
    /// is one; [`check`](super::check) says whether there is.
    ///
    /// # Errors
    /// The network does not exist here, or may not be used.
    pub fn open(backend: &NetBackend, wake: impl Fn() + Send + 'static) -> Result<(Self, Receiver<Vec<u8>>), NetError> {
        let (queue, frames) = frame_queue();
        Ok((Self::open_into(backend, queue, wake)?, frames))
    }

    /// As [`open`](Self::open), with a queue that is there already.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_into(
        backend: &NetBackend,
        queue: Sender<Vec<u8>>,
        wake: impl Fn() + Send + 'static,
    ) -> Result<Self, NetError> {
        let link: Arc<dyn Link> = match backend {
            NetBackend::Segment(path) => Arc::new(Segment::open(path.into()).map_err(NetError::Resources)?),
            NetBackend::Tap(name) => Arc::new(tap::open(name)?),
        };
        let stop = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(|errno| NetError::Resources(errno.into()))?;
        let (stop, counters) = (Arc::new(stop), Arc::new(Counters::default()));
        let reader = Reader { link: link.clone(), counters: counters.clone(), stop: stop.clone(), queue, wake };
        let reader = std::thread::Builder::new()
            .name("net-port".to_owned())
            .spawn(move || {
                slice::run_soon();
                reader.run();
            })
            .map_err(NetError::Resources)?;
        Ok(Self { link, counters, stop, reader: Some(reader) })
    }

    /// Sends a frame, or loses it: never waits for longer than a switch takes to get the processor.
    pub fn send(&self, frame: &[u8]) {
        let fits = (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame.len());
        let counter = match fits && self.link.send(frame).is_ok() {
            true => &self.counters.sent,
            false => &self.counters.send_lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells the network's switches that this device is here now.
    pub fn announce(&self, device: MacAddress) {
        self.send(&device.announcement());
    }

    /// What has become of frames until now.
    #[must_use]
    pub fn counters(&self) -> PortCounters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PortCounters {
            sent: of(&self.counters.sent),
            send_lost: of(&self.counters.send_lost),
            received: of(&self.counters.received),
            receive_lost: of(&self.counters.receive_lost),
        }
    }
}

impl Drop for NetPort {
    fn drop(&mut self) {
        // The counter has room for the only write there is.
        let _ = self.stop.write(1);
        if let Some(reader) = self.reader.take() {
            // A reader that panicked has said so.
            let _ = reader.join();
        }
    }
}

struct Reader<W> {
    link: Arc<dyn Link>,
    counters: Arc<Counters>,
    stop: Arc<EventFd>,
    queue: Sender<Vec<u8>>,
    wake: W,
}

impl<W: Fn()> Reader<W> {
    fn run(self) {
        let timeout = PollTimeout::try_from(UPKEEP_INTERVAL).expect("less than a day");
        loop {
            let mut waited =
                [PollFd::new(self.link.as_fd(), PollFlags::POLLIN), PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut waited, timeout);
            let stopped = waited[1].any().unwrap_or(true);
            if stopped {
                return;
            }
            if ready == Ok(0) || self.take_frames().is_err() {
                self.link.upkeep();
            }
        }
    }

    fn take_frames(&self) -> io::Result<()> {
        // One byte more than a frame has: what fills it was longer.
        let mut frame = [0; FRAME_BYTES_MAX + 1];
        for _ in 0..FRAMES_PER_TURN_MAX {
            let length = match self.link.receive(&mut frame) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&length) {
                self.hand_on(frame[..length].to_vec());
            }
        }
        Ok(())
    }

    fn hand_on(&self, frame: Vec<u8>) {
        match self.queue.try_send(frame) {
            Ok(()) => {
                self.counters.received.fetch_add(1, Ordering::Relaxed);
                (self.wake)();
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counters.receive_lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
