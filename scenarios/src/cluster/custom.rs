//! What a private cluster has beyond the ordinary, for scenarios.

use super::hosts::HostName;
use crate::units::ByteCount;
use ft_protocol::Span;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use vmm::clock::CLOCK_STEP_VARIABLE;
use vmm::failpoint::{FAILPOINTS_VARIABLE, GATES};

/// What a private cluster has beyond the ordinary.
#[derive(Clone, Debug, Default)]
pub struct ClusterCustom {
    /// A primary that owes a commit for so long is suspected; `None`: the controller's own default.
    pub stall_bound: Option<Span>,
    /// Arguments for the controller about its fence agent.
    pub fence_arguments: Vec<String>,
    /// What single hosts have of their own.
    pub hosts: BTreeMap<HostName, HostCustom>,
    /// Failpoints of the controller's first life.
    pub controller_failpoints: String,
    /// The controller's clock can be stepped.
    pub controller_clock_can_step: bool,
    /// What hosts log (`RUST_LOG`); `None`: as whoever starts them.
    pub host_log: Option<String>,
    /// Where what all processes said is copied at the end, however it comes.
    pub logs: Option<PathBuf>,
}

/// What a host has of its own.
#[derive(Clone, Debug, Default)]
pub struct HostCustom {
    /// Memory that its guests may take.
    pub memory: Option<ByteCount>,
    /// Its failure domains.
    pub labels: Vec<String>,
    /// Failpoints of its first life.
    pub failpoints: String,
    /// Its stores into the pool can be held.
    pub pool_can_be_cut: bool,
    /// Its messages can be held.
    pub network_can_be_cut: bool,
    /// Its clock can be stepped.
    pub clock_can_step: bool,
}

impl ClusterCustom {
    pub(super) fn host(&self, name: &HostName) -> HostCustom {
        self.hosts.get(name).cloned().unwrap_or_default()
    }

    /// Gives a controller its arguments.
    pub(super) fn for_controller(&self, command: &mut Command, life: u32, clock: &Path) {
        if self.controller_clock_can_step {
            command.env(CLOCK_STEP_VARIABLE, clock);
        }
        if let Some(bound) = self.stall_bound {
            command.arg("--stall-ms").arg(bound.ms().max(1).to_string());
        }
        command.args(&self.fence_arguments);
        if life == 1 && !self.controller_failpoints.is_empty() {
            command.env(FAILPOINTS_VARIABLE, &self.controller_failpoints);
        }
    }
}

impl HostCustom {
    /// Gives a host its arguments. While there is a file at `gate`, its stores into the pool are held; the file at `clock`
    /// says how far its clock is ahead.
    pub(super) fn for_host(&self, command: &mut Command, life: u32, gate: &Path, clock: &Path) {
        if self.clock_can_step {
            command.env(CLOCK_STEP_VARIABLE, clock);
        }
        if let Some(memory) = self.memory {
            command.arg("--memory").arg(memory.get().to_string());
        }
        for label in &self.labels {
            command.arg("--label").arg(label);
        }
        let mut failpoints = if life == 1 { self.failpoints.clone() } else { String::new() };
        if self.pool_can_be_cut {
            for name in GATES {
                failpoints.push_str(&format!(";{name}=gate:{}", gate.display()));
            }
        }
        if !failpoints.is_empty() {
            command.env(FAILPOINTS_VARIABLE, failpoints);
        }
    }
}
