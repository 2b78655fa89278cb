//! A guest that is given what another one was given: by a successor to the end of the log, by a secondary that follows for as
//! long as it grows.

use super::guest::{self, DELIVERY, Program, Registers, Shown, Tick, Wants};
use super::machine::{Poll, Serving, WorkingMemory};
use super::record::{Found, frame_of};
use ft_protocol::record::{
    Ahead, Answer, Cursor, CursorError, Entry, EntryBody, EntrySource, Extent, OutputsLogged, Request,
};
use shared_mem::lossy::LossyMemory;
use shared_mem::record_log::ReadLogError;
use shared_mem::{LogPosition, LogReader};

/// Why a replay goes no further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    /// The pool is out of reach.
    #[error("the pool is out of reach")]
    Unreachable,
    /// The log cannot be read.
    #[error("the log cannot be read: {0}")]
    Log(String),
    /// The guest does something else than the log says.
    #[error("{0}")]
    Diverged(String),
}

impl From<CursorError<ReadLogError>> for ReplayError {
    fn from(error: CursorError<ReadLogError>) -> Self {
        match error {
            CursorError::Source(ReadLogError::Access(_)) => Self::Unreachable,
            CursorError::Diverged(divergence) => Self::Diverged(divergence.to_string()),
            other => Self::Log(format!("{other:?}")),
        }
    }
}

/// The entries behind an epoch.
pub(crate) struct Entries {
    log: LogReader<LossyMemory>,
    /// Where the next one lies that has not been read.
    pub(crate) position: LogPosition,
    pub(crate) ahead: Ahead,
    /// Where the log ends, once it has.
    end: Option<LogPosition>,
    buffer: Vec<u8>,
}

impl Entries {
    pub(crate) fn new(log: LogReader<LossyMemory>, from: LogPosition, at_exit: u64) -> Self {
        Self { log, position: from, ahead: Ahead::new(at_exit), end: None, buffer: Vec::new() }
    }

    /// The log has ended; what is left is read from the one that the next generation begins with.
    pub(crate) fn ends(&mut self, log: LogReader<LossyMemory>, found: &Found) {
        self.log = log;
        self.ends_at(found);
    }

    /// The log is that of a generation that is over.
    pub(crate) fn ends_at(&mut self, found: &Found) {
        self.end = Some(found.end);
        self.ahead.ends(found.log_end.extent());
    }

    /// Reads what there is.
    pub(crate) fn fill(&mut self) -> Result<(), ReadLogError> {
        while self.ahead.has_room() && self.end.is_none_or(|end| self.position < end) {
            let Some(entry) = self.log.read(self.position, &mut self.buffer)? else { break };
            let next = self.position.plus(entry.stored_bytes());
            let Ok(entry) = Entry::decode(entry.tag, entry.exit_counter, entry.payload) else { break };
            self.ahead.push(entry.into_owned());
            self.position = next;
        }
        Ok(())
    }
}

impl EntrySource for Entries {
    type Error = ReadLogError;

    fn next_entry(&mut self) -> Result<Option<Entry<'static>>, ReadLogError> {
        self.fill()?;
        Ok(self.ahead.pop())
    }

    fn extent(&self) -> Extent {
        self.ahead.extent()
    }

    fn knows_all_of(&self, exit: u64) -> bool {
        self.ahead.knows_all_of(exit)
    }
}

/// What came of a step.
pub(crate) enum Went {
    /// Not begun yet: what came before it is delivered.
    Delivered,
    /// It is done.
    Step(Shown),
    /// It is done, and the log has nothing of what comes next at its exit: that is for the live guest to do.
    LastStep(Serving),
    /// The log has ended in the middle of what came between two steps: there may be more.
    LastDelivery(Poll),
    /// The log has ended before the guest's next exit, or in the middle of it; or the guest has.
    Live,
}

/// What came of asking for what came.
pub(crate) struct Polled {
    pub(crate) poll: Poll,
    /// The log has ended meanwhile.
    beyond: bool,
}

/// Console input that one entry has at most.
const CONSOLE_BYTES: u64 = 8;

/// A guest and its place in the log.
pub(crate) struct Replay {
    pub(crate) cursor: Cursor,
    pub(crate) entries: Entries,
    pub(crate) registers: Registers,
    pub(crate) trace: Vec<Tick>,
    /// Inputs may stand in the log that came between two steps.
    pub(crate) deliver: bool,
    /// The guest is at this exit already, and was given this.
    begun: bool,
    given: Option<u64>,
    /// The guest has ended, with this code; it stays so.
    exit: Option<u32>,
    /// What it has printed since the place at which it began.
    console: Vec<u8>,
    console_from: u64,
}

impl Replay {
    /// Of a guest at the end of an epoch.
    pub(crate) fn new(
        cursor_at: Registers,
        entries: Entries,
        trace: Vec<Tick>,
        cursor: impl FnOnce(Cursor) -> Cursor,
    ) -> Self {
        let Registers { step, console, packets, .. } = cursor_at;
        let fresh = Cursor::new(step, cursor_at.last_digest(), console, packets, OutputsLogged::Yes);
        Self {
            cursor: cursor(fresh),
            entries,
            registers: cursor_at,
            trace,
            deliver: true,
            begun: false,
            given: None,
            exit: None,
            console: Vec::new(),
            console_from: console,
        }
    }

