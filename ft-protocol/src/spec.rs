//! What a VM is to the cluster: its size, its guest's arguments, its protection mode and its bounds.

use crate::policy::Policy;
use crate::time::Span;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How a VM is protected (design.md, "Protection modes").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// Outputs wait for the commit of their epoch.
    Checkpoint,
    /// Inputs go to the record log, outputs leave at once, commits are rare. For guests that are deterministic between
    /// exits.
    Replay,
    /// Replay, and the secondary follows all along and compares.
    Lockstep,
}

impl Mode {
    /// Whether inputs go to the record log.
    #[must_use]
    pub const fn records(self) -> bool {
        matches!(self, Self::Replay | Self::Lockstep)
    }

    /// Longest time between two commits unless the VM's creator wants another.
    #[must_use]
    pub const fn default_epoch_interval(self) -> Span {
        match self {
            Self::Checkpoint => Span::from_ms(10),
            Self::Replay | Self::Lockstep => Span::from_ms(1000),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checkpoint => "checkpoint",
            Self::Replay => "replay",
            Self::Lockstep => "lockstep",
        })
    }
}

/// A mode that ftvm does not know.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown mode `{given}`: known are checkpoint, replay, lockstep")]
pub struct UnknownMode {
    given: String,
}

impl FromStr for Mode {
    type Err = UnknownMode;
    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        match text {
            "checkpoint" => Ok(Self::Checkpoint),
            "replay" => Ok(Self::Replay),
            "lockstep" => Ok(Self::Lockstep),
            _ => Err(UnknownMode { given: text.chars().take(32).collect() }),
        }
    }
}

/// Shape of a VM's journal. `slot_bytes` is virtual; only `reserved_bytes` of each slot are backed from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalShape {
    /// Commit records that may wait for the controller at one time.
    pub slots: u32,
    /// Bytes a record may have at most.
    pub slot_bytes: u64,
    /// Bytes of each slot that are reserved in the pool beforehand.
    pub reserved_bytes: u64,
}

/// What a network device is connected to on the host that runs the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetBackend {
    /// An Ethernet segment over Unix datagram sockets: the socket of its `ftvm switch`.
    Segment(String),
    /// A TAP device of this name.
    Tap(String),
}

/// A network device of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetSpec {
    /// The guest's hardware address; it moves with the guest.
    pub mac: [u8; 6],
    /// What it is connected to.
    pub backend: NetBackend,
}

/// Most network devices of a VM.
pub const NETS_MAX: usize = 4;

/// A VM as its creator describes it. Persisted in the cluster state and sent to hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// Name, 1 to 63 bytes of `[a-z0-9._-]`.
    pub name: String,
    /// Guest memory in bytes, a multiple of the page size.
    pub memory_bytes: u64,
    /// Protection mode.
    pub mode: Mode,
    /// Longest time between two commits while the guest runs.
    pub epoch_interval: Span,
    /// Guest arguments, as the boot information gives them to the guest.
    pub args: Vec<String>,
    /// Journal shape.
    pub journal: JournalShape,
    /// Console output waits for a reader, also while none is attached: nothing is ever overwritten unread.
    pub console_lossless: bool,
    /// Copy-on-write pages that the primary's host keeps, in bytes; `None`: all that it ever wrote. What one epoch dirties
    /// is kept in any case.
    pub working_set_bytes_max: Option<u64>,
    /// Where it should run.
    pub policy: Policy,
    /// Network devices.
    pub nets: Vec<NetSpec>,
    /// Bytes of the disk image, a multiple of the page size; zero: no disk.
    pub disk_bytes: u64,
    /// Bytes of the record log's ring, a power of two; used in the modes that record.
    pub log_bytes: u64,
}

/// The record log unless the VM's creator wants another: some seconds of a busy guest's inputs.
pub const LOG_BYTES_DEFAULT: u64 = 8 << 20;

/// Longest name of a VM or a host, in bytes (the VM directory's field).
pub const NAME_BYTES_MAX: usize = 63;

/// Whether `name` can name a VM or a host: 1 to 63 bytes of `[a-z0-9._-]`, not starting with a dot.
#[must_use]
pub fn name_is_valid(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}
