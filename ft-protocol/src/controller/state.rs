//! What the controller keeps in the pool, to be found again by its next life.

use crate::commit_meta::GuestEnd;
use crate::cpu::{CpuProfile, LEAVES_MAX};
use crate::ids::{Epoch, Generation, HostId, VmId};
use crate::spec::VmSpec;
use crate::timeline::LINE_BYTES_MAX;
use serde::{Deserialize, Serialize};

/// Version of the encoding; its first byte.
pub const CLUSTER_STATE_VERSION: u8 = 3;

/// The version before it, which is read as well: the format that the primary writes and the base of its reign were not kept.
const CLUSTER_STATE_BEFORE: u8 = 2;

/// Cluster state: who exists and who reigns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// Hosts; a host's number is its index.
    pub hosts: Vec<HostRecord>,
    /// All VMs.
    pub vms: Vec<VmRecord>,
    /// Where the generations of a new VM begin: above those of all VMs that were ever deleted, so that a host that comes back
    /// with a role for one of them is never taken for a host of the VM that has its number now.
    pub first_generation: Generation,
}

impl Default for ClusterState {
    fn default() -> Self {
        Self { hosts: Vec::new(), vms: Vec::new(), first_generation: Generation::FIRST }
    }
}

/// A host in the cluster state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// Its name.
    pub name: String,
    /// It is to have no roles.
    pub draining: bool,
}

/// A VM in the cluster state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// Its number.
    pub vm: VmId,
    /// What it is.
    pub spec: VmSpec,
    /// The youngest generation that was ever given to a host, or is about to be.
    pub generation: Generation,
    /// To whom `generation` was given; `None` while it waits for a host.
    pub primary: Option<HostId>,
    /// Takeovers so far.
    pub takeovers: u64,
    /// Switchovers so far.
    pub switchovers: u64,
    /// Where the VM was being moved to, as planned.
    pub moving_to: Option<HostId>,
    /// Where the VM was driven from, and may go back to.
    pub home: Option<HostId>,
    /// The processor that the guest is shown; settled when it is given to its first host.
    pub cpu: CpuProfile,
    /// The format of the machine state at `base`.
    pub state_version: Option<u32>,
    /// The format that the reigning primary writes: that of the machine state in the pool, once an epoch after `base` is
    /// committed.
    pub writes: Option<u32>,
    /// The epoch that `generation` goes on from.
    pub base: Epoch,
    /// What a replay of it did that its record log does not say, if one ever did.
    pub diverged: Option<String>,
    /// Set when its life has ended.
    pub ended: Option<GuestEnd>,
}

/// [`ClusterState`] as version 2 had it.
#[derive(Deserialize)]
struct ClusterStateV2 {
    hosts: Vec<HostRecord>,
    vms: Vec<VmRecordV2>,
    first_generation: Generation,
}

/// [`VmRecord`] as version 2 had it.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
struct VmRecordV2 {
    vm: VmId,
    spec: VmSpec,
    generation: Generation,
    primary: Option<HostId>,
    takeovers: u64,
    switchovers: u64,
    moving_to: Option<HostId>,
    home: Option<HostId>,
    cpu: CpuProfile,
    state_version: Option<u32>,
    diverged: Option<String>,
    ended: Option<GuestEnd>,
}

impl From<ClusterStateV2> for ClusterState {
    fn from(before: ClusterStateV2) -> Self {
        let ClusterStateV2 { hosts, vms, first_generation } = before;
        Self { hosts, vms: vms.into_iter().map(VmRecord::from).collect(), first_generation }
    }
}

impl From<VmRecordV2> for VmRecord {
    fn from(before: VmRecordV2) -> Self {
        let VmRecordV2 { vm, spec, generation, primary, takeovers, switchovers, moving_to, home, cpu, .. } = before;
        let VmRecordV2 { state_version, diverged, ended, .. } = before;
        // What was kept then was what the primary would write, whether it had come to that or not.
        let (writes, base) = (state_version, Epoch::ZERO);
        Self {
            vm,
            spec,
            generation,
            primary,
            takeovers,
            switchovers,
            moving_to,
            home,
            cpu,
            state_version,
            writes,
            base,
            diverged,
            ended,
        }
    }
}

/// Why stored bytes are no cluster state.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ClusterStateError {
    /// Written by another version.
    #[error("cluster state has version {found:?}, expected {CLUSTER_STATE_BEFORE} or {CLUSTER_STATE_VERSION}")]
    Version {
        /// The version found, if there was a byte at all.
        found: Option<u8>,
    },
    /// Not an encoding of this version.
    #[error("cluster state does not decode ({0})")]
    Malformed(postcard::Error),
    /// Bytes after the end of the encoding.
    #[error("cluster state has {extra} bytes after its end")]
    Trailing {
        /// How many.
        extra: usize,
    },
}

/// What the record of a VM may grow by while it lives: the processor that its guest is shown, its end in one line, numbers.
pub const VM_GROWTH_BYTES: usize = LEAVES_MAX * 35 + LINE_BYTES_MAX + 256;

impl ClusterState {
    /// Whether a part of the pool of this name belongs to a VM. If not, an earlier controller died while it made or deleted
    /// it: it is given back.
    #[must_use]
    pub fn owns(&self, name: &str) -> bool {
        self.vms.iter().any(|vm| vm.spec.name == name)
    }

    /// Whether there is room for these VMs more, and for all that VMs may grow by, in so many bytes: a controller that could not
    /// store its state would have to give up.
    #[must_use]
    pub fn has_room_for<'spec>(&self, specs: impl Iterator<Item = &'spec VmSpec>, bytes_max: u64) -> bool {
        let bytes = |spec| postcard::experimental::serialized_size(spec).unwrap_or(usize::MAX);
        let new = specs.map(|spec| bytes(spec).saturating_add(VM_GROWTH_BYTES)).fold(0, usize::saturating_add);
        let growth = self.vms.len() * VM_GROWTH_BYTES;
        let needed = self.encode().len().saturating_add(new).saturating_add(growth);
        u64::try_from(needed).is_ok_and(|needed| needed <= bytes_max)
    }

    /// Encodes for the pool.
    ///
    /// # Panics
    /// Never: encoding into a growing buffer has no failing case.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![CLUSTER_STATE_VERSION]).expect("encoding into a Vec cannot fail")
    }

    /// Decodes what an earlier life stored.
    pub fn decode(bytes: &[u8]) -> Result<Self, ClusterStateError> {
        match bytes.split_first() {
            Some((&CLUSTER_STATE_VERSION, body)) => whole(body),
            Some((&CLUSTER_STATE_BEFORE, body)) => whole::<ClusterStateV2>(body).map(Self::from),
            other => Err(ClusterStateError::Version { found: other.map(|(version, _)| *version) }),
        }
    }
}

/// All of an encoding.
fn whole<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ClusterStateError> {
    let (state, rest) = postcard::take_from_bytes(body).map_err(ClusterStateError::Malformed)?;
    if rest.is_empty() { Ok(state) } else { Err(ClusterStateError::Trailing { extra: rest.len() }) }
}
