//! What is seen of a run from outside, in one order: what the controller tells, what was done to the hosts, what became
//! of them. All times are CLOCK_MONOTONIC, the same for all processes.

use crate::cluster::{ChildExit, HostName, HostSignal};
use crate::history;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::timeline::Happening;
use ft_protocol::{Time, VmId};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// One thing seen, and when.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// When: as the controller says for what it tells, as the watcher's clock says for everything else.
    pub at: Time,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// The controller told this.
    Happened(Happening),
    /// A host's process was started.
    HostStarted {
        /// Which.
        host: HostName,
        /// Its process.
        pid: u32,
    },
    /// A signal is about to be sent to a host, or to the controller, which has a name of its own.
    Signalled {
        /// Which.
        host: HostName,
        /// Which signal.
        signal: HostSignal,
    },
    /// A host's process has ended.
    HostExited {
        /// Which.
        host: HostName,
        /// How.
        exit: ChildExit,
        /// Its last words.
        stderr: String,
    },
    /// The controller's process has ended by a signal, and runs again over the same pool.
    ControllerRevived {
        /// How it ended.
        exit: ChildExit,
        /// Its new process.
        pid: u32,
    },
    /// The controller of a cluster that somebody else runs has died.
    ControllerGone,
    /// That cluster has a controller again.
    ControllerBack,
    /// A console is this long now.
    ConsoleMoved {
        /// Whose.
        vm: VmId,
        /// Bytes since the guest's birth.
        tail: u64,
    },
    /// A guest's life has ended.
    GuestEnded {
        /// Which.
        vm: VmId,
        /// How.
        end: GuestEnd,
        /// The console's length.
        console_end: u64,
    },
    /// A step of a scenario fires.
    StepFired {
        /// Which.
        step: String,
    },
    /// A fault begins that is no signal.
    FaultBegan {
        /// What.
        fault: String,
        /// To whom: a host, a VM, or the pool.
        target: String,
    },
    /// Such a fault is over.
    FaultEnded {
        /// What.
        fault: String,
        /// For whom.
        target: String,
    },
    /// The controller has done, or refuses, what a step asked it for.
    OrderAnswered {
        /// The step.
        order: String,
        /// Why not, in a line, if it refuses.
        refused: Option<String>,
    },
    /// The controller has died before it answered what a step asked it for, and is not asked again: it may be done.
    OrderLost {
        /// The step.
        order: String,
    },
    /// A process stands still at a failpoint.
    FailpointReached {
        /// Whose: a host's, or the controller's.
        process: HostName,
        /// Which.
        failpoint: String,
    },
    /// A workload's process was started.
    WorkloadStarted {
        /// Which.
        workload: String,
        /// Its process.
        pid: u32,
    },
    /// A workload's process has ended.
    WorkloadEnded {
        /// Which.
        workload: String,
        /// How.
        exit: ChildExit,
    },
    /// A client of a workload did or saw something, as its history says.
    WorkloadTold {
        /// Which.
        workload: String,
        /// The operation's number; a note has none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// What.
        #[serde(flatten)]
        entry: history::Entry,
    },
    /// The controller was asked how far a VM is.
    Sampled {
        /// Which.
        vm: VmId,
        /// The reigning generation.
        generation: u64,
        /// The last applied epoch.
        epoch: u64,
        /// Console bytes since the guest's birth.
        console: u64,
        /// Why it is not protected, in a line; `None` when it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unprotected: Option<String>,
    },
}

impl What {
    /// The VM that it is about, if it is about one.
    #[must_use]
    pub fn vm(&self) -> Option<VmId> {
        match self {
            Self::Happened(happening) => vm_of(happening),
            Self::ConsoleMoved { vm, .. } | Self::GuestEnded { vm, .. } | Self::Sampled { vm, .. } => Some(*vm),
            _ => None,
        }
    }

    /// Whether a workload had an answer.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        let ends = |entry: &history::Entry| matches!(entry, history::Entry::Return(_) | history::Entry::End(_));
        matches!(self, Self::WorkloadTold { entry, .. } if ends(entry))
    }
}

/// The answers that workloads had: when each was asked for, and when it came.
pub fn answers(told: &[Event]) -> impl Iterator<Item = (Option<Time>, Time)> {
    let mut asked: BTreeMap<(&str, u64), Time> = BTreeMap::new();
    told.iter().filter_map(move |event| {
        let What::WorkloadTold { workload, id, entry } = &event.what else { return None };
        let call = id.map(|id| (workload.as_str(), id));
        if matches!(entry, history::Entry::Invoke { .. } | history::Entry::Begin(_)) {
            asked.extend(call.map(|call| (call, event.at)));
        }
        let since = call.and_then(|call| asked.get(&call).copied());
        event.what.is_answer().then_some((since, event.at))
    })
}

