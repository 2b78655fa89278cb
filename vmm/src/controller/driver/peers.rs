//! Peers come, speak and go. What they send is hostile: it closes their own connection and nothing else, takes a bounded
//! part of what all share, and cannot fill the log.

use super::Driver;
use crate::clock;
use crate::controller::ControllerError;
use crate::controller::link::{CLIENT_UNREAD_MAX, Incoming, Kind, Link};
use crate::events::{Events, Watched};
use crate::failpoint;
use crate::log_burst::LogBurst;
use crate::transport::{Listener, ReceiveError, may_join};
use ft_protocol::controller::Input;
use ft_protocol::wire::{ExtentTag, FromClient, Hello, Part, Request, ToClient};
use ft_protocol::{LinkId, Span};
use shared_mem::Extent;

/// Connections that have not said yet what they are.
const STRANGERS_MAX: usize = 32;

/// Most clients at one time, where there are descriptors enough.
const CLIENTS_MAX: usize = 1024;

/// Descriptors that one client takes at most: its connection, two files that it uploads, what it has not read yet.
const CLIENT_DESCRIPTORS: usize = 3 + CLIENT_UNREAD_MAX;

/// Between two looks at whether the socket's file is still there.
const LISTENER_LOOK_INTERVAL: Span = Span::from_ms(500);

/// Files that a client passes on with a request for a new VM.
pub(super) struct Uploads {
    /// What the guest is booted from.
    pub(super) boot: Extent,
    /// What its disk begins with.
    pub(super) disk: Option<Extent>,
}

/// What others make us log, in bursts: those that everybody can cause must not hide those of hosts.
#[derive(Default)]
pub(super) struct Complaints {
    pub(super) connections: LogBurst,
    pub(super) hosts: LogBurst,
}

/// Raises the bound on open descriptors as far as it goes, and keeps most of them for hosts and VMs.
pub(super) fn clients_max() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return CLIENTS_MAX };
    if let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        tracing::info!("the bound on open descriptors stays: {errno}");
    }
    let bound = usize::try_from(hard / 2).unwrap_or(usize::MAX) / CLIENT_DESCRIPTORS;
    bound.clamp(1, CLIENTS_MAX)
}

impl Driver {
    /// The peer is gone: the core is told.
    pub(super) fn lose(&mut self, link: LinkId) {
        self.close(link);
        self.inputs.push_back(Input::LinkClosed { link });
    }

    pub(super) fn close(&mut self, link: LinkId) {
        if let Some(closed) = self.links.remove(&link) {
            closed.connection.shut_down();
        }
        self.writing.remove(&link);
        self.uploads.remove(&link);
    }

    /// Logs what a peer does wrong, unless too much of it is logged already.
    pub(super) fn complain(&mut self, kind: Kind, what: impl FnOnce() -> String) {
        let burst = match kind {
            Kind::Host => &mut self.complaints.hosts,
            Kind::Unknown | Kind::Client => &mut self.complaints.connections,
        };
        if burst.begins(clock::monotonic()) {
            tracing::warn!("{}", what());
        }
    }

    /// Sums up what was not logged.
    pub(super) fn sum_complaints_up(&mut self) {
        let now = clock::monotonic();
        if let Some(more) = self.complaints.connections.ended(now) {
            tracing::warn!("{more} more complaints of this kind about connections");
        }
        if let Some(more) = self.complaints.hosts.ended(now) {
            tracing::warn!("{more} more complaints of this kind about hosts");
        }
    }

    pub(in crate::controller) fn watch_listener(&self, events: &Events) -> Result<(), ControllerError> {
        events.watch(&self.listener, Watched::Listener).map_err(ControllerError::kernel("watch the socket"))
    }

    /// Looks whether peers still come to this controller, and listens anew if the socket's file is gone and nobody else listens
    /// there. Those that are connected notice nothing.
    pub(in crate::controller) fn look_after_listener(&mut self, events: &Events) -> Result<(), ControllerError> {
        let now = clock::monotonic();
        if now.since(self.listener_looked_at) < LISTENER_LOOK_INTERVAL {
            return Ok(());
        }
        self.listener_looked_at = now;
        let mut failed = None;
        if !self.listener.is_reached() {
            match Listener::bind(&self.options.socket) {
                Ok(listener) => {
                    tracing::warn!("the socket {} was gone, and is made anew", self.options.socket.display());
                    // The old one leaves epoll when it is closed.
                    self.listener = listener;
                    self.watch_listener(events)?;
                }
                Err(error) => failed = Some(crate::chain(&error)),
            }
        }
        // Twice a second is often enough to try, and too often to tell.
        if failed != self.unreached {
            failed.iter().for_each(|error| tracing::error!("hosts and clients cannot come any more: {error}"));
            self.unreached = failed;
        }
        Ok(())
    }

