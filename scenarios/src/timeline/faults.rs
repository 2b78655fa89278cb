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

#[derive(Clone, Debug)]
struct Known {
    fault: Fault,
    /// A death has no end: what comes to life is another process, with other roles.
    deadly: bool,
    until: Option<Time>,
}

impl Faults {
    /// A process was killed.
    pub(super) fn killed(&mut self, fault: Fault) {
        self.over(fault.at, &fault.host, |_| true);
        self.known.push(Known { fault, deadly: true, until: None });
    }

    /// Something else was done to it.
    pub(super) fn began(&mut self, fault: Fault) {
        self.known.push(Known { fault, deadly: false, until: None });
    }

    /// What is called so is over.
    pub(super) fn over(&mut self, at: Time, host: &HostName, is_meant: impl Fn(&str) -> bool) {
        for known in &mut self.known {
            if known.until.is_none() && !known.deadly && known.fault.host == *host && is_meant(&known.fault.what) {
                known.until = Some(at);
            }
        }
    }

    /// The last thing that can have cost a host a role that it has had since then, as was noticed `at`.
    pub(super) fn cause(&self, host: &HostName, since: Option<Time>, at: Time) -> Option<&Fault> {
        let can = |known: &&Known| {
            let of_this_life = since.is_none_or(|since| known.fault.at >= since);
            let was_there = known.until.is_none_or(|until| until + AFTERMATH >= at);
            known.fault.host == *host && if known.deadly { of_this_life } else { was_there }
        };
        self.known.iter().rev().find(can).map(|known| &known.fault)
    }
}