    /// The guest is put elsewhere: at the end of an epoch at which it has come in the log.
    pub(crate) fn resume(&mut self, registers: Registers, trace: Vec<Tick>) {
        let Registers { step, console, packets, .. } = registers;
        self.cursor.resume(step, registers.last_digest(), console, packets);
        (self.registers, self.trace) = (registers, trace);
        (self.begun, self.given, self.exit) = (false, None, None);
        (self.console, self.console_from) = (Vec::new(), console);
    }

    /// Hands the guest what the log says came between two steps.
    pub(crate) fn deliver(&mut self) -> Result<Polled, ReplayError> {
        self.deliver = false;
        self.poll()
    }

    /// Devices take what came, as far as the log knows.
    fn poll(&mut self) -> Result<Polled, ReplayError> {
        let mut poll = Poll::default();
        loop {
            let asked = if poll.console_asked {
                Request::Packet { nic: 0 }
            } else {
                Request::ConsoleInput { room: CONSOLE_BYTES }
            };
            match self.cursor.request(asked, &mut self.entries)? {
                Answer::Input(entry) => {
                    let input = value(&entry.body);
                    self.registers.deliver(input);
                    self.trace.push(DELIVERY | input);
                    poll = poll.took();
                }
                Answer::Beyond => return Ok(Polled { poll, beyond: true }),
                Answer::Nothing | Answer::Pending if poll.console_asked => return Ok(Polled { poll, beyond: false }),
                Answer::Nothing | Answer::Pending => poll.console_asked = true,
            }
        }
    }

    /// Whether the log has ended, and all of it is used.
    pub(crate) fn is_over(&mut self) -> Result<bool, ReplayError> {
        Ok(self.cursor.is_exhausted(&mut self.entries)?)
    }

    /// How the guest has ended, if it has.
    pub(crate) fn exit(&self) -> Option<u32> {
        self.exit
    }

    /// One step.
    pub(crate) fn step(&mut self, program: &Program, working: &mut WorkingMemory) -> Result<Went, ReplayError> {
        if self.exit.is_some() {
            return Ok(Went::Live);
        }
        if self.deliver && !self.begun {
            if self.is_over()? {
                return Ok(Went::Live);
            }
            // What was delivered may have been the last thing before the guest must stand still.
            let Polled { poll, beyond } = self.deliver()?;
            return Ok(if beyond { Went::LastDelivery(poll) } else { Went::Delivered });
        }
        if !self.begun {
            if self.is_over()? {
                return Ok(Went::Live);
            }
            let (exit, digest) = { self.registers }.begin_exit();
            self.cursor.begin_exit(exit, digest, &mut self.entries)?;
            self.begun = true;
        }
        if self.given.is_none() {
            let Some(given) = self.ask(program.wants(self.registers.step))? else { return Ok(Went::Live) };
            self.given = Some(given);
        }
        let given = self.given.unwrap_or(0);
        let polls = program.wants(self.registers.step) == Wants::Packets;
        let mut shown =
            guest::step(program, &mut self.registers, working, given).map_err(|_| ReplayError::Unreachable)?;
        self.trace.push(given);
        (self.begun, self.given, self.exit) = (false, None, shown.exit);
        if polls && shown.exit.is_none() {
            let Polled { poll, beyond } = self.poll()?;
            if beyond {
                return Ok(Went::LastStep(Serving::Polls(poll, shown)));
            }
            shown.waits_unless(poll.taken > 0);
        }
        if self.is_over()? {
            return Ok(Went::LastStep(Serving::Prints(shown)));
        }
        self.deliver |= shown.wait_us > 0;
        self.console.extend_from_slice(shown.console());
        let frames = shown.packet.iter().map(frame_of);
        self.cursor.produced(shown.console(), frames, &mut self.entries)?;
        Ok(Went::Step(shown))
    }

    /// What the log has for a request; `None`: it has ended.
    fn ask(&mut self, wants: Wants) -> Result<Option<u64>, ReplayError> {
        let request = match wants {
            Wants::Nothing | Wants::Packets => return Ok(Some(0)),
            Wants::Clock => Request::Clock,
            Wants::Console => Request::ConsoleInput { room: CONSOLE_BYTES },
        };
        match self.cursor.request(request, &mut self.entries)? {
            Answer::Input(entry) => Ok(Some(value(&entry.body))),
            Answer::Nothing => Ok(Some(0)),
            // Where a guest goes without, it does so at the log's end, too: whoever replays it ends in the same place.
            Answer::Beyond if wants == Wants::Console => Ok(Some(0)),
            Answer::Beyond => Ok(None),
            Answer::Pending => Err(ReplayError::Log("it was let run beyond what is known".to_owned())),
        }
    }

    /// What it has printed behind `marked`, and where that begins.
    pub(crate) fn take_console_behind(&mut self, marked: u64) -> (u64, Vec<u8>) {
        let known = usize::try_from(marked.saturating_sub(self.console_from)).unwrap_or(usize::MAX);
        let known = known.min(self.console.len());
        (self.console_from + known as u64, self.console.split_off(known))
    }
}

fn value(body: &EntryBody<'_>) -> u64 {
    let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk));
    match body {
        EntryBody::Clock(ns) => *ns,
        EntryBody::Packet { frame, .. } => word(frame),
        EntryBody::ConsoleInput(bytes) => word(bytes),
        _ => 0,
    }
}
