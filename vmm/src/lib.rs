//! The KVM machine, and the host and controller processes that drive the cores.

pub mod client;
pub mod clock;
pub mod controller;
pub mod disk_file;
pub mod doctor;
mod error_chain;
pub mod events;
pub mod failpoint;
pub mod fence;
pub mod host;
pub mod inspect;
#[allow(unsafe_code, reason = "futexes and a mapping of their own")]
mod life;
mod log_burst;
pub mod machine;
mod mailbox;
pub mod membership;
pub mod net;
pub mod recording;
pub mod slice;
pub mod standard_streams;
#[allow(unsafe_code, reason = "a system call between fork and exec")]
pub mod tied;
pub mod transport;
pub mod unprotected;
mod wake;

pub use error_chain::chain;
