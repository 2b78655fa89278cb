//! What can go wrong in a run, and when: the vocabulary of event files.

use super::weather::MICROSECONDS_MAX;
use serde::{Deserialize, Serialize};

/// What becomes of the cache lines that a dying process had not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lines {
    /// All reach the pool, as when only the process dies.
    Kept,
    /// All are lost.
    Lost,
    /// Each line has a fate of its own, drawn from this seed.
    Mixed(u64),
}

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// This host.
    Host(u16),
    /// Whatever host runs this VM when the fault comes due.
    Primary(u16),
    /// Whatever host stands by for this VM when the fault comes due.
    Secondary(u16),
    /// The controller.
    Controller,
}

/// Which way of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ways {
    /// Both.
    Both,
    /// Only what the controller sends.
    FromController,
    /// Only what the controller should get.
    ToController,
}

/// One thing that goes wrong. Times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The process dies at once.
    Kill {
        /// Whose.
        who: Target,
        /// Its unflushed lines.
        lines: Lines,
        /// When a new life begins.
        restart_us: u64,
    },
    /// The process dies in the middle of what it does in the pool: so many stores, flushes and fences later.
    DieInPool {
        /// Whose.
        who: Target,
        /// How many it still does.
        accesses: u64,
        /// Its unflushed lines.
        lines: Lines,
        /// When a new life begins.
        restart_us: u64,
    },
    /// The process stands still (SIGSTOP, then SIGCONT).
    Stop {
        /// Whose.
        who: Target,
        /// For how long.
        for_us: u64,
    },
    /// A process that was stopped goes on before its time.
    Continue {
        /// Who.
        who: Target,
    },
    /// The thread that runs a VM's guest hangs, while its host lives on.
    HangVcpu {
        /// Which VM's primary.
        vm: u16,
        /// For how long; `None`: until the process ends.
        for_us: Option<u64>,
    },
    /// The process ends, and the next life of the host is of the newer version.
    Upgrade {
        /// Which host.
        host: u16,
    },
    /// No failure: the client has a VM deleted.
    Delete {
        /// Which VM.
        vm: u16,
        /// Then it makes another under the same name.
        again: bool,
    },
    /// Everything takes longer.
    Slow {
        /// For whom.
        who: Target,
        /// So many times longer.
        factor: u64,
        /// For how long.
        for_us: u64,
    },
    /// The clock jumps.
    JumpClock {
        /// Whose.
        who: Target,
        /// How far.
        by_us: i64,
    },
    /// No load and no store of a host reaches the pool, from so many stores, flushes and fences later on.
    CutPool {
        /// Whose.
        who: Target,
        /// How many it still does.
        accesses: u64,
        /// For how long.
        for_us: u64,
    },
    /// Messages are held back, in order.
    StallLink {
        /// Of the connections between the controller and whom.
        who: Target,
        /// Which messages.
        ways: Ways,
        /// For how long.
        for_us: u64,
    },
    /// The connection breaks; what is under way is lost.
    CloseLink {
        /// Between the controller and whom.
        who: Target,
    },
    /// The client's connection is held back.
    StallClient {
        /// For how long.
        for_us: u64,
    },
    /// The client's connection breaks.
    CloseClient,
    /// The client does not read.
    PauseClient {
        /// For how long.
        for_us: u64,
    },
    /// A bit of a journal flips where a commit record lies.
    Corrupt {
        /// Whose journal.
        vm: u16,
        /// Which bit.
        salt: u64,
    },
    /// A bit of a VM's control block flips, of which there is a second copy.
    FlipControl {
        /// Whose.
        vm: u16,
        /// Which bit.
        salt: u64,
    },
    /// No failure, but in the way of everything: the client has a VM moved.
    Switchover {
        /// Which VM.
        vm: u16,
        /// To which host; `None`: the secondary's.
        to: Option<u16>,
    },
    /// No failure either: the client has a host drained.
    Drain {
        /// Which host.
        host: u16,
    },
    /// No failure: the client has a VM protected in another mode.
    SetMode {
        /// Which VM.
        vm: u16,
        /// How.
        mode: ft_protocol::spec::Mode,
    },
    /// The pool cannot give space for a new journal.
    FillPool {
        /// For how long.
        for_us: u64,
    },
}

