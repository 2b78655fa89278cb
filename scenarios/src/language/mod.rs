//! The scenario language: TOML files that say which guest runs on which cluster, what is done to its hosts and when, and
//! what must come of it. docs/scenarios.md is its reference.
//!
//! ```text
//! text --toml--> raw (serde, unknown keys refused, places kept) --check--> Scenario
//! ```

mod check;
mod error;
mod pattern;
mod raw;
#[cfg(test)]
mod tests;

pub use error::ScenarioError;
pub use pattern::Pattern;

use crate::cluster::{HostName, HostSignal};
use crate::event::HappeningKind;
use crate::guest::GuestSource;
use crate::units::ByteCount;
use ft_protocol::Span;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A scenario, checked.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its file.
    pub path: PathBuf,
    /// Its name: the file's, without the extension.
    pub name: String,
    /// What it proves.
    pub description: Option<String>,
    /// Where its random numbers start, unless the command line says otherwise.
    pub seed: u64,
    /// How long the whole run may take.
    pub time_limit: Span,
    /// The cluster.
    pub cluster: ClusterPart,
    /// The VM.
    pub vm: VmPart,
    /// What is done, in the file's order.
    pub steps: Vec<Step>,
    /// What must come of it.
    pub expect: Expect,
}

/// The cluster of a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPart {
    /// How many hosts.
    pub hosts: u16,
    /// Silence after which a host is suspected; `None`: the default.
    pub heartbeat_bound: Option<Span>,
    /// Whether hosts that die are started again at once.
    pub respawn: bool,
}

/// How a VM is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModePart {
    /// Outputs wait for the commit of their epoch.
    #[default]
    Checkpoint,
}

/// The VM of a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmPart {
    /// The guest; a path is relative to the scenario's file.
    pub guest: GuestSource,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its memory.
    pub memory: ByteCount,
    /// How it is protected.
    pub mode: ModePart,
    /// Longest time between two commits; `None`: the default.
    pub epoch_interval: Option<Span>,
}

/// One thing that is done, and when.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its name: given, or `step N`.
    pub name: String,
    /// Where it stands in the file.
    pub line: usize,
    /// The step that must have fired before: its place in [`Scenario::steps`].
    pub after: Option<usize>,
    /// What it waits for then.
    pub when: When,
    /// How long it waits after that; drawn from this range.
    pub delay: Delay,
    /// How often it fires.
    pub repeat: u32,
    /// What it does.
    pub action: Action,
    /// To whom.
    pub targets: Vec<Target>,
}

/// What a step waits for.
#[derive(Clone, Debug)]
pub enum When {
    /// The guest runs; with `after`: nothing more.
    Running,
    /// This happens.
    Event(HappeningKind),
    /// A line of the console matches.
    Console(Pattern),
}

/// A range of times, both ends included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delay {
    /// The shortest.
    pub min: Span,
    /// The longest.
    pub max: Span,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Cont,
    /// Start a host that is dead.
    Start,
}

impl Action {
    /// The signal that it sends, if it sends one.
    #[must_use]
    pub fn signal(self) -> Option<HostSignal> {
        match self {
            Self::Kill => Some(HostSignal::Kill),
            Self::Stop => Some(HostSignal::Stop),
            Self::Cont => Some(HostSignal::Cont),
            Self::Start => None,
        }
    }
}

/// To whom something is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Whoever is primary when the step fires.
    Primary,
    /// Whoever is secondary when the step fires.
    Secondary,
    /// This host.
    Host(HostName),
    /// The hosts that this step hit last.
    HitBy(usize),
}

/// What must come of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// How the run ends.
    pub end: End,
    /// The guest's exit code.
    pub exit_code: Option<u32>,
    /// The console is that of an unprotected run, byte for byte.
    pub console_as_unprotected: bool,
    /// Texts that lines of the console contain.
    pub console_contains: Vec<String>,
    /// Takeovers after which the guest ran.
    pub takeovers: Option<Count>,
    /// Hosts that found themselves deposed, and ended with their own code.
    pub fenced: Option<Count>,
    /// After each loss of the secondary there is a new one within this time.
    pub protected_again_within: Option<Span>,
    /// From a fault to the successor's first console byte.
    pub blackout_max: Option<Span>,
}

/// How a run ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The guest exits.
    #[default]
    Ended,
    /// The guest crashes.
    Crashed,
    /// No host is left.
    Lost,
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

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// When it cannot be read, or does not say what a scenario needs.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Takes a scenario from text; `path` is for messages, and relative guest paths start there.
    ///
    /// # Errors
    /// When the text does not say what a scenario needs.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ScenarioError> {
        check::scenario(path, text)
    }
}
