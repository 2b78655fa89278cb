//! Load for the guest `netecho`: connections and datagrams on a segment, of which every byte must come back. Whatever happens
//! to hosts meanwhile, nobody must be able to tell: over a connection everything comes once and in order. A datagram may be lost
//! or come twice, as on any network (nobody knows whether what a host sent last has left it), but as it was.

use crate::history::{Recorder, UnderWay};
use crate::kv_load::Quantiles;
use ft_protocol::{Span, Time};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use vmm::clock::monotonic;
use vmm::net::client::{ConnectFailure, SegmentDatagrams, SegmentHost, SegmentStream};

/// Most bytes that are under way in a connection: less than any window of the guest, so that neither side waits for the other.
const CHUNK_BYTES_MAX: usize = 2048;
/// Most bytes of a datagram.
const DATAGRAM_BYTES_MAX: usize = 1024;
/// The number at the beginning of each datagram.
const NUMBER_BYTES: usize = 8;
/// How long the next datagram waits for the answer to the one before; its answer may still come later.
const DATAGRAM_PATIENCE: Duration = Duration::from_millis(20);
/// How long answers may be late at the end.
const DATAGRAM_LATE: Duration = Duration::from_millis(500);
/// Between two looks whether a load is over.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// The port that datagrams come from.
const DATAGRAM_PORT: u16 = 40_007;

/// What is sent.
#[derive(Clone, Debug)]
pub struct EchoPlan {
    /// Where the guest is.
    pub to: SocketAddrV4,
    /// Connections, each with so many bytes under way at a time.
    pub connections: u32,
    /// Whether there are datagrams, too.
    pub datagrams: bool,
    /// Pause of each between an answer and what is sent next.
    pub pause: Duration,
    /// What is sent: the same seed sends the same.
    pub seed: u64,
    /// How long an answer may take.
    pub answer_time_max: Duration,
}

/// What came of it, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EchoReport {
    /// Connections that were made.
    pub connections: u64,
    /// Bytes that came back over them.
    pub bytes: u64,
    /// Connections that were reset or ended by the guest.
    pub resets: u64,
    /// Answers that did not come in time.
    pub timeouts: u64,
    /// Datagrams that were sent.
    pub datagrams: u64,
    /// Datagrams that came back.
    pub datagrams_returned: u64,
    /// How often one came back once more.
    pub datagrams_repeated: u64,
    /// How long it went on, in microseconds.
    pub took_us: u64,
    /// From the last byte of a chunk sent to the last one that came back.
    pub latency: Quantiles,
}

