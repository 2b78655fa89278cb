//! A guest under protection in a private cluster, followed from outside: console, events, faults. One thread, pull by
//! pull: whoever runs it calls [`ProtectedRun::turn`] until there is an [`Outcome`].

mod chronicle;
mod clocks;
mod console;
mod disk;
mod error;
mod spec;

pub(crate) use chronicle::Chronicle;
use clocks::Clocks;
pub use console::ConsoleStart;
pub(crate) use console::ConsoleTap;
pub use disk::{ExportError as DiskExportError, GuestDisk, export as export_disk};
pub use error::RunError;
pub use spec::{PRIVATE_NAME, UnreadConsole, VmOptions};

use crate::cluster::{CONTROLLER, ChildExit, Cluster, ClusterError, ExitedHost, HostName, HostSignal};
use crate::event::{Event, What};
use crate::guest::GuestImage;
use crate::timeline::{FENCED_EXIT_CODE, Timeline};
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::wire::{Answer, ExtentTag, Part, Request, Status, ToClient};
use ft_protocol::{Epoch, Span, Time, VmId};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shared_mem::Extent;
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use vmm::client::{Client, ClientError, Patience};
use vmm::clock::monotonic;
use vmm::transport::SendError;

/// How long to wait for the controller's word that a VM without any host is stranded.
const STRANDED_BOUND: Duration = Duration::from_secs(10);
/// How often a controller is started again that is killed before it is ready.
const REVIVALS_IN_A_ROW_MAX: u32 = 1_000;
/// A host that fails by itself this often in a row is not started again.
const FAILURES_IN_A_ROW_MAX: u32 = 3;

/// Which dead hosts are started again without being asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Respawn {
    /// Those that found themselves deposed: the machine under them is healthy.
    Fenced,
    /// All.
    All,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest's life is over, and all of its console was read.
    Ended(GuestEnd),
    /// No host is left to run it.
    Lost {
        /// The epoch that the pool holds, if the controller said so.
        recoverable: Option<Epoch>,
    },
    /// It was deleted.
    Deleted,
}

/// What one turn brought.
#[derive(Debug, Default)]
pub struct Turn {
    /// What was seen, in order.
    pub events: Vec<Event>,
    /// For each of the caller's descriptors, whether it is ready.
    pub ready: Vec<bool>,
}

/// A VM of a run.
#[derive(Debug)]
struct Tapped {
    vm: VmId,
    console: ConsoleTap,
    ended: Option<(GuestEnd, u64)>,
    deleted: bool,
}

/// Guests that run protected: one, as a rule.
#[derive(Debug)]
pub struct ProtectedRun {
    cluster: Cluster,
    client: Client,
    vms: Vec<Tapped>,
    chronicle: Chronicle,
    clocks: Clocks,
    respawn: Respawn,
    /// How often each host failed in a row, by itself.
    failures: BTreeMap<HostName, u32>,
    /// Since when there is no host.
    hostless_since: Option<Instant>,
    /// A controller that has died is not started again before this.
    controller_away_until: Option<Time>,
    /// Orders that are not answered yet, by the numbers of their requests.
    orders: BTreeMap<u64, String>,
}

impl ProtectedRun {
    /// Gives the guest to the cluster.
    ///
    /// # Errors
    /// When the controller refuses, or the file of events cannot be made.
    pub fn start(
        cluster: Cluster,
        image: &GuestImage,
        options: &VmOptions,
        respawn: Respawn,
        events: Option<&Path>,
    ) -> Result<Self, RunError> {
        let mut run = Self::begin(cluster, respawn, events)?;
        run.add_vm(image, options, spec::PRIVATE_NAME)?;
        Ok(run)
    }

    /// Watches a cluster that has no VM yet.
    ///
    /// # Errors
    /// When the controller cannot be talked to, or the file of events cannot be made.
    pub fn begin(cluster: Cluster, respawn: Respawn, events: Option<&Path>) -> Result<Self, RunError> {
        let chronicle = Chronicle::begin(events, monotonic())?;
        let mut client = Client::connect_with(cluster.socket(), cluster.patience().clone())?;
        client.request(Request::Watch, Vec::new())?;
        let mut run = Self {
            client,
            vms: Vec::new(),
            chronicle,
            clocks: Clocks::default(),
            respawn,
            failures: BTreeMap::new(),
            hostless_since: None,
            controller_away_until: None,
            orders: BTreeMap::new(),
            cluster,
        };
        run.note_known_hosts()?;
        Ok(run)
    }

