//! The scenario language: TOML files that say which guests run on which cluster, what is done to its hosts and when, and
//! what must come of it. docs/scenarios.md is its reference.
//!
//! ```text
//! text --toml--> table --matrix--> tables --> raw (serde, unknown keys refused, places kept) --check--> Scenario
//! ```

mod check;
mod condition;
pub(crate) mod error;
mod expect;
mod guests;
mod matrix;
mod parts;
mod pattern;
mod raw;
mod schema;
mod step;
#[cfg(test)]
mod tests;
mod values;
mod worlds;

pub use condition::{Condition, Fact, Facts, Relation};
pub use error::ScenarioError;
pub use expect::{Count, End, Expect, VmExpect};
pub use guests::UnfitGuest;
pub use matrix::Axis;
pub use parts::{ClusterPart, FencePart, HostPart, ModePart, PlacementPart, VmPart, WorkloadPart};
pub use pattern::Pattern;
pub use schema::json_schema;
pub use step::{Act, Action, CorruptWhat, CutFrom, Delay, Step, Target, WaysPart, When};
pub use worlds::NotSimulated;
#[cfg(test)]
pub(crate) use worlds::SIMULATED_FAILPOINTS;

use ft_protocol::Span;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Nobody reads longer ones.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// A scenario, checked: one cell of its file's matrix.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its file.
    pub path: PathBuf,
    /// Its name: the file's, without the extension, and the cell of the matrix if there is one.
    pub name: String,
    /// The cell of the matrix: each axis with its value.
    pub cell: Vec<(String, String)>,
    /// The same, as `--matrix` takes it.
    pub given: Vec<(String, String)>,
    /// What it proves.
    pub description: Option<String>,
    /// Where its random numbers start, unless the command line says otherwise.
    pub seed: u64,
    /// How long the whole run may take.
    pub time_limit: Span,
    /// Where the file says so, if it does.
    pub time_limit_line: Option<usize>,
    /// The cluster.
    pub cluster: ClusterPart,
    /// The VMs: at least one.
    pub vms: Vec<VmPart>,
    /// The programs beside them.
    pub workloads: Vec<WorkloadPart>,
    /// What is done, in the file's order.
    pub steps: Vec<Step>,
    /// What must come of it.
    pub expect: Expect,
}

impl Scenario {
    /// Reads a scenario file that has no matrix, or the first cell of its matrix.
    ///
    /// # Errors
    /// When it cannot be read, or does not say what a scenario needs.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        Self::parse(path, &text_of(path)?)
    }

    /// Reads a scenario file: a scenario for each cell of its matrix, whose axes may be given other values, and others.
    ///
    /// # Errors
    /// When it cannot be read, or does not say what a scenario needs.
    pub fn read_all(path: &Path, axes: &[Axis]) -> Result<Vec<Self>, ScenarioError> {
        Self::parse_all(path, &text_of(path)?, axes)
    }

    /// Takes the first scenario from text; `path` is for messages, and relative guest paths start there.
    ///
    /// # Errors
    /// When the text does not say what a scenario needs.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ScenarioError> {
        Self::parse_all(path, text, &[]).map(|mut all| all.remove(0))
    }

    /// Takes the scenarios of all cells of the matrix from text: at least one.
    ///
    /// # Errors
    /// When the text does not say what a scenario needs.
    pub fn parse_all(path: &Path, text: &str, axes: &[Axis]) -> Result<Vec<Self>, ScenarioError> {
        let source = error::Source { path, text, given: matrix::arguments(axes) };
        let cells = matrix::expand(&source, axes)?;
        cells.into_iter().map(|cell| check::scenario(&source, cell)).collect()
    }
}

fn text_of(path: &Path) -> Result<String, ScenarioError> {
    let unreadable = |source| ScenarioError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        let message = format!("a scenario file has at most {} KiB", TEXT_BYTES_MAX >> 10);
        return Err(error::Source { path, text: "", given: Vec::new() }.invalid(&(0..0), message));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(&error.as_bytes()[..good]).into_owned();
        error::Source { path, text: &text, given: Vec::new() }.invalid(&(good..good), "this is no text (UTF-8)")
    })
}
