//! Where a replay is in its log, and what that means for the guest's next request.
//!
//! ```text
//!   begin_exit ──> request ... request ──> produced ──> (a wait ends) request ... ──> begin_exit of the next exit
//!        │             │                       │
//!        │             └─ input | nothing | beyond the log's end
//!        └─────────────┴───────────────────────┴─> Divergence: the replay is over
//! ```
//!
//! A mark stands behind what an exit brought by itself. What stands behind a mark of the same exit came when a wait ended
//! there, or behind a commit: the replay is given it when all of it is known. Given the first of it with what the exit
//! brought, and told that there is no more while the log still grew, the guest would have gone on without the rest.
//!
//! Inputs that a guest may go without (console input, packets) are given at exactly the exit at which they stand in the
//! log; inputs that it asks for by itself (clock, entropy) must stand there. What the guest puts out is held against the
//! log's marks of outputs, which also say what need not leave a second time.

use super::divergence::{Divergence, DivergenceKind};
use super::entry::{CommitPoint, Entry, EntryBody, EntryKind, sent_digest};
use crate::ids::Generation;
use crate::planted::{PlantedBug, planted};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use thiserror::Error;

/// Where the entries come from.
pub trait EntrySource {
    /// Why an entry could not be had.
    type Error;

    /// The next entry, if it is there already.
    ///
    /// # Errors
    /// The log is damaged or out of reach.
    fn next_entry(&mut self) -> Result<Option<Entry<'static>>, Self::Error>;

    /// How far the log reaches, now.
    fn extent(&self) -> Extent;

    /// Whether all is known that the guest was given at this exit, or was until a commit there.
    fn knows_all_of(&self, exit: u64) -> bool {
        match self.extent() {
            Extent::Ended { .. } => true,
            Extent::Growing { complete_to } => complete_to > exit,
        }
    }
}

/// How far a log reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Entries may still be added.
    Growing {
        /// All entries of exits up to this one are there: none will be added for them.
        complete_to: u64,
    },
    /// No entry will be added.
    Ended {
        /// The exit of the last one; `None` where there is none.
        last_exit: Option<u64>,
    },
}

/// Whether a log has marks of all outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputsLogged {
    /// What the guest puts out is held against them.
    Yes,
    /// Outputs are not looked at.
    No,
}

/// What a guest asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// A reading of the clock.
    Clock,
    /// So many random bytes.
    Entropy {
        /// How many.
        length: u64,
    },
    /// Console input, if there is any.
    ConsoleInput {
        /// Bytes there is room for.
        room: u64,
    },
    /// A packet, if there is any.
    Packet {
        /// For which network device.
        nic: u8,
    },
}

impl Request {
    /// What would answer it.
    #[must_use]
    pub fn kind(self) -> EntryKind {
        match self {
            Self::Clock => EntryKind::Clock,
            Self::Entropy { .. } => EntryKind::Entropy,
            Self::ConsoleInput { .. } => EntryKind::ConsoleInput,
            Self::Packet { .. } => EntryKind::Packet,
        }
    }

    /// Whether the guest goes on without.
    fn is_optional(self) -> bool {
        matches!(self, Self::ConsoleInput { .. } | Self::Packet { .. })
    }
}

/// What a guest is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This input.
    Input(Entry<'static>),
    /// Nothing came at this exit.
    Nothing,
    /// The log has ended: what comes now is not in it.
    Beyond,
    /// The log does not reach as far yet. Nothing has been decided.
    Pending,
}

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum CursorError<E> {
    /// The log cannot be read.
    #[error("the log cannot be read")]
    Source(E),
    /// An entry stands behind one of a later exit.
    #[error("the log has an entry of exit {got} behind one of exit {after}")]
    Order {
        /// The exit of the one before.
        after: u64,
        /// Its own.
        got: u64,
    },
    /// The guest has gone another way.
    #[error("the replay diverged at {0}")]
    Diverged(Divergence),
}

/// A replay's place in its log.
#[derive(Debug)]
pub struct Cursor {
    /// The exit that the guest is at, and the history's digest there.
    at: u64,
    digest: u32,
    /// The entry that comes next, once it has been read.
    head: Option<Entry<'static>>,
    /// The exit of the last entry that was read.
    read_to: u64,
    taken: u64,
    outputs: OutputsLogged,
    console: VecDeque<u8>,
    /// The place of the first byte of `console`.
    console_position: u64,
    frames: VecDeque<u32>,
    /// The number of the first frame of `frames`.
    packet_position: u64,
    /// The replay stands still at the commits of this generation, for somebody to look at it.
    stops_at: Option<Generation>,
}

