//! What is done in a scenario, and when.

use super::condition::Condition;
use super::parts::ModePart;
use super::pattern::Pattern;
use crate::cluster::{CONTROLLER, HostName, HostSignal};
use crate::event::HappeningKind;
use ft_protocol::Span;
use schemars::JsonSchema;
use serde::Deserialize;

/// One thing that is done, and when.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its name: given, or `step N`.
    pub name: String,
    /// Where it stands in the file.
    pub line: usize,
    /// The step that must have fired before: its place in the scenario's steps.
    pub after: Option<usize>,
    /// The VM that it watches: its place in the scenario's VMs.
    pub vm: usize,
    /// What it waits for then.
    pub when: When,
    /// How long it waits after that; drawn from this range.
    pub delay: Delay,
    /// How often it fires, at most.
    pub repeat: u32,
    /// How often it must have fired.
    pub fires_min: u32,
    /// What it does, all at the same moment.
    pub acts: Vec<Act>,
}

/// What a step waits for.
#[derive(Clone, Debug)]
pub enum When {
    /// The guest runs; with `after`: nothing more.
    Running,
    /// This happens so many times.
    Event {
        /// What.
        kind: HappeningKind,
        /// How often, from 1.
        count: u32,
        /// Whether it must be about the step's VM.
        of_vm: bool,
    },
    /// A line of the console matches.
    Console(Pattern),
    /// This is so.
    Condition(Condition),
    /// A process reaches a failpoint, where it stands still until the step has fired.
    Failpoint {
        /// Whose: a host's, or the controller's.
        process: HostName,
        /// Which.
        name: &'static str,
        /// At which passage, from 1.
        hit: u64,
    },
}

/// A range of times, both ends included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delay {
    /// The shortest.
    pub min: Span,
    /// The longest.
    pub max: Span,
}

/// What a step does, as it is named in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Cont,
    /// Start a host that is dead.
    Start,
    /// SIGKILL, and start again when `for` is over.
    Restart,
    /// Let a process run only a part of the time.
    Slow,
    /// Cut a host from the pool, from the network, or from both.
    Cut,
    /// End a cut, a slowdown, a fill, or what is wrong with the segment.
    Heal,
    /// Let the guests' network segment, or a VM's link to it, lose frames or take its time.
    Segment,
    /// Step the clock of a process.
    Clock,
    /// Move a VM.
    Switchover,
    /// Take all roles from a host.
    Drain,
    /// Let a host have roles again.
    Undrain,
    /// Protect a VM in another mode.
    Mode,
    /// Flip bits in the pool.
    Corrupt,
    /// Take all space that the pool has left.
    Fill,
    /// End a VM's life.
    Delete,
    /// Nothing: the step only marks a moment for others.
    Mark,
}

/// One thing that a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Sends a signal.
    Signal {
        /// Which.
        signal: HostSignal,
        /// To whom.
        targets: Vec<Target>,
        /// A stopped process goes on after this.
        undo_after: Option<Span>,
    },
    /// Starts dead hosts.
    Start {
        /// Which.
        targets: Vec<Target>,
    },
    /// Kills and starts again.
    Restart {
        /// Which.
        targets: Vec<Target>,
        /// How long it is dead.
        dead_for: Span,
    },
    /// Lets processes run only a part of the time.
    Slow {
        /// Which.
        targets: Vec<Target>,
        /// So much of the time.
        percent: u32,
        /// For how long.
        during: Option<Span>,
    },
    /// Cuts hosts off.
    Cut {
        /// Which.
        targets: Vec<Target>,
        /// From what.
        from: CutFrom,
        /// Which way of the network.
        ways: WaysPart,
        /// For how long.
        during: Option<Span>,
    },
    /// Ends cuts and slowdowns of hosts, and fills.
    Heal {
        /// Of which; none: fills of the pool.
        targets: Vec<Target>,
    },
    /// Lets the segment lose frames, or take its time.
    Segment {
        /// Whose link: its place in the scenario's VMs; `None`: all frames.
        link: Option<usize>,
        /// Which way of that link.
        ways: WaysPart,
        /// Frames of a thousand that are lost.
        loss: u16,
        /// How long a frame takes beside what the whole segment lets it.
        latency: Span,
        /// For how long.
        during: Option<Span>,
    },
    /// Steps clocks.
    Clock {
        /// Whose.
        targets: Vec<Target>,
        /// By so many nanoseconds.
        by_ns: i64,
        /// They step back after this.
        during: Option<Span>,
    },
    /// Moves a VM.
    Switchover {
        /// Which: its place in the scenario's VMs.
        vm: usize,
        /// Where to; `None`: to the secondary.
        to: Option<Target>,
    },
    /// Takes roles from hosts, or ends that.
    Drain {
        /// Which.
        targets: Vec<Target>,
        /// Whether it begins.
        on: bool,
    },
    /// Protects a VM in another mode.
    Mode {
        /// Which: its place in the scenario's VMs.
        vm: usize,
        /// How.
        mode: ModePart,
    },
    /// Flips bits.
    Corrupt {
        /// Where.
        what: CorruptWhat,
        /// Of which VM: its place in the scenario's VMs.
        vm: usize,
        /// How many.
        bits: u32,
        /// Of which hosts, where heartbeats are corrupted.
        targets: Vec<Target>,
    },
    /// Takes all space that the pool has left.
    Fill {
        /// For how long.
        during: Option<Span>,
    },
    /// Ends a VM's life.
    Delete {
        /// Which: its place in the scenario's VMs.
        vm: usize,
    },
    /// Nothing.
    Mark,
}

