//! One takeover, from the fault to the new secondary.

use crate::cluster::HostName;
use ft_protocol::wire::TakeoverReason;
use ft_protocol::{Epoch, Generation, Span, Time};

/// Something that was done to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Just before it was done.
    pub at: Time,
    /// To whom.
    pub host: HostName,
    /// What.
    pub what: String,
}

/// A takeover as far as it is known.
///
/// ```text
/// fault -> detected -> sealed -> drained -> promoted -> live -> first console byte; protected comes on its own
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// The generation that it ends.
    pub ends: Generation,
    /// Who reigned it.
    pub old_primary: Option<HostName>,
    /// The old primary yielded: a switchover.
    pub planned: bool,
    /// What was done to the old primary's host, if anything was.
    pub fault: Option<Fault>,
    /// When and how the controller knew.
    pub detected: Option<(Time, TakeoverReason)>,
    /// When the generation was sealed, and its last epoch.
    pub sealed: Option<(Time, Epoch)>,
    /// When everything committed was applied.
    pub drained: Option<Time>,
    /// When a host was told to become primary.
    pub promoted: Option<(Time, HostName)>,
    /// When its guest ran.
    pub live: Option<(Time, HostName)>,
    /// How long the guest stood still, in a switchover.
    pub stood: Option<Span>,
    /// When the first console byte of the new generation was seen outside.
    pub console: Option<Time>,
    /// When a standby was ready again.
    pub protected: Option<(Time, HostName)>,
    /// The console's length when everything of the old generation was in it.
    pub(super) console_at_drain: Option<u64>,
}

impl Takeover {
    pub(super) fn new(ends: Generation, old_primary: Option<HostName>, fault: Option<Fault>) -> Self {
        Self {
            ends,
            old_primary,
            planned: false,
            fault,
            detected: None,
            sealed: None,
            drained: None,
            promoted: None,
            live: None,
            stood: None,
            console: None,
            protected: None,
            console_at_drain: None,
        }
    }

    /// Where it begins: the guest's stop in a switchover; the fault, or else the moment when it was noticed.
    #[must_use]
    pub fn start(&self) -> Option<Time> {
        if let (true, Some(stood), Some((live, _))) = (self.planned, self.stood, &self.live) {
            return Some(*live - stood);
        }
        let noticed = self.detected.map(|(at, _)| at).or(self.sealed.map(|(at, _)| at));
        self.cause().map(|fault| fault.at).or(noticed)
    }

    /// What was done to the old primary's host, if that is why it reigns no more.
    #[must_use]
    pub fn cause(&self) -> Option<&Fault> {
        self.fault.as_ref().filter(|_| !self.planned)
    }

    /// From the fault to the first console byte of the successor, as seen from outside. It includes the time in which the
    /// guest has nothing to say.
    #[must_use]
    pub fn blackout(&self) -> Option<Span> {
        Some(self.console?.since(self.cause()?.at))
    }

    /// From the fault, or its detection, until the successor's guest ran.
    #[must_use]
    pub fn until_live(&self) -> Option<Span> {
        Some(self.live.as_ref()?.0.since(self.start()?))
    }
}