    /// Gives the cluster another guest; says its place among the run's VMs.
    ///
    /// # Errors
    /// When the controller refuses.
    pub fn add_vm(&mut self, image: &GuestImage, options: &VmOptions, name: &str) -> Result<usize, RunError> {
        let spec = options.spec(name, UnreadConsole::Waits);
        let (answer, _) = self.client.request(Request::CreateVm(spec), image.uploads()?)?;
        let Answer::VmCreated(vm) = answer else { return Err(ClientError::WrongAnswer.into()) };
        self.chronicle.follow(vm);
        let (_, extents) = self.client.request(Request::AttachConsole { vm, from: 0 }, Vec::new())?;
        let console = ConsoleTap::open(vm, &extents, ConsoleStart::At(0))?;
        self.vms.push(Tapped { vm, console, ended: None, deleted: false });
        Ok(self.vms.len() - 1)
    }

    /// The hosts were started before anybody watched; that they have joined is among the controller's first words.
    fn note_known_hosts(&mut self) -> Result<(), RunError> {
        let started = self.cluster.hosts_started();
        started
            .into_iter()
            .try_for_each(|(at, host, pid)| self.note(Event { at, what: What::HostStarted { host, pid } }))
    }

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
        Ok(Turn { events: self.chronicle.take_news(), ready })
    }

    fn bounded(&self, until: Time) -> Duration {
        let wait = Duration::from_nanos(until.since(monotonic()).ns());
        let wait = match self.controller_away_until {
            Some(back) => wait.min(Duration::from_nanos(back.since(monotonic()).ns())),
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
    fn pump(&mut self) -> Result<(), RunError> {
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
    fn revive(&mut self) -> Result<(), RunError> {
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
        self.controller_away_until = None;
        self.orders.clear();
        client.request(Request::Watch, Vec::new())?;
        for tapped in self.vms.iter().filter(|tapped| !tapped.deleted) {
            let from = tapped.console.position();
            client.request(Request::AttachConsole { vm: tapped.vm, from }, Vec::new())?;
        }
        self.client = client;
        let pid = self.cluster.controller_pid();
        self.note(Event { at: monotonic(), what: What::ControllerRevived { exit, pid } })
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
                if let Some(tapped) = self.vms.iter_mut().find(|tapped| tapped.vm == vm) {
                    tapped.ended = Some((end.clone(), console_end));
                }
                self.note(Event { at: now, what: What::GuestEnded { vm, end, console_end } })
            }
            ToClient::Answer { id, answer } => match (self.orders.remove(&id), answer) {
                (Some(order), answer) => {
                    let refused = answer.err().map(|error| error.to_string());
                    self.note(Event { at: now, what: What::OrderAnswered { order, refused } })
                }
                (None, Err(error)) => Err(ClientError::Refused(error).into()),
                (None, Ok(_)) => Ok(()),
            },
            ToClient::Welcome | ToClient::Rejected { .. } => Ok(()),
        }
    }

    /// Appends an event of the caller's own to the history.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&mut self, event: Event) -> Result<(), RunError> {
        self.chronicle.note(event)
    }

    fn reap(&mut self) -> Result<(), RunError> {
        for exited in self.cluster.reap_hosts()? {
            let ExitedHost { name, exit, stderr } = exited;
            let what = What::HostExited { host: name.clone(), exit, stderr };
            self.note(Event { at: monotonic(), what })?;
            if self.vms.iter().any(|tapped| tapped.ended.is_none()) && self.shall_respawn(&name, exit) {
                self.start_host(&name)?;
            }
        }
        if self.cluster.hosts_alive() > 0 {
            self.hostless_since = None;
        } else if self.hostless_since.is_none() {
            self.hostless_since = Some(Instant::now());
        }
        Ok(())
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

    /// Does something to a host.
    ///
    /// # Errors
    /// When there is no such host, or it is dead.
    pub fn signal(&mut self, host: &HostName, signal: HostSignal) -> Result<(), RunError> {
        if host.as_str() == CONTROLLER {
            self.note(Event { at: monotonic(), what: What::Signalled { host: host.clone(), signal } })?;
            return Ok(self.cluster.signal_controller(signal)?);
        }
        if self.cluster.host_pid(host).is_none() {
            return Err(crate::cluster::ClusterError::HostDead { name: host.clone() }.into());
        }
        self.note(Event { at: monotonic(), what: What::Signalled { host: host.clone(), signal } })?;
        Ok(self.cluster.signal(host, signal)?)
    }

    /// Steps the clock of a host or of the controller, as far as scenarios can: what it tells of times is put right here.
    ///
    /// # Errors
    /// When its clock cannot be stepped.
    pub fn step_clock(&mut self, who: &HostName, by_ns: i64) -> Result<(), RunError> {
        let ahead_ns = self.clocks.step(who, by_ns);
        Ok(self.cluster.set_clock(who, ahead_ns)?)
    }

    /// Starts a host whose process has ended.
    ///
    /// # Errors
    /// When it lives, or its process cannot be made.
    pub fn start_host(&mut self, host: &HostName) -> Result<(), RunError> {
        if host.as_str() == CONTROLLER {
            // It is started again as soon as it has died.
            return Err(crate::cluster::ClusterError::HostAlive { name: host.clone() }.into());
        }
        let pid = self.cluster.start_host(host)?;
        self.note(Event { at: monotonic(), what: What::HostStarted { host: host.clone(), pid } })
    }

    /// Appends console bytes that have not been read yet to `into`, at most about `max`; says how many.
    ///
    /// # Errors
    /// When the console is damaged.
    pub fn read_console(&mut self, into: &mut Vec<u8>, max: usize) -> Result<usize, RunError> {
        self.read_console_of(0, into, max)
    }

    /// The same of one VM among several.
    ///
    /// # Errors
    /// When the console is damaged.
    pub fn read_console_of(&mut self, index: usize, into: &mut Vec<u8>, max: usize) -> Result<usize, RunError> {
        let tapped = &mut self.vms[index];
        if tapped.deleted {
            return Ok(0);
        }
        let count = tapped.console.read(into, max)?;
        if let Some(position) = tapped.console.take_due_report() {
            // A controller that is gone is told by the next one's answer to where we are.
            match self.client.notify(Request::ConsoleConsumed { vm: tapped.vm, position }, Vec::new()) {
                Err(error) if !is_broken(&error) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(count)
    }

    /// How the run ended, if it has: nothing is left to be read.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome_of(0)
    }

    /// The same of one VM among several.
    #[must_use]
    pub fn outcome_of(&self, index: usize) -> Option<Outcome> {
        let tapped = &self.vms[index];
        if tapped.deleted {
            return Some(Outcome::Deleted);
        }
        if let Some((end, console_end)) = &tapped.ended {
            return (tapped.console.position() >= *console_end).then(|| Outcome::Ended(end.clone()));
        }
        let since = self.hostless_since?;
        let timeline = self.chronicle.timeline_of(index);
        let recoverable = timeline.stranded_at();
        let lost = (recoverable.is_some() && tapped.console.position() >= timeline.console_tail())
            || since.elapsed() >= STRANDED_BOUND;
        lost.then_some(Outcome::Lost { recoverable })
    }

    /// What the controller says of everything.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&mut self) -> Result<Status, RunError> {
        let answer = match self.client.request(Request::Status, Vec::new()) {
            Err(error) if is_broken(&error) => {
                self.revive()?;
                self.client.request(Request::Status, Vec::new())
            }
            answer => answer,
        };
        match answer? {
            (Answer::Status(status), _) => Ok(status),
            _ => Err(ClientError::WrongAnswer.into()),
        }
    }

    /// The disk's image, once the guest has ended.
    ///
    /// # Errors
    /// When the guest still runs or has no disk, or the controller does not answer.
    pub fn disk_image(&mut self) -> Result<Extent, RunError> {
        let vm = self.vms[0].vm;
        let answer = match self.client.request(Request::ReadDisk(vm), Vec::new()) {
            Err(error) if is_broken(&error) => {
                self.revive()?;
                self.client.request(Request::ReadDisk(vm), Vec::new())
            }
            answer => answer,
        };
        let (_, extents) = answer?;
        disk_of(vm, extents)
    }

    /// The hosts that are primary and secondary for the guest right now.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub fn roles(&mut self) -> Result<Roles, RunError> {
        self.roles_of(0)
    }

    /// The same of one VM among several. While there is no controller, nobody has a role.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub fn roles_of(&mut self, index: usize) -> Result<Roles, RunError> {
        let vm = self.vms[index].vm;
        let status = if self.controller_away_until.is_some() { Status::default() } else { self.status()? };
        let found = status.vms.into_iter().find(|status| status.vm == vm);
        Ok(found.map_or_else(Roles::default, |status| Roles {
            primary: status.primary.as_deref().map(HostName::new),
            secondary: status.secondary.as_deref().map(HostName::new),
        }))
    }

    /// The number of a VM.
    #[must_use]
    pub fn vm_id(&self, index: usize) -> VmId {
        self.vms[index].vm
    }

    /// Whether there is a VM at this place.
    #[must_use]
    pub fn has_vm(&self, index: usize) -> bool {
        index < self.vms.len()
    }

    /// The place of a VM among the run's.
    #[must_use]
    pub fn place_of(&self, vm: VmId) -> Option<usize> {
        self.vms.iter().position(|tapped| tapped.vm == vm)
    }

    /// Asks the controller for something that takes its time, and does not wait for it: an event brings the answer, under
    /// this name. It never comes from a controller that dies.
    ///
    /// # Errors
    /// When the controller cannot be talked to.
    pub fn order(&mut self, request: Request, name: &str) -> Result<(), RunError> {
        match self.client.notify(request, Vec::new()) {
            Ok(id) => _ = self.orders.insert(id, name.to_owned()),
            Err(error) if is_broken(&error) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Waits only so long for the controller's answers from now on.
    pub fn set_patience(&mut self, patience: Patience) {
        self.client.set_patience(patience.clone());
        self.cluster.set_patience(patience);
    }

    /// Ends a VM's life.
    ///
    /// # Errors
    /// When the controller refuses.
    pub fn delete(&mut self, index: usize) -> Result<(), RunError> {
        let vm = self.vms[index].vm;
        self.client.request(Request::DeleteVm(vm), Vec::new())?;
        self.vms[index].deleted = true;
        Ok(())
    }

    /// Kills the controller; another one comes only after this time.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn take_controller_away(&mut self, during: Span) -> Result<(), RunError> {
        self.signal(&HostName::new(CONTROLLER), HostSignal::Kill)?;
        self.controller_away_until = Some(monotonic() + during);
        Ok(())
    }

    /// Whether there is a controller to talk to.
    #[must_use]
    pub fn has_controller(&self) -> bool {
        self.controller_away_until.is_none()
    }

    /// The cluster that runs it, to do things to it that are noted by whoever does them.
    pub fn cluster_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// What is known of one VM among several so far.
    #[must_use]
    pub fn timeline_of(&self, index: usize) -> &Timeline {
        self.chronicle.timeline_of(index)
    }

    /// Ends everything in good order.
    pub fn shut_down_all(self) -> Vec<Timeline> {
        drop(self.client);
        self.cluster.shut_down();
        self.chronicle.into_timelines()
    }

    /// What is known so far.
    #[must_use]
    pub fn timeline(&self) -> &Timeline {
        self.chronicle.timeline()
    }

    /// The cluster that runs it.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// When it was started.
    #[must_use]
    pub fn started_at(&self) -> Time {
        self.chronicle.started_at()
    }

    /// Ends everything in good order; what was known of the first VM.
    pub fn shut_down(self) -> Timeline {
        self.shut_down_all().into_iter().next().unwrap_or_default()
    }
}

/// Who does what for a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// The host that runs it or was told to.
    pub primary: Option<HostName>,
    /// The host that stands by, ready or not.
    pub secondary: Option<HostName>,
}

/// The disk image that came with an answer.
pub(crate) fn disk_of(vm: VmId, extents: Vec<(ExtentTag, Extent)>) -> Result<Extent, RunError> {
    let found = extents.into_iter().find(|(tag, _)| tag.grant.part == Part::Disk(vm));
    found.map(|(_, image)| image).ok_or(RunError::Client(ClientError::WrongAnswer))
}

/// Whether a controller that was just started again has been killed, too.
fn was_killed(error: &RunError) -> bool {
    match error {
        RunError::Cluster(ClusterError::ControllerEnded { exit: ChildExit::Signal(_), .. }) => true,
        RunError::Cluster(ClusterError::Client(error)) | RunError::Client(error) => is_broken(error),
        _ => false,
    }
}

/// Whether the controller at the other end is gone.
pub(crate) fn is_broken(error: &ClientError) -> bool {
    matches!(error, ClientError::Receive(_) | ClientError::Send(SendError::Closed))
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
