//! Clusters that somebody else runs: a VM of one, followed from outside, and everything that happens in it. The controller
//! may die and be started again meanwhile; a console is then read on where it was left.

mod input;
mod joined;
mod link;
mod making;
mod watcher;

pub use making::start_detached;
pub use watcher::{Sight, Watcher};

use crate::console_input::InputNews;
use crate::event::{Event, What, vm_of};
use crate::foreground::Followed;
use crate::guest::GuestImage;
use crate::protected::{
    Chronicle, ConsoleStart, ConsoleTap, Outcome, RunError, Turn, UnreadConsole, VmOptions, disk_of, wait_for_any,
};
use crate::timeline::Timeline;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::timeline::Happening;
use ft_protocol::wire::{Request, Status, ToClient, VmStatus};
use ft_protocol::{Time, VmId};
use joined::JoinedHosts;
use link::{Link, News};
use making::{LAST_LOOK_BOUND, create};
use nix::poll::PollFlags;
use shared_mem::Extent;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;
use vmm::clock::monotonic;
use vmm::transport::Address;

/// How a cluster is followed.
#[derive(Clone, Copy, Debug)]
pub struct Following<'a> {
    /// Where its controller is.
    pub pool: &'a Address,
    /// How long a controller that has died is waited for.
    pub patience: Duration,
    /// Where events are written, as JSON lines.
    pub events: Option<&'a Path>,
    /// Readable when whoever follows wants to end.
    pub interrupt: Option<BorrowedFd<'a>>,
}

impl Following<'_> {
    fn connect(self) -> Result<Link, RunError> {
        Link::connect(self.pool, self.patience, self.interrupt)
    }
}

/// What a new VM is to be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewName {
    /// This, and nothing else.
    Given(String),
    /// This, or this with a number when it is taken.
    Like(String),
}

/// A VM of a cluster that goes on without us.
#[derive(Debug)]
pub struct AttachedVm {
    link: Link,
    vm: VmId,
    name: String,
    console: ConsoleTap,
    chronicle: Chronicle,
    joined: JoinedHosts,
    ended: Option<(GuestEnd, u64)>,
    /// Console bytes that were read, and that nobody has seen.
    unseen: u64,
    /// Its console is fed from here.
    is_fed: bool,
    input_news: Vec<InputNews>,
}

impl AttachedVm {
    /// Makes a VM, lets it run, and follows it.
    ///
    /// # Errors
    /// When the controller cannot be reached, or refuses, or the file of events cannot be made.
    pub fn start(
        following: Following<'_>,
        image: &GuestImage,
        options: &VmOptions,
        name: &NewName,
        unread: UnreadConsole,
    ) -> Result<Self, RunError> {
        let mut link = following.connect()?;
        let (created, status) = create(&mut link, image, options, name, unread)?;
        let name = created.1.clone();
        if link.is_interrupted() {
            // It is left as any other VM is.
            link.hurry(LAST_LOOK_BOUND);
        }
        Self::follow(link, &status, created, ConsoleStart::At(0), following).map_err(|error| error.of_making(&name))
    }

    /// Follows a VM that is there.
    ///
    /// # Errors
    /// When the controller cannot be reached, or refuses, or has no such VM, or the file of events cannot be made.
    pub fn attach(following: Following<'_>, name: &str, start: ConsoleStart) -> Result<Self, RunError> {
        let (link, status) = open(following)?;
        let found = status.vms.iter().find(|vm| vm.name == name);
        let vm = found.ok_or_else(|| RunError::UnknownVm { name: name.to_owned() })?.vm;
        Self::follow(link, &status, (vm, name.to_owned()), start, following)
    }

