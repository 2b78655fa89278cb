//! Clocks that scenarios have stepped: what their owners say of times is told as it would be without.

use crate::cluster::{CONTROLLER, HostName};
use crate::event::{Event, What};
use crate::timeline::Timeline;
use ft_protocol::Time;
use ft_protocol::timeline::Happening;
use std::collections::BTreeMap;

/// How far clocks are ahead, of those that were stepped.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    ahead_ns: BTreeMap<HostName, i64>,
}

impl Clocks {
    /// A clock steps; says how far it is ahead from now on.
    pub(super) fn step(&mut self, who: &HostName, by_ns: i64) -> i64 {
        let ahead = self.ahead_ns.entry(who.clone()).or_default();
        *ahead = ahead.saturating_add(by_ns);
        *ahead
    }

    /// What the controller has told, at the time that it was. A moment around a step may be told wrongly by that step.
    pub(super) fn righted(&self, at: Time, mut happening: Happening, known: &Timeline) -> Event {
        let right = |who: &HostName, at: Time| {
            let ahead = self.ahead_ns.get(who).copied().unwrap_or(0);
            Time::from_ns(at.ns().saturating_add_signed(ahead.saturating_neg()))
        };
        if let Happening::Live { host, report, .. } = &mut happening
            && !self.ahead_ns.is_empty()
        {
            let host = known.host_name(*host);
            report.ordered_at = right(&host, report.ordered_at);
            report.loaded_at = right(&host, report.loaded_at);
            report.live_at = right(&host, report.live_at);
            report.replayed_at = report.replayed_at.map(|at| right(&host, at));
        }
        Event { at: right(&HostName::new(CONTROLLER), at), what: What::Happened(happening) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ft_protocol::wire::LiveReport;
    use ft_protocol::{Generation, HostId, VmId};

    #[test]
    fn times_are_told_as_a_right_clock_would() {
        let mut known = Timeline::default();
        let joined = Happening::HostJoined { host: HostId::new(0), name: "a".to_owned() };
        known.take(&Event { at: Time::ZERO, what: What::Happened(joined) });
        let mut clocks = Clocks::default();
        assert_eq!(clocks.step(&HostName::new("a"), 5), 5);
        assert_eq!(clocks.step(&HostName::new("a"), -2), 3);
        assert_eq!(clocks.step(&HostName::new(CONTROLLER), -10), -10);
        let at = Time::from_ns;
        let report = |ns| LiveReport {
            ordered_at: at(ns),
            loaded_at: at(ns + 1),
            live_at: at(ns + 2),
            replayed_at: None,
            entries: 0,
        };
        let live =
            |report| Happening::Live { vm: VmId::new(0), generation: Generation::FIRST, host: HostId::new(0), report };
        let righted = clocks.righted(at(100), live(report(50)), &known);
        assert_eq!(righted, Event { at: at(110), what: What::Happened(live(report(47))) });
    }
}
