//! Gives a guest the inputs that another one was given.

use crate::machine::inputs::{
    Availability, CONSOLE_INPUT_MAX, ExitNumber, InputError, InputKind, InputSource, NicIndex, Produced, ResumePoint,
};
use crate::machine::time::GuestTime;
use ft_protocol::Generation;
use ft_protocol::record::{
    Answer, CommitPoint, Cursor, CursorError, Divergence, DivergenceKind, EntryBody, EntrySource, OutputsLogged,
    Request, frame_digest,
};
use std::collections::VecDeque;
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// Why a log could not be written or read.
pub type HistoryError = Box<dyn Error + Send + Sync>;

/// Where a replayer's entries come from.
pub trait HistorySource: EntrySource<Error = HistoryError> + Send {
    /// The history's digest at this exit, where it was noted for exits without an entry too. Asked for every exit once.
    ///
    /// # Errors
    /// The log is damaged or out of reach.
    fn exit_digest(&mut self, _at: ExitNumber) -> Result<Option<u32>, HistoryError> {
        Ok(None)
    }
}

/// How far a replay is, for those outside its machine.
#[derive(Debug, Default)]
pub struct ReplayMeter {
    exit: AtomicU64,
    entries: AtomicU64,
    is_live: AtomicBool,
    /// A divergence is no reason to stop: the guest goes on live.
    goes_on: AtomicBool,
    divergence: OnceLock<GivenUp>,
    commits: Mutex<Commits>,
}

/// Why a replay was given up.
#[derive(Debug)]
struct GivenUp {
    line: String,
    /// Where the guest did something else; `None`: the log could not be read.
    diverged_at: Option<u64>,
}

/// What a replay and those who look at its commits tell each other.
#[derive(Debug, Default)]
struct Commits {
    /// The replay stands here.
    stands_at: Option<CommitPoint>,
    /// It shall go on.
    pass: bool,
    /// It shall stand at none from now on.
    none: bool,
    /// Console output before this place has a mark in the log.
    console_marked_to: u64,
}

impl ReplayMeter {
    /// The last exit that the guest came to.
    #[must_use]
    pub fn exit(&self) -> ExitNumber {
        ExitNumber(self.exit.load(Ordering::Acquire))
    }

    /// Entries that have been used.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Acquire)
    }

    /// Whether all entries have been used and the guest's inputs come from its host.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.is_live.load(Ordering::Acquire)
    }

    /// Why the replay was given up before its end, if it was.
    #[must_use]
    pub fn divergence(&self) -> Option<&str> {
        self.divergence.get().map(|given_up| given_up.line.as_str())
    }

    /// The exit at which what the guest did was something else than the log says.
    #[must_use]
    pub fn diverged_at(&self) -> Option<u64> {
        self.divergence.get().and_then(|given_up| given_up.diverged_at)
    }

    /// Whether it was given up because the log could not be read, rather than because the guest did something else.
    #[must_use]
    pub fn log_was_damaged(&self) -> bool {
        self.divergence.get().is_some_and(|given_up| given_up.diverged_at.is_none())
    }

    /// The commit at which the replay stands, until it is told to pass it.
    #[must_use]
    pub fn commit(&self) -> Option<CommitPoint> {
        let commits = self.commits();
        commits.stands_at.filter(|_| !commits.pass)
    }

    /// The replay goes on behind the commit at which it stands.
    pub fn pass_commit(&self) {
        self.commits().pass = true;
    }

    /// The replay stands at no commit any more, and goes on.
    pub fn pass_all_commits(&self) {
        self.commits().none = true;
    }

    /// Where console output begins that the log had no mark of when the guest last left an exit.
    #[must_use]
    pub fn console_marked_to(&self) -> u64 {
        self.commits().console_marked_to
    }

    fn commits(&self) -> MutexGuard<'_, Commits> {
        self.commits.lock().expect("nothing panics under this lock")
    }

    /// From now on a replay that diverges is given up, and the guest goes on live.
    pub fn go_on_when_diverged(&self) {
        self.goes_on.store(true, Ordering::Release);
    }

    pub(super) fn goes_on(&self) -> bool {
        self.goes_on.load(Ordering::Acquire)
    }

    pub(super) fn go_live(&self) {
        self.is_live.store(true, Ordering::Release);
    }

    pub(super) fn give_up(&self, error: &InputError) {
        let (line, diverged_at) = match error {
            InputError::Diverged(divergence) => (divergence.to_string(), Some(divergence.exit)),
            other => (crate::chain(other), None),
        };
        let _said_once = self.divergence.set(GivenUp { line, diverged_at });
    }
}