impl Cursor {
    /// A cursor at the first entry behind a commit: of a guest at exit `at_exit`, whose history has that digest, and which
    /// had put out so many bytes and packets.
    #[must_use]
    pub fn new(at_exit: u64, digest: u32, console_position: u64, packet_position: u64, outputs: OutputsLogged) -> Self {
        Self {
            at: at_exit,
            digest,
            head: None,
            read_to: at_exit,
            taken: 0,
            outputs,
            console: VecDeque::new(),
            console_position,
            frames: VecDeque::new(),
            packet_position,
            stops_at: None,
        }
    }

    /// Has the replay stand still wherever this generation made a commit, until [`pass_commit`](Self::pass_commit).
    #[must_use]
    pub fn stopping_at_commits_of(self, generation: Generation) -> Self {
        Self { stops_at: Some(generation), ..self }
    }

    /// Commits are nothing to stop at any more.
    pub fn stop_no_more(&mut self) {
        self.stops_at = None;
    }

    /// The commit at which the replay stands.
    #[must_use]
    pub fn commit(&self) -> Option<CommitPoint> {
        match self.head.as_ref()? {
            Entry { at_exit, body: EntryBody::Commit(point), .. } if *at_exit <= self.at => {
                (self.stops_at == Some(point.generation)).then_some(*point)
            }
            _ => None,
        }
    }

    /// The replay goes on behind the commit at which it stands.
    pub fn pass_commit(&mut self) {
        if self.commit().is_some() {
            self.head = None;
            self.taken += 1;
        }
    }

    /// The guest was put elsewhere: at the commit behind which the next entry stands.
    pub fn resume(&mut self, at_exit: u64, digest: u32, console_position: u64, packet_position: u64) {
        (self.at, self.digest, self.read_to) = (at_exit, digest, self.read_to.max(at_exit));
        (self.console, self.console_position) = (VecDeque::new(), console_position);
        (self.frames, self.packet_position) = (VecDeque::new(), packet_position);
    }

    /// Looks at what comes next: marks and commits for which nothing is left to be done are taken.
    ///
    /// # Errors
    /// The log cannot be read, or shows that the guest came another way.
    pub fn look<S: EntrySource>(&mut self, source: &mut S) -> Result<(), CursorError<S::Error>> {
        self.settle(source)
    }

    /// The exit that the guest is at.
    #[must_use]
    pub fn at_exit(&self) -> u64 {
        self.at
    }

    /// How many entries have been used.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Where console output begins that the log has no mark of: everything before may have left.
    #[must_use]
    pub fn console_marked_to(&self) -> u64 {
        self.console_position
    }

    /// The guest is at its next exit.
    ///
    /// # Errors
    /// It came another way, or passed an entry by.
    pub fn begin_exit<S: EntrySource>(
        &mut self,
        at_exit: u64,
        digest: u32,
        source: &mut S,
    ) -> Result<(), CursorError<S::Error>> {
        assert!(at_exit > self.at, "exits are counted upwards");
        (self.at, self.digest) = (at_exit, digest);
        self.settle(source)?;
        let Some(head) = &self.head else { return Ok(()) };
        if head.at_exit < at_exit {
            return Err(self.passed(head));
        }
        if head.at_exit == at_exit {
            self.check_history(head)?;
        }
        Ok(())
    }

    /// The guest asks for something at the exit it is at.
    ///
    /// # Errors
    /// The recorded guest did not.
    pub fn request<S: EntrySource>(&mut self, asked: Request, source: &mut S) -> Result<Answer, CursorError<S::Error>> {
        self.settle(source)?;
        let Some(head) = self.head.take() else {
            return match source.extent() {
                Extent::Ended { .. } => Ok(Answer::Beyond),
                Extent::Growing { complete_to } if complete_to < self.at => Ok(Answer::Pending),
                Extent::Growing { .. } if asked.is_optional() => Ok(Answer::Nothing),
                Extent::Growing { complete_to } => Err(self.unexpected(EntryKind::Mark, complete_to, asked)),
            };
        };
        let due = head.at_exit == self.at
            || (planted(PlantedBug::InputEarly) && asked.is_optional() && head.at_exit == self.at + 1);
        if due && self.answers(&head, asked)? {
            self.taken += 1;
            return Ok(Answer::Input(head));
        }
        let result = match asked.is_optional() {
            true => Ok(Answer::Nothing),
            false => Err(self.unexpected(head.body.kind(), head.at_exit, asked)),
        };
        self.head = Some(head);
        result
    }

