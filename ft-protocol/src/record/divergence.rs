//! How a replayed guest shows that it is not on the way of the recorded one.

use super::cursor::Request;
use super::entry::EntryKind;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A replay that has left the recorded history, at this exit or before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// The exit at which it showed.
    pub exit: u64,
    /// How.
    pub kind: DivergenceKind,
}

/// What was expected, and what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum DivergenceKind {
    /// The exits so far were others.
    History {
        /// The digest in the log.
        expected: u32,
        /// The replay's.
        got: u32,
    },
    /// The guest asks for an input that the recorded one did not ask for here.
    Request {
        /// What comes next in the log.
        expected: EntryKind,
        /// For which exit.
        expected_at: u64,
        /// What the guest asks for.
        got: Request,
    },
    /// The guest has gone past something that the log has for an earlier exit.
    Passed {
        /// What the log has.
        expected: EntryKind,
        /// For which exit.
        expected_at: u64,
    },
    /// The guest asks for the same as the recorded one, but for less or more of it.
    Length {
        /// What it asks for.
        asked: EntryKind,
        /// Bytes in the log.
        expected: u64,
        /// Bytes that the guest asks for or has room for.
        got: u64,
    },
    /// The guest writes something else to its console.
    Console {
        /// Where.
        position: u64,
        /// The byte in the log.
        expected: u8,
        /// The guest's.
        got: u8,
    },
    /// The guest sends other packets.
    Packets {
        /// The first of those that are compared.
        position: u64,
        /// Their digest in the log.
        expected: u32,
        /// The guest's.
        got: u32,
    },
    /// The guest ends where the recorded one went on.
    Ended {
        /// The last exit that was recorded.
        expected: u64,
    },
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit {}: ", self.exit)?;
        match self.kind {
            DivergenceKind::History { expected, got } => {
                write!(f, "expected history {expected:#010x}, got {got:#010x}")
            }
            DivergenceKind::Request { expected, expected_at, got } => {
                write!(f, "expected {expected} at exit {expected_at}, got a request for {}", got.kind())
            }
            DivergenceKind::Passed { expected, expected_at } => {
                write!(f, "expected {expected} at exit {expected_at}, got past it without")
            }
            DivergenceKind::Length { asked, expected, got } => {
                write!(f, "expected {expected} bytes of {asked}, got a request for {got}")
            }
            DivergenceKind::Console { position, expected, got } => {
                write!(f, "expected console byte {expected:#04x} at position {position}, got {got:#04x}")
            }
            DivergenceKind::Packets { position, expected, got } => {
                write!(f, "expected packets {expected:#010x} from number {position} on, got {got:#010x}")
            }
            DivergenceKind::Ended { expected } => {
                write!(f, "expected the guest to go on to exit {expected}, got its end")
            }
        }
    }
}

impl std::error::Error for Divergence {}