/// Inputs from a log. At its end there are none.
#[derive(Debug)]
pub struct Replayer<H> {
    cursor: Cursor,
    source: H,
    outputs: OutputsLogged,
    now: GuestTime,
    /// Console bytes that waited at the beginning; those in the log come out of them first.
    waiting: VecDeque<u8>,
    /// Console bytes that have come since: for after the replay.
    offered: VecDeque<u8>,
    packet_position: u64,
    stop_after: Option<ExitNumber>,
    stops_at: Option<Generation>,
    /// From this exit on nothing is looked up: the guest is served with zeroes, and pauses.
    ends_at: Option<ExitNumber>,
    meter: Arc<ReplayMeter>,
}

impl<H: HistorySource> Replayer<H> {
    /// Replays what `source` gives, from the machine that is restored next on, or from a guest's boot.
    #[must_use]
    pub fn new(source: H, outputs: OutputsLogged) -> Self {
        Self {
            cursor: Cursor::new(0, 0, 0, 0, outputs),
            source,
            outputs,
            now: GuestTime::default(),
            waiting: VecDeque::new(),
            offered: VecDeque::new(),
            packet_position: 0,
            stop_after: None,
            stops_at: None,
            ends_at: None,
            meter: Arc::default(),
        }
    }

    /// Pauses the guest when that exit has been served, before its next instruction.
    #[must_use]
    pub fn stopping_after(self, exit: ExitNumber) -> Self {
        Self { stop_after: Some(exit), ..self }
    }

    /// Pauses the guest when that exit has been served, with zeroes and nothing, whatever the log has for it: for somebody
    /// who wants to see the guest as it comes there.
    #[must_use]
    pub fn ending_at(self, exit: ExitNumber) -> Self {
        Self { ends_at: Some(exit), ..self }
    }

    fn has_ended(&self) -> bool {
        let at = self.meter.exit();
        self.ends_at.is_some_and(|end| at >= end)
    }

    /// Has the guest stand still wherever this generation made a commit, before its next instruction; the meter says where
    /// and is told to go on.
    #[must_use]
    pub fn standing_at_commits_of(self, generation: Generation) -> Self {
        let cursor = self.cursor.stopping_at_commits_of(generation);
        Self { stops_at: Some(generation), cursor, ..self }
    }

    /// How far the replay is.
    #[must_use]
    pub fn meter(&self) -> Arc<ReplayMeter> {
        self.meter.clone()
    }

    /// Tells those who look at commits where the guest stands, and does what they have said.
    fn stand_or_pass(&mut self) {
        if self.stops_at.is_none() {
            return;
        }
        let mut commits = self.meter.commits();
        if std::mem::take(&mut commits.none) {
            self.stops_at = None;
            self.cursor.stop_no_more();
        }
        if std::mem::take(&mut commits.pass) {
            self.cursor.pass_commit();
        }
        // What is wrong with the log comes up again with the guest's next request.
        let _ = self.cursor.look(&mut self.source);
        commits.stands_at = self.cursor.commit();
        commits.console_marked_to = self.cursor.console_marked_to();
    }

    /// Whether the log has nothing more, ever.
    pub(super) fn is_exhausted(&mut self) -> Result<bool, InputError> {
        let at = self.at();
        self.cursor.is_exhausted(&mut self.source).map_err(|error| failed(at, error))
    }

    /// Where inputs go on when the log has ended.
    pub(super) fn end(&mut self, digest: u32) -> ResumePoint<'_> {
        ResumePoint {
            now: self.now,
            waiting_console: self.waiting.make_contiguous(),
            exits: ExitNumber(self.cursor.at_exit()),
            digest,
            console_position: self.cursor.console_marked_to(),
            packet_position: self.packet_position,
        }
    }

    pub(super) fn take_offered(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.offered).into()
    }

    fn at(&self) -> ExitNumber {
        ExitNumber(self.cursor.at_exit())
    }

    fn ask(&mut self, at: ExitNumber, asked: Request) -> Result<Option<EntryBody<'static>>, InputError> {
        assert_eq!(at, self.at(), "requests are of the exit that was begun");
        let answer = self.cursor.request(asked, &mut self.source).map_err(|error| failed(at, error))?;
        self.meter.entries.store(self.cursor.taken(), Ordering::Release);
        match (answer, asked) {
            (Answer::Input(entry), _) => Ok(Some(entry.body)),
            (Answer::Nothing, _) => Ok(None),
            (Answer::Beyond | Answer::Pending, Request::ConsoleInput { .. } | Request::Packet { .. }) => Ok(None),
            (Answer::Beyond | Answer::Pending, _) => {
                Err(InputError::Mismatch { at, asked: kind(asked), available: Availability::Nothing })
            }
        }
    }
}

fn kind(asked: Request) -> InputKind {
    match asked {
        Request::Clock => InputKind::Clock,
        Request::Entropy { .. } => InputKind::Entropy,
        Request::ConsoleInput { .. } => InputKind::Console,
        Request::Packet { .. } => InputKind::Packet,
    }
}

fn failed(at: ExitNumber, error: CursorError<HistoryError>) -> InputError {
    match error {
        CursorError::Diverged(divergence) => InputError::Diverged(divergence),
        CursorError::Source(source) => InputError::Log { at, source },
        order @ CursorError::Order { .. } => InputError::Log { at, source: Box::new(order) },
    }
}

