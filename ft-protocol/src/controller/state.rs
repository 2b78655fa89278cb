//! What the controller keeps in the pool, to be found again by its next life.

use crate::commit_meta::GuestEnd;
use crate::cpu::CpuProfile;
use crate::ids::{Generation, HostId, VmId};
use crate::spec::VmSpec;
use serde::{Deserialize, Serialize};

/// Version of the encoding; its first byte.
pub const CLUSTER_STATE_VERSION: u8 = 2;

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
    /// The format of the machine state in the pool: what the last primary wrote.
    pub state_version: Option<u32>,
    /// What a replay of it did that its record log does not say, if one ever did.
    pub diverged: Option<String>,
    /// Set when its life has ended.
    pub ended: Option<GuestEnd>,
}

/// Why stored bytes are no cluster state.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ClusterStateError {
    /// Written by another version.
    #[error("cluster state has version {found:?}, expected {CLUSTER_STATE_VERSION}")]
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

impl ClusterState {
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
            Some((&CLUSTER_STATE_VERSION, body)) => {
                let (state, rest) = postcard::take_from_bytes(body).map_err(ClusterStateError::Malformed)?;
                if rest.is_empty() { Ok(state) } else { Err(ClusterStateError::Trailing { extra: rest.len() }) }
            }
            other => Err(ClusterStateError::Version { found: other.map(|(version, _)| *version) }),
        }
    }
}
