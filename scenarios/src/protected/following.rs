//! What is seen of a run, turn by turn: the controller's messages, ends of hosts, and the controller's own end.

use super::asking::is_broken;
use super::{Order, ProtectedRun, Respawn, RunError, STRANDED_BOUND};
use crate::cluster::{ChildExit, ClusterError, ExitedHost, HostName};
use crate::console_input::InputNews;
use crate::event::{Event, What};
use crate::timeline::FENCED_EXIT_CODE;
use ft_protocol::wire::{Request, ToClient};
use ft_protocol::{Span, Time};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};
use vmm::client::ClientError;
use vmm::clock::monotonic;

/// How often a controller is started again that is killed before it is ready.
const REVIVALS_IN_A_ROW_MAX: u32 = 1_000;
/// A host that fails by itself this often in a row is not started again.
const FAILURES_IN_A_ROW_MAX: u32 = 3;

/// A host that has died is started again after this time: what happens on its machine first is the takeover, and a process that
/// begins would stand in its way.
const RESPAWN_PAUSE: Span = Span::from_ms(20);

/// What one turn brought.
#[derive(Debug, Default)]
pub struct Turn {
    /// What was seen, in order.
    pub events: Vec<Event>,
    /// For each of the caller's descriptors, whether it is ready.
    pub ready: Vec<bool>,
}