/// The VM that a happening is about, if it is about one.
#[must_use]
pub fn vm_of(happening: &Happening) -> Option<VmId> {
    match happening {
        Happening::HostJoined { .. }
        | Happening::HostDown { .. }
        | Happening::HostSilent { .. }
        | Happening::HostBeats { .. }
        | Happening::FenceTried { .. }
        | Happening::PoolMended { .. } => None,
        Happening::VmCreated { vm, .. }
        | Happening::VmDeleted { vm, .. }
        | Happening::PrimaryGone { vm, .. }
        | Happening::TakeoverRefused { vm, .. }
        | Happening::Sealed { vm, .. }
        | Happening::Drained { vm, .. }
        | Happening::Promoted { vm, .. }
        | Happening::Live { vm, .. }
        | Happening::Protected { vm, .. }
        | Happening::Unprotected { vm, .. }
        | Happening::SwitchoverBegan { vm, .. }
        | Happening::Yielded { vm, .. }
        | Happening::SwitchoverCancelled { vm, .. }
        | Happening::Fenced { vm, .. }
        | Happening::GaveUp { vm, .. }
        | Happening::RecordRefused { vm, .. }
        | Happening::LogRefused { vm, .. }
        | Happening::ModeChanged { vm, .. }
        | Happening::Diverged { vm, .. }
        | Happening::LogLost { vm, .. }
        | Happening::Following { vm, .. }
        | Happening::FollowingEnded { vm, .. }
        | Happening::PoolFull { vm, .. }
        | Happening::OutputsMeasured { vm, .. }
        | Happening::SpaceAgain { vm, .. }
        | Happening::Stranded { vm, .. }
        | Happening::Damaged { vm, .. }
        | Happening::SwitchedOver { vm, .. }
        | Happening::Ended { vm, .. } => Some(*vm),
    }
}

/// The kinds of happenings, as scenario files name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HappeningKind {
    /// [`Happening::HostJoined`]
    HostJoined,
    /// [`Happening::HostDown`]
    HostDown,
    /// [`Happening::HostSilent`]
    HostSilent,
    /// [`Happening::HostBeats`]
    HostBeats,
    /// [`Happening::VmCreated`]
    VmCreated,
    /// [`Happening::VmDeleted`]
    VmDeleted,
    /// [`Happening::PrimaryGone`]
    PrimaryGone,
    /// [`Happening::TakeoverRefused`]
    TakeoverRefused,
    /// [`Happening::Sealed`]
    Sealed,
    /// [`Happening::Drained`]
    Drained,
    /// [`Happening::Promoted`]
    Promoted,
    /// [`Happening::Live`]
    Live,
    /// [`Happening::Protected`]
    Protected,
    /// [`Happening::Unprotected`]
    Unprotected,
    /// [`Happening::SwitchoverBegan`]
    SwitchoverBegan,
    /// [`Happening::Yielded`]
    Yielded,
    /// [`Happening::SwitchoverCancelled`]
    SwitchoverCancelled,
    /// [`Happening::Fenced`]
    Fenced,
    /// [`Happening::FenceTried`]
    FenceTried,
    /// [`Happening::GaveUp`]
    GaveUp,
    /// [`Happening::RecordRefused`]
    RecordRefused,
    /// [`Happening::LogRefused`]
    LogRefused,
    /// [`Happening::ModeChanged`]
    ModeChanged,
    /// [`Happening::Diverged`]
    Diverged,
    /// [`Happening::LogLost`]
    LogLost,
    /// [`Happening::Following`]
    Following,
    /// [`Happening::FollowingEnded`]
    FollowingEnded,
    /// [`Happening::PoolFull`]
    PoolFull,
    /// [`Happening::OutputsMeasured`]
    OutputsMeasured,
    /// [`Happening::SpaceAgain`]
    SpaceAgain,
    /// [`Happening::Stranded`]
    Stranded,
    /// [`Happening::Ended`]
    Ended,
    /// [`Happening::Damaged`]
    Damaged,
    /// [`Happening::PoolMended`]
    PoolMended,
    /// [`Happening::SwitchedOver`]
    SwitchedOver,
}