    fn follow(
        mut link: Link,
        status: &Status,
        (vm, name): (VmId, String),
        start: ConsoleStart,
        following: Following<'_>,
    ) -> Result<Self, RunError> {
        let mut chronicle = Chronicle::begin(following.events, monotonic())?;
        chronicle.follow(vm);
        let from = if let ConsoleStart::At(position) = start { position } else { 0 };
        let extents = loop {
            let attached = link.ask(Request::AttachConsole { vm, from }, Vec::new());
            if let Some((_, extents)) = attached.map_err(|error| error.about(&name, status))? {
                break extents;
            }
            link.wait_for_another()?;
            watch_patiently(&mut link)?;
        };
        let console = ConsoleTap::open(vm, &extents, start)?;
        let joined = JoinedHosts::default();
        let mut attached = Self {
            link,
            vm,
            name,
            console,
            chronicle,
            joined,
            ended: None,
            unseen: 0,
            is_fed: false,
            input_news: Vec::new(),
        };
        attached.note_hosts(status)?;
        attached.link.settle();
        Ok(attached)
    }

    /// The hosts joined before anybody watched, or while there was no controller.
    fn note_hosts(&mut self, status: &Status) -> Result<(), RunError> {
        for host in &status.hosts {
            let joined = Happening::HostJoined { host: host.host, name: host.name.clone() };
            if self.joined.is_news(&joined) {
                self.chronicle.note(Event { at: self.chronicle.started_at(), what: What::Happened(joined) })?;
            }
        }
        Ok(())
    }

    /// Takes all news that are there.
    fn pump(&mut self) -> Result<(), RunError> {
        while let Some(news) = self.link.next()? {
            match news {
                News::Message(message) => self.message(message)?,
                News::Gone => {
                    self.input_news.push(InputNews::Closed);
                    self.chronicle.note(Event { at: monotonic(), what: What::ControllerGone })?;
                }
                News::Back => self.attach_again()?,
            }
        }
        Ok(())
    }

    /// Another controller has come: the console is read on where it was left. If this one dies as well, the next news say so.
    fn attach_again(&mut self) -> Result<(), RunError> {
        let Some(status) = watch(&mut self.link)? else { return Ok(()) };
        let position = self.console.position();
        // Of a damaged one nobody knows where its console ends: it is refused, as what it is.
        let fits = |vm: &VmStatus| vm.console_end >= position || vm.phase == "damaged";
        let is_ours = |vm: &VmStatus| vm.vm == self.vm && vm.name == self.name && fits(vm);
        if !status.vms.iter().any(is_ours) {
            return Err(RunError::Deleted { name: self.name.clone() });
        }
        let request = Request::AttachConsole { vm: self.vm, from: position };
        let attached = self.link.ask(request, Vec::new()).map_err(|error| error.about(&self.name, &status))?;
        if attached.is_some() {
            self.chronicle.note(Event { at: monotonic(), what: What::ControllerBack })?;
            self.note_hosts(&status)?;
            self.reopen_input()?;
        }
        Ok(())
    }

