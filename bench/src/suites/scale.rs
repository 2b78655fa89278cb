//! Many VMs on one pool, many hosts.

use super::super::lab::{Guest, Lab};
use super::super::processes::CpuWatch;
use super::super::row::{Row, Unit};
use super::super::{BenchOptions, Failure};
use ft_protocol::Span;
use ft_protocol::spec::Mode;
use ft_protocol::timeline::Happening;
use scenarios::cluster::{HostName, HostSignal};
use scenarios::event::What;
use scenarios::units::ByteCount;
use vmm::clock::monotonic;

/// Memory of a small VM.
const MEMORY: ByteCount = ByteCount::mib(4);

pub(super) fn measure(options: &BenchOptions, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let counts: &[usize] = if options.quick { &[1, 8, 32] } else { &[1, 2, 4, 8, 16, 32, 64] };
    let mut alone = None;
    for count in counts {
        rows.extend(many_vms(options, *count, &mut alone)?);
    }
    let hosts: &[u16] = if options.quick { &[2, 8] } else { &[2, 4, 8, 16] };
    for count in hosts {
        rows.push(many_hosts(options, *count)?);
    }
    Ok(())
}

/// Small VMs that say something fifty times a second.
fn many_vms(options: &BenchOptions, count: usize, alone: &mut Option<[Vec<f64>; 2]>) -> Result<[Row; 2], Failure> {
    let mut lab = Lab::start(options, 3, false)?;
    let guest = Guest::new("counter", MEMORY, Mode::Replay, &["--lines", "1000000000", "--every-us", "20000"]);
    let places =
        (0..count).map(|number| lab.add_unprotected(&guest, &format!("vm-{number}"))).collect::<Result<Vec<_>, _>>()?;
    for place in &places {
        lab.await_protected(*place)?;
    }
    let names: Vec<HostName> = lab.run.cluster().host_names().cloned().collect();
    let mut pids: Vec<u32> = names.iter().filter_map(|name| lab.run.cluster().host_pid(name)).collect();
    pids.push(lab.run.cluster().controller_pid());
    let watch = CpuWatch::begin(&pids)?;
    lab.pass(if options.quick { Span::from_ms(1_500) } else { Span::from_ms(6_000) })?;
    let vms = count as f64;
    let share = vec![watch.shares()?.iter().sum::<f64>() * 100.0 / vms];
    let mut latencies = Vec::new();
    for place in &places {
        lab.check_runs(*place)?;
        let told = lab.status(*place)?.output_latency.ok_or("a primary has told of no outputs")?;
        latencies.push(told.p50.ns() as f64);
    }
    lab.run.shut_down_all()?;
    let [one_latency, one_share] = alone.get_or_insert_with(|| [latencies.clone(), share.clone()]);
    Ok([
        Row::new(format!("{count} VMs: median time from exit to release, each VM"), Unit::Ns, &latencies)
            .against("one VM", one_latency)
            .point("scale-latency", vms),
        Row::new(format!("{count} VMs: share of a core for each, all processes"), Unit::Percent, &share)
            .against("one VM", one_share)
            .point("scale-cpu", vms),
    ])
}

/// A primary dies among many hosts.
fn many_hosts(options: &BenchOptions, hosts: u16) -> Result<Row, Failure> {
    let kills = if options.quick { 3 } else { 20 };
    let mut lab = Lab::start(options, hosts, false)?;
    let guest = Guest::new("counter", MEMORY, Mode::Checkpoint, &["--lines", "1000000000", "--every-us", "1000"]);
    let place = lab.add(&guest, "struck")?;
    let mut blackouts = Vec::new();
    while blackouts.len() < kills {
        lab.pass(Span::from_ms(100))?;
        let Some(primary) = lab.run.roles_of(place)?.primary else { continue };
        let killed = monotonic();
        lab.run.signal(&primary, HostSignal::Kill)?;
        let live = loop {
            let events = lab.turn(killed + Span::from_ms(30_000))?;
            let live = events.iter().find_map(|event| match &event.what {
                What::Happened(Happening::Live { report, .. }) => Some(report.live_at),
                _ => None,
            });
            if let Some(live) = live {
                break live;
            }
            if monotonic() >= killed + Span::from_ms(30_000) {
                return Err("no takeover within 30 s".into());
            }
        };
        blackouts.push(live.since(killed).ns() as f64);
        lab.await_protected(place)?;
    }
    lab.run.shut_down_all()?;
    Ok(Row::new(format!("{hosts} hosts: from the kill to the successor's guest"), Unit::Ns, &blackouts)
        .point("scale-hosts", f64::from(hosts)))
}
