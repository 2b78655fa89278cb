//! Scenario language, runner on real processes, deterministic simulator.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod event;
pub mod guest;
pub mod protected;
pub mod timeline;
pub mod units;
