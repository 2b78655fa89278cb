//! The KVM machine, and the host and controller processes that drive the cores.

pub mod client;
pub mod clock;
pub mod transport;
