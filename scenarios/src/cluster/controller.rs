//! The controller of a private cluster: it may die and is started again; all that it knows is in the pool.

use super::child::{Child, ChildExit};
use super::hosts::{CONTROLLER, HostName, HostSignal};
use super::{Cluster, ClusterError, READY_BOUND, start_controller};
use std::time::{Duration, Instant};
use vmm::client::Client;

/// How long its end may take to be known once its connections have closed.
const END_SEEN_BOUND: Duration = Duration::from_secs(5);

impl Cluster {
    /// Sends a signal to the controller.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal_controller(&mut self, signal: HostSignal) -> Result<(), ClusterError> {
        self.signal_child(&HostName::new(CONTROLLER), &self.controller, signal)
    }

    /// The controller's process.
    #[must_use]
    pub fn controller_pid(&self) -> u32 {
        self.controller.pid()
    }

    /// Starts a controller that a signal has killed again, over the same pool, and connects to it. One that has ended by
    /// itself had a reason that would be there again: that is an error.
    ///
    /// # Errors
    /// When the controller lives, has ended by itself, or does not come up again.
    pub fn revive_controller(&mut self) -> Result<(ChildExit, Client), ClusterError> {
        let exit = self.controller.wait_until(Instant::now() + END_SEEN_BOUND).map_err(ClusterError::Wait)?;
        let exit = match exit {
            Some(exit @ ChildExit::Signal(_)) => exit,
            Some(exit) => return Err(ClusterError::ControllerEnded { exit, stderr: self.controller.stderr() }),
            None => return Err(ClusterError::NotReady { who: "the controller".to_owned(), bound: END_SEEN_BOUND }),
        };
        self.controller_lives += 1;
        let stderr = self.run_directory().join(format!("pool.{}.stderr", self.controller_lives));
        let places = (self.run_directory(), self.pool_directory());
        let mut child: Child = start_controller(&self.options, places, &self.socket, stderr, self.controller_lives)
            .map_err(|source| ClusterError::Spawn { program: self.options.executable.clone(), source })?;
        self.lifeline = child.take_stdin();
        self.controller = child;
        let client = self.await_controller(Instant::now() + READY_BOUND)?;
        Ok((exit, client))
    }
}
