//! Fence agents: making sure that a deposed host does no harm beyond the pool.
//!
//! The seal is the fence: nothing here is waited for, and nothing depends on its outcome. An agent only ends what a seal
//! cannot, such as a stopped process that holds memory, or a server that burns power.

use serde::{Deserialize, Serialize};

/// What became of an attempt to fence a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FenceOutcome {
    /// No agent is configured: the seal alone fences.
    NoAgent,
    /// The agent acted and has verified that the host is off.
    Verified,
    /// The agent failed, could not verify, or took too long: the host may still run, and is harmless to the pool.
    Failed(String),
}
