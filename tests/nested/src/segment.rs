//! Connects a QEMU's network device to a segment: its datagram sockets speak frames, but give no greeting.

use crossbeam_channel::RecvTimeoutError;
use ft_protocol::spec::NetBackend;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use vmm::net::NetPort;

/// Longer than any frame that a segment carries.
const FRAME_BYTES_MAX: usize = 64 << 10;
/// How soon a relay sees that it is to end.
const PATIENCE: Duration = Duration::from_millis(200);

/// A relay between a segment and one machine; it ends when this is dropped.
pub(crate) struct Relay {
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Where a relay and its QEMU find each other.
pub(crate) struct RelayPaths {
    pub(crate) relay: PathBuf,
    pub(crate) qemu: PathBuf,
}

impl Relay {
    pub(crate) fn start(switch: &Path, paths: &RelayPaths) -> io::Result<Self> {
        let backend = NetBackend::Segment(switch.to_string_lossy().into_owned());
        let (port, frames) = NetPort::open(&backend, || {}).map_err(io::Error::other)?;
        let socket = UnixDatagram::bind(&paths.relay)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        // A machine that hangs loses frames, and holds up nobody.
        socket.set_write_timeout(Some(PATIENCE))?;
        let back = socket.try_clone()?;
        let ending = Arc::new(AtomicBool::new(false));
        let outward = thread::spawn({
            let ending = ending.clone();
            move || {
                let mut frame = vec![0; FRAME_BYTES_MAX];
                while !ending.load(Ordering::Relaxed) {
                    match socket.recv(&mut frame) {
                        Ok(length) => port.send(&frame[..length]),
                        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                        Err(_) => return,
                    }
                }
            }
        });
        let inward = thread::spawn({
            let (ending, qemu) = (ending.clone(), paths.qemu.clone());
            move || {
                while !ending.load(Ordering::Relaxed) {
                    match frames.recv_timeout(PATIENCE) {
                        // Nobody is there before QEMU has started and after it was killed: lost, as on any network.
                        Ok(frame) => drop(back.send_to(&frame, &qemu)),
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            }
        });
        Ok(Self { ending, threads: vec![outward, inward] })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