    /// The guest has put something out at the exit it is at: console bytes, and packets by their
    /// [`frame_digest`](super::frame_digest)s.
    ///
    /// # Errors
    /// The log has other outputs.
    pub fn produced<S: EntrySource>(
        &mut self,
        console: &[u8],
        frames: impl IntoIterator<Item = u32>,
        source: &mut S,
    ) -> Result<(), CursorError<S::Error>> {
        if self.outputs == OutputsLogged::No {
            return Ok(());
        }
        self.console.extend(console);
        self.frames.extend(frames);
        self.settle(source)
    }

    /// The guest has ended.
    ///
    /// # Errors
    /// The recorded one had not.
    pub fn ended<S: EntrySource>(&mut self, source: &mut S) -> Result<(), CursorError<S::Error>> {
        self.settle(source)?;
        match &self.head {
            Some(Entry { at_exit, body: EntryBody::Mark, .. }) if *at_exit == self.at => Ok(()),
            Some(head) => {
                let kind = DivergenceKind::Ended { expected: head.at_exit };
                Err(CursorError::Diverged(Divergence { exit: self.at, kind }))
            }
            None => Ok(()),
        }
    }

    /// Whether something stands next that the guest was given at the exit it is at, and that it need not ask for: behind a
    /// commit of an exit that put something out, after which nobody asks by itself.
    ///
    /// # Errors
    /// The log cannot be read, or shows that the guest came another way.
    pub fn owes<S: EntrySource>(&mut self, source: &mut S) -> Result<bool, CursorError<S::Error>> {
        self.settle(source)?;
        let is_optional = |body: &EntryBody<'_>| matches!(body, EntryBody::ConsoleInput(_) | EntryBody::Packet { .. });
        Ok(self.head.as_ref().is_some_and(|head| head.at_exit == self.at && is_optional(&head.body)))
    }

