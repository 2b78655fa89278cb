//! Load for the guest `kv` (docs/kv.md): clients on a segment that write down what they asked and were told, and checks of
//! it. Whatever happens to hosts meanwhile, clients must not be able to tell.
//!
//! Three checks, each of something that the others cannot see: the history is linearizable; the numbers that writes were
//! acknowledged with are those of one count that never went back; and at the end every key has what was acknowledged last.

mod client;
mod report;
mod writes;

pub use report::{LoadReport, Quantiles};
pub use writes::{AcknowledgedWrite, WriteViolation};

use crate::history::{self, Answer, Bounds, Call, Checked, ClientId, Operation, Recorder, Verdict};
use client::{Answered, Client, Connection, Surroundings};
use ft_protocol::{Span, Time};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use vmm::clock::monotonic;
use vmm::net::client::{ConnectFailure, SegmentHost};

/// What clients do.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// Where the guest is.
    pub to: SocketAddrV4,
    /// Clients, each with a connection of its own and one request at a time.
    pub clients: u32,
    /// Keys that they share.
    pub keys: u32,
    /// Pause of a client between an answer and its next request.
    pub pause: Duration,
    /// What is asked for: the same seed asks for the same, as far as answers allow.
    pub seed: u64,
    /// How long an answer may take. One that takes longer is given up, and with it its connection.
    pub answer_time_max: Duration,
}

/// What clients saw.
#[derive(Clone, Debug)]
pub struct Load {
    /// Operations in the order in which they were invoked.
    pub history: Vec<Call>,
    /// Writes that were acknowledged.
    pub writes: Vec<AcknowledgedWrite>,
    /// How many writes the store had counted before the load began.
    pub sequence_before: u64,
    /// What keys had before the load began, those that had anything.
    pub before: BTreeMap<String, String>,
    /// What every key has in the end.
    pub finally: BTreeMap<String, Option<(u64, String)>>,
    /// How many writes the store has counted in the end.
    pub sequence: u64,
    /// All of it in numbers.
    pub report: LoadReport,
}

/// Why there is no load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The guest cannot be connected to.
    #[error("cannot connect to the guest")]
    Connect(#[from] ConnectFailure),
    /// The connection that looks at the end failed.
    #[error("the guest does not say what it holds")]
    Finally(#[source] io::Error),
    /// The history cannot be written.
    #[error("cannot write the history")]
    History(#[source] io::Error),
    /// The guest's answer is none of its protocol.
    #[error("the guest answered {request:?} with {answer:?}")]
    Protocol {
        /// What was asked.
        request: String,
        /// What came.
        answer: String,
    },
}

/// What the checks of a load found wrong.
#[derive(Debug, thiserror::Error)]
pub enum LoadViolation {
    /// No order of operations explains the answers.
    #[error("the history is not linearizable: {0}")]
    History(Box<history::Violation>),
    /// Nobody knows.
    #[error("whether the history of key `{key}` is linearizable could not be decided")]
    Undecided {
        /// The key.
        key: String,
    },
    /// A write was lost.
    #[error(transparent)]
    Write(#[from] WriteViolation),
    /// There is nothing to be judged.
    #[error("no request was answered: nothing is known of the guest")]
    NoAnswer,
    /// Connections broke.
    #[error("{resets} connections were reset, {timeouts} requests had no answer in time")]
    Connections {
        /// Resets.
        resets: u64,
        /// Answers that did not come.
        timeouts: u64,
    },
}

/// Runs clients until `is_over` says so; `history` is a file that is to have what happened even if this process dies.
///
/// # Errors
/// The guest cannot be reached at the beginning or the end, speaks another protocol, or the history cannot be written.
pub fn run(
    host: &SegmentHost,
    plan: &LoadPlan,
    history: Option<&Path>,
    is_over: impl Fn() -> bool,
) -> Result<Load, LoadError> {
    let recorder = history.map(Recorder::create).transpose().map_err(LoadError::History)?.map(Mutex::new);
    let (stop, fresh_id) = (AtomicBool::new(false), AtomicU32::new(plan.clients));
    let around = Surroundings { host, plan, recorder: recorder.as_ref(), stop: &stop, fresh_id: &fresh_id };
    let (sequence_before, before) = found(host, plan)?;
    let began = monotonic();
    // The first connections: a guest that is not there is no history.
    let clients: Vec<Client<'_>> =
        (0..plan.clients).map(|number| Client::new(around, number)).collect::<Result<_, _>>()?;
    let outcomes: Vec<Result<Answered, LoadError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = clients.into_iter().map(|client| scope.spawn(move || client.run())).collect();
        while !is_over() && !threads.iter().any(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(LOOK_INTERVAL);
        }
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("clients do not panic")).collect()
    });
    let answered = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    let took = monotonic().since(began);
    let mut connection = Connection::open(host, plan)?;
    let sequence = connection.sequence()?;
    let mut finally = BTreeMap::new();
    for key in (0..plan.keys).map(client::key_name) {
        let held = connection.held(&key)?;
        finally.insert(key, held);
    }
    let report = LoadReport::new(&answered, took);
    let (mut history, mut writes) = (Vec::new(), Vec::new());
    for client in answered {
        history.extend(client.calls);
        writes.extend(client.writes);
    }
    history.sort_by_key(|call| call.invoked);
    Ok(Load { history, writes, sequence_before, before, finally, sequence, report })
}

