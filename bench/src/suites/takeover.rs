//! How long the world sees nothing when a primary dies or hangs.
//!
//! A guest prints line after line; this process reads them, as any client of a console does, and kills the primary's host.
//! The blackout is the time from the kill to the first byte of the successor, as this process sees it. Beside it stands what
//! ftvm says of itself: each step, and when the successor's guest ran.

use super::super::lab::{Guest, Lab};
use super::super::machine::{is_memory, spare_bytes};
use super::super::row::{Judged, Row, Target, Unit};
use super::super::{BenchOptions, Failure};
use ft_protocol::spec::Mode;
use ft_protocol::timeline::Happening;
use ft_protocol::wire::LiveReport;
use ft_protocol::{Span, Time};
use scenarios::cluster::HostSignal;
use scenarios::event::{Event, What};
use scenarios::timeline::Takeover;
use scenarios::units::ByteCount;
use std::path::Path;
use vmm::clock::monotonic;

/// The target for a primary that is killed.
const KILLED_NS_MAX: f64 = 10e6;
/// Epochs that keep a replay short.
const SHORT_EPOCH_MS: u64 = 5;
/// Silence after which a host is suspected, unless it is told otherwise.
const HEARTBEAT_BOUND_NS: f64 = 100e6;
/// The guest runs on between two kills for this long at least, in microseconds.
const REST_US: u64 = 60_000;
/// How long a takeover may take. It only ends what would otherwise be endless.
const PATIENCE: Span = Span::from_ms(30_000);
/// Guest memory in the figure that others are compared with.
const SMALL_MIB: u64 = 64;
/// Memory sizes.
const SIZES_MIB: [u64; 4] = [SMALL_MIB, 1 << 10, 4 << 10, 16 << 10];

/// What a takeover came to.
struct Seen {
    takeover: Takeover,
    report: LiveReport,
}

pub(super) fn measure(options: &BenchOptions, rows: &mut Vec<Row>) -> Result<(), Failure> {
    for mib in SIZES_MIB {
        let Some((options, place)) = place_for(options, mib) else {
            rows.push(Row::new(format!("killed, {}: LEFT OUT, no space", size(mib)), Unit::Ns, &[]));
            continue;
        };
        let kills = match (options.quick, mib) {
            (true, SMALL_MIB) => 16,
            (true, _) => 5,
            (false, SMALL_MIB) => 200,
            (false, _) => 100,
        };
        let guest = talker(mib, Mode::Checkpoint);
        let seen = strike(&options, &guest, HostSignal::Kill, kills)?;
        rows.push(killed_row(&format!("killed, {}{place}", size(mib)), mib, &seen));
    }
    let (kills, hangs) = if options.quick { (8, 5) } else { (100, 50) };
    let short = Span::from_ms(SHORT_EPOCH_MS);
    for (mode, epoch) in [(Mode::Replay, None), (Mode::Replay, Some(short)), (Mode::Lockstep, None)] {
        let mut guest = talker(SMALL_MIB, mode);
        guest.epoch = epoch;
        let seen = strike(options, &guest, HostSignal::Kill, kills)?;
        let epoch = epoch.unwrap_or(mode.default_epoch_interval());
        let name = format!("killed, {}, {mode} mode, epochs of {epoch}: blackout", size(SMALL_MIB));
        // What has run since the last commit runs again, unless the secondary has followed.
        let again = if mode == Mode::Replay && epoch > short { epoch.ns() as f64 } else { 0.0 };
        rows.push(blackout(&name, &seen).judged_by(Judged::P99).target(Target::AtMost(KILLED_NS_MAX + again)));
        if epoch > short {
            rows.extend(replay_rows(mode, &seen));
        }
    }
    let seen = strike(options, &talker(SMALL_MIB, Mode::Checkpoint), HostSignal::Stop, hangs)?;
    rows.push(
        blackout(&format!("hung, {}: blackout", size(SMALL_MIB)), &seen)
            .judged_by(Judged::P99)
            .target(Target::AtMost(HEARTBEAT_BOUND_NS + KILLED_NS_MAX)),
    );
    Ok(())
}

/// Where a VM of this size has room. Its memory is in the pool as a whole, a record of all of it must find space beside, and
/// others want some. Where memory has no room for that a file system of a disk may have: nothing of it is taken before it is
/// written, and the page cache is memory as well as a tmpfs is.
fn place_for(options: &BenchOptions, mib: u64) -> Option<(BenchOptions, &'static str)> {
    let has_room = |place: &Path| mib <= SMALL_MIB || spare_bytes(place) >= (mib << 20) * 7 / 3;
    if has_room(&options.pool_parent) {
        return Some((options.clone(), ""));
    }
    let disk = std::env::temp_dir();
    let elsewhere = || BenchOptions { pool_parent: disk.clone(), ..options.clone() };
    (!is_memory(&disk) && has_room(&disk)).then(|| (elsewhere(), " (pool on a disk)"))
}

fn size(mib: u64) -> String {
    if mib < 1 << 10 { format!("{mib} MiB") } else { format!("{} GiB", mib >> 10) }
}

/// A guest that says something all the time.
fn talker(mib: u64, mode: Mode) -> Guest {
    Guest::new("counter", ByteCount::mib(mib), mode, &["--lines", "1000000000", "--every-us", "300"])
}

