//! Processes that ftvm starts for itself do not outlive their parent.

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// The process that another one belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parent(Pid);

impl Parent {
    /// The parent with this number, as it gave it itself.
    pub(crate) fn new(pid: i32) -> Self {
        Self(Pid::from_raw(pid))
    }

    /// Whether it lives.
    pub(crate) fn lives(self) -> bool {
        getppid() == self.0
    }

    /// From now on the parent's death kills this process. False: it is dead already.
    pub(crate) fn die_with(self) -> bool {
        // Fails only for numbers that are no signals.
        let _ = set_pdeathsig(Signal::SIGKILL);
        self.lives()
    }
}
