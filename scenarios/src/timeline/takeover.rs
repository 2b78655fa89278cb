//! One takeover, from the fault to the new secondary.

use crate::cluster::HostName;
use ft_protocol::wire::TakeoverReason;
use ft_protocol::{Epoch, Generation, Span, Time};

use super::faults::Cause;

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
/// fault -> detected -> sealed -> drained -> promoted -> live -> first output; protected comes on its own
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
    /// When the old primary yielded, in a switchover.
    pub yielded: Option<Time>,
    /// Since when the guest had stood still before: the generation that ends here never ran.
    pub stood_since: Option<Time>,
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
    /// When a workload had the first answer of the new generation.
    pub answered: Option<Time>,
    /// When a standby was ready again.
    pub protected: Option<(Time, HostName)>,
    /// Since when the old primary had been hampered, and had stood still, and when it was over: the fault was not always the first.
    pub(super) hampered: Option<Hampered>,
    /// That answer.
    pub(super) own_answer: Answer,
    /// When the first byte came of this generation or of a later one.
    pub(super) console_again: Option<Time>,
    /// The first answer of this generation or of a later one.
    pub(super) answer_again: Answer,
    /// The console's length when everything of the old generation was in it.
    pub(super) console_at_drain: Option<u64>,
}

impl Takeover {
    pub(super) fn new(ends: Generation, old_primary: Option<HostName>, cause: Option<Cause>) -> Self {
        let hampered = cause.as_ref().map(|cause| Hampered {
            since: cause.hampered_since,
            standing_since: cause.standing_since,
            until: cause.until,
            heard: cause.heard,
            heard_behind: None,
        });
        Self {
            ends,
            old_primary,
            planned: false,
            fault: cause.map(|cause| cause.fault),
            detected: None,
            yielded: None,
            stood_since: None,
            sealed: None,
            drained: None,
            promoted: None,
            live: None,
            stood: None,
            console: None,
            answered: None,
            protected: None,
            hampered,
            own_answer: Answer::default(),
            console_again: None,
            answer_again: Answer::default(),
            console_at_drain: None,
        }
    }

    /// Where it begins: where the guest stood still since an earlier one, that one's beginning; the guest's stop in a
    /// switchover; the fault, or else the moment when it was noticed. Where the old primary had been hampered already when the fault
    /// was done, it begins with the last that was heard of the guest before the fault, and not before it was hampered. The same where
    /// it was heard of once more behind a fault that was over.
    #[must_use]
    pub fn start(&self) -> Option<Time> {
        if self.stood_since.is_some() {
            return self.stood_since;
        }
        if self.planned {
            let stopped = self.stood.zip(self.live.as_ref()).map(|(stood, (live, _))| *live - stood);
            return stopped.or(self.yielded);
        }
        let noticed = self.detected.map(|(at, _)| at).or(self.sealed.map(|(at, _)| at));
        let Some(fault) = self.cause() else { return noticed };
        Some(self.hampered.map_or(fault.at, |hampered| hampered.silent_since(fault.at)))
    }

    /// For how long the guest had not been heard of when the fault was done.
    #[must_use]
    pub fn silent_before(&self) -> Option<Span> {
        let (fault, start) = (self.cause()?.at, self.start()?);
        (self.stood_since.is_none() && start < fault).then(|| fault.since(start))
    }

    /// The guest was heard of, maybe while the old primary still had it.
    pub(super) fn heard_before(&mut self, at: Time) {
        let noticed = self.detected.map(|(at, _)| at).or(self.sealed.map(|(at, _)| at));
        if let Some((hampered, fault)) = self.hampered.as_mut().zip(self.fault.as_ref())
            && noticed.is_none_or(|noticed| at <= noticed)
        {
            hampered.hear(at, fault.at);
        }
    }

    /// What was done to the old primary's host, if that is why it reigns no more.
    #[must_use]
    pub fn cause(&self) -> Option<&Fault> {
        self.fault.as_ref().filter(|_| !self.planned)
    }

    /// A workload had an answer when the guest of this successor, or of a later one, ran. To what was asked before the beginning the old primary
    /// may have answered, and the client have been late to read it: that counts where there is nothing better.
    pub(super) fn heard(&mut self, asked: Option<Time>, at: Time, of_a_later_one: bool) {
        let standing = self.hampered.filter(|_| !self.planned && self.stood_since.is_none());
        let start = standing.map(|hampered| hampered.standing_since).or_else(|| self.start());
        let surely = start.is_none_or(|start| asked.is_some_and(|asked| asked >= start));
        self.answer_again.hear(at, surely);
        if !of_a_later_one {
            self.own_answer.hear(at, surely);
            self.answered = self.own_answer.at;
        }
    }

    /// When the guest was first heard of again outside: a console byte, or a workload's answer, of this successor or, where that one
    /// said nothing before its end, of a later one.
    #[must_use]
    pub fn first_output(&self) -> Option<Time> {
        self.console_again.into_iter().chain(self.answer_again.at).min()
    }

    /// Whether anybody outside heard of this very successor.
    #[must_use]
    pub fn was_heard(&self) -> bool {
        self.console.is_some() || self.answered.is_some()
    }

    /// From its beginning to the first output, as seen from outside. It includes the time in which the guest has nothing to say, that in
    /// which it had not been heard of before the fault, and that of successors that died before they were heard of. A switchover has
    /// none: it is measured where the guest stands still.
    #[must_use]
    pub fn blackout(&self) -> Option<Span> {
        let start = self.start().filter(|_| !self.planned)?;
        Some(self.first_output()?.since(start))
    }

    /// Whether anything shows that the successor's guest ran.
    pub(super) fn ran(&self) -> bool {
        self.live.is_some() || self.console.is_some()
    }

    /// From the fault, or its detection, until the successor's guest ran.
    #[must_use]
    pub fn until_live(&self) -> Option<Span> {
        Some(self.live.as_ref()?.0.since(self.start()?))
    }
}

/// What came before a fault, or between its end and the word of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hampered {
    since: Time,
    standing_since: Time,
    until: Option<Time>,
    /// When the guest was last heard of before the fault.
    heard: Option<Time>,
    /// When it was last heard of behind the end of it.
    heard_behind: Option<Time>,
}

impl Hampered {
    pub(super) fn standing_since(&self) -> Time {
        self.standing_since
    }

    fn hear(&mut self, at: Time, fault: Time) {
        if at <= fault {
            self.heard = self.heard.max(Some(at));
        } else if self.until.is_some_and(|until| at > until) {
            self.heard_behind = self.heard_behind.max(Some(at));
        }
    }

    /// Of a guest that was never heard of nobody can say so.
    fn silent_since(&self, fault: Time) -> Time {
        let before = self.heard.map_or(self.standing_since, |heard| heard.max(self.since));
        self.heard_behind.unwrap_or_else(|| before.min(fault))
    }
}

/// The first answer of a successor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    at: Option<Time>,
    /// It was to something that was asked behind the beginning: it cannot be the old primary's.
    surely: bool,
}

impl Answer {
    /// There was an answer: in any order.
    fn hear(&mut self, at: Time, surely: bool) {
        if !surely && self.surely {
            return;
        }
        let first = self.at.filter(|_| surely == self.surely);
        *self = Self { at: Some(first.map_or(at, |first| first.min(at))), surely };
    }
}
