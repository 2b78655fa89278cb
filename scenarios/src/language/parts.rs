//! What a scenario runs: cluster, VMs, workloads.

use crate::cluster::HostName;
use crate::guest::GuestSource;
use crate::protected::JournalOptions;
use crate::units::ByteCount;
use ft_protocol::Span;
use ft_protocol::spec::Mode;
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;

/// The cluster of a scenario.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterPart {
    /// How many hosts.
    pub hosts: u16,
    /// Silence after which a host is suspected; `None`: the default.
    pub heartbeat_bound: Option<Span>,
    /// Whether hosts that die are started again at once.
    pub respawn: bool,
    /// A primary that owes a commit for so long is suspected; `None`: the default.
    pub stall_bound: Option<Span>,
    /// What ends deposed hosts; `None`: nothing but the seal.
    pub fence: Option<FencePart>,
    /// The pool lies on a tmpfs of its own of this size.
    pub pool_size: Option<ByteCount>,
    /// Frames of a thousand that the guests' segment loses.
    pub segment_loss: u16,
    /// How long each frame takes there.
    pub segment_delay: Span,
    /// What single hosts have of their own.
    pub host: Vec<HostPart>,
}

/// How deposed hosts are ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencePart {
    /// `none`, `kill`, or the path of an agent.
    pub agent: String,
    /// KEY=VALUE lines for it.
    pub parameters: Vec<String>,
    /// How long it may take.
    pub timeout: Option<Span>,
}

/// What one host has of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPart {
    /// Which.
    pub name: HostName,
    /// Memory that its guests may take.
    pub memory: Option<ByteCount>,
    /// Its failure domains.
    pub labels: Vec<String>,
}

/// How a VM is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ModePart {
    /// Outputs wait for the commit of their epoch.
    #[default]
    Checkpoint,
    /// Inputs go to the record log, outputs leave at once.
    Replay,
    /// Replay, and the secondary follows all along and compares.
    Lockstep,
}

impl From<ModePart> for Mode {
    fn from(mode: ModePart) -> Self {
        match mode {
            ModePart::Checkpoint => Self::Checkpoint,
            ModePart::Replay => Self::Replay,
            ModePart::Lockstep => Self::Lockstep,
        }
    }
}

/// A VM of a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmPart {
    /// Its name.
    pub name: String,
    /// The guest; a path is relative to the scenario's file.
    pub guest: GuestSource,
    /// Where the file names it, if it does.
    pub guest_line: Option<usize>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its memory.
    pub memory: ByteCount,
    /// How it is protected.
    pub mode: ModePart,
    /// Longest time between two commits; `None`: the default.
    pub epoch_interval: Option<Span>,
    /// Whether it is on the segment of the scenario's guests.
    pub net: bool,
    /// The size of its disk, if it has one.
    pub disk: Option<ByteCount>,
    /// Copies of written pages that the primary's host keeps; `None`: all.
    pub working_set: Option<ByteCount>,
    /// Its journal.
    pub journal: JournalOptions,
    /// Where it should run.
    pub placement: PlacementPart,
}

/// Where a VM should run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacementPart {
    /// On this host, if it can be.
    pub prefer: Option<HostName>,
    /// Back there, once it has been healthy for so long.
    pub failback: Option<Span>,
    /// Not without a third host that has room.
    pub require_spare: bool,
    /// Groups whose primaries are to be on different hosts.
    pub apart: Vec<String>,
}

/// A program that runs beside the guests and judges what it sees of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPart {
    /// Its name.
    pub name: String,
    /// Where it stands in the file.
    pub line: usize,
    /// Program and arguments; the program is relative to the scenario's file when it contains a slash.
    pub command: Vec<String>,
    /// The directory that it runs in: the scenario file's.
    pub directory: PathBuf,
    /// Ended (SIGTERM) when all guests have ended; otherwise the run waits for it.
    pub until_end: bool,
    /// The history that it leaves must be linearizable.
    pub linearizable: bool,
    /// The exit code that it must end with.
    pub exit_code: i32,
}