impl ProtectedRun {
    /// Waits until something happens, one of the caller's descriptors is ready, or the time has come.
    ///
    /// # Errors
    /// When the controller is gone, or events cannot be written.
    pub fn turn(&mut self, until: Time, extra: &[(BorrowedFd<'_>, PollFlags)]) -> Result<Turn, RunError> {
        self.pump()?;
        let wait = if self.chronicle.has_news() { Duration::ZERO } else { self.bounded(until) };
        let ready = self.wait(wait, extra)?;
        self.pump()?;
        self.reap()?;
        self.respawn_due()?;
        Ok(Turn { events: self.chronicle.take_news(), ready })
    }

    fn bounded(&self, until: Time) -> Duration {
        let wait = Duration::from_nanos(until.since(monotonic()).ns());
        let due = self.controller_away_until.into_iter().chain(self.respawns.iter().map(|(due, _)| *due)).min();
        let wait = match due {
            Some(due) => wait.min(Duration::from_nanos(due.since(monotonic()).ns())),
            None => wait,
        };
        if self.hostless_since.is_some() { wait.min(STRANDED_BOUND) } else { wait }
    }

    fn wait(&self, bound: Duration, extra: &[(BorrowedFd<'_>, PollFlags)]) -> Result<Vec<bool>, RunError> {
        let mut own = Vec::new();
        // The connection to a controller that is gone would be ready for ever.
        if self.controller_away_until.is_none() {
            own.push(self.client.connection().as_fd());
        }
        own.extend(self.cluster.descriptors());
        wait_for_any(bound, extra, &own)
    }

    /// Takes all messages that are there.
    pub(super) fn pump(&mut self) -> Result<(), RunError> {
        if let Some(back) = self.controller_away_until {
            if monotonic() < back {
                return Ok(());
            }
            self.revive()?;
        }
        loop {
            let message = match self.client.next(Duration::ZERO) {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(error) if is_broken(&error) => {
                    self.revive()?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            self.message(message)?;
        }
    }

    /// The controller is gone: another one goes on over the same pool, and the console is read on where it was left.
    pub(super) fn revive(&mut self) -> Result<(), RunError> {
        let mut tries = 1;
        loop {
            match self.try_revive() {
                Err(error) if was_killed(&error) && tries < REVIVALS_IN_A_ROW_MAX => tries += 1,
                result => return result,
            }
        }
    }

    fn try_revive(&mut self) -> Result<(), RunError> {
        let (exit, mut client) = self.cluster.revive_controller()?;
        (self.controller_away_until, self.controller_dead) = (None, false);
        client.request(Request::Watch, Vec::new())?;
        for tapped in self.vms.iter().filter(|tapped| !tapped.deleted) {
            let from = tapped.console.position();
            client.request(Request::AttachConsole { vm: tapped.vm, from }, Vec::new())?;
        }
        self.client = client;
        self.reopen_input()?;
        let pid = self.cluster.controller_pid();
        self.note(Event { at: monotonic(), what: What::ControllerRevived { exit, pid } })?;
        self.give_again()
    }

    fn message(&mut self, message: ToClient) -> Result<(), RunError> {
        let now = monotonic();
        match message {
            ToClient::Happened { at, happening } => {
                let event = self.clocks.righted(at, happening, self.chronicle.timeline());
                self.note(event)
            }
            ToClient::ConsoleMoved { vm, tail } => self.note(Event { at: now, what: What::ConsoleMoved { vm, tail } }),
            ToClient::VmEnded { vm, end, console_end } => {
                let tapped = self.vms.iter_mut().find(|tapped| tapped.vm == vm);
                let told = tapped.and_then(|tapped| tapped.ended.replace((end.clone(), console_end)));
                // Each controller that is started again says so, too.
                if told.is_some() {
                    return Ok(());
                }
                self.note(Event { at: now, what: What::GuestEnded { vm, end, console_end } })
            }
            ToClient::Answer { id, answer } => match (self.orders.remove(&id), answer) {
                (Some(Order { name: order, .. }), answer) => {
                    let refused = answer.err().map(|error| error.to_string());
                    self.note(Event { at: now, what: What::OrderAnswered { order, refused } })
                }
                (None, Err(error)) => Err(ClientError::Refused(error).into()),
                (None, Ok(_)) => Ok(()),
            },
            ToClient::InputAt { at, .. } => {
                self.input.hear(InputNews::At(at));
                Ok(())
            }
            ToClient::InputEnded { reason, .. } => {
                self.input.hear(InputNews::Ended { reason });
                Ok(())
            }
            ToClient::Welcome | ToClient::Rejected { .. } => Ok(()),
        }
    }

    fn reap(&mut self) -> Result<(), RunError> {
        for exited in self.cluster.reap_hosts()? {
            let ExitedHost { name, exit, stderr } = exited;
            let what = What::HostExited { host: name.clone(), exit, stderr };
            self.note(Event { at: monotonic(), what })?;
            let respawns = self.vms.iter().any(|tapped| tapped.ended.is_none()) && self.shall_respawn(&name, exit);
            let again = respawns.then(|| monotonic() + RESPAWN_PAUSE);
            if let Some(at) = self.away.remove(&name).or(again) {
                self.respawns.push((at, name));
            }
        }
        if self.cluster.hosts_alive() > 0 || !self.respawns.is_empty() {
            self.hostless_since = None;
        } else if self.hostless_since.is_none() {
            self.hostless_since = Some(Instant::now());
        }
        Ok(())
    }

    /// Whether a host is dead, and is about to be started again.
    #[must_use]
    pub fn comes_back(&self, name: &HostName) -> bool {
        self.respawns.iter().any(|(_, coming)| coming == name)
    }

    /// Whether a host is dead, and no more than the usual pause from being started again.
    #[must_use]
    pub fn comes_back_at_once(&self, name: &HostName) -> bool {
        let soon = monotonic() + RESPAWN_PAUSE;
        self.respawns.iter().any(|(due, coming)| coming == name && *due <= soon)
    }

    /// Whether a host that is killed is started again by itself at once.
    #[must_use]
    pub fn respawns(&self, name: &HostName) -> bool {
        self.respawn == Respawn::All && !self.away.contains_key(name)
    }

    /// Starts hosts again whose pause is over.
    fn respawn_due(&mut self) -> Result<(), RunError> {
        let now = monotonic();
        let due: Vec<HostName> = self.respawns.extract_if(.., |(due, _)| *due <= now).map(|(_, name)| name).collect();
        due.iter().try_for_each(|name| self.start_host(name))
    }

    fn shall_respawn(&mut self, name: &HostName, exit: ChildExit) -> bool {
        match (exit, self.respawn) {
            (ChildExit::Code(FENCED_EXIT_CODE), _) | (ChildExit::Signal(_), Respawn::All) => {
                self.failures.remove(name);
                true
            }
            (ChildExit::Signal(_), Respawn::Fenced) => false,
            (ChildExit::Code(_), _) => {
                let failures = self.failures.entry(name.clone()).or_default();
                *failures += 1;
                self.respawn == Respawn::All && *failures <= FAILURES_IN_A_ROW_MAX
            }
        }
    }
}

/// Whether a controller that was just started again has been killed, too.
fn was_killed(error: &RunError) -> bool {
    match error {
        RunError::Cluster(ClusterError::ControllerEnded { exit: ChildExit::Signal(_), .. }) => true,
        RunError::Cluster(ClusterError::Client(error)) | RunError::Client(error) => is_broken(error),
        _ => false,
    }
}

/// Waits until one of these descriptors is ready, or for that long; says which of the `extra` ones are.
pub(crate) fn wait_for_any(
    bound: Duration,
    extra: &[(BorrowedFd<'_>, PollFlags)],
    own: &[BorrowedFd<'_>],
) -> Result<Vec<bool>, RunError> {
    let mut fds: Vec<PollFd<'_>> = extra.iter().map(|(fd, flags)| PollFd::new(*fd, *flags)).collect();
    fds.extend(own.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)));
    // Rounded up, so that the last fraction of a millisecond does not spin.
    let round_up = if bound.is_zero() { Duration::ZERO } else { Duration::from_micros(999) };
    let timeout = PollTimeout::try_from(bound + round_up).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(RunError::Wait(errno.into())),
    }
    Ok(fds[..extra.len()].iter().map(|fd| fd.any().unwrap_or(false)).collect())
}
