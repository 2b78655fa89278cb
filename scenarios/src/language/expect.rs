//! What must come of a scenario.

use crate::event::HappeningKind;
use ft_protocol::Span;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What must come of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// Where `[expect]` stands in the file.
    pub line: usize,
    /// Where each of its keys stands.
    pub lines: BTreeMap<String, usize>,
    /// Of each VM, in the order of the scenario's VMs.
    pub vms: Vec<VmExpect>,
    /// Hosts that found themselves deposed, and ended with their own code.
    pub fenced: Option<Count>,
    /// How often things happened, over all VMs.
    pub events: BTreeMap<HappeningKind, Count>,
    /// The controller refuses the VMs, with a line that contains this.
    pub refused: Option<String>,
    /// Whether the pool must verify at the end.
    pub pool_sound: bool,
}

/// What must come of one VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmExpect {
    /// Where its own keys stand, of those in `[expect.vm.NAME]`.
    pub lines: BTreeMap<String, usize>,
    /// How it ends.
    pub end: End,
    /// The guest's exit code.
    pub exit_code: Option<u32>,
    /// The console is that of an unprotected run, byte for byte.
    pub console_as_unprotected: bool,
    /// At its end the guest's memory in the pool is that of an unprotected run, byte for byte.
    pub memory_as_unprotected: bool,
    /// At its end the guest's disk in the pool is that of an unprotected run, byte for byte.
    pub disk_as_unprotected: bool,
    /// Texts that lines of the console contain.
    pub console_contains: Vec<String>,
    /// Texts that no line of the console contains.
    pub console_lacks: Vec<String>,
    /// Takeovers after which the guest ran.
    pub takeovers: Option<Count>,
    /// Switchovers after which the guest ran.
    pub switchovers: Option<Count>,
    /// From the guest's first instruction to the first secondary.
    pub protected_within: Option<Span>,
    /// After each loss of the secondary there is a new one within this time.
    pub protected_again_within: Option<Span>,
    /// From a fault to the successor's first console byte.
    pub blackout_max: Option<Span>,
}

impl VmExpect {
    /// Whether an unprotected run is needed to judge it.
    #[must_use]
    pub fn needs_unprotected(&self) -> bool {
        self.console_as_unprotected || self.memory_as_unprotected || self.disk_as_unprotected
    }
}

/// How a run ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The guest exits.
    #[default]
    Ended,
    /// The guest crashes.
    Crashed,
    /// No host is left.
    Lost,
    /// A step deleted it.
    Deleted,
}

/// A number, or bounds for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The least.
    pub min: u64,
    /// The most; `None`: no bound.
    pub max: Option<u64>,
}

impl Count {
    /// Whether a number is within.
    #[must_use]
    pub fn holds(&self, number: u64) -> bool {
        number >= self.min && self.max.is_none_or(|max| number <= max)
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.max {
            Some(max) if max == self.min => write!(f, "{max}"),
            Some(max) => write!(f, "{} to {max}", self.min),
            None => write!(f, "at least {}", self.min),
        }
    }
}
