//! What is said between the harness outside and its programs inside a nested machine, and to QEMU's monitors.
#![forbid(unsafe_code)]

pub mod qmp;
pub mod sample;
pub mod wire;

/// The name of the virtio-serial port that harness and agent talk on.
pub const PORT_NAME: &str = "ftvm.agent";