/// Why there is no load.
#[derive(Debug, thiserror::Error)]
pub enum EchoError {
    /// The guest cannot be connected to.
    #[error("cannot connect to the guest")]
    Connect(#[from] ConnectFailure),
    /// The history cannot be written.
    #[error("cannot write the history")]
    History(#[source] io::Error),
    /// Datagrams cannot be sent at all.
    #[error("cannot open a port for datagrams")]
    Port(#[source] io::Error),
}

/// What is wrong with what came back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EchoViolation {
    /// Not what was sent.
    #[error("connection {connection}: byte {at} came back as {got:#04x}, not as {sent:#04x}")]
    Content {
        /// Which, from 0.
        connection: u32,
        /// Where in its stream.
        at: u64,
        /// What was sent.
        sent: u8,
        /// What came.
        got: u8,
    },
    /// More than was sent.
    #[error("connection {connection}: more came back than the {sent} bytes that were sent")]
    TooMuch {
        /// Which, from 0.
        connection: u32,
        /// Bytes that were sent.
        sent: u64,
    },
    /// Not a datagram that was sent.
    #[error("a datagram came back that was never sent, or not so")]
    Datagram,
    /// Connections broke.
    #[error("{resets} connections were reset, {timeouts} answers did not come in time")]
    Connections {
        /// Resets.
        resets: u64,
        /// Answers that did not come.
        timeouts: u64,
    },
    /// There is nothing to be judged.
    #[error("nothing came back: nothing is known of the guest")]
    NoAnswer,
}

/// What came of one connection, or of the datagrams.
#[derive(Debug, Default)]
struct Seen {
    report: EchoReport,
    latencies: Vec<Span>,
    violation: Option<EchoViolation>,
    unwritten: Option<io::Error>,
}

/// Where it is kept what happened, if it is.
type History = Option<Mutex<Recorder<BufWriter<File>>>>;

/// Something has begun, or is over. A history that cannot be written ends the load in the end, and not in its middle.
fn record<T>(
    history: &History,
    seen: &mut Seen,
    entry: impl FnOnce(&mut Recorder<BufWriter<File>>) -> io::Result<T>,
) -> Option<T> {
    // Who panicked is reported by whoever joins it.
    let recorder = &mut *history.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
    entry(recorder).map_err(|error| seen.unwritten = Some(error)).ok()
}

/// Sends until `is_over` says so, and checks what comes back; `history` is a file that is to have what happened even if this
/// process dies.
///
/// # Errors
/// The guest cannot be connected to at the beginning, or the history cannot be written.
pub fn run(
    host: &SegmentHost,
    plan: &EchoPlan,
    history: Option<&Path>,
    is_over: impl Fn() -> bool,
) -> Result<(EchoReport, Result<(), EchoViolation>), EchoError> {
    let history = history.map(Recorder::create).transpose().map_err(EchoError::History)?.map(Mutex::new);
    let began = monotonic();
    let connect = |number| host.connect(plan.to, plan.answer_time_max).map(|stream| (number, stream));
    let streams: Vec<(u32, SegmentStream)> = (0..plan.connections).map(connect).collect::<Result<_, _>>()?;
    let datagrams = plan.datagrams.then(|| host.open_udp(DATAGRAM_PORT)).transpose().map_err(EchoError::Port)?;
    let stop = AtomicBool::new(false);
    let mut seen: Vec<Seen> = std::thread::scope(|scope| {
        let (stop, history) = (&stop, &history);
        let mut threads: Vec<_> = streams
            .into_iter()
            .map(|(number, stream)| scope.spawn(move || echo_stream(plan, number, stream, history, stop)))
            .collect();
        threads.extend(datagrams.map(|datagrams| scope.spawn(move || echo_datagrams(plan, &datagrams, history, stop))));
        while !is_over() && !threads.iter().any(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(LOOK_INTERVAL);
        }
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("these threads do not panic")).collect()
    });
    let mut report = EchoReport { took_us: monotonic().since(began).ns() / 1_000, ..EchoReport::default() };
    for Seen { report: one, .. } in &seen {
        report.connections += one.connections;
        report.bytes += one.bytes;
        report.resets += one.resets;
        report.timeouts += one.timeouts;
        report.datagrams += one.datagrams;
        report.datagrams_returned += one.datagrams_returned;
        report.datagrams_repeated += one.datagrams_repeated;
    }
    report.latency = Quantiles::of(seen.iter().flat_map(|one| &one.latencies).map(|span| span.ns() / 1_000).collect());
    if let Some(error) = seen.iter_mut().find_map(|one| one.unwritten.take()) {
        return Err(EchoError::History(error));
    }
    let violation = seen.into_iter().find_map(|one| one.violation);
    let judged = match violation {
        Some(violation) => Err(violation),
        None if report.resets > 0 || report.timeouts > 0 => {
            Err(EchoViolation::Connections { resets: report.resets, timeouts: report.timeouts })
        }
        None if report.bytes == 0 && report.datagrams_returned == 0 => Err(EchoViolation::NoAnswer),
        None => Ok(()),
    };
    Ok((report, judged))
}

fn random(plan: &EchoPlan, stream: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(plan.seed);
    random.set_stream(stream);
    random
}

/// What became of what was sent over a connection: it is over only if something came back, as sent or not. What was not answered is no
/// answer.
fn note_outcome<W: Write>(
    history: &mut Recorder<W>,
    under_way: UnderWay,
    connection: u32,
    came: Result<bool, &io::Error>,
    at: Time,
) -> io::Result<()> {
    match came {
        Ok(true) => history.end(under_way, "all came back".to_owned(), at),
        Ok(false) => history.end(under_way, "something else came back".to_owned(), at),
        Err(error) => history.note(format!("connection {connection}: {error}"), at),
    }
}

fn echo_stream(plan: &EchoPlan, number: u32, mut stream: SegmentStream, history: &History, stop: &AtomicBool) -> Seen {
    let mut seen = Seen { report: EchoReport { connections: 1, ..EchoReport::default() }, ..Seen::default() };
    let mut random = random(plan, number.into());
    while !stop.load(Ordering::Relaxed) {
        let mut sent = vec![0; random.random_range(1..=CHUNK_BYTES_MAX)];
        random.fill(&mut sent[..]);
        let mut got = vec![0; sent.len()];
        let what = format!("connection {number}: {} bytes from {} on", sent.len(), seen.report.bytes);
        let under_way = record(history, &mut seen, |history| history.begin(what, monotonic()));
        let done = stream.write_all(&sent).and_then(|()| {
            let began = monotonic();
            stream.read_exact(&mut got).map(|()| monotonic().since(began))
        });
        if let Some(under_way) = under_way {
            let came = done.as_ref().map(|_| sent == got);
            record(history, &mut seen, |history| note_outcome(history, under_way, number, came, monotonic()));
        }
        match done {
            Ok(latency) => seen.latencies.push(latency),
            Err(error) => {
                match error.kind() {
                    io::ErrorKind::TimedOut => seen.report.timeouts += 1,
                    _ => seen.report.resets += 1,
                }
                return seen;
            }
        }
        if let Some(within) = sent.iter().zip(&got).position(|(sent, got)| sent != got) {
            let at = seen.report.bytes + within as u64;
            let (sent, got) = (sent[within], got[within]);
            seen.violation = Some(EchoViolation::Content { connection: number, at, sent, got });
            return seen;
        }
        seen.report.bytes += sent.len() as u64;
        std::thread::sleep(plan.pause);
    }
    // Its end comes behind everything that the guest has to say.
    stream.shut_down();
    match stream.read(&mut [0]) {
        Ok(0) => {}
        Ok(_) => seen.violation = Some(EchoViolation::TooMuch { connection: number, sent: seen.report.bytes }),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => seen.report.timeouts += 1,
        Err(_) => seen.report.resets += 1,
    }
    seen
}

/// A datagram that was sent.
struct Datagram {
    bytes: Vec<u8>,
    /// How the history calls it.
    under_way: Option<UnderWay>,
    returned: bool,
}

fn echo_datagrams(plan: &EchoPlan, datagrams: &SegmentDatagrams, history: &History, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut random = random(plan, u64::MAX);
    let mut sent: BTreeMap<u64, Datagram> = BTreeMap::new();
    let take = |seen: &mut Seen, sent: &mut BTreeMap<u64, Datagram>, patience: Duration| {
        let Some((got, _)) = datagrams.receive(patience) else { return false };
        let number = got.first_chunk::<NUMBER_BYTES>().map(|bytes| u64::from_le_bytes(*bytes));
        let datagram = number.and_then(|number| sent.get_mut(&number)).filter(|datagram| datagram.bytes == got);
        let note = match datagram {
            Some(datagram) if !datagram.returned => {
                datagram.returned = true;
                seen.report.datagrams_returned += 1;
                let under_way = datagram.under_way.take();
                under_way.and_then(|under_way| {
                    record(history, seen, |history| history.end(under_way, "it came back".to_owned(), monotonic()))
                });
                return true;
            }
            Some(_) => {
                seen.report.datagrams_repeated += 1;
                format!("datagram {} came back once more", number.unwrap_or_default())
            }
            None => {
                seen.violation = Some(EchoViolation::Datagram);
                EchoViolation::Datagram.to_string()
            }
        };
        record(history, seen, |history| history.note(note, monotonic()));
        true
    };
    while !stop.load(Ordering::Relaxed) && seen.violation.is_none() {
        let number = seen.report.datagrams;
        let mut bytes = vec![0; random.random_range(NUMBER_BYTES..=DATAGRAM_BYTES_MAX)];
        random.fill(&mut bytes[..]);
        bytes[..NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
        let what = format!("datagram {number}: {} bytes", bytes.len());
        let under_way = record(history, &mut seen, |history| history.begin(what, monotonic()));
        // One that finds no room is lost, like any other.
        let _ = datagrams.send_to(&bytes, plan.to);
        sent.insert(number, Datagram { bytes, under_way, returned: false });
        seen.report.datagrams += 1;
        take(&mut seen, &mut sent, DATAGRAM_PATIENCE);
        std::thread::sleep(plan.pause);
    }
    while seen.violation.is_none() && take(&mut seen, &mut sent, DATAGRAM_LATE) {}
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::What;
    use crate::history;

    /// A reset behind a takeover was taken for the successor's first answer.
    #[test]
    fn what_was_not_answered_is_a_note_and_ends_no_blackout() {
        let is_answer = |came: Result<bool, &io::Error>| {
            let mut bytes = Vec::new();
            let mut recorder = Recorder::new(&mut bytes);
            let under_way = recorder.begin("connection 0: 5 bytes".to_owned(), Time::ZERO).expect("it is memory");
            note_outcome(&mut recorder, under_way, 0, came, Time::ZERO).expect("it is memory");
            let lines: Vec<history::Line> = history::lines(&bytes).collect::<Result<_, _>>().expect("a history");
            let [_, history::Line { id, entry, .. }] = &lines[..] else { panic!("{lines:?}") };
            What::WorkloadTold { workload: "w".to_owned(), id: *id, entry: entry.clone() }.is_answer()
        };
        assert!(is_answer(Ok(true)) && is_answer(Ok(false)));
        for kind in [io::ErrorKind::ConnectionReset, io::ErrorKind::TimedOut] {
            assert!(!is_answer(Err(&kind.into())), "{kind}");
        }
    }
}