/// Strikes a guest's primary again and again.
fn strike(options: &BenchOptions, guest: &Guest, signal: HostSignal, times: usize) -> Result<Vec<Seen>, Failure> {
    let mut lab = Lab::start(options, 3, false)?;
    let place = lab.add(guest, "struck")?;
    let mut seen = Vec::new();
    while seen.len() < times {
        // Not in step with anything.
        let rest = u64::try_from(seen.len())? * 7_919 % 50_000;
        lab.pass(Span::from_us(REST_US + rest))?;
        lab.check_runs(place)?;
        if let Some(one) = strike_once(&mut lab, place, signal)? {
            seen.push(one);
        }
        lab.await_protected(place)?;
    }
    lab.run.shut_down_all()?;
    Ok(seen)
}

fn strike_once(lab: &mut Lab, place: usize, signal: HostSignal) -> Result<Option<Seen>, Failure> {
    let before = lab.run.timeline_of(place).takeovers().len();
    let Some(primary) = lab.run.roles_of(place)?.primary else { return Ok(None) };
    lab.run.signal(&primary, signal)?;
    let deadline = monotonic() + PATIENCE;
    let mut report = None;
    loop {
        report = lab.turn(deadline)?.iter().find_map(live_report).or(report);
        let takeover = lab.run.timeline_of(place).takeovers().get(before);
        if let (Some(takeover), Some(report)) = (takeover, report)
            && takeover.console.is_some()
        {
            let seen = Seen { takeover: takeover.clone(), report };
            if signal == HostSignal::Stop {
                // It is fenced; a new one in its place.
                lab.run.signal(&primary, HostSignal::Kill)?;
            }
            return Ok(Some(seen));
        }
        if monotonic() >= deadline {
            return Err(format!("no takeover within {} s", PATIENCE.ms() / 1000).into());
        }
    }
}

fn live_report(event: &Event) -> Option<LiveReport> {
    match &event.what {
        What::Happened(Happening::Live { report, .. }) => Some(*report),
        _ => None,
    }
}

fn between(from: Option<Time>, to: Option<Time>) -> Option<f64> {
    Some(to?.since(from?).ns() as f64)
}

/// One figure of each takeover that has it.
fn each(seen: &[Seen], of: impl Fn(&Takeover, &LiveReport) -> Option<f64>) -> Vec<f64> {
    seen.iter().filter_map(|seen| of(&seen.takeover, &seen.report)).collect()
}

fn fault(takeover: &Takeover) -> Option<Time> {
    takeover.fault.as_ref().map(|fault| fault.at)
}

fn blackout(name: &str, seen: &[Seen]) -> Row {
    let own = each(seen, |takeover, report| between(fault(takeover), Some(report.live_at)));
    let detected = |takeover: &Takeover| takeover.detected.map(|(at, _)| at);
    let sealed = |takeover: &Takeover| takeover.sealed.map(|(at, _)| at);
    let replayed = |report: &LiveReport| report.replayed_at.unwrap_or(report.loaded_at);
    Row::new(name, Unit::Ns, &each(seen, |takeover, _| between(fault(takeover), takeover.console)))
        .against("ftvm: until the guest ran", &own)
        .part("detection", &each(seen, |takeover, _| between(fault(takeover), detected(takeover))))
        .part("seal", &each(seen, |takeover, _| between(detected(takeover), sealed(takeover))))
        .part("apply", &each(seen, |takeover, _| between(sealed(takeover), takeover.drained)))
        .part("open and order", &each(seen, |takeover, report| between(takeover.drained, Some(report.ordered_at))))
        .part("load", &each(seen, |_, report| between(Some(report.ordered_at), Some(report.loaded_at))))
        .part("replay", &each(seen, |_, report| between(Some(report.loaded_at), Some(replayed(report)))))
        .part("first instruction", &each(seen, |_, report| between(Some(replayed(report)), Some(report.live_at))))
        .part("first output", &each(seen, |takeover, report| between(Some(report.live_at), takeover.console)))
}

fn killed_row(name: &str, mib: u64, seen: &[Seen]) -> Row {
    let target = Target::AtMost(KILLED_NS_MAX);
    let x = mib as f64;
    let row = blackout(&format!("{name}: blackout"), seen).judged_by(Judged::P99).target(target);
    row.point("takeover", x)
}

/// What one entry of the record log costs in a replay.
fn replay_rows(mode: Mode, seen: &[Seen]) -> Vec<Row> {
    let replay = |report: &LiveReport| between(Some(report.loaded_at), report.replayed_at);
    let entries = |report: &LiveReport| report.entries as f64;
    let long = |report: &LiveReport| report.entries > 0;
    let cost = each(seen, |_, report| replay(report).filter(|_| long(report)).map(|ns| ns / entries(report)));
    if cost.is_empty() || mode == Mode::Lockstep {
        return Vec::new();
    }
    let mut rows = vec![Row::new("replay of one entry of the log", Unit::Ns, &cost)];
    for seen in seen.iter().filter(|seen| long(&seen.report)) {
        if let Some(ns) = replay(&seen.report) {
            let name = format!("replay of {} entries", seen.report.entries);
            rows.push(Row::new(name, Unit::Ns, &[ns]).point("replay", entries(&seen.report)));
        }
    }
    // The points are for the plot; one line each would be too many for the table.
    rows.truncate(1 + REPLAYS_SHOWN);
    rows
}

/// Points of the plot of replays.
const REPLAYS_SHOWN: usize = 8;
