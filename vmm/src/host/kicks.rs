//! Kicks a vCPU now and then, so that whoever drives it can look how a guest gets on that does not come to an exit.

use crate::machine::Kicker;
use crossbeam_channel::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two kicks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Kicks until it is dropped.
pub(super) struct Kicks {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Kicks {
    pub(super) fn start(kicker: Kicker) -> Self {
        let (stop, stopped) = crossbeam_channel::bounded(0);
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(INTERVAL).is_err_and(|error| error.is_timeout()) {
                kicker.kick();
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Kicks {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its hook.
            let _ = thread.join();
        }
    }
}