    /// Whether the log has nothing more for the guest, ever.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn is_exhausted<S: EntrySource>(&mut self, source: &mut S) -> Result<bool, CursorError<S::Error>> {
        self.settle(source)?;
        Ok(self.head.is_none() && matches!(source.extent(), Extent::Ended { .. }))
    }

    /// Whether the guest may come to its next exit: whether all entries of that one are known.
    #[must_use]
    pub fn may_run(&self, extent: Extent) -> bool {
        match extent {
            _ if self.commit().is_some() => false,
            Extent::Ended { .. } => true,
            Extent::Growing { complete_to } => complete_to > self.at,
        }
    }

    /// Whether a packet that the guest sends at an exit has left before, when the recorded guest sent it. One of the last
    /// entry's own exit may or may not: it leaves again.
    #[must_use]
    pub fn was_released(at_exit: u64, extent: Extent) -> bool {
        match extent {
            Extent::Growing { .. } => true,
            Extent::Ended { last_exit: Some(last) } => {
                at_exit < last || (planted(PlantedBug::PacketSwallowed) && at_exit == last)
            }
            Extent::Ended { last_exit: None } => false,
        }
    }

    /// Reads the next entry if need be, and takes marks for which nothing is left to be done.
    fn settle<S: EntrySource>(&mut self, source: &mut S) -> Result<(), CursorError<S::Error>> {
        loop {
            self.read(source)?;
            let Some(head) = &self.head else {
                if matches!(source.extent(), Extent::Ended { .. }) {
                    self.forget_outputs();
                }
                return Ok(());
            };
            if head.at_exit > self.at {
                return Ok(());
            }
            let settled = match &head.body {
                EntryBody::Mark => {
                    head.at_exit < self.at || source.knows_all_of(self.at) || planted(PlantedBug::MarkPassedEarly)
                }
                EntryBody::Commit(point) => self.stops_at != Some(point.generation),
                EntryBody::Output { position, bytes } => {
                    self.outputs == OutputsLogged::No || self.has_written(*position, bytes)?
                }
                EntryBody::Sent { position, count, digest } => {
                    self.outputs == OutputsLogged::No || self.has_sent(*position, *count, *digest)?
                }
                EntryBody::Clock(_) | EntryBody::Entropy(_) | EntryBody::ConsoleInput(_) | EntryBody::Packet { .. } => {
                    false
                }
            };
            if !settled {
                return Ok(());
            }
            if head.at_exit == self.at {
                self.check_history(head)?;
            }
            self.forget_marked();
            self.head = None;
            self.taken += 1;
        }
    }

    fn read<S: EntrySource>(&mut self, source: &mut S) -> Result<(), CursorError<S::Error>> {
        if self.head.is_some() {
            return Ok(());
        }
        let Some(entry) = source.next_entry().map_err(CursorError::Source)? else { return Ok(()) };
        if entry.at_exit < self.read_to {
            return Err(CursorError::Order { after: self.read_to, got: entry.at_exit });
        }
        self.read_to = entry.at_exit;
        self.head = Some(entry);
        Ok(())
    }

    /// Whether the guest has written all of this already; what it has written must agree.
    fn has_written<E>(&self, position: u64, bytes: &[u8]) -> Result<bool, CursorError<E>> {
        let ours = |at: u64| at.checked_sub(self.console_position).and_then(|at| usize::try_from(at).ok());
        for (place, expected) in (position..).zip(bytes) {
            // Bytes from before the commit that the replay began with are not known here any more.
            if place >= self.console_position {
                let Some(got) = ours(place).and_then(|at| self.console.get(at)) else { return Ok(false) };
                if got != expected {
                    let kind = DivergenceKind::Console { position: place, expected: *expected, got: *got };
                    return Err(CursorError::Diverged(Divergence { exit: self.at, kind }));
                }
            }
        }
        Ok(true)
    }

    /// Whether the guest has sent all of these already.
    fn has_sent<E>(&self, position: u64, count: u32, expected: u32) -> Result<bool, CursorError<E>> {
        let end = position + u64::from(count);
        if end > self.packet_position + self.frames.len() as u64 {
            return Ok(false);
        }
        // Packets from before the commit that the replay began with are not known here any more.
        let Some(first) = position.checked_sub(self.packet_position) else { return Ok(true) };
        let first = usize::try_from(first).expect("fewer than there are frames");
        let count = usize::try_from(count).expect("fewer than there are frames");
        let got = sent_digest(self.frames.range(first..first + count).copied());
        if got != expected {
            let kind = DivergenceKind::Packets { position, expected, got };
            return Err(CursorError::Diverged(Divergence { exit: self.at, kind }));
        }
        Ok(true)
    }

    /// Forgets the outputs that the head's mark covers.
    fn forget_marked(&mut self) {
        match self.head.as_ref().map(|head| &head.body) {
            Some(EntryBody::Output { position, bytes }) => {
                let end = position + bytes.len() as u64;
                let known = usize::try_from(end.saturating_sub(self.console_position)).unwrap_or(usize::MAX);
                self.console.drain(..known.min(self.console.len()));
                self.console_position = self.console_position.max(end);
            }
            Some(EntryBody::Sent { position, count, .. }) => {
                let end = position + u64::from(*count);
                let known = usize::try_from(end.saturating_sub(self.packet_position)).unwrap_or(usize::MAX);
                self.frames.drain(..known.min(self.frames.len()));
                self.packet_position = self.packet_position.max(end);
            }
            _ => {}
        }
    }

    /// No mark will come for them.
    fn forget_outputs(&mut self) {
        self.console = VecDeque::new();
        self.frames = VecDeque::new();
        self.outputs = OutputsLogged::No;
    }

    /// Whether an entry of this exit is what was asked for, and as much of it.
    fn answers<E>(&self, head: &Entry<'_>, asked: Request) -> Result<bool, CursorError<E>> {
        let (expected, got, fits) = match (&head.body, asked) {
            (EntryBody::Clock(_), Request::Clock) => (0, 0, true),
            (EntryBody::Entropy(bytes), Request::Entropy { length }) => {
                let expected = bytes.len() as u64;
                (expected, length, expected == length)
            }
            (EntryBody::ConsoleInput(bytes), Request::ConsoleInput { room }) => {
                let expected = bytes.len() as u64;
                (expected, room, expected <= room)
            }
            (EntryBody::Packet { nic, .. }, Request::Packet { nic: asked }) if *nic == asked => (0, 0, true),
            _ => return Ok(false),
        };
        if head.at_exit == self.at {
            self.check_history(head)?;
        }
        if !fits {
            let kind = DivergenceKind::Length { asked: asked.kind(), expected, got };
            return Err(CursorError::Diverged(Divergence { exit: self.at, kind }));
        }
        Ok(true)
    }

    fn check_history<E>(&self, head: &Entry<'_>) -> Result<(), CursorError<E>> {
        if head.digest == self.digest {
            return Ok(());
        }
        let kind = DivergenceKind::History { expected: head.digest, got: self.digest };
        Err(CursorError::Diverged(Divergence { exit: self.at, kind }))
    }

    fn passed<E>(&self, head: &Entry<'_>) -> CursorError<E> {
        let kind = DivergenceKind::Passed { expected: head.body.kind(), expected_at: head.at_exit };
        CursorError::Diverged(Divergence { exit: self.at, kind })
    }

    fn unexpected<E>(&self, expected: EntryKind, expected_at: u64, got: Request) -> CursorError<E> {
        let kind = DivergenceKind::Request { expected, expected_at, got };
        CursorError::Diverged(Divergence { exit: self.at, kind })
    }
}