impl From<&Happening> for HappeningKind {
    fn from(happening: &Happening) -> Self {
        match happening {
            Happening::HostJoined { .. } => Self::HostJoined,
            Happening::HostDown { .. } => Self::HostDown,
            Happening::HostSilent { .. } => Self::HostSilent,
            Happening::HostBeats { .. } => Self::HostBeats,
            Happening::VmCreated { .. } => Self::VmCreated,
            Happening::VmDeleted { .. } => Self::VmDeleted,
            Happening::PrimaryGone { .. } => Self::PrimaryGone,
            Happening::TakeoverRefused { .. } => Self::TakeoverRefused,
            Happening::Sealed { .. } => Self::Sealed,
            Happening::Drained { .. } => Self::Drained,
            Happening::Promoted { .. } => Self::Promoted,
            Happening::Live { .. } => Self::Live,
            Happening::Protected { .. } => Self::Protected,
            Happening::Unprotected { .. } => Self::Unprotected,
            Happening::SwitchoverBegan { .. } => Self::SwitchoverBegan,
            Happening::Yielded { .. } => Self::Yielded,
            Happening::SwitchoverCancelled { .. } => Self::SwitchoverCancelled,
            Happening::Fenced { .. } => Self::Fenced,
            Happening::FenceTried { .. } => Self::FenceTried,
            Happening::GaveUp { .. } => Self::GaveUp,
            Happening::RecordRefused { .. } => Self::RecordRefused,
            Happening::LogRefused { .. } => Self::LogRefused,
            Happening::ModeChanged { .. } => Self::ModeChanged,
            Happening::Diverged { .. } => Self::Diverged,
            Happening::LogLost { .. } => Self::LogLost,
            Happening::Following { .. } => Self::Following,
            Happening::FollowingEnded { .. } => Self::FollowingEnded,
            Happening::PoolFull { .. } => Self::PoolFull,
            Happening::OutputsMeasured { .. } => Self::OutputsMeasured,
            Happening::SpaceAgain { .. } => Self::SpaceAgain,
            Happening::Stranded { .. } => Self::Stranded,
            Happening::Ended { .. } => Self::Ended,
            Happening::Damaged { .. } => Self::Damaged,
            Happening::PoolMended { .. } => Self::PoolMended,
            Happening::SwitchedOver { .. } => Self::SwitchedOver,
        }
    }
}

/// Events as a file of JSON lines.
#[derive(Debug)]
pub struct EventLog {
    file: BufWriter<File>,
    start: Time,
}

#[derive(Serialize)]
struct Line<'a> {
    /// Milliseconds since the log's start, for people.
    t_ms: f64,
    at_ns: u64,
    #[serde(flatten)]
    what: &'a What,
}

impl EventLog {
    /// Makes the file; times are also given relative to `start`. A pipe is opened only if somebody reads it: waiting for that
    /// would be deaf to signals.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path, start: Time) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let file = options.open(path).map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENXIO) => io::Error::other("nobody reads this pipe: start what reads it first"),
            _ => error,
        })?;
        // A reader that is slow is waited for.
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
        fcntl(&file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
        Ok(Self { file: BufWriter::new(file), start })
    }

    /// Appends an event. The line is in the file when this returns, so that a run that dies leaves what it saw.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, event: &Event) -> io::Result<()> {
        self.file.write_all(json_line(event, self.start)?.as_bytes())?;
        self.file.flush()
    }
}

/// Puts a file of events into the order of their times, once nothing is appended any more: what the controller tells comes a
/// moment after what was seen outside meanwhile, and what clients saw (`more`) stands in files of their own until now.
///
/// # Errors
/// When the file cannot be read or written.
pub fn put_in_order(path: &Path, start: Time, more: Vec<Event>) -> Result<(), EventsError> {
    let mut events = read_events(path)?;
    events.extend(more);
    events.sort_by_key(|event| event.at);
    let lines: io::Result<String> = events.iter().map(|event| json_line(event, start)).collect();
    lines
        .and_then(|lines| std::fs::write(path, lines))
        .map_err(|source| EventsError::Unwritable { path: path.to_owned(), source })
}

/// An event as a line of JSON; its time is also given relative to `start`.
///
/// # Errors
/// Never: every event can be written as JSON.
pub fn json_line(event: &Event, start: Time) -> io::Result<String> {
    #[allow(clippy::cast_precision_loss, reason = "shown to people; the exact number stands beside it")]
    let t_ms = event.at.since(start).ns() as f64 / 1e6;
    let mut line = serde_json::to_string(&Line { t_ms, at_ns: event.at.ns(), what: &event.what })?;
    line.push('\n');
    Ok(line)
}

