//! The KVM machine, and the host and controller processes that drive the cores.

pub mod client;
pub mod clock;
pub mod controller;
pub mod doctor;
mod error_chain;
pub mod events;
pub mod host;
pub mod machine;
pub mod transport;
mod wake;

pub use error_chain::chain;
