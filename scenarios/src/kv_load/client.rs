//! One client: a connection, and one request after the other.

use super::writes::AcknowledgedWrite;
use super::{LoadError, LoadPlan, since};
use crate::history::{Answer, Call, ClientId, Operation, Recorder};
use ft_protocol::{Span, Time};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vmm::clock::monotonic;
use vmm::net::client::{ConnectFailure, SegmentHost, SegmentStream};

/// Longest line that the guest sends: an answer with a version and a value.
const ANSWER_BYTES_MAX: u64 = 2048;
/// Connections in a row that may fail before a client gives up.
const CONNECT_TRIES_MAX: u32 = 10;

/// What clients share.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) host: &'a SegmentHost,
    pub(super) plan: &'a LoadPlan,
    pub(super) recorder: Option<&'a Mutex<Recorder<BufWriter<File>>>>,
    /// How many writes the store had counted before: values of one load are those of no other.
    pub(super) sequence_before: u64,
    pub(super) stop: &'a AtomicBool,
    pub(super) fresh_id: &'a AtomicU32,
}

/// What a client was told.
#[derive(Debug, Default)]
pub(super) struct Answered {
    pub(super) writes: Vec<AcknowledgedWrite>,
    pub(super) calls: Vec<Call>,
    /// From request to answer, each.
    pub(super) latencies: Vec<Span>,
    pub(super) resets: u64,
    pub(super) timeouts: u64,
    pub(super) connections: u64,
}

impl Answered {
    /// A connection was lost.
    pub(super) fn lost(&mut self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::TimedOut => self.timeouts += 1,
            _ => self.resets += 1,
        }
    }
}

/// The name of a key.
pub(super) fn key_name(number: u32) -> String {
    format!("key-{number:04}")
}

/// A client.
pub(super) struct Client<'a> {
    around: Surroundings<'a>,
    number: u32,
    id: ClientId,
    connection: Connection,
    random: ChaCha8Rng,
    /// The value that was seen last at each key: what to expect in a swap.
    seen: BTreeMap<String, String>,
    values: u64,
    answered: Answered,
}

impl<'a> Client<'a> {
    pub(super) fn new(around: Surroundings<'a>, number: u32) -> Result<Self, LoadError> {
        let connection = Connection::open(around.host, around.plan)?;
        let mut random = ChaCha8Rng::seed_from_u64(around.plan.seed);
        random.set_stream(number.into());
        let answered = Answered { connections: 1, ..Answered::default() };
        let (id, seen) = (ClientId::new(number), BTreeMap::new());
        Ok(Self { around, number, id, connection, random, seen, values: 0, answered })
    }

    pub(super) fn run(mut self) -> Result<Answered, LoadError> {
        while !self.around.stop.load(Ordering::Relaxed) {
            let key = key_name(self.random.random_range(0..self.around.plan.keys));
            let operation = self.next_operation(&key);
            match self.ask(&key, operation) {
                Ok(()) => std::thread::sleep(self.around.plan.pause),
                Err(AskError::Fatal(error)) => return Err(error),
                Err(AskError::Lost(error)) => self.reconnect(&error)?,
            }
        }
        Ok(self.answered)
    }

    fn next_operation(&mut self, key: &str) -> Operation {
        self.values += 1;
        let new = format!("{}.{}.{}", self.around.sequence_before, self.number, self.values);
        match (self.random.random_range(0..20), self.seen.get(key)) {
            (0..8, _) => Operation::Set(new),
            (8..15, _) => Operation::Get,
            (15, _) => Operation::Delete,
            (_, Some(expected)) => Operation::Cas { expected: expected.clone(), new },
            (_, None) => Operation::Get,
        }
    }

    /// Does one operation, and writes down what came of it.
    fn ask(&mut self, key: &str, operation: Operation) -> Result<(), AskError> {
        let unwritten = |source| AskError::Fatal(LoadError::History(source));
        let invoked = monotonic();
        let recorder = self.around.recorder;
        let under_way = recorder.map(|recorder| lock(recorder).invoke(self.id, key, &operation, invoked));
        let under_way = under_way.transpose().map_err(unwritten)?;
        // Pending until there is an answer.
        let call = Call { client: self.id, key: key.to_owned(), operation: operation.clone(), invoked, returned: None };
        self.answered.calls.push(call);
        let reply = self.connection.ask(&request_line(key, &operation))?;
        let (answer, version) = reply.as_answer();
        let (returned, latency) = since(invoked);
        if let (Some(recorder), Some(under_way)) = (recorder, under_way) {
            lock(recorder).returned(under_way, answer.clone(), returned).map_err(unwritten)?;
        }
        let call = self.answered.calls.last_mut().expect("it was just put there");
        call.returned = Some((returned, answer.clone()));
        self.answered.latencies.push(latency);
        self.remember(key, operation, &answer, version, (invoked, returned));
        Ok(())
    }

