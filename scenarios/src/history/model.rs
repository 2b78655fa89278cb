//! A key-value store, as its clients know it.

use ft_protocol::Time;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A client: one connection, or one thread, that waits for each answer before it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientId(u32);

impl ClientId {
    /// The client with this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}", self.0)
    }
}

/// What a client asks of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Read the value.
    Get,
    /// Write this value.
    Set(String),
    /// Write the new value if the expected one is there.
    Cas {
        /// What is to be there.
        expected: String,
        /// What is written then.
        new: String,
    },
    /// Remove the value.
    Delete,
}

/// What the store answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is done: written, swapped, removed.
    Done,
    /// The value that was read.
    Value(String),
    /// There is no value.
    Missing,
    /// Another value is there than the expected one: nothing was written.
    Mismatch,
}

/// One operation from its invocation to its return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Who.
    pub client: ClientId,
    /// On which key.
    pub key: String,
    /// What.
    pub operation: Operation,
    /// When it was invoked.
    pub invoked: Time,
    /// When it returned, and with what; `None`: its outcome is not known.
    pub returned: Option<(Time, Answer)>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, key, operation, invoked, returned } = self;
        write!(f, "{client}: {operation:?} of `{key}`, invoked at {} ns, ", invoked.ns())?;
        match returned {
            Some((at, answer)) => write!(f, "returned {answer:?} at {} ns", at.ns()),
            None => f.write_str("outcome not known"),
        }
    }
}

/// The value of one key; the search only needs to know which are equal, so that they are numbers here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ValueId(pub(super) u32);

/// What is there for a key.
pub(super) type State = Option<ValueId>;

/// An operation on the one key of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Get,
    Set(ValueId),
    Cas { expected: ValueId, new: ValueId },
    Delete,
}

/// What it returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Done,
    Value(ValueId),
    Missing,
    Mismatch,
}

impl Step {
    /// What the store answers when this is what is there, and what is there then. The whole specification.
    pub(super) fn on(self, state: State) -> (Reply, State) {
        match (self, state) {
            (Self::Get, Some(value)) => (Reply::Value(value), state),
            (Self::Set(value), _) => (Reply::Done, Some(value)),
            (Self::Cas { expected, new }, Some(value)) if value == expected => (Reply::Done, Some(new)),
            (Self::Cas { .. }, Some(_)) => (Reply::Mismatch, state),
            (Self::Delete, Some(_)) => (Reply::Done, None),
            (Self::Get | Self::Cas { .. } | Self::Delete, None) => (Reply::Missing, None),
        }
    }
}
