//! Load for the guest `kv` (docs/kv.md): clients on a segment that write down what they asked and were told, and checks of
//! it. Whatever happens to hosts meanwhile, clients must not be able to tell.
//!
//! Three checks, each of something that the others cannot see: the history is linearizable; the numbers that writes were
//! acknowledged with are those of one count that never went back; and at the end every key has what was acknowledged last.

mod client;
mod look;
mod report;
mod writes;

pub use look::Held;
pub use report::{LoadReport, Quantiles};
pub use writes::{AcknowledgedWrite, WriteViolation};

use crate::history::{self, Answer, Bounds, Call, Checked, ClientId, Operation, Recorder, Verdict};
use client::{Answered, Client, Surroundings};
use ft_protocol::{Span, Time};
use look::Look;
use std::fs::File;
use std::io::{self, BufWriter};
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use vmm::clock::monotonic;
use vmm::net::client::{ConnectFailure, SegmentHost};
use writes::Store;

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
    /// Operations in the order in which they were invoked: first what was there before, as if it had been written at the beginning.
    pub history: Vec<Call>,
    /// Writes that were acknowledged.
    pub writes: Vec<AcknowledgedWrite>,
    /// How many writes the store had counted before the load began.
    pub sequence_before: u64,
    /// What every key had before the load began.
    pub before: Held,
    /// What every key has in the end.
    pub finally: Held,
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
    /// A look at what is there, before or after it, had no answer, however often it was asked for.
    #[error("the guest does not say what it holds")]
    Look(#[source] io::Error),
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
    let looked = monotonic();
    let mut look = Look::begin(host, plan)?;
    let sequence_before = look.sequence()?;
    let before = look.held()?;
    let looked_before = look.end();
    let began = monotonic();
    let mut history = written_before(&before, (looked, began));
    if let Some(recorder) = &recorder {
        record(recorder, &history).map_err(LoadError::History)?;
    }
    let around =
        Surroundings { host, plan, recorder: recorder.as_ref(), sequence_before, stop: &stop, fresh_id: &fresh_id };
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
    let mut answered = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    let took = monotonic().since(began);
    let mut look = Look::begin(host, plan)?;
    let sequence = look.sequence()?;
    let finally = look.held()?;
    answered.extend([looked_before, look.end()]);
    let report = LoadReport::new(&answered, took);
    let mut writes = Vec::new();
    for client in answered {
        history.extend(client.calls);
        writes.extend(client.writes);
    }
    history.sort_by_key(|call| call.invoked);
    Ok(Load { history, writes, sequence_before, before, finally, sequence, report })
}

/// What earlier writes have left in the store, as writes of nobody's: whatever reads it later has read something that was written.
fn written_before(before: &Held, (invoked, returned): (Time, Time)) -> Vec<Call> {
    let call = |(key, held): (&String, &Option<(u64, String)>)| {
        let (_, value) = held.clone()?;
        let (operation, returned) = (Operation::Set(value), Some((returned, Answer::Done)));
        Some(Call { client: EARLIER, key: key.clone(), operation, invoked, returned })
    };
    before.iter().filter_map(call).collect()
}

/// Writes down what is over already.
fn record(recorder: &Mutex<Recorder<BufWriter<File>>>, calls: &[Call]) -> io::Result<()> {
    let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
    calls.iter().try_for_each(|Call { client, key, operation, invoked, returned }| {
        let under_way = recorder.invoke(*client, key, operation, *invoked)?;
        match returned {
            Some((at, answer)) => recorder.returned(under_way, answer.clone(), *at),
            None => Ok(()),
        }
    })
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
    look::stop(host, plan)
}

impl Load {
    /// Checks that nobody could have told that something happened to the guest.
    ///
    /// # Errors
    /// The first thing that is wrong, the worst first.
    pub fn check(&self) -> Result<Checked, LoadViolation> {
        let store = Store {
            counted_before: self.sequence_before,
            before: &self.before,
            counted: self.sequence,
            finally: &self.finally,
        };
        writes::check(&self.writes, &store, self.unanswered_writes())?;
        let checked = history::check(&self.history, Bounds::default());
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

    const KEY: &str = "key-0000";

    fn held(version: u64, value: &str) -> Held {
        Held::from([(KEY.to_owned(), Some((version, value.to_owned())))])
    }

    /// A store that has seven writes, the last one of them `old`; a load that reads that, and writes.
    fn second_load() -> Load {
        let at = Time::from_ns;
        let call = |operation, (invoked, returned), answer| Call {
            client: ClientId::new(0),
            key: KEY.to_owned(),
            operation,
            invoked: at(invoked),
            returned: Some((at(returned), answer)),
        };
        let before = held(7, "old");
        let mut history = written_before(&before, (at(0), at(1)));
        history.push(call(Operation::Get, (1, 2), Answer::Value("old".to_owned())));
        history.push(call(Operation::Set("new".to_owned()), (3, 4), Answer::Done));
        let (key, value) = (KEY.to_owned(), Some("new".to_owned()));
        let writes = vec![AcknowledgedWrite { key, value, version: 8, invoked: at(3), returned: at(4) }];
        let answered = Answered { latencies: vec![Span::from_ms(1)], ..Answered::default() };
        let report = LoadReport::new(&[answered], Span::ZERO);
        Load { history, writes, sequence_before: 7, before, finally: held(8, "new"), sequence: 8, report }
    }

    /// Found by an acceptance test: the second load of one store failed, as all that the first had written was taken for lost.
    #[test]
    fn a_store_that_was_written_to_before_can_be_loaded_again() {
        let mut load = second_load();
        load.check().expect("all that was acknowledged is there");
        load.history.remove(0);
        assert!(matches!(load.check(), Err(LoadViolation::History(_))), "nobody wrote what was read");
    }

    /// A load was right by itself, and its history by itself was not.
    #[test]
    fn the_file_of_a_history_has_what_was_there_before() {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let path = directory.path().join("history.jsonl");
        let recorder = Mutex::new(Recorder::create(&path).expect("it can be made"));
        let load = second_load();
        record(&recorder, &load.history).expect("it can be written");
        let read = history::read(&path).expect("a history");
        assert_eq!(read, load.history);
        assert!(matches!(history::check(&read, Bounds::default()).verdict, Verdict::Linearizable));
    }
}
