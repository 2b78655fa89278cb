//! Feeds a guest's console from standard input.
//!
//! ```text
//!   standard input --> Reader (a thread) --> Feed (at most 64 KiB) --> controller --> primary's host --> guest
//! ```
//!
//! Nothing is asked of the controller before there is something to feed: a run whose standard input is empty is as one
//! without.

mod reader;
mod terminal;
#[cfg(test)]
mod tests;

pub use reader::{Reader, Typist};
pub use terminal::{Keys, Restorer};

use crate::protected::RunError;
use crossbeam_channel::{Receiver, TryRecvError, bounded};
use ft_protocol::Span;
use ft_protocol::console_input::{Feed, InputAt};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most bytes of one reading. One waits to be taken while another is read.
const PIECE_BYTES: usize = 4096;

/// Before a controller that takes no more is tried again.
pub(crate) const AGAIN: Span = Span::from_ms(20);

/// How long a controller may take to find that the connection over which the guest was fed until now is gone: TCP says so
/// within ten seconds (`transport/remote.rs`).
const STALE_FEEDER_MAX: Duration = Duration::from_secs(15);

/// A VM whose console can be fed.
pub trait Fed {
    /// What was heard of console input since the last call, in order.
    fn input_news(&mut self) -> Vec<InputNews>;

    /// From now on its console is fed; where from, news say.
    ///
    /// # Errors
    /// When the controller does not answer.
    fn open_input(&mut self) -> Result<(), RunError>;

    /// Sends console input. False: not now, nothing was sent.
    ///
    /// # Errors
    /// When the connection is at fault.
    fn send_input(&mut self, position: u64, bytes: Vec<u8>) -> Result<bool, RunError>;

    /// Its console is fed no more.
    ///
    /// # Errors
    /// When the connection is at fault.
    fn close_input(&mut self) -> Result<(), RunError>;
}

/// What a run hears of the input that it feeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputNews {
    /// The guest's primary says how far it is.
    At(InputAt),
    /// There is no way to the primary at the moment: it will say anew where it is.
    Closed,
    /// It cannot be fed from here at the moment.
    NotNow {
        /// One line: why.
        reason: String,
    },
    /// It is not fed from here any more.
    Ended {
        /// One line: why.
        reason: String,
    },
}

/// Standard input, on its way to a guest.
#[derive(Debug)]
pub struct ConsoleInput {
    /// Nothing more is read from here; the terminal is as it was.
    reader: Option<Reader>,
    pieces: Receiver<Vec<u8>>,
    arrived: Arc<EventFd>,
    feed: Feed,
    stage: Stage,
    /// The guest's primary has said how far it is.
    was_told: bool,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was there to feed yet.
    Idle,
    /// The VM is fed from here.
    Feeds,
    /// It was fed over another connection, which the controller believes in until then at most.
    Reopens(Instant),
    /// There is no more to feed, or nobody takes it.
    Over,
}

impl ConsoleInput {
    /// Reads standard input from now on.
    ///
    /// # Errors
    /// When there are no more descriptors or threads.
    pub fn start(typist: Typist) -> io::Result<Self> {
        let arrived = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let (sender, pieces) = bounded(1);
        let bell = Arc::clone(&arrived);
        // A counter that is full tells as much.
        let reader = Reader::start(typist, sender, move || _ = bell.write(1))?;
        Ok(Self { reader: Some(reader), pieces, arrived, feed: Feed::default(), stage: Stage::Idle, was_told: false })
    }

    /// Readable when more has come, while more is wanted.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.wants_more().then(|| self.arrived.as_fd())
    }

    fn wants_more(&self) -> bool {
        self.reader.is_some() && self.feed.room() >= PIECE_BYTES
    }

    /// Takes news and what has been read, and passes on what can be. False: something waits for the controller to take it.
    pub(crate) fn turn(&mut self, run: &mut impl Fed) -> Result<bool, RunError> {
        let before = self.stage;
        run.input_news().into_iter().for_each(|news| self.hear(news));
        if let Stage::Reopens(_) = self.stage {
            run.open_input()?;
            run.input_news().into_iter().for_each(|news| self.hear(news));
        }
        if self.stage == Stage::Over && before != Stage::Over {
            // Nor when the next controller comes.
            run.close_input()?;
        }
        // Read first: what comes after this rings again.
        let _none_or_some = self.arrived.read();
        while self.wants_more() {
            match self.pieces.try_recv() {
                Ok(piece) => self.feed.push(&piece),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => self.reader = None,
            }
        }
        if self.stage == Stage::Idle && !self.feed.is_empty() {
            self.stage = Stage::Feeds;
            run.open_input()?;
        }
        while self.stage == Stage::Feeds
            && let Some((position, bytes)) = self.feed.next_message()
        {
            let count = bytes.len();
            if !run.send_input(position, bytes)? {
                return Ok(false);
            }
            self.feed.sent(count);
        }
        if self.stage == Stage::Feeds && self.reader.is_none() && self.feed.is_empty() {
            self.stage = Stage::Over;
            run.close_input()?;
        }
        Ok(!matches!(self.stage, Stage::Reopens(_)))
    }

    fn hear(&mut self, news: InputNews) {
        if self.stage == Stage::Over {
            return;
        }
        match news {
            InputNews::At(at) => {
                (self.stage, self.was_told) = (Stage::Feeds, true);
                let lost = self.feed.told(at);
                if lost > 0 {
                    tracing::warn!("{lost} bytes of console input are lost: the guest has gone back to before them");
                }
            }
            InputNews::Closed => self.feed.close(),
            InputNews::NotNow { reason } => match self.stage {
                Stage::Reopens(until) if Instant::now() >= until => self.ended(&reason),
                Stage::Reopens(_) => {}
                _ if self.was_told => {
                    self.feed.close();
                    self.stage = Stage::Reopens(Instant::now() + STALE_FEEDER_MAX);
                }
                _ => self.ended(&reason),
            },
            InputNews::Ended { reason } => self.ended(&reason),
        }
    }

    fn ended(&mut self, reason: &str) {
        tracing::warn!("the guest's console is not fed from standard input any more: {reason}");
        self.feed.close();
        (self.reader, self.stage) = (None, Stage::Over);
    }
}
