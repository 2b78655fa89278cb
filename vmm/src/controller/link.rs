//! One connection of the controller, with what waits to be sent over it.
//!
//! The controller never waits for a peer: what a stopped host or a slow client does not read is kept, up to a bound,
//! and then the peer is given up.

use crate::transport::{Connection, Outgoing, ReceiveError, Received, SendError};
use ft_protocol::VmId;
use ft_protocol::wire::{ExtentTag, FromClient, FromHost, Hello, ToClient};
use serde::Serialize;
use shared_mem::Extent;
use std::collections::VecDeque;

/// Messages kept for a peer that does not read. A watcher of a busy cluster gets some hundred in a second.
const OUTBOX_MESSAGES_MAX: usize = 16_384;

/// Descriptors that wait with them: they come out of what all peers share. A client gets one with an answer, and asks
/// again when it has that; a host is sent all of several orders at once.
pub(super) const CLIENT_UNREAD_MAX: usize = 2;
const HOST_UNREAD_MAX: usize = 64;

/// What a link has shown itself to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Unknown,
    Host,
    Client,
}

/// A message that came over a link.
#[derive(Debug)]
pub(super) enum Incoming {
    Hello(Hello),
    Host(FromHost),
    Client(FromClient, Vec<(ExtentTag, Extent)>),
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) kind: Kind,
    outbox: VecDeque<Waiting>,
    /// Descriptors in the outbox.
    descriptors_waiting: usize,
}

#[derive(Debug)]
enum Waiting {
    Message(Outgoing),
    /// Only the last position of a console matters: a reader that lags gets one message, not one per epoch.
    ConsoleMoved {
        vm: VmId,
        tail: u64,
    },
}

impl Waiting {
    fn descriptor_count(&self) -> usize {
        match self {
            Self::Message(outgoing) => outgoing.descriptor_count(),
            Self::ConsoleMoved { .. } => 0,
        }
    }
}

/// The peer cannot be served any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("the peer has not read {OUTBOX_MESSAGES_MAX} messages")]
    Overrun,
    #[error("the peer has not read {descriptors} descriptors")]
    DescriptorsOverrun { descriptors: usize },
}

impl Link {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, kind: Kind::Unknown, outbox: VecDeque::new(), descriptors_waiting: 0 }
    }

    /// The next message, decoded as what this link may send.
    pub(super) fn receive(&mut self) -> Result<Incoming, ReceiveError> {
        match self.kind {
            Kind::Unknown => {
                let Received { message, .. } = self.connection.receive_now::<Hello>()?;
                self.kind = match &message {
                    Hello::Host(_) => Kind::Host,
                    Hello::Client { .. } => Kind::Client,
                };
                Ok(Incoming::Hello(message))
            }
            Kind::Host => Ok(Incoming::Host(self.connection.receive_now()?.message)),
            Kind::Client => {
                let Received { message, extents } = self.connection.receive_now()?;
                Ok(Incoming::Client(message, extents))
            }
        }
    }

    pub(super) fn send<M: Serialize>(
        &mut self,
        message: M,
        extents: Vec<(ExtentTag, Extent)>,
    ) -> Result<(), LinkError> {
        self.push(Waiting::Message(Outgoing::new(message, extents)?))
    }

    pub(super) fn console_moved(&mut self, vm: VmId, tail: u64) -> Result<(), LinkError> {
        let newer = |waiting: &mut Waiting| match waiting {
            Waiting::ConsoleMoved { vm: other, tail: old } if *other == vm => {
                *old = tail;
                true
            }
            _ => false,
        };
        if self.outbox.iter_mut().any(newer) {
            return Ok(());
        }
        self.push(Waiting::ConsoleMoved { vm, tail })
    }

    fn push(&mut self, waiting: Waiting) -> Result<(), LinkError> {
        if self.outbox.len() >= OUTBOX_MESSAGES_MAX {
            return Err(LinkError::Overrun);
        }
        self.descriptors_waiting += waiting.descriptor_count();
        self.outbox.push_back(waiting);
        self.flush()?;
        let most = if self.kind == Kind::Host { HOST_UNREAD_MAX } else { CLIENT_UNREAD_MAX };
        if self.descriptors_waiting > most {
            return Err(LinkError::DescriptorsOverrun { descriptors: self.descriptors_waiting });
        }
        Ok(())
    }

    /// Sends what can be sent now.
    pub(super) fn flush(&mut self) -> Result<(), LinkError> {
        while let Some(waiting) = self.outbox.front() {
            let sent = match waiting {
                Waiting::Message(outgoing) => self.connection.send_now(outgoing),
                Waiting::ConsoleMoved { vm, tail } => {
                    let message = ToClient::ConsoleMoved { vm: *vm, tail: *tail };
                    self.connection.send_now(&Outgoing::new(message, Vec::new())?)
                }
            };
            match sent {
                Ok(()) => {
                    let sent = self.outbox.pop_front().expect("it was looked at");
                    self.descriptors_waiting -= sent.descriptor_count();
                }
                Err(SendError::WouldBlock) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.outbox.is_empty()
    }
}