impl<H: HistorySource> InputSource for Replayer<H> {
    fn begin_exit(&mut self, at: ExitNumber, digest: u32) -> Result<(), InputError> {
        self.meter.exit.store(at.0, Ordering::Release);
        if self.has_ended() {
            return Ok(());
        }
        if let Some(expected) = self.source.exit_digest(at).map_err(|source| InputError::Log { at, source })?
            && expected != digest
        {
            let kind = DivergenceKind::History { expected, got: digest };
            return Err(InputError::Diverged(Divergence { exit: at.0, kind }));
        }
        self.cursor.begin_exit(at.0, digest, &mut self.source).map_err(|error| failed(at, error))
    }

    fn produced(&mut self, at: ExitNumber, output: &Produced<'_>) -> Result<(), InputError> {
        self.packet_position = output.packet_position + output.packets.len() as u64;
        if self.has_ended() {
            return Ok(());
        }
        let frames = output.packets.iter().map(|packet| frame_digest(packet.nic.0, &packet.frame));
        self.cursor.produced(output.console, frames, &mut self.source).map_err(|error| failed(at, error))?;
        self.meter.entries.store(self.cursor.taken(), Ordering::Release);
        Ok(())
    }

    fn clock(&mut self, at: ExitNumber) -> Result<GuestTime, InputError> {
        if self.has_ended() {
            return Ok(self.now);
        }
        match self.ask(at, Request::Clock)? {
            Some(EntryBody::Clock(ns)) => {
                self.now = self.now.max(GuestTime(ns));
                Ok(GuestTime(ns))
            }
            other => unreachable!("the clock answers with {other:?}"),
        }
    }

    fn entropy(&mut self, at: ExitNumber, bytes: &mut [u8]) -> Result<(), InputError> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.has_ended() {
            bytes.fill(0);
            return Ok(());
        }
        match self.ask(at, Request::Entropy { length: bytes.len() as u64 })? {
            Some(EntryBody::Entropy(logged)) => bytes.copy_from_slice(&logged),
            other => unreachable!("entropy answers with {other:?}"),
        }
        Ok(())
    }

    fn packet(&mut self, at: ExitNumber, nic: NicIndex) -> Result<Option<Vec<u8>>, InputError> {
        if self.has_ended() {
            return Ok(None);
        }
        match self.ask(at, Request::Packet { nic: nic.0 })? {
            Some(EntryBody::Packet { frame, .. }) => Ok(Some(frame.into_owned())),
            None => Ok(None),
            other => unreachable!("a packet answers with {other:?}"),
        }
    }

    fn console(&mut self, at: ExitNumber, room: usize) -> Result<Vec<u8>, InputError> {
        if self.has_ended() {
            return Ok(Vec::new());
        }
        match self.ask(at, Request::ConsoleInput { room: room as u64 })? {
            Some(EntryBody::ConsoleInput(bytes)) => {
                self.waiting.drain(..bytes.len().min(self.waiting.len()));
                Ok(bytes.into_owned())
            }
            None => Ok(Vec::new()),
            other => unreachable!("the console answers with {other:?}"),
        }
    }

    fn offer_console(&mut self, bytes: &[u8]) -> usize {
        let room = CONSOLE_INPUT_MAX.saturating_sub(self.waiting.len() + self.offered.len());
        let count = bytes.len().min(room);
        self.offered.extend(&bytes[..count]);
        count
    }

    /// The guest went on after its waits, however long they took.
    fn wakes(&self) -> bool {
        true
    }

    fn must_pause(&mut self) -> bool {
        if self.has_ended() {
            return true;
        }
        self.stand_or_pass();
        self.stop_after.is_some_and(|stop| self.at() >= stop) || !self.cursor.may_run(self.source.extent())
    }

    fn owes(&mut self) -> Option<u64> {
        // What is wrong with the log comes up again at the next exit.
        let owes = !self.has_ended() && self.cursor.owes(&mut self.source).unwrap_or(false);
        owes.then(|| self.cursor.taken())
    }

    fn now(&self) -> GuestTime {
        self.now
    }

    fn waiting_console(&self) -> Vec<u8> {
        self.waiting.iter().chain(&self.offered).copied().collect()
    }

    fn resume(&mut self, from: &ResumePoint<'_>) {
        let (console, packets) = (from.console_position, from.packet_position);
        if self.stops_at.is_some() {
            // The entries that were read already stay.
            self.stand_or_pass();
            self.cursor.resume(from.exits.0, from.digest, console, packets);
        } else {
            self.cursor = Cursor::new(from.exits.0, from.digest, console, packets, self.outputs);
        }
        self.meter.exit.store(from.exits.0, Ordering::Release);
        self.now = from.now;
        self.waiting = from.waiting_console.iter().copied().collect();
        self.packet_position = from.packet_position;
    }
}
