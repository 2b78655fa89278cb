//! Nested machines: QEMU/TCG machines with a Debian kernel and a real kvm-amd, each a host that can be killed. They share a
//! memory device as the pool, and an Ethernet segment that this process is on too.
//!
//! ```text
//!   tests (this process) ── control channel, QMP ──> machine a ── kvm-amd ──> guests
//!        │                                           machine b ...
//!        └── segment (vmm::net::Switch) ─────────────── eth0 of each
//!            pool file, MAP_SHARED by every QEMU ────── /dev/dax0.0 of each
//! ```
#![forbid(unsafe_code)]

pub mod cluster;
mod cpio;
mod directory;
pub mod fence;
pub mod image;
pub mod kernel;
pub mod kvm_guest;
pub mod machine;
pub mod measure;
mod pool_device;
pub mod programs;
mod segment;
mod tool;

pub use cluster::{Cluster, ClusterError, Setup};
pub use machine::{Machine, MachineError, Output};
pub use tool::ToolError;

/// Says whether machines can run here at all: the one program that is needed and cannot be fetched.
///
/// # Errors
/// QEMU is not installed; the error says how it is.
pub fn check() -> Result<(), ToolError> {
    machine::check()
}
