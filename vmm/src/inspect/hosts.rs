//! Heartbeat pages.

use super::report::HostReport;
use super::{Finding, Findings};
use ft_protocol::controller::HostRecord;
use shared_mem::heartbeat::HeartbeatError;
use shared_mem::{Beat, HeartbeatReader, HostSlot, Mapping, Offset, PoolRead, PoolView};
use std::time::{Duration, Instant};

/// Reads of a page whose owner beats meanwhile: it can tear one line at a time, and does so rarely.
const READS_MAX: u32 = 20;
/// How long a heart may take to beat once more. Above the longest usual interval; a dead host costs this much, once.
pub(super) const BEAT_BOUND: Duration = Duration::from_millis(300);
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// What a heartbeat page says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heart {
    /// It never beat.
    Never,
    Beat(Beat),
    /// One line.
    Unreadable(String),
}

/// All hearts, by host slot.
pub(super) fn sample(view: &PoolView) -> Vec<Heart> {
    (0..view.superblock().host_slots).map(|slot| heart(view, HostSlot::new(slot))).collect()
}

fn heart(view: &PoolView, slot: HostSlot) -> Heart {
    let unreadable = |error: &dyn std::error::Error| Heart::Unreadable(crate::chain(error));
    let memory = match view.heartbeat(slot) {
        Ok(extent) => match Mapping::read_only(&extent) {
            Ok(memory) => memory,
            Err(error) => return unreadable(&error),
        },
        Err(error) => return unreadable(&error),
    };
    let reader = HeartbeatReader::new(&memory);
    let mut last = None;
    for _ in 0..READS_MAX {
        match reader.sample() {
            Ok(beat) => return Heart::Beat(beat),
            Err(HeartbeatError::NoBeat { .. }) if is_blank(&memory) => return Heart::Never,
            Err(error) => last = Some(error),
        }
    }
    let error = last.expect("a page is read at least once");
    unreadable(&error)
}

/// Whether no line was ever written.
fn is_blank(memory: &impl PoolRead) -> bool {
    let mut lines = [0xff; 128];
    memory.read(Offset::ZERO, &mut lines).is_ok() && lines.iter().all(|byte| *byte == 0)
}

/// The hosts of the cluster state, and whether their hearts have beaten since they were sampled.
pub(super) fn report(
    view: &PoolView,
    hosts: &[HostRecord],
    before: &[Heart],
    beat_bound: Duration,
    findings: &mut Vec<Finding>,
) -> Vec<HostReport> {
    for (slot, heart) in before.iter().enumerate() {
        if let Heart::Unreadable(why) = heart {
            let mut found = Findings::new(format!("heartbeat.{slot}"));
            if slot < hosts.len() {
                found.damage("", why, "the host counts as silent until it beats again");
            } else {
                found.notice("", why, "it is no host's: the host that is given it writes it anew");
            }
            findings.append(&mut found.found);
        }
    }
    let deadline = Instant::now() + beat_bound;
    let report = |(index, host): (usize, &HostRecord)| {
        let slot = u16::try_from(index).ok()?;
        let before = before.get(index)?;
        let beat = match before {
            Heart::Beat(beat) => Some(*beat),
            Heart::Never | Heart::Unreadable(_) => None,
        };
        Some(HostReport {
            slot,
            name: host.name.clone(),
            draining: host.draining,
            beating: beats(view, HostSlot::new(slot), before, deadline),
            beats: beat.map(|beat| beat.count),
            incarnation: beat.map(|beat| beat.incarnation),
        })
    };
    hosts.iter().enumerate().filter_map(report).collect()
}

fn beats(view: &PoolView, slot: HostSlot, before: &Heart, deadline: Instant) -> bool {
    loop {
        if heart(view, slot) != *before {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}
