//! Shows a protected run to whoever started it: the console on one descriptor, byte for byte; a status line on another.

use crate::console_input::{AGAIN, ConsoleInput, Fed};
use crate::event::{Event, What};
use crate::protected::{Outcome, ProtectedRun, RunError, Turn};
use crate::status_line::StatusLine;
use crate::timeline::Timeline;
use ft_protocol::timeline::Happening;
use ft_protocol::wire::VmStatus;
use ft_protocol::{Span, Time};
use nix::poll::PollFlags;
use nix::unistd::isatty;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use vmm::clock::monotonic;

/// A pipe with any room at all takes this much without blocking (PIPE_BUF): a reader that sleeps must not keep the run
/// from minding its hosts and signals.
const WRITE_BYTES_MAX: usize = 4096;
/// Console bytes that wait for the reader; what is beyond waits in the pool, and then makes the guest wait.
const BACKLOG_BYTES_MAX: usize = 64 * 1024;
/// Between two looks at the state for the status line.
const STATUS_INTERVAL: Span = Span::from_ms(500);

/// A VM that somebody follows from outside.
pub trait Followed: Fed {
    /// Waits until something happens, one of the caller's descriptors is ready, or the time has come.
    ///
    /// # Errors
    /// When the VM cannot be followed any more.
    fn turn(&mut self, until: Time, extra: &[(BorrowedFd<'_>, PollFlags)]) -> Result<Turn, RunError>;

    /// Appends console bytes that have not been read yet to `into`, at most about `max`; says how many.
    ///
    /// # Errors
    /// When the console is damaged, or some of it is lost.
    fn read_console(&mut self, into: &mut Vec<u8>, max: usize) -> Result<usize, RunError>;

    /// How it ended, if it has: nothing is left to be read.
    fn outcome(&self) -> Option<Outcome>;

    /// Its state; `None` while there is no controller that could tell.
    ///
    /// # Errors
    /// When the controller does not answer.
    fn vm_status(&mut self) -> Result<Option<VmStatus>, RunError>;

    /// What is known so far.
    fn timeline(&self) -> &Timeline;

    /// Whether a VM that no host can run is waited for.
    fn waits_for_hosts(&self) -> bool;

    /// The last bytes that were read have not been shown.
    fn not_shown(&mut self, bytes: u64) {
        let _ = bytes;
    }
}

impl Followed for ProtectedRun {
    fn turn(&mut self, until: Time, extra: &[(BorrowedFd<'_>, PollFlags)]) -> Result<Turn, RunError> {
        Self::turn(self, until, extra)
    }

    fn read_console(&mut self, into: &mut Vec<u8>, max: usize) -> Result<usize, RunError> {
        Self::read_console(self, into, max)
    }

    fn outcome(&self) -> Option<Outcome> {
        Self::outcome(self)
    }

    fn vm_status(&mut self) -> Result<Option<VmStatus>, RunError> {
        Ok(self.status()?.vms.into_iter().next())
    }

    fn timeline(&self) -> &Timeline {
        Self::timeline(self)
    }

    fn waits_for_hosts(&self) -> bool {
        false
    }
}

/// Why the showing stopped.
#[derive(Debug)]
pub enum Shown {
    /// The run is over.
    Over(Outcome),
    /// The caller's other descriptor is ready: it wants to end.
    Interrupted,
    /// Nobody reads the console any more.
    OutputClosed,
    /// The time limit has come.
    TimeOut,
}

/// Why the showing failed.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// The run itself failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The console could not be written.
    #[error("cannot write the guest's console")]
    Output(#[source] io::Error),
}

/// What a run is shown with.
#[derive(Debug)]
pub struct Showing<'a> {
    /// Becomes readable when the run is to be left.
    pub interrupt: BorrowedFd<'a>,
    /// Shows how it is doing.
    pub status: Option<StatusLine>,
    /// It is left then.
    pub limit: Option<Time>,
    /// What its console is fed with.
    pub input: Option<ConsoleInput>,
}

/// Follows a run to its end.
///
/// # Errors
/// When the run fails, or its console cannot be written.
pub fn show(run: &mut impl Followed, out: &mut (impl Write + AsFd), showing: Showing<'_>) -> Result<Shown, ShowError> {
    let Showing { interrupt, mut status, limit, mut input } = showing;
    let mut backlog = Vec::new();
    let mut next_status = monotonic();
    // On a terminal that shows both, the status line must not wipe away the beginning of a console line.
    let shared = isatty(&*out).unwrap_or(false);
    let mut at_line_start = true;
    let shown = loop {
        while backlog.len() < BACKLOG_BYTES_MAX && run.read_console(&mut backlog, BACKLOG_BYTES_MAX)? > 0 {}
        if backlog.is_empty()
            && let Some(outcome) = run.outcome()
        {
            break Shown::Over(outcome);
        }
        let now = monotonic();
        if limit.is_some_and(|limit| now >= limit) {
            break Shown::TimeOut;
        }
        if let Some(line) = &mut status
            && now >= next_status
        {
            line.update(run, at_line_start || !shared)?;
            next_status = now + STATUS_INTERVAL;
        }
        let until = limit.unwrap_or(now + Span::from_ms(60_000));
        let until = if status.is_some() { until.min(next_status) } else { until };
        let wanted = if backlog.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        let mut until = until;
        if let Some(input) = &mut input
            && !input.turn(run)?
        {
            until = until.min(now + AGAIN);
        }
        let more = input.as_ref().and_then(ConsoleInput::descriptor).map(|fd| (fd, PollFlags::POLLIN));
        let extra: Vec<_> = [(interrupt, PollFlags::POLLIN), (out.as_fd(), wanted)].into_iter().chain(more).collect();
        let turn = run.turn(until, &extra)?;
        if turn.ready[0] {
            break Shown::Interrupted;
        }
        warn_of(run, &turn.events, &mut status);
        if turn.ready[1] {
            if backlog.is_empty() {
                // Nothing was asked for: only a hang-up or an error is told.
                break Shown::OutputClosed;
            }
            if let Some(line) = status.as_mut().filter(|_| shared) {
                line.clear();
            }
            let chunk = &backlog[..backlog.len().min(WRITE_BYTES_MAX)];
            match out.write(chunk).and_then(|count| out.flush().map(|()| count)) {
                Ok(count) => {
                    at_line_start = if count > 0 { backlog[count - 1] == b'\n' } else { at_line_start };
                    backlog.drain(..count);
                    if let Some(line) = status.as_mut().filter(|_| shared && at_line_start) {
                        line.draw();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break Shown::OutputClosed,
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(ShowError::Output(error)),
            }
        }
    };
    if let Some(line) = &mut status {
        line.clear();
    }
    // Whoever reads on later begins with these.
    run.not_shown(backlog.len() as u64);
    Ok(shown)
}

/// Says what went wrong with hosts, which the guest's user does not see but may want to mend.
fn warn_of(run: &impl Followed, events: &[Event], status: &mut Option<StatusLine>) {
    let mut clear = || {
        if let Some(line) = status {
            line.clear();
        }
    };
    for event in events {
        match &event.what {
            What::Happened(Happening::GaveUp { host, reason, .. }) => {
                clear();
                tracing::warn!("host {} gave the guest up: {reason}", run.timeline().host_name(*host));
            }
            What::Happened(Happening::RecordRefused { generation, epoch, reason, .. }) => {
                clear();
                tracing::warn!("the commit record of {epoch} of {generation} was refused: {reason}");
            }
            What::Happened(Happening::Diverged { report, .. }) => {
                clear();
                tracing::warn!("a replay diverged at {report}; the guest goes on in checkpoint mode");
            }
            What::Happened(Happening::LogLost { report, .. }) => {
                clear();
                tracing::warn!("{report}");
            }
            What::Happened(Happening::Damaged { reason, .. }) => {
                clear();
                tracing::warn!("the guest is lost, its part of the pool is damaged: {reason}");
            }
            What::Happened(Happening::Stranded { recoverable, .. }) if run.waits_for_hosts() => {
                clear();
                tracing::warn!("no host can run the guest; {recoverable} waits in the pool");
            }
            What::Happened(Happening::PoolFull { shortage, .. }) => {
                clear();
                tracing::warn!("the guest stands still: {shortage}");
            }
            What::Happened(Happening::SpaceAgain { waited, .. }) => {
                clear();
                tracing::warn!("the pool has space again; the guest goes on after {waited}");
            }
            What::ControllerGone => {
                clear();
                tracing::warn!(
                    "the controller is gone; the guest goes on, its console follows when there is one again"
                );
            }
            What::ControllerBack => {
                clear();
                tracing::warn!("there is a controller again");
            }
            What::HostExited { host, exit, stderr } if !stderr.is_empty() => {
                clear();
                tracing::info!("host {host} ended ({exit}): {stderr}");
            }
            _ => {}
        }
    }
}
