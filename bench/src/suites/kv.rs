//! The key-value store under load, unprotected and protected.

use super::super::lab::{Guest, Lab};
use super::super::row::{Row, Unit};
use super::super::{BenchOptions, Failure};
use ft_protocol::Span;
use ft_protocol::spec::{Mode, NetBackend, NetSpec};
use scenarios::kv_load::{self, LoadPlan, LoadReport};
use scenarios::units::ByteCount;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use vmm::clock::monotonic;
use vmm::net::client::SegmentHost;
use vmm::net::{Faults, MacAddress, Switch};

const STORE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 7000);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
const NETWORK_BITS: u8 = 24;
const CLIENTS: u32 = 4;
const MEMORY: ByteCount = ByteCount::mib(16);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// How often the store is tried until it is there.
const TRIES: u32 = 40;

pub(super) fn measure(options: &BenchOptions, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let (rounds, time) = if options.quick { (2, Span::from_ms(700)) } else { (5, Span::from_ms(5_000)) };
    let modes = [Mode::Replay, Mode::Lockstep, Mode::Checkpoint];
    let (mut plain, mut protected) = (Vec::new(), modes.map(|_| Vec::new()));
    for round in 0..rounds {
        plain.push(unprotected(options, time, round)?);
        for (mode, reports) in modes.iter().zip(&mut protected) {
            reports.push(one_protected(options, *mode, time, round)?);
        }
    }
    let throughput = |reports: &[LoadReport]| -> Vec<f64> {
        reports.iter().map(|report| report.answered as f64 * 1e6 / report.took_us.max(1) as f64).collect()
    };
    let latency = |reports: &[LoadReport]| -> Vec<f64> {
        reports.iter().map(|report| report.latency.p50_us as f64 * 1e3).collect()
    };
    for (mode, reports) in modes.iter().zip(&protected) {
        let own = throughput(reports);
        rows.push(Row::new(format!("kv, {CLIENTS} clients, {mode} mode: operations"), Unit::PerSecond, &own).in_pairs(
            "unprotected",
            &own,
            &throughput(&plain),
        ));
        let own = latency(reports);
        rows.push(
            Row::new(format!("kv, {CLIENTS} clients, {mode} mode: median answer time"), Unit::Ns, &own).in_pairs(
                "unprotected",
                &own,
                &latency(&plain),
            ),
        );
    }
    Ok(())
}

fn unprotected(options: &BenchOptions, time: Span, seed: u64) -> Result<LoadReport, Failure> {
    let directory = tempfile::tempdir()?;
    let segment = directory.path().join("segment");
    let _switch = Switch::start(&segment, Faults::default())?;
    let mut child = Command::new(&options.executable)
        .args(["run", "--mode", "none", "--memory", &MEMORY.get().to_string()])
        .args(["--private-to", &std::process::id().to_string()])
        .args(["--net", &format!("segment={},mac={}", segment.display(), MacAddress(MAC)), "builtin:kv"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let result = load(&segment, time, seed);
    // Fails only when it has ended already.
    let _ = child.kill();
    let _ = child.wait();
    result
}

fn one_protected(options: &BenchOptions, mode: Mode, time: Span, seed: u64) -> Result<LoadReport, Failure> {
    let directory = tempfile::tempdir()?;
    let segment = directory.path().join("segment");
    let _switch = Switch::start(&segment, Faults::default())?;
    let mut guest = Guest::new("kv", MEMORY, mode, &[]);
    let backend = NetBackend::Segment(segment.to_string_lossy().into_owned());
    guest.nets.push(NetSpec { mac: MAC, backend });
    let mut lab = Lab::start(options, 2, false)?;
    lab.add(&guest, "kv")?;
    let result = load(&segment, time, seed);
    lab.run.shut_down_all()?;
    result
}

fn load(segment: &Path, time: Span, seed: u64) -> Result<LoadReport, Failure> {
    let host = SegmentHost::join(segment, MacAddress([2, 0, 0, 0, 1, 1]), OWN, NETWORK_BITS)?;
    let plan = LoadPlan {
        to: STORE,
        clients: CLIENTS,
        keys: 64,
        pause: Duration::ZERO,
        seed,
        answer_time_max: Duration::from_secs(30),
    };
    // The guest may not listen yet.
    let connected = (0..TRIES).any(|_| host.connect(STORE, Duration::from_millis(250)).is_ok());
    if !connected {
        return Err("the store does not answer".into());
    }
    let deadline = monotonic() + time;
    let load = kv_load::run(&host, &plan, None, || monotonic() >= deadline)?;
    load.check()?;
    Ok(load.report)
}
