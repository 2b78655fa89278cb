//! A process that may run only a part of the time: stopped and continued in turn, by a thread of its own. It works
//! without rights to control groups, and is felt like a processor that is taken away by others.

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use rustix::process::{Signal, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use std::time::Duration;

/// One turn of running and standing still: well below the shortest time after which a host is suspected.
const PERIOD: Duration = Duration::from_millis(20);

/// Slows a process down until it is dropped.
#[derive(Debug)]
pub(super) struct Throttle {
    /// Closed when it is over.
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Throttle {
    /// Lets a process run `percent` of the time, 1 to 99.
    pub(super) fn start(process: OwnedFd, percent: u32) -> std::io::Result<Self> {
        let running = PERIOD * percent.clamp(1, 99) / 100;
        let (over, is_over) = bounded::<()>(0);
        let thread = std::thread::Builder::new().name("throttle".to_owned()).spawn(move || {
            let wait = |time| is_over.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
            // Ends by itself when the process has.
            while pidfd_send_signal(&process, Signal::STOP).is_ok() && wait(PERIOD - running) {
                if pidfd_send_signal(&process, Signal::CONT).is_err() || !wait(running) {
                    break;
                }
            }
            let _ = pidfd_send_signal(&process, Signal::CONT);
        })?;
        Ok(Self { over: Some(over), thread: Some(thread) })
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            // It cannot panic.
            let _ = thread.join();
        }
    }
}
