//! What the agent inside a nested machine and the harness outside say to each other.
#![forbid(unsafe_code)]

pub mod wire;

/// The name of the virtio-serial port that they say it on.
pub const PORT_NAME: &str = "ftvm.agent";