/// A step of the protocol after which a fault can come due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "each names the step that was just done")]
pub enum Point {
    StandbyMade,
    PrimaryOrdered,
    StateLoaded,
    VcpuStopped,
    RecordWritten,
    RecordChecksummed,
    RecordPublished,
    OutputReleased,
    DoorbellRung,
    GuestEnded,
    RecordLoaded,
    RecordBegun,
    RecordApplied,
    SlotFreed,
    WordSealed,
    StatePersisted,
    GenerationOpened,
    GenerationClosed,
    PromotionSent,
    StandbySent,
    TakeoverAsked,
    ControllerRecovered,
    HostJoined,
    Yielded,
    LogReplayed,
    EpochFollowed,
}

impl Point {
    /// Those that runs without record logs have, too.
    pub(crate) const ALL: [Self; 24] = [
        Self::StandbyMade,
        Self::PrimaryOrdered,
        Self::StateLoaded,
        Self::VcpuStopped,
        Self::RecordWritten,
        Self::RecordChecksummed,
        Self::RecordPublished,
        Self::OutputReleased,
        Self::DoorbellRung,
        Self::GuestEnded,
        Self::RecordLoaded,
        Self::RecordBegun,
        Self::RecordApplied,
        Self::SlotFreed,
        Self::WordSealed,
        Self::StatePersisted,
        Self::GenerationOpened,
        Self::GenerationClosed,
        Self::PromotionSent,
        Self::StandbySent,
        Self::TakeoverAsked,
        Self::ControllerRecovered,
        Self::HostJoined,
        Self::Yielded,
    ];
}

/// When a fault comes due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// At this time of the run.
    At {
        /// Microseconds since its beginning.
        us: u64,
    },
    /// Right after this step was done for the `nth` time, counted from 1.
    After {
        /// Which step.
        step: Point,
        /// How often.
        nth: u32,
    },
}

/// A fault with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultEvent {
    /// When.
    pub when: When,
    /// What.
    pub fault: Fault,
}

/// So many times slower at most.
const FACTOR_MAX: u64 = 1_000;

impl Fault {
    /// It is no failure: roles are moved, nothing else.
    pub(crate) fn is_planned(&self) -> bool {
        matches!(self, Self::Switchover { .. } | Self::Drain { .. })
    }
}

impl FaultEvent {
    /// Whether a run can have this fault; asked of what an event file says.
    pub(crate) fn is_sound(&self) -> bool {
        use Fault::{
            CutPool, DieInPool, FillPool, HangVcpu, JumpClock, Kill, PauseClient, Slow, StallClient, StallLink, Stop,
        };
        let due = match self.when {
            When::At { us } => us <= MICROSECONDS_MAX,
            When::After { nth, .. } => nth > 0,
        };
        due && match self.fault {
            Slow { factor, for_us, .. } => (1..=FACTOR_MAX).contains(&factor) && for_us <= MICROSECONDS_MAX,
            HangVcpu { for_us, .. } => for_us.is_none_or(|us| us <= MICROSECONDS_MAX),
            JumpClock { by_us, .. } => by_us.unsigned_abs() <= MICROSECONDS_MAX,
            Kill { restart_us: us, .. }
            | DieInPool { restart_us: us, .. }
            | Stop { for_us: us, .. }
            | CutPool { for_us: us, .. }
            | StallLink { for_us: us, .. }
            | StallClient { for_us: us }
            | PauseClient { for_us: us }
            | FillPool { for_us: us } => us <= MICROSECONDS_MAX,
            Fault::Continue { .. }
            | Fault::Upgrade { .. }
            | Fault::Delete { .. }
            | Fault::CloseLink { .. }
            | Fault::CloseClient
            | Fault::Corrupt { .. }
            | Fault::FlipControl { .. }
            | Fault::Switchover { .. }
            | Fault::Drain { .. }
            | Fault::SetMode { .. } => true,
        }
    }
}
