//! What each host was, and when: the lanes of the picture.

use super::folder::RunFolder;
use crate::cluster::{CONTROLLER, HostSignal};
use crate::event::What;
use ft_protocol::timeline::Happening;
use ft_protocol::{Time, VmId};
use std::collections::{BTreeMap, BTreeSet};

/// How faults begin that go on until they are ended.
const HAMPERS: [&str; 5] = ["slow", "cut", "pool full", "segment", "clock"];

/// What hampers, of a fault in words.
fn hamper_of(fault: &str) -> Option<&'static str> {
    HAMPERS.into_iter().find(|hamper| fault.starts_with(hamper))
}

/// What a host was for some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Its process lived.
    Alive,
    /// It stood by for a VM.
    Secondary(VmId),
    /// It ran a VM.
    Primary(VmId),
    /// Its process stood still.
    Stopped,
    /// It was slow or cut off.
    Hampered,
}

/// A time in which a host was something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) kind: Kind,
    pub(super) from: Time,
    pub(super) to: Time,
}

/// A moment that is marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) at: Time,
    pub(super) text: String,
}

/// A host, or the controller.
#[derive(Clone, Debug, Default)]
pub(super) struct Lane {
    pub(super) stretches: Vec<Stretch>,
    pub(super) faults: Vec<Mark>,
}

/// All lanes by name, the controller first.
pub(super) fn lanes(folder: &RunFolder) -> Vec<(String, Lane)> {
    let mut builder = Builder { folder, lanes: BTreeMap::new(), open: BTreeMap::new(), hampers: BTreeSet::new() };
    builder.begin(CONTROLLER, Kind::Alive, folder.start());
    for event in &folder.events {
        builder.take(event.at, &event.what);
    }
    let end = folder.events.last().map_or(folder.start(), |last| last.at);
    let open: Vec<(String, Kind)> = builder.open.keys().cloned().collect();
    for (lane, kind) in open {
        builder.end(&lane, kind, end);
    }
    let mut lanes: Vec<(String, Lane)> = builder.lanes.into_iter().collect();
    lanes.sort_by_key(|(name, _)| (name != CONTROLLER, name.clone()));
    for (_, lane) in &mut lanes {
        lane.stretches.sort_by_key(|stretch| (stretch.kind, stretch.from));
    }
    lanes
}

struct Builder<'a> {
    folder: &'a RunFolder,
    lanes: BTreeMap<String, Lane>,
    open: BTreeMap<(String, Kind), Time>,
    /// What hampers whom.
    hampers: BTreeSet<(String, &'static str)>,
}

impl Builder<'_> {
    fn begin(&mut self, lane: &str, kind: Kind, at: Time) {
        self.lanes.entry(lane.to_owned()).or_default();
        self.open.entry((lane.to_owned(), kind)).or_insert(at);
    }

    fn end(&mut self, lane: &str, kind: Kind, at: Time) {
        if let Some(from) = self.open.remove(&(lane.to_owned(), kind)) {
            self.lanes.entry(lane.to_owned()).or_default().stretches.push(Stretch { kind, from, to: at });
        }
    }

    /// Whoever it was, it is no longer.
    fn end_all(&mut self, at: Time, is_meant: impl Fn(&str, Kind) -> bool) {
        let meant: Vec<(String, Kind)> =
            self.open.keys().filter(|(lane, kind)| is_meant(lane, *kind)).cloned().collect();
        for (lane, kind) in meant {
            self.end(&lane, kind, at);
        }
    }

    fn mark(&mut self, lane: &str, at: Time, text: String) {
        self.lanes.entry(lane.to_owned()).or_default().faults.push(Mark { at, text });
    }

    fn take(&mut self, at: Time, what: &What) {
        match what {
            What::Happened(happening) => self.happened(at, happening),
            What::HostStarted { host, .. } => self.begin(host.as_str(), Kind::Alive, at),
            What::HostExited { host, exit, .. } => {
                self.mark(host.as_str(), at, format!("ended: {exit}"));
                self.end_all(at, |lane, _| lane == host.as_str());
                self.hampers.retain(|(lane, _)| lane != host.as_str());
            }
            What::ControllerRevived { .. } => {
                self.end_all(at, |lane, kind| lane == CONTROLLER && kind == Kind::Stopped);
                self.begin(CONTROLLER, Kind::Alive, at);
            }
            What::Signalled { host, signal } => {
                self.mark(host.as_str(), at, signal.to_string());
                match signal {
                    HostSignal::Stop => self.begin(host.as_str(), Kind::Stopped, at),
                    HostSignal::Cont => self.end(host.as_str(), Kind::Stopped, at),
                    HostSignal::Kill if host.as_str() == CONTROLLER => self.end(CONTROLLER, Kind::Alive, at),
                    HostSignal::Kill => {}
                }
            }
            What::FaultBegan { fault, target } => {
                self.mark(target, at, fault.clone());
                if let Some(hamper) = hamper_of(fault) {
                    self.hampers.insert((target.clone(), hamper));
                    self.begin(target, Kind::Hampered, at);
                }
            }
            What::FaultEnded { fault, target } => {
                self.hampers.retain(|(lane, hamper)| lane != target || Some(*hamper) != hamper_of(fault));
                if !self.hampers.iter().any(|(lane, _)| lane == target) {
                    self.end(target, Kind::Hampered, at);
                }
            }
            What::FailpointReached { process, failpoint } => {
                self.mark(process.as_str(), at, format!("stands at {failpoint}"));
                self.begin(process.as_str(), Kind::Stopped, at);
            }
            _ => {}
        }
    }

    fn happened(&mut self, at: Time, happening: &Happening) {
        let names = &self.folder.names;
        match happening {
            // Of one whose start nobody saw.
            Happening::HostJoined { host, .. } => self.begin(&names.host(*host), Kind::Alive, at),
            Happening::Live { vm, host, report, .. } => {
                let host = names.host(*host);
                let vm = *vm;
                self.end_all(at, |lane, kind| kind == Kind::Primary(vm) || lane == host && kind == Kind::Secondary(vm));
                self.begin(&host, Kind::Primary(vm), report.live_at);
            }
            Happening::Sealed { vm, .. } | Happening::Stranded { vm, .. } => {
                let vm = *vm;
                self.end_all(at, |_, kind| kind == Kind::Primary(vm));
            }
            Happening::Protected { vm, host, .. } => {
                let (vm, host) = (*vm, names.host(*host));
                self.end_all(at, |lane, kind| lane != host && kind == Kind::Secondary(vm));
                self.begin(&host, Kind::Secondary(vm), at);
            }
            Happening::Unprotected { vm, host } => {
                let host = names.host(*host);
                self.end(&host, Kind::Secondary(*vm), at);
            }
            Happening::Ended { vm, .. } | Happening::VmDeleted { vm, .. } => {
                let vm = *vm;
                self.end_all(at, |_, kind| matches!(kind, Kind::Primary(of) | Kind::Secondary(of) if of == vm));
            }
            _ => {}
        }
    }
}