    pub(in crate::controller) fn accept(&mut self, events: &Events) -> Result<(), ControllerError> {
        let connection = match self.listener.accept() {
            Ok(connection) => connection,
            // The peer gave up between connecting and now, or descriptors ran out: it, not the cluster, has a problem.
            Err(errno) => {
                self.complain(Kind::Unknown, || format!("a connection could not be accepted: {errno}"));
                return Ok(());
            }
        };
        match connection.peer() {
            Ok(peer) if may_join(peer.uid(), nix::unistd::geteuid().as_raw()) => {}
            Ok(peer) => {
                let (user, process) = (peer.uid(), peer.pid());
                self.complain(Kind::Unknown, || format!("refused a connection of user {user} (process {process})"));
                return Ok(());
            }
            Err(errno) => {
                self.complain(Kind::Unknown, || format!("refused a connection whose peer is unknown: {errno}"));
                return Ok(());
            }
        }
        self.make_room_for_a_stranger();
        let link = LinkId::new(self.next_link);
        self.next_link += 1;
        if let Err(error) = events.watch(&connection, Watched::Link(link)) {
            self.complain(Kind::Unknown, || format!("a connection cannot be watched: {error}; connection closed"));
            return Ok(());
        }
        self.links.insert(link, Link::new(connection));
        self.writing.insert(link, false);
        Ok(())
    }

    /// Of the connections that have not said yet what they are, only so many are kept: the oldest goes first. Those that
    /// mean it say so at once.
    fn make_room_for_a_stranger(&mut self) {
        let strangers = || self.links.iter().filter(|(_, link)| link.kind == Kind::Unknown).map(|(link, _)| *link);
        if strangers().count() >= STRANGERS_MAX
            && let Some(oldest) = strangers().next()
        {
            tracing::debug!("{oldest} has said nothing, and others come: closed");
            self.lose(oldest);
        }
    }

    /// Takes what a connection has, up to a bound, so that a flood over one starves no other.
    pub(in crate::controller) fn link_ready(&mut self, link: LinkId, _events: &Events) -> Result<(), ControllerError> {
        const TURN_MESSAGES_MAX: usize = 32;
        if let Some(entry) = self.links.get_mut(&link) {
            let sent = entry.flush();
            self.check_sent(link, Some(sent));
        }
        for _ in 0..TURN_MESSAGES_MAX {
            let Some(entry) = self.links.get_mut(&link) else { break };
            let received = entry.receive();
            let kind = entry.kind;
            match received {
                Ok(incoming) => self.incoming(link, incoming)?,
                Err(ReceiveError::WouldBlock) => break,
                Err(ReceiveError::Closed) => self.lose(link),
                Err(error) => {
                    self.complain(kind, || format!("{link}: {}; connection closed", crate::chain(&error)));
                    self.lose(link);
                }
            }
        }
        self.settle()
    }

    fn incoming(&mut self, link: LinkId, incoming: Incoming) -> Result<(), ControllerError> {
        let input = match incoming {
            Incoming::Hello(Hello::Host(hello)) => Input::HostHello { link, hello },
            Incoming::Hello(Hello::Client { .. }) if self.clients() > self.clients_max => {
                let most = self.clients_max;
                self.complain(Kind::Client, || {
                    format!("{link}: {most} clients are connected already; connection closed")
                });
                let reason =
                    format!("{most} clients are connected to it already, as many as it serves: try again later");
                // It is gone at once whether it hears of it or not.
                let _ = self.send(link, ToClient::Rejected { reason }, &[], false);
                self.lose(link);
                return self.settle();
            }
            Incoming::Hello(Hello::Client { protocol }) => Input::ClientHello { link, protocol },
            Incoming::Host(message) => Input::FromHost { link, message },
            Incoming::Client(message, extents) => {
                failpoint::pass("controller.client.asked");
                self.keep_upload(link, &message, extents);
                Input::FromClient { link, message }
            }
        };
        self.input(input)
    }

    fn clients(&self) -> usize {
        self.links.values().filter(|link| link.kind == Kind::Client).count()
    }

    fn keep_upload(&mut self, link: LinkId, message: &FromClient, extents: Vec<(ExtentTag, Extent)>) {
        self.uploads.remove(&link);
        if matches!(message.request, Request::CreateVm(_)) {
            let (mut boot, mut disk) = (None, None);
            for (tag, extent) in extents {
                match tag.grant.part {
                    Part::Upload => boot = Some(extent),
                    Part::UploadedDisk => disk = Some(extent),
                    _ => {}
                }
            }
            if let Some(boot) = boot {
                self.uploads.insert(link, Uploads { boot, disk });
            }
        }
    }

    /// Watches for room in the sockets of peers that have something waiting, and only of those.
    pub(in crate::controller) fn watch_outboxes(&mut self, events: &Events) -> Result<(), ControllerError> {
        for (&id, link) in &self.links {
            let waits = link.has_waiting();
            let watched = self.writing.entry(id).or_insert(false);
            if *watched != waits {
                events
                    .watch_writing(&link.connection, Watched::Link(id), waits)
                    .map_err(ControllerError::kernel("watch a connection"))?;
                *watched = waits;
            }
        }
        Ok(())
    }
}