/// What earlier writes have left in the store: how many there were, and what keys have.
fn found(host: &SegmentHost, plan: &LoadPlan) -> Result<(u64, BTreeMap<String, String>), LoadError> {
    let mut connection = Connection::open(host, plan)?;
    let sequence = connection.sequence()?;
    let mut held = BTreeMap::new();
    if sequence > 0 {
        for key in (0..plan.keys).map(client::key_name) {
            if let Some((_, value)) = connection.held(&key)? {
                held.insert(key, value);
            }
        }
    }
    Ok((sequence, held))
}

/// Whoever wrote what a load has found: no client of it.
const EARLIER: ClientId = ClientId::new(u32::MAX);

/// Between two looks whether a load is over.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Has the guest end.
///
/// # Errors
/// It cannot be reached, or does not say that it does.
pub fn stop(host: &SegmentHost, plan: &LoadPlan) -> Result<(), LoadError> {
    Connection::open(host, plan)?.stop()
}

impl Load {
    /// Checks that nobody could have told that something happened to the guest.
    ///
    /// # Errors
    /// The first thing that is wrong, the worst first.
    pub fn check(&self) -> Result<Checked, LoadViolation> {
        let counted = (self.sequence_before, self.sequence);
        writes::check(&self.writes, &self.finally, counted, self.unanswered_writes())?;
        let checked = history::check(&self.whole_history(), Bounds::default());
        match &checked.verdict {
            Verdict::Linearizable => {}
            Verdict::Violated(violation) => return Err(LoadViolation::History(violation.clone())),
            Verdict::Undecided { key } => return Err(LoadViolation::Undecided { key: key.clone() }),
        }
        match (self.report.resets, self.report.timeouts) {
            (0, 0) if self.report.answered == 0 => Err(LoadViolation::NoAnswer),
            (0, 0) => Ok(checked),
            (resets, timeouts) => Err(LoadViolation::Connections { resets, timeouts }),
        }
    }

    /// The history, with what was there before it as if it had been written at its beginning.
    fn whole_history(&self) -> Vec<Call> {
        let earlier = |(key, value): (&String, &String)| {
            let (operation, returned) = (Operation::Set(value.clone()), Some((Time::ZERO, Answer::Done)));
            Call { client: EARLIER, key: key.clone(), operation, invoked: Time::ZERO, returned }
        };
        self.before.iter().map(earlier).chain(self.history.iter().cloned()).collect()
    }

    /// Writes that may have happened or not.
    fn unanswered_writes(&self) -> u64 {
        let is_write = |call: &&Call| call.returned.is_none() && call.operation != Operation::Get;
        self.history.iter().filter(is_write).count() as u64
    }
}

/// A moment, and how long ago another was.
fn since(earlier: Time) -> (Time, Span) {
    let now = monotonic();
    (now, now.since(earlier))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by an acceptance test: the second load of one store failed, as all that the first had written was taken for lost.
    #[test]
    fn a_store_that_was_written_to_before_can_be_loaded_again() {
        let at = Time::from_ns;
        let key = "key-0000".to_owned();
        let call = |operation, (invoked, returned), answer| Call {
            client: ClientId::new(0),
            key: key.clone(),
            operation,
            invoked: at(invoked),
            returned: Some((at(returned), answer)),
        };
        let history = vec![
            call(Operation::Get, (1, 2), Answer::Value("old".to_owned())),
            call(Operation::Set("new".to_owned()), (3, 4), Answer::Done),
        ];
        let writes = [AcknowledgedWrite {
            key: key.clone(),
            value: Some("new".to_owned()),
            version: 8,
            invoked: at(3),
            returned: at(4),
        }];
        let report =
            LoadReport::new(&[Answered { latencies: vec![Span::from_ms(1)], ..Answered::default() }], Span::ZERO);
        let mut load = Load {
            history,
            writes: writes.to_vec(),
            sequence_before: 7,
            before: BTreeMap::from([(key.clone(), "old".to_owned())]),
            finally: BTreeMap::from([(key.clone(), Some((8, "new".to_owned())))]),
            sequence: 8,
            report,
        };
        load.check().expect("all that was acknowledged is there");
        load.before.clear();
        assert!(matches!(load.check(), Err(LoadViolation::History(_))), "nobody wrote what was read");
    }
}
