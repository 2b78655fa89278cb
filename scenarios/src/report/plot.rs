//! Numbers over time: epochs, silence, latency.

use super::folder::RunFolder;
use crate::event::What;
use crate::history::Deed;
use ft_protocol::{Time, VmId};

/// A number at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) at: Time,
    pub(super) value: f64,
}

/// The epochs of a VM as they were asked for.
pub(super) fn epochs(folder: &RunFolder, vm: VmId) -> Vec<Point> {
    let sample = |event: &crate::event::Event| match event.what {
        What::Sampled { vm: of, epoch, .. } if of == vm => Some(Point { at: event.at, value: float(epoch) }),
        _ => None,
    };
    folder.events.iter().filter_map(sample).collect()
}

/// How long the outside has heard nothing of a VM, in milliseconds, each time that it heard something again.
pub(super) fn silences(folder: &RunFolder, vm: VmId) -> Vec<Point> {
    let mut last = None;
    let mut known = 0;
    let mut points = Vec::new();
    for event in &folder.events {
        let end = match &event.what {
            What::ConsoleMoved { vm: of, tail: end } | What::GuestEnded { vm: of, console_end: end, .. }
                if *of == vm =>
            {
                *end
            }
            _ => continue,
        };
        // A controller that has come back tells the end again.
        if end > known {
            known = end;
            if let Some(last) = last {
                points.push(Point { at: event.at, value: float(event.at.since(last).ns()) / 1e6 });
            }
            last = Some(event.at);
        }
    }
    points
}

/// The latencies of a workload's operations, in milliseconds, at the times when they returned.
pub(super) fn latencies(deeds: &[Deed]) -> Vec<Point> {
    let latency = |deed: &Deed| {
        let at = deed.ended?;
        Some(Point { at, value: float(at.since(deed.began).ns()) / 1e6 })
    };
    deeds.iter().filter_map(latency).collect()
}

/// Exact enough for a picture.
pub(super) fn float(number: u64) -> f64 {
    let high = u32::try_from(number >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from(number & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}
