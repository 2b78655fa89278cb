//! Sans-I/O cores of ftvm: every decision of primary, secondary, host and controller.
//!
//! Nothing here has threads, clocks, files or KVM. Events go in with the time as an argument, actions come out; the
//! processes in `vmm` and the simulator in `scenarios` drive the same code. See README.md for the dependency rule.
#![forbid(unsafe_code)]

pub mod activity;
pub mod commit_meta;
pub mod console_input;
pub mod controller;
pub mod cpu;
pub mod detector;
pub mod fence;
pub mod follower;
pub mod host;
pub mod ids;
pub mod latency;
pub mod phi;
#[cfg(feature = "planted-bugs")]
pub mod planted;
#[cfg(not(feature = "planted-bugs"))]
mod planted;
pub mod policy;
pub mod primary;
pub mod record;
pub mod secondary;
pub mod spec;
pub mod time;
pub mod timeline;
pub mod versions;
pub mod wire;

pub use ids::{Epoch, Generation, HostId, Incarnation, LinkId, VmId};
pub use time::{Span, Time};
