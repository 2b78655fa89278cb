//! Connections to the controller: messages arrive in order, late, or not at all.

use ft_protocol::wire::{FromClient, FromHost, HostHello, ToClient, ToHost};
use std::collections::VecDeque;

use super::pool::Descriptor;

/// What travels.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    HostHello(HostHello),
    FromHost(FromHost),
    ClientHello(u32),
    FromClient(FromClient),
    ToHost(ToHost, Vec<Descriptor>),
    ToClient(ToClient, Vec<Descriptor>),
    /// The other end is closed.
    Closed,
}

/// One way of a connection.
#[derive(Debug, Default)]
pub(crate) struct Way {
    /// Under way, oldest first.
    pub(crate) messages: VecDeque<Message>,
    /// Nothing arrives before this time.
    pub(crate) stalled_until_ns: u64,
    /// When the youngest message arrives: later ones arrive later.
    pub(crate) last_ns: u64,
}

/// Who is at the far end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Host(usize),
    Client,
}

/// A connection; its number is its index, and never used again.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: Peer,
    /// The life of the peer that this connection belongs to.
    pub(crate) peer_life: u32,
    /// The life of the controller that this connection belongs to.
    pub(crate) controller_life: u32,
    /// Neither end has closed it.
    pub(crate) open: bool,
    pub(crate) to_controller: Way,
    pub(crate) from_controller: Way,
}

impl Link {
    pub(crate) fn new(peer: Peer, peer_life: u32, controller_life: u32) -> Self {
        Self {
            peer,
            peer_life,
            controller_life,
            open: true,
            to_controller: Way::default(),
            from_controller: Way::default(),
        }
    }

    pub(crate) fn way(&mut self, to_controller: bool) -> &mut Way {
        if to_controller { &mut self.to_controller } else { &mut self.from_controller }
    }
}