/// A line of a file of events, as it is read back.
#[derive(Deserialize)]
struct ReadLine {
    at_ns: u64,
    #[serde(flatten)]
    what: What,
}

/// Why a file of events cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// It is not there, or may not be read.
    #[error("cannot read events {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is no event.
    #[error("{}:{line}: no event", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// It cannot be written in another order.
    #[error("cannot write events {}", path.display())]
    Unwritable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Reads a file of events back. A last line without its end, which a run that died leaves, is left out.
///
/// # Errors
/// When it cannot be read, or holds something else.
pub fn read_events(path: &Path) -> Result<Vec<Event>, EventsError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| EventsError::Unreadable { path: path.to_owned(), source })?;
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let read = |(index, line): (usize, &str)| {
        let line: ReadLine = serde_json::from_str(line).map_err(|source| EventsError::Malformed {
            path: path.to_owned(),
            line: index + 1,
            source,
        })?;
        Ok(Event { at: Time::from_ns(line.at_ns), what: line.what })
    };
    whole.lines().enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ft_protocol::Generation;

    #[test]
    fn a_line_has_time_and_event() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let mut log = EventLog::create(&path, Time::from_ns(1_000_000)).unwrap();
        let sealed = Happening::Sealed {
            vm: VmId::new(0),
            generation: Generation::new(2),
            final_epoch: ft_protocol::Epoch::new(57),
        };
        assert_eq!(HappeningKind::from(&sealed), HappeningKind::Sealed);
        log.append(&Event { at: Time::from_ns(2_500_000), what: What::Happened(sealed) }).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "{\"t_ms\":1.5,\"at_ns\":2500000,\"happened\":{\"sealed\":{\"vm\":0,\"generation\":2,\"final_epoch\":57}}}\n"
        );
    }

    #[test]
    fn what_was_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let mut log = EventLog::create(&path, Time::from_ns(5)).unwrap();
        let host = HostName::nth(0);
        let told = |id, entry| What::WorkloadTold { workload: "load".to_owned(), id, entry };
        let events = [
            What::Happened(Happening::HostJoined { host: ft_protocol::HostId::new(0), name: "a".to_owned() }),
            What::ControllerGone,
            What::Signalled { host: host.clone(), signal: HostSignal::Kill },
            What::HostExited { host, exit: ChildExit::Signal(9), stderr: "line\n\"quoted\"".to_owned() },
            What::GuestEnded { vm: VmId::new(1), end: GuestEnd::Exited(3), console_end: 70 },
            told(Some(3), history::Entry::Return(history::Answer::Value("v".to_owned()))),
            told(None, history::Entry::Note("n".to_owned())),
        ];
        let events: Vec<Event> = (7..).zip(events).map(|(at, what)| Event { at: Time::from_ns(at), what }).collect();
        events.iter().for_each(|event| log.append(event).unwrap());
        assert_eq!(read_events(&path).unwrap(), events);
        let torn = std::fs::read_to_string(&path).unwrap() + "{\"t_ms\":1.5,\"at";
        std::fs::write(&path, torn).unwrap();
        assert_eq!(read_events(&path).unwrap(), events, "a torn last line is left out");
        std::fs::write(&path, "{}\n").unwrap();
        assert!(read_events(&path).unwrap_err().to_string().ends_with("events.jsonl:1: no event"));
    }

    #[test]
    fn what_clients_saw_is_put_among_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let mut log = EventLog::create(&path, Time::ZERO).unwrap();
        let at = |at, what| Event { at: Time::from_ns(at), what };
        let [early, late] = [at(3, What::ControllerBack), at(9, What::ControllerGone)];
        log.append(&late).unwrap();
        log.append(&early).unwrap();
        let entry = history::Entry::Note("between".to_owned());
        let between = at(5, What::WorkloadTold { workload: "load".to_owned(), id: None, entry });
        put_in_order(&path, Time::ZERO, vec![between.clone()]).unwrap();
        assert_eq!(read_events(&path).unwrap(), [early, between, late]);
    }

    #[test]
    fn kinds_are_named_as_the_happenings_are() {
        let live = serde_json::to_value(HappeningKind::HostJoined).unwrap();
        let happening = Happening::HostJoined { host: ft_protocol::HostId::new(0), name: "a".to_owned() };
        let value = serde_json::to_value(&happening).unwrap();
        assert!(value.get(live.as_str().unwrap()).is_some(), "{value}");
    }
}
