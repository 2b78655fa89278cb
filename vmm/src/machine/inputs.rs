//! The one door through which anything that the guest's own history does not determine reaches the guest.
//!
//! Devices never ask the host for the time, for entropy or for console bytes: they ask an [`InputSource`], naming the
//! exit at which they do. [`LiveInputs`] answers from the host; a recorder wraps it, and a replayer answers from a log.

use super::time::{GuestClock, GuestTime};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Most console input bytes that wait for the guest.
pub const CONSOLE_INPUT_MAX: usize = 64 << 10;

/// How many exits the guest's own instructions caused (port and MMIO accesses). Kicks do not count, so this is a
/// position in the guest's history that every run with the same inputs shares. The first exit has number 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ExitNumber(pub u64);

/// Why an input could not be had.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The operating system has no entropy.
    #[error("no entropy from the operating system at exit {at:?}")]
    Entropy {
        /// The exit that asked.
        at: ExitNumber,
        /// Why.
        source: getrandom::Error,
    },
    /// The source has no answer for this exit: a log that ended, or one that tells another history.
    #[error("exit {at:?} asked for {asked}, the input source has {available}")]
    Mismatch {
        /// The exit that asked.
        at: ExitNumber,
        /// What the guest asked for.
        asked: InputKind,
        /// What the source has instead, if anything.
        available: Availability,
    },
}

/// The kinds of inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputKind {
    /// A reading of the clock.
    Clock,
    /// A word of entropy.
    Entropy,
    /// Console bytes.
    Console,
}

impl std::fmt::Display for InputKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            InputKind::Clock => "the clock",
            InputKind::Entropy => "entropy",
            InputKind::Console => "console input",
        })
    }
}

/// What an input source has where something else was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// Nothing more.
    Nothing,
    /// An input of some kind for some exit.
    Other(InputKind, ExitNumber),
}

impl std::fmt::Display for Availability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Availability::Nothing => f.write_str("nothing more"),
            Availability::Other(kind, at) => write!(f, "{kind} for exit {}", at.0),
        }
    }
}

/// Where the guest's inputs come from.
pub trait InputSource: Send {
    /// A reading of the clock. Never smaller than an earlier one.
    ///
    /// # Errors
    /// The source has no reading for this exit.
    fn clock(&mut self, at: ExitNumber) -> Result<GuestTime, InputError>;

    /// A word of entropy.
    ///
    /// # Errors
    /// The source has none, or none for this exit.
    fn entropy(&mut self, at: ExitNumber) -> Result<u32, InputError>;

    /// Console bytes that arrived before this exit, at most `room` of them.
    ///
    /// # Errors
    /// The source has other bytes to give than there is room for.
    fn console(&mut self, at: ExitNumber, room: usize) -> Result<Vec<u8>, InputError>;

    /// Takes console bytes for later exits; says how many it took.
    fn offer_console(&mut self, bytes: &[u8]) -> usize;

    /// Whether an input waits that ends a guest's wait early.
    fn wakes(&self) -> bool;

    /// The present guest time. Not an input: the guest does not see it; it says when a wait is over, and where a
    /// successor's clock goes on.
    fn now(&self) -> GuestTime;

    /// Console bytes that no exit has taken yet; they are part of the machine's state.
    fn waiting_console(&self) -> Vec<u8>;

    /// Goes on from a saved machine: its guest time, and the console bytes that waited.
    fn resume(&mut self, now: GuestTime, waiting_console: &[u8]);
}

/// Inputs from the host itself.
#[derive(Debug)]
pub struct LiveInputs {
    clock: GuestClock,
    console: VecDeque<u8>,
}

impl Default for LiveInputs {
    fn default() -> Self {
        Self { clock: GuestClock::starting_at(GuestTime::default()), console: VecDeque::new() }
    }
}

impl InputSource for LiveInputs {
    fn clock(&mut self, _at: ExitNumber) -> Result<GuestTime, InputError> {
        Ok(self.clock.now())
    }

    fn entropy(&mut self, at: ExitNumber) -> Result<u32, InputError> {
        getrandom::u32().map_err(|source| InputError::Entropy { at, source })
    }

    fn console(&mut self, _at: ExitNumber, room: usize) -> Result<Vec<u8>, InputError> {
        let count = room.min(self.console.len());
        Ok(self.console.drain(..count).collect())
    }

    fn offer_console(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(CONSOLE_INPUT_MAX - self.console.len());
        self.console.extend(&bytes[..count]);
        count
    }

    fn wakes(&self) -> bool {
        !self.console.is_empty()
    }

    fn now(&self) -> GuestTime {
        self.clock.now()
    }

    fn waiting_console(&self) -> Vec<u8> {
        self.console.iter().copied().collect()
    }

    fn resume(&mut self, now: GuestTime, waiting_console: &[u8]) {
        self.clock = GuestClock::starting_at(now);
        self.console = waiting_console.iter().copied().take(CONSOLE_INPUT_MAX).collect();
    }
}
