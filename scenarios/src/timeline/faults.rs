//! What was done to hosts, and which of it cost a host its role.

use super::Fault;
use crate::cluster::HostName;
use ft_protocol::{Span, Time};

/// For so long after its end something can still be why a host was given up: the word of it takes its time, most of all where
/// a controller has to come back first.
const AFTERMATH: Span = Span::from_ms(1_000);

/// What was done to hosts so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    known: Vec<Known>,
}

/// How much of a host a fault leaves, in the order in which one of several that last counts as the cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// It goes on, somehow.
    Hampered,
    /// It stands still.
    Standing,
    /// A death has no end: what comes to life is another process, with other roles.
    Dead,
}

#[derive(Clone, Debug)]
struct Known {
    fault: Fault,
    weight: Weight,
    until: Option<Time>,
    /// When the guest was last heard of before.
    heard: Option<Time>,
}

impl Known {
    fn lasts(&self, at: Time) -> bool {
        self.until.is_none_or(|until| until >= at)
    }
}

/// What cost a host its role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    /// The fault.
    pub(super) fault: Fault,
    /// When it was over, if it was before the host's role was.
    pub(super) until: Option<Time>,
    /// Since when, at the latest since the fault, the host had stood still.
    pub(super) standing_since: Time,
    /// Since when it had stood still or been hampered in other ways.
    pub(super) hampered_since: Time,
    /// When the guest was last heard of before the fault.
    pub(super) heard: Option<Time>,
}

impl Faults {
    /// A process was killed; the guest was last heard of then.
    pub(super) fn killed(&mut self, fault: Fault, heard: Option<Time>) {
        self.over(fault.at, &fault.host, |_| true);
        self.known.push(Known { fault, weight: Weight::Dead, until: None, heard });
    }

    /// A process was made to stand still.
    pub(super) fn stopped(&mut self, fault: Fault, heard: Option<Time>) {
        self.known.push(Known { fault, weight: Weight::Standing, until: None, heard });
    }

    /// Something else was done to it.
    pub(super) fn began(&mut self, fault: Fault, heard: Option<Time>) {
        self.known.push(Known { fault, weight: Weight::Hampered, until: None, heard });
    }

    /// It goes on.
    pub(super) fn continued(&mut self, at: Time, host: &HostName) {
        self.end(at, host, |known| known.weight == Weight::Standing);
    }

    /// What is called so is over.
    pub(super) fn over(&mut self, at: Time, host: &HostName, is_meant: impl Fn(&str) -> bool) {
        self.end(at, host, |known| is_meant(&known.fault.what));
    }

    fn end(&mut self, at: Time, host: &HostName, is_meant: impl Fn(&Known) -> bool) {
        for known in &mut self.known {
            let lasts = known.until.is_none() && known.weight != Weight::Dead;
            if lasts && known.fault.host == *host && is_meant(known) {
                known.until = Some(at);
            }
        }
    }

    /// What can have cost a host a role that it has had since then, as was noticed `at`: of several the one that weighs most
    /// and, of those, the last.
    pub(super) fn cause(&self, host: &HostName, since: Option<Time>, at: Time) -> Option<Cause> {
        let can = |known: &&Known| {
            let of_this_life = since.is_none_or(|since| known.fault.at >= since);
            let was_there = known.until.is_none_or(|until| until + AFTERMATH >= at);
            known.fault.host == *host && if known.weight == Weight::Dead { of_this_life } else { was_there }
        };
        let found = self.known.iter().filter(can).max_by_key(|known| (known.lasts(at), known.weight))?;
        let since = |least: Weight| self.unbroken_since(found, least);
        Some(Cause {
            fault: found.fault.clone(),
            until: found.until,
            standing_since: since(Weight::Standing),
            hampered_since: since(Weight::Hampered),
            heard: found.heard,
        })
    }

    /// The beginning of the first of those that weigh so much, of which each still lasted when the next one began, and the last
    /// when this one did.
    fn unbroken_since(&self, last: &Known, least: Weight) -> Time {
        let mut since = last.fault.at;
        loop {
            let lasted = |known: &&Known| {
                let weighs = known.weight >= least && known.weight != Weight::Dead;
                weighs && known.fault.host == last.fault.host && known.fault.at < since && known.lasts(since)
            };
            match self.known.iter().filter(lasted).map(|known| known.fault.at).min() {
                Some(earlier) => since = earlier,
                None => return since,
            }
        }
    }
}