    fn remember(
        &mut self,
        key: &str,
        operation: Operation,
        answer: &Answer,
        version: Option<u64>,
        (invoked, returned): (Time, Time),
    ) {
        let value = match (operation, answer) {
            (Operation::Set(new) | Operation::Cas { new, .. }, Answer::Done) => Some(new),
            (Operation::Delete, Answer::Done) => None,
            (_, Answer::Value(value)) => {
                self.seen.insert(key.to_owned(), value.clone());
                return;
            }
            _ => return,
        };
        match &value {
            Some(value) => drop(self.seen.insert(key.to_owned(), value.clone())),
            None => drop(self.seen.remove(key)),
        }
        let version = version.expect("what is done has a version");
        self.answered.writes.push(AcknowledgedWrite { key: key.to_owned(), value, version, invoked, returned });
    }

    /// A connection was lost, and with it the outcome of an operation. Another client goes on in this one's place.
    fn reconnect(&mut self, lost: &io::Error) -> Result<(), LoadError> {
        self.answered.lost(lost);
        self.id = ClientId::new(self.around.fresh_id.fetch_add(1, Ordering::Relaxed));
        self.connection = Connection::open_patiently(self.around.host, self.around.plan)?;
        self.answered.connections += 1;
        Ok(())
    }
}

fn request_line(key: &str, operation: &Operation) -> String {
    match operation {
        Operation::Get => format!("GET {key}"),
        Operation::Set(value) => format!("SET {key} {value}"),
        Operation::Cas { expected, new } => format!("CAS {key} {expected} {new}"),
        Operation::Delete => format!("DEL {key}"),
    }
}

fn lock<T>(recorder: &Mutex<T>) -> MutexGuard<'_, T> {
    // A client that panicked is reported by whoever joins it.
    recorder.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why an operation has no answer.
pub(super) enum AskError {
    /// Its connection is gone.
    Lost(io::Error),
    /// There is no going on.
    Fatal(LoadError),
}

impl From<io::Error> for AskError {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

/// What the guest answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Value { version: u64, value: String },
    None,
    Done { version: u64 },
    Mismatch,
    Sequence(u64),
    Bye,
}

impl Reply {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        Some(match words[..] {
            ["VALUE", version, value] => Self::Value { version: version.parse().ok()?, value: value.to_owned() },
            ["NONE"] => Self::None,
            ["OK", version] => Self::Done { version: version.parse().ok()? },
            ["MISMATCH", _] => Self::Mismatch,
            ["SEQ", sequence] => Self::Sequence(sequence.parse().ok()?),
            ["BYE"] => Self::Bye,
            _ => return None,
        })
    }

    /// What it is in a history, and the version that goes with it.
    fn as_answer(&self) -> (Answer, Option<u64>) {
        match self {
            Self::Value { version, value } => (Answer::Value(value.clone()), Some(*version)),
            Self::Done { version } => (Answer::Done, Some(*version)),
            Self::Mismatch => (Answer::Mismatch, None),
            Self::None | Self::Sequence(_) | Self::Bye => (Answer::Missing, None),
        }
    }
}

/// A connection to the guest.
pub(super) struct Connection {
    stream: BufReader<SegmentStream>,
}

impl Connection {
    pub(super) fn open(host: &SegmentHost, plan: &LoadPlan) -> Result<Self, ConnectFailure> {
        Ok(Self { stream: BufReader::new(host.connect(plan.to, plan.answer_time_max)?) })
    }

    /// The same, where a connection was there before.
    pub(super) fn open_patiently(host: &SegmentHost, plan: &LoadPlan) -> Result<Self, ConnectFailure> {
        let mut tries = 1;
        loop {
            match Self::open(host, plan) {
                Err(_) if tries < CONNECT_TRIES_MAX => tries += 1,
                opened => return opened,
            }
        }
    }

    /// Asks and waits for the answer.
    pub(super) fn ask(&mut self, request: &str) -> Result<Reply, AskError> {
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        let read = io::BufRead::read_line(&mut (&mut self.stream).take(ANSWER_BYTES_MAX), &mut line)?;
        let Some(line) = line.strip_suffix('\n') else {
            let kind = if read == 0 { io::ErrorKind::ConnectionReset } else { io::ErrorKind::UnexpectedEof };
            return Err(AskError::Lost(kind.into()));
        };
        Reply::parse(line).ok_or_else(|| {
            let shorten = |text: &str| text.chars().take(80).collect();
            AskError::Fatal(LoadError::Protocol { request: shorten(request), answer: shorten(line) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_the_protocol_has_them() {
        assert_eq!(Reply::parse("VALUE 7 a.1"), Some(Reply::Value { version: 7, value: "a.1".to_owned() }));
        assert_eq!(Reply::parse("OK 8"), Some(Reply::Done { version: 8 }));
        assert_eq!(Reply::parse("MISMATCH 8"), Some(Reply::Mismatch));
        for bad in ["", "OK", "OK x", "VALUE 7", "VALUE 7 a b", "ERR the store is full", "NONE "] {
            assert_eq!(Reply::parse(bad), None, "{bad}");
        }
    }
}
