//! A process that may run only a part of the time: stopped and continued in turn, by a thread of its own. It works
//! without rights to control groups, and is felt like a processor that is taken away by others.

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use rustix::process::{Signal, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// One turn of running and standing still: well below the shortest time after which a host is suspected.
const PERIOD: Duration = Duration::from_millis(20);

/// Slows a process down until it is dropped.
#[derive(Debug)]
pub(super) struct Throttle {
    /// Closed when it is over.
    over: Option<Sender<()>>,
    /// Somebody else has stopped the process, and it shall stand still until he lets it go on.
    held: Arc<Mutex<bool>>,
    thread: Option<JoinHandle<()>>,
}

impl Throttle {
    /// Lets a process run `percent` of the time, 1 to 99; not at all while somebody else has stopped it, as one may have before.
    pub(super) fn start(process: OwnedFd, percent: u32, is_stopped: bool) -> std::io::Result<Self> {
        let running = PERIOD * percent.clamp(1, 99) / 100;
        let (over, is_over) = bounded::<()>(0);
        let held = Arc::new(Mutex::new(is_stopped));
        let is_held = held.clone();
        let go_on = move |process: &OwnedFd| {
            let held = is_held.lock().unwrap_or_else(PoisonError::into_inner);
            if *held { Ok(()) } else { pidfd_send_signal(process, Signal::CONT) }
        };
        let thread = std::thread::Builder::new().name("throttle".to_owned()).spawn(move || {
            let wait = |time| is_over.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
            // Ends by itself when the process has.
            while pidfd_send_signal(&process, Signal::STOP).is_ok() && wait(PERIOD - running) {
                if go_on(&process).is_err() || !wait(running) {
                    break;
                }
            }
            let _ = go_on(&process);
        })?;
        Ok(Self { over: Some(over), held, thread: Some(thread) })
    }

    /// The process is stopped by somebody else, or let go on: `act` does it, and no turn of ours comes between.
    pub(super) fn hold<T>(&self, held: bool, act: impl FnOnce() -> T) -> T {
        let mut is_held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        *is_held = held;
        act()
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::process::Command;
    use std::time::Instant;

    #[test]
    fn who_is_stopped_meanwhile_stands_still() {
        /// Ends with the test, however that ends.
        struct Sleeper(std::process::Child);
        impl Drop for Sleeper {
            fn drop(&mut self) {
                let _ = self.0.kill();
                let _ = self.0.wait();
            }
        }
        let sleeper = Sleeper(Command::new("sleep").arg("1000").spawn().unwrap());
        let child = &sleeper.0;
        let process = || pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
        let (own, path) = (process(), format!("/proc/{}/stat", child.id()));
        let is_stopped = || std::fs::read_to_string(&path).unwrap().contains(") T ");
        let limit = Instant::now() + Duration::from_secs(60);
        let await_that = |what: &str, wanted: bool| {
            while is_stopped() != wanted {
                assert!(Instant::now() < limit, "awaited: {what}");
                std::thread::yield_now();
            }
        };
        let throttle = Throttle::start(process(), 50, false).unwrap();
        for _ in 0..3 {
            await_that("it stands still for a while", true);
            await_that("it goes on", false);
        }
        throttle.hold(true, || pidfd_send_signal(&own, Signal::STOP)).unwrap();
        await_that("it is stopped", true);
        let stands = || {
            let since = Instant::now();
            while since.elapsed() < 4 * PERIOD {
                assert!(is_stopped(), "no turn lets it go on");
                std::thread::yield_now();
            }
        };
        stands();
        drop(throttle);
        assert!(is_stopped(), "the end of slowness lets nobody go on who was stopped");
        let throttle = Throttle::start(process(), 50, true).unwrap();
        stands();
        drop(throttle);
        assert!(is_stopped(), "nor does slowness that began meanwhile");
        pidfd_send_signal(&own, Signal::CONT).unwrap();
        await_that("it goes on", false);
    }
}
