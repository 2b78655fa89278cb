//! A guest under protection in a private cluster, followed from outside: console, events, faults. One thread, pull by
//! pull: whoever runs it calls [`ProtectedRun::turn`] until there is an [`Outcome`].

mod asking;
mod chronicle;
mod clocks;
mod console;
mod disk;
mod error;
mod following;
mod input;
mod spec;
mod striking;

pub use asking::Roles;
pub(crate) use asking::{disk_of, is_broken};
pub(crate) use chronicle::Chronicle;
use clocks::Clocks;
pub use console::ConsoleStart;
pub(crate) use console::ConsoleTap;
pub use disk::{ExportError as DiskExportError, GuestDisk, export as export_disk};
pub use error::RunError;
pub use following::Turn;
pub(crate) use following::wait_for_any;
use input::FedInput;
pub(crate) use input::{ask_to_feed, send_now};
pub use spec::{
    BadJournalReserve, JOURNAL_SLOTS_MAX, JournalOptions, JournalReserve, PRIVATE_NAME, UnreadConsole, VmOptions,
};

use crate::cluster::{Cluster, HostName};
use crate::event::{Event, What};
use crate::guest::GuestImage;
use crate::timeline::Timeline;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::wire::{Answer, Request, ToClient};
use ft_protocol::{Epoch, Time, VmId};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use vmm::client::{Client, ClientError};
use vmm::clock::monotonic;

/// How long to wait for the controller's word that a VM without any host is stranded.
const STRANDED_BOUND: Duration = Duration::from_secs(10);

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
    /// Hosts that are to be started again, and when.
    respawns: Vec<(Time, HostName)>,
    /// Hosts that were killed for some time: nobody starts them before it is over.
    away: BTreeMap<HostName, Time>,
    /// How often each host failed in a row, by itself.
    failures: BTreeMap<HostName, u32>,
    /// Since when there is no host, and none that comes back by itself.
    hostless_since: Option<Instant>,
    /// The controller was killed, and no other one was started yet.
    controller_dead: bool,
    /// A controller that has died is not started again before this.
    controller_away_until: Option<Time>,
    /// Orders that are not answered yet, by the numbers of their requests.
    orders: BTreeMap<u64, Order>,
    /// Orders that no controller was there to hear: the next one is given them.
    unheard: Vec<Order>,
    /// The first VM's console is fed from here.
    input: FedInput,
}

/// Something that a controller was asked for, and its name.
#[derive(Clone, Debug)]
struct Order {
    request: Request,
    name: String,
}

impl Order {
    /// It may be given twice. A VM that was moved already would be moved back.
    fn can_be_repeated(&self) -> bool {
        matches!(self.request, Request::Drain { .. } | Request::SetMode { .. })
    }
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
            respawns: Vec::new(),
            away: BTreeMap::new(),
            failures: BTreeMap::new(),
            hostless_since: None,
            controller_dead: false,
            controller_away_until: None,
            orders: BTreeMap::new(),
            unheard: Vec::new(),
            input: FedInput::default(),
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

    /// Appends an event of the caller's own to the history.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&mut self, event: Event) -> Result<(), RunError> {
        self.chronicle.note(event)
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

    /// What is known of one VM among several so far.
    #[must_use]
    pub fn timeline_of(&self, index: usize) -> &Timeline {
        self.chronicle.timeline_of(index)
    }

    /// Ends everything in good order.
    ///
    /// # Errors
    /// When what is seen last cannot be written; everything has ended nevertheless.
    pub fn shut_down_all(self) -> Result<Vec<Timeline>, RunError> {
        let Self { cluster, mut client, mut chronicle, clocks, .. } = self;
        cluster.shut_down();
        // What the controller told before it ended.
        while let Ok(Some(message)) = client.next(Duration::ZERO) {
            if let ToClient::Happened { at, happening } = message {
                chronicle.note(clocks.righted(at, happening, chronicle.timeline()))?;
            }
        }
        Ok(chronicle.into_timelines())
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
    ///
    /// # Errors
    /// When what is seen last cannot be written; everything has ended nevertheless.
    pub fn shut_down(self) -> Result<Timeline, RunError> {
        Ok(self.shut_down_all()?.into_iter().next().unwrap_or_default())
    }
}
