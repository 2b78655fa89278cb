//! The suites.

mod apply;
mod kv;
mod output;
mod overhead;
mod pause;
mod record;
mod scale;
mod simulator;
mod takeover;

use super::{BenchOptions, Failure, Row};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A suite of measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Suite {
    /// What protection costs a guest.
    Overhead,
    /// How long a commit stops the guest.
    Pause,
    /// How long outputs wait.
    Output,
    /// How fast the record log is.
    Record,
    /// How long a takeover takes.
    Takeover,
    /// How fast the controller applies.
    Apply,
    /// Many VMs, many hosts.
    Scale,
    /// How many runs a minute the simulator makes.
    Simulator,
}

/// Text that names no suite.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no suite `{0}`: overhead, pause, output, record, takeover, apply, scale, simulator")]
pub struct UnknownSuite(String);

impl Suite {
    /// All of them, in the order in which they are run.
    pub const ALL: [Self; 8] = [
        Self::Record,
        Self::Pause,
        Self::Output,
        Self::Takeover,
        Self::Overhead,
        Self::Apply,
        Self::Scale,
        Self::Simulator,
    ];

    /// What it measures, in a few words.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::Overhead => "what protection costs a guest, against the same guest unprotected",
            Self::Pause => "how long a commit stops the guest, against memcpy of as many pages",
            Self::Output => "how long outputs wait, against the same guest unprotected",
            Self::Record => "the record log, against a channel and a pipe",
            Self::Takeover => "how long the world sees nothing when a primary dies or hangs",
            Self::Apply => "how fast the controller applies commit records, against memcpy",
            Self::Scale => "many VMs on one pool, many hosts",
            Self::Simulator => "runs of the deterministic simulator",
        }
    }

    /// Whether it runs guests.
    #[must_use]
    pub fn needs_kvm(self) -> bool {
        !matches!(self, Self::Record | Self::Apply | Self::Simulator)
    }

    pub(crate) fn measure(self, options: &BenchOptions, rows: &mut Vec<Row>) -> Result<(), Failure> {
        match self {
            Self::Overhead => overhead::measure(options, rows),
            Self::Pause => pause::measure(options, rows),
            Self::Output => output::measure(options, rows),
            Self::Record => record::measure(options, rows),
            Self::Takeover => takeover::measure(options, rows),
            Self::Apply => apply::measure(options, rows),
            Self::Scale => scale::measure(options, rows),
            Self::Simulator => simulator::measure(options, rows),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Overhead => "overhead",
            Self::Pause => "pause",
            Self::Output => "output",
            Self::Record => "record",
            Self::Takeover => "takeover",
            Self::Apply => "apply",
            Self::Scale => "scale",
            Self::Simulator => "simulator",
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Suite {
    type Err = UnknownSuite;

    fn from_str(text: &str) -> Result<Self, UnknownSuite> {
        Self::ALL.into_iter().find(|suite| suite.name() == text).ok_or_else(|| UnknownSuite(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_found_by_their_names() {
        for suite in Suite::ALL {
            assert_eq!(suite.to_string().parse(), Ok(suite));
        }
        let unknown = "speed".parse::<Suite>().unwrap_err().to_string();
        assert!(Suite::ALL.iter().all(|suite| unknown.contains(suite.name())), "{unknown}");
    }
}
