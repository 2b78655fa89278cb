//! Signals that ask ftvm to end, as something to wait for.

use crate::ExitStatus;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::{AsFd, BorrowedFd};

// SIGQUIT, too: nobody else would give a terminal back that was made raw.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP];

/// Whoever started this process may have blocked them for itself.
pub(crate) fn unblock() {
    // Fails only for numbers that are no signals.
    let _ = SigSet::from_iter(ENDING).thread_unblock();
}

/// From its making on the signals wait here instead of ending the process.
pub(crate) struct EndSignals {
    fd: SignalFd,
}

impl EndSignals {
    /// Blocks the signals for this thread and those that it starts: make it first.
    pub(crate) fn new() -> Result<Self, Failure> {
        let set = SigSet::from_iter(ENDING);
        let failed = |errno: nix::errno::Errno| Failure::new(ExitCode::Internal, &errno);
        set.thread_block().map_err(failed)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self { fd: SignalFd::with_flags(&set, flags).map_err(failed)? })
    }

    /// How to end when one has come, and nothing more is to be said.
    pub(crate) fn end(&self) -> ExitStatus {
        ExitStatus::Own(self.received().unwrap_or(ExitCode::Terminated))
    }

    /// The code to exit with, if a signal has come.
    pub(crate) fn received(&self) -> Option<ExitCode> {
        let info = self.fd.read_signal().ok()??;
        let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
        Some(match signal {
            Some(Signal::SIGINT) => ExitCode::Interrupted,
            Some(Signal::SIGQUIT) => ExitCode::Quit,
            _ => ExitCode::Terminated,
        })
    }
}

impl AsFd for EndSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