    fn message(&mut self, message: ToClient) -> Result<(), RunError> {
        let now = monotonic();
        match message {
            ToClient::Happened { happening: Happening::VmDeleted { vm, .. }, .. } if vm == self.vm => {
                Err(RunError::Deleted { name: self.name.clone() })
            }
            ToClient::Happened { at, happening } if vm_of(&happening).is_none_or(|vm| vm == self.vm) => {
                if self.joined.is_news(&happening) {
                    self.chronicle.note(Event { at, what: What::Happened(happening) })?;
                }
                Ok(())
            }
            ToClient::ConsoleMoved { vm, tail } if vm == self.vm => {
                self.chronicle.note(Event { at: now, what: What::ConsoleMoved { vm, tail } })
            }
            ToClient::VmEnded { vm, end, console_end } if vm == self.vm => {
                // Each controller that is started again says so, too.
                if self.ended.replace((end.clone(), console_end)).is_some() {
                    return Ok(());
                }
                self.chronicle.note(Event { at: now, what: What::GuestEnded { vm, end, console_end } })
            }
            ToClient::InputAt { vm, at } if vm == self.vm => {
                self.input_news.push(InputNews::At(at));
                Ok(())
            }
            ToClient::InputEnded { vm, reason } if vm == self.vm => {
                self.input_ended(reason);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Console bytes seen so far, counted from the guest's birth.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.console.position() - self.unseen
    }

    /// When following began.
    #[must_use]
    pub fn started_at(&self) -> Time {
        self.chronicle.started_at()
    }

    /// Leaves the VM alone: it runs on, and waits no longer for anybody who reads its console. False: there is no controller
    /// that could be told, and it will wait once its console is full.
    ///
    /// # Errors
    /// When the controller refuses.
    pub fn release(mut self) -> Result<bool, RunError> {
        Ok(self.link.ask(Request::ReleaseConsole(self.vm), Vec::new())?.is_some())
    }

    /// The disk's image, once the guest has ended.
    ///
    /// # Errors
    /// When the guest still runs or has no disk, or the controller does not answer.
    pub fn disk_image(&mut self) -> Result<Extent, RunError> {
        let answer = self.link.ask(Request::ReadDisk(self.vm), Vec::new())?;
        let (_, extents) = answer.ok_or(RunError::ControllerDied)?;
        disk_of(self.vm, extents)
    }

    /// Ends the VM's life. False: there is no controller that could be told.
    ///
    /// # Errors
    /// When the controller refuses.
    pub fn delete(mut self) -> Result<bool, RunError> {
        Ok(self.link.ask(Request::DeleteVm(self.vm), Vec::new())?.is_some())
    }
}

impl Followed for AttachedVm {
    fn turn(&mut self, until: Time, extra: &[(BorrowedFd<'_>, PollFlags)]) -> Result<Turn, RunError> {
        self.pump()?;
        let bound = Duration::from_nanos(until.since(monotonic()).ns());
        let bound = if self.chronicle.has_news() { Duration::ZERO } else { bound };
        let (own, bound) = self.link.waits_for(bound);
        let ready = wait_for_any(bound, extra, own.as_slice())?;
        self.pump()?;
        Ok(Turn { events: self.chronicle.take_news(), ready })
    }

    fn read_console(&mut self, into: &mut Vec<u8>, max: usize) -> Result<usize, RunError> {
        let count = self.console.read(into, max)?;
        if let Some(position) = self.console.take_due_report() {
            self.link.tell(Request::ConsoleConsumed { vm: self.vm, position })?;
        }
        Ok(count)
    }

    fn outcome(&self) -> Option<Outcome> {
        let (end, console_end) = self.ended.as_ref()?;
        (self.console.position() >= *console_end).then(|| Outcome::Ended(end.clone()))
    }

    fn vm_status(&mut self) -> Result<Option<VmStatus>, RunError> {
        let vm = self.vm;
        Ok(self.link.status()?.and_then(|status| status.vms.into_iter().find(|status| status.vm == vm)))
    }

    fn timeline(&self) -> &Timeline {
        self.chronicle.timeline()
    }

    fn waits_for_hosts(&self) -> bool {
        true
    }

    fn not_shown(&mut self, bytes: u64) {
        self.unseen = bytes;
    }
}

/// Connects and watches.
fn open(following: Following<'_>) -> Result<(Link, Status), RunError> {
    let mut link = following.connect()?;
    let status = watch_patiently(&mut link)?;
    Ok((link, status))
}

/// As [`watch`], at the next controller if this one dies.
fn watch_patiently(link: &mut Link) -> Result<Status, RunError> {
    loop {
        if let Some(status) = watch(link)? {
            return Ok(status);
        }
        link.wait_for_another()?;
    }
}

/// Asks to be told of everything from now on. What happened before is not ours: a VM that is gone may have had our number.
fn watch(link: &mut Link) -> Result<Option<Status>, RunError> {
    if link.ask(Request::Watch, Vec::new())?.is_none() {
        return Ok(None);
    }
    let Some(status) = link.status()? else { return Ok(None) };
    link.forget_news();
    Ok(Some(status))
}
