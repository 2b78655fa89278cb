//! The state of a cluster, as it is told.

use crate::commit_meta::GuestEnd;
use crate::ids::{Epoch, Generation, HostId, VmId};
use crate::latency::LatencySummary;
use crate::phi::Phi;
use crate::spec::{Mode, NetSpec};
use crate::time::Span;
use serde::{Deserialize, Serialize};

/// State of a whole cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// All hosts that were ever members.
    pub hosts: Vec<HostStatus>,
    /// All VMs.
    pub vms: Vec<VmStatus>,
}

/// State of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its number.
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// Its health in one word: up, silent, down, held-down.
    pub health: String,
    /// How suspicious its silence of the moment is, once its beats are known well enough.
    pub phi: Option<Phi>,
    /// The version that is spoken with it, while it is connected.
    pub protocol: Option<u32>,
    /// Its failure domains.
    pub labels: Vec<String>,
}

/// How a secondary follows its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowStatus {
    /// The last epoch that it has come to.
    pub reached: Epoch,
    /// Epochs that the primary has committed and it has not come to.
    pub behind: u64,
    /// Epochs that it has executed and found as the commit record says.
    pub compared: u64,
    /// Epochs that it went on from without executing them to their end: the guest took no exit for long.
    pub adopted: u64,
    /// How long after the commit it came to the last epoch, or for how long it has not come to the next one, if that is longer.
    pub lag: Span,
    /// The longest that it took to come to any.
    pub lag_max: Span,
}

/// State of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStatus {
    /// Its number.
    pub vm: VmId,
    /// Its name.
    pub name: String,
    /// Its phase in one word.
    pub phase: String,
    /// How it is protected.
    pub mode: Mode,
    /// What a replay of it did that the record log does not say, in one line, if one ever did.
    pub diverged: Option<String>,
    /// What part of a record log was damaged, in one line, if one ever was.
    pub log_lost: Option<String>,
    /// What is wrong with its part of the pool, in one line, if it is damaged.
    pub damage: Option<String>,
    /// Its generation.
    pub generation: Generation,
    /// The last applied epoch: what is recoverable without any journal.
    pub applied: Epoch,
    /// Name of the primary's host.
    pub primary: Option<String>,
    /// Name of the secondary's host.
    pub secondary: Option<String>,
    /// `None` when protected, otherwise why not.
    pub unprotected: Option<String>,
    /// Takeovers so far.
    pub takeovers: u64,
    /// Switchovers so far.
    pub switchovers: u64,
    /// Name of the host that it is being moved to.
    pub moving_to: Option<String>,
    /// What the next failure would cost, in one line: no host is left that could re-protect the VM.
    pub at_risk: Option<String>,
    /// Name of the host that has room for a new secondary after the next failure.
    pub spare: Option<String>,
    /// How the secondary follows, in lockstep mode.
    pub following: Option<FollowStatus>,
    /// Why the secondary does not follow, in lockstep mode, in one line.
    pub not_following: Option<String>,
    /// Guest memory in bytes.
    pub memory_bytes: u64,
    /// Network devices.
    pub nets: Vec<NetSpec>,
    /// Bytes of the disk; zero: none.
    pub disk_bytes: u64,
    /// How long the guest's outputs waited from its exit to their release, under all primaries that this controller knew.
    pub output_latency: Option<LatencySummary>,
    /// Console bytes since the guest's birth.
    pub console_end: u64,
    /// What the guest waits for, in one line: space in the pool, a reader of its output, or the secondary that follows.
    pub waits: Option<String>,
    /// How the guest's life ended, if it has.
    pub ended: Option<GuestEnd>,
    /// How long the guest stood still in the last switchover that this controller saw.
    pub switchover_blackout: Option<Span>,
}
