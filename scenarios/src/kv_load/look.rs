//! What a store holds before a load and after it, by a connection that is none of a client's.

use super::client::{Answered, AskError, Connection, Reply, key_name};
use super::{LoadError, LoadPlan};
use std::collections::BTreeMap;
use vmm::net::client::SegmentHost;

/// How often one thing is asked for, if the connection is lost each time.
const ASKS_MAX: u32 = 10;

/// What keys have: the number of the write that made it, and the value; `None`: nothing.
pub type Held = BTreeMap<String, Option<(u64, String)>>;

/// Looks into a store. Each look can be repeated, so a connection that is lost is made again, and counted like any other.
pub(super) struct Look<'a> {
    host: &'a SegmentHost,
    plan: &'a LoadPlan,
    connection: Connection,
    seen: Answered,
}

impl<'a> Look<'a> {
    pub(super) fn begin(host: &'a SegmentHost, plan: &'a LoadPlan) -> Result<Self, LoadError> {
        Ok(Self { host, plan, connection: Connection::open(host, plan)?, seen: Answered::default() })
    }

    /// Connections that were lost.
    pub(super) fn end(self) -> Answered {
        self.seen
    }

    /// How many writes the store has counted.
    pub(super) fn sequence(&mut self) -> Result<u64, LoadError> {
        match self.ask("SEQ")? {
            Reply::Sequence(sequence) => Ok(sequence),
            other => Err(unexpected("SEQ", &other)),
        }
    }

    /// What is there for every key of the load.
    pub(super) fn held(&mut self) -> Result<Held, LoadError> {
        let keys: Vec<String> = (0..self.plan.keys).map(key_name).collect();
        keys.into_iter().map(|key| self.held_for(&key).map(|held| (key, held))).collect()
    }

    fn held_for(&mut self, key: &str) -> Result<Option<(u64, String)>, LoadError> {
        match self.ask(&format!("GET {key}"))? {
            Reply::Value { version, value } => Ok(Some((version, value))),
            Reply::None => Ok(None),
            other => Err(unexpected("GET", &other)),
        }
    }

    fn ask(&mut self, request: &str) -> Result<Reply, LoadError> {
        let mut asks = 1;
        loop {
            match self.connection.ask(request) {
                Err(AskError::Lost(error)) if asks < ASKS_MAX => {
                    self.seen.lost(&error);
                    self.connection = Connection::open_patiently(self.host, self.plan)?;
                    self.seen.connections += 1;
                    asks += 1;
                }
                answered => return answered.map_err(unanswered),
            }
        }
    }
}

/// Has the guest end: asked once, as a guest that has ended answers nobody.
pub(super) fn stop(host: &SegmentHost, plan: &LoadPlan) -> Result<(), LoadError> {
    match Connection::open(host, plan)?.ask("STOP").map_err(unanswered)? {
        Reply::Bye => Ok(()),
        other => Err(unexpected("STOP", &other)),
    }
}

fn unanswered(error: AskError) -> LoadError {
    match error {
        AskError::Lost(error) => LoadError::Look(error),
        AskError::Fatal(error) => error,
    }
}

fn unexpected(request: &str, reply: &Reply) -> LoadError {
    LoadError::Protocol { request: request.to_owned(), answer: format!("{reply:?}") }
}