impl Act {
    /// The VM that it names: its place in the scenario's VMs.
    #[must_use]
    pub fn vm(&self) -> Option<usize> {
        match self {
            Self::Switchover { vm, .. } | Self::Mode { vm, .. } | Self::Delete { vm } => Some(*vm),
            Self::Corrupt { what, vm, .. } if *what != CorruptWhat::Heartbeat => Some(*vm),
            Self::Segment { link, .. } => *link,
            _ => None,
        }
    }

    /// Whether dead hosts live again by it.
    #[must_use]
    pub fn starts_hosts(&self) -> bool {
        matches!(self, Self::Start { .. } | Self::Restart { .. })
            && self.targets().iter().any(|target| *target != Target::Host(HostName::new(CONTROLLER)))
    }

    /// Whether it can be done where no host lives.
    #[must_use]
    pub fn needs_no_host(&self) -> bool {
        let starts = self.starts_hosts();
        self.targets().iter().all(|target| match target {
            Target::Host(host) => starts || host.as_str() == CONTROLLER,
            Target::HitBy(_) => starts,
            Target::Primary(_) | Target::Secondary(_) | Target::Spare(_) | Target::Any => false,
        })
    }

    /// To whom it is done.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        match self {
            Self::Signal { targets, .. }
            | Self::Start { targets }
            | Self::Restart { targets, .. }
            | Self::Slow { targets, .. }
            | Self::Cut { targets, .. }
            | Self::Heal { targets }
            | Self::Clock { targets, .. }
            | Self::Drain { targets, .. }
            | Self::Corrupt { targets, .. } => targets,
            Self::Switchover { to, .. } => to.as_slice(),
            Self::Mode { .. } | Self::Fill { .. } | Self::Delete { .. } | Self::Segment { .. } | Self::Mark => &[],
        }
    }
}

/// What a host is cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CutFrom {
    /// The memory: nothing that it stores reaches the pool, its heart included.
    Pool,
    /// The controller: messages are held back.
    Network,
    /// Both.
    Both,
}

/// Which way of a host's connection is cut, or of a guest's link to the segment is bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WaysPart {
    /// Both.
    #[default]
    Both,
    /// What the controller sends does not reach the host.
    ToHost,
    /// What the host sends does not reach the controller.
    FromHost,
    /// Frames to the guest.
    ToGuest,
    /// Frames from the guest.
    FromGuest,
}

/// What is corrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CorruptWhat {
    /// Commit records in the journal of the reigning generation.
    Journal,
    /// The commit word of the reigning generation.
    CommitWord,
    /// The record log of the reigning generation.
    Log,
    /// The heartbeat page of a host.
    Heartbeat,
}

/// To whom something is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Whoever is primary of this VM when the step fires.
    Primary(usize),
    /// Whoever is secondary of this VM when the step fires.
    Secondary(usize),
    /// A host that has a process and no role for this VM.
    Spare(usize),
    /// Any host that has a process, drawn from the seed.
    Any,
    /// This host, or the controller.
    Host(HostName),
    /// The hosts that this step hit last.
    HitBy(usize),
}
