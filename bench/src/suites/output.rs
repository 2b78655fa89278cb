//! How long outputs wait.
//!
//! Four guests that echo datagrams hang on one segment: one unprotected, one in each mode. A client asks them in turns,
//! round after round, so that whatever disturbs the machine disturbs all of them alike. What protection adds is the
//! difference between two round trips of one round. Beside it stands what ftvm says of itself: the time from the
//! guest's exit until the gate opens. What sending takes then is the same without a gate.

use super::super::lab::{Guest, Lab};
use super::super::row::{Row, Target, Unit};
use super::super::{BenchOptions, Failure};
use ft_protocol::Span;
use ft_protocol::spec::{Mode, NetBackend, NetSpec};
use scenarios::units::ByteCount;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vmm::net::client::{SegmentDatagrams, SegmentHost};
use vmm::net::{Faults, MacAddress, Switch};

/// The target of what replay mode adds.
const ADDED_NS_MAX: f64 = 5_000.0;
/// The echo's port, and ours.
const ECHO_PORT: u16 = 7;
const OWN_PORT: u16 = 4_000;
/// Bits of the guests' network.
const NETWORK_BITS: u8 = 24;
/// How long an answer may take; then the datagram counts as lost.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// How often a guest is asked until it answers for the first time.
const FIRST_TRIES: u32 = 60;
/// Bytes of a datagram.
const ASKED: [u8; 32] = [5; 32];

const MODES: [Mode; 3] = [Mode::Replay, Mode::Lockstep, Mode::Checkpoint];

pub(super) fn measure(options: &BenchOptions, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let rounds = if options.quick { 250 } else { 3_000 };
    let directory = tempfile::tempdir()?;
    let segment = directory.path().join("segment");
    let _switch = Switch::start(&segment, Faults::default())?;
    let plain = Unprotected::start(options, &segment)?;
    let mut lab = Lab::start(options, 3, false)?;
    let places = MODES
        .iter()
        .zip(11u8..)
        .map(|(mode, number)| lab.add(&echo(*mode, &segment, number), &mode.to_string()))
        .collect::<Result<Vec<_>, _>>()?;
    let own = SegmentHost::join(&segment, MacAddress([2, 0, 0, 0, 1, 1]), Ipv4Addr::new(10, 0, 0, 100), NETWORK_BITS)?;
    let socket = own.open_udp(OWN_PORT)?;
    let numbers = [10, 11, 12, 13];
    for number in numbers {
        let answered = (0..FIRST_TRIES).any(|_| ask(&socket, number, Duration::from_millis(500)).is_ok());
        if !answered {
            return Err(format!("the guest at 10.0.0.{number} does not answer").into());
        }
    }
    let mut trips = numbers.map(|_| Vec::new());
    for round in 0..rounds {
        let mut one = [0.0; 4];
        for (trip, number) in one.iter_mut().zip(numbers) {
            *trip = ask(&socket, number, ANSWER_TIME)?;
        }
        one.iter().zip(&mut trips).for_each(|(trip, trips)| trips.push(*trip));
        // The guests' clocks and commits are not to fall in step with the rounds.
        lab.pass(Span::from_us(500 + round * 7_919 % 1_000))?;
    }
    // Hosts tell once a second how long outputs waited.
    lab.pass(Span::from_ms(1_200))?;
    let [unprotected, protected @ ..] = &trips;
    rows.push(Row::new("round trip, unprotected", Unit::Ns, unprotected));
    for ((mode, place), trips) in MODES.iter().zip(places).zip(protected) {
        let added: Vec<f64> = trips.iter().zip(unprotected).map(|(own, plain)| own - plain).collect();
        let told = lab.status(place)?.output_latency.ok_or("the primary has told of no outputs")?;
        let quantiles = [told.p50, told.p99].map(|span| span.ns() as f64);
        rows.push(Row::new(format!("round trip, {mode} mode"), Unit::Ns, trips).in_pairs(
            "unprotected",
            trips,
            unprotected,
        ));
        rows.push(
            Row::new(format!("added to a round trip, {mode} mode"), Unit::Ns, &added)
                .against("ftvm: exit to release", &quantiles[..1]),
        );
        // What a client sees is this and the noise of its own wake-ups, which is larger: this is judged.
        let row = Row::new(format!("exit to release as ftvm says, median, {mode} mode"), Unit::Ns, &quantiles[..1])
            .part("99 %", &quantiles[1..]);
        rows.push(if *mode == Mode::Checkpoint { row } else { row.target(Target::AtMost(ADDED_NS_MAX)) });
    }
    drop(plain);
    lab.run.shut_down_all()?;
    Ok(())
}

fn net(segment: &Path, number: u8) -> NetSpec {
    let backend = NetBackend::Segment(segment.to_string_lossy().into_owned());
    NetSpec { mac: [2, 0, 0, 0, 0, number], backend }
}

fn address(number: u8) -> String {
    format!("10.0.0.{number}/{NETWORK_BITS}")
}

fn echo(mode: Mode, segment: &Path, number: u8) -> Guest {
    let mut guest = Guest::new("netecho", ByteCount::mib(8), mode, &["--ip", &address(number)]);
    guest.nets.push(net(segment, number));
    guest
}

/// The time until a datagram is back, in nanoseconds.
fn ask(socket: &SegmentDatagrams, number: u8, patience: Duration) -> Result<f64, Failure> {
    let to = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, number), ECHO_PORT);
    let begun = Instant::now();
    socket.send_to(&ASKED, to)?;
    loop {
        let left = patience.saturating_sub(begun.elapsed());
        match socket.receive(left) {
            Some((bytes, from)) if from == to && bytes == ASKED => return Ok(begun.elapsed().as_secs_f64() * 1e9),
            // Late answers of another round.
            Some(_) => {}
            None => return Err(format!("{to} did not answer within {} ms", patience.as_millis()).into()),
        }
    }
}

/// A guest without protection.
struct Unprotected {
    child: Child,
}

impl Unprotected {
    fn start(options: &BenchOptions, segment: &Path) -> Result<Self, Failure> {
        let net = format!("segment={},mac=02:00:00:00:00:0a", segment.display());
        let child = Command::new(&options.executable)
            .args(["run", "--mode", "none", "--memory", "8MiB", "--private-to", &std::process::id().to_string()])
            .args(["--net", &net, "builtin:netecho", "--", "--ip", &address(10)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child })
    }
}

impl Drop for Unprotected {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
