//! Linux guests measured inside a machine: boot, pause, blackout, and the same of QEMU on the same KVM, in turns.
//!
//! ```text
//!   plan ──▶ nested-measure (inside) ──▶ samples ──▶ rows ──▶ document | JSON
//! ```

mod report;

use crate::cluster::{Cluster, ClusterError, Setup};
use crate::machine::{End, MachineError, program};
use crate::programs::{BuildError, Programs};
use crate::tool::{self, ToolError};
use ftvm_bench::{Row, load};
use nested_inside::sample::{Plan, Sample};
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Guests in it, their pool, and snapshots.
const MACHINE_MEMORY_MIB: u64 = 3072;
/// Where the program is put.
const PROGRAM: &str = "/bin/nested-measure";
/// Nothing in it takes this long between two words of progress.
const SILENCE_MAX: Duration = Duration::from_secs(1800);
/// As much of a complaint as is repeated.
const COMPLAINT_CHARS_MAX: usize = 1200;

/// It cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// No machine.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The machine fails.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// No program.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// QEMU does not say which it is.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The program broke off.
    #[error("the measurement broke off ({end:?}): {complaint}")]
    Broken {
        /// How it ended.
        end: Option<End>,
        /// The end of what it said.
        complaint: String,
    },
    /// What the program says is no sample.
    #[error("this is no sample: {line}")]
    Line {
        /// What it says.
        line: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// A file cannot be read or written.
    #[error("{path} cannot be read or written")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A measurement, with what it depends on.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    /// The machine on which all this was emulated.
    pub machine: ftvm_bench::Machine,
    /// Runnable tasks there, at the begin and at the end, averaged over a minute.
    pub load: [f64; 2],
    /// The version of QEMU, of the machine and inside it.
    pub qemu: String,
    /// The kernel packages of machine and guests.
    pub kernels: [String; 2],
    /// Seconds since 1970 at its begin.
    pub started_unix: u64,
    /// How long it took.
    pub seconds: f64,
    /// Whether it was a quick one.
    pub quick: bool,
    /// What was to be measured.
    pub plan: Plan,
    /// What was.
    pub samples: Vec<Sample>,
}

/// A plan for a look, or for figures.
#[must_use]
pub fn plan(quick: bool) -> Plan {
    let few = |few, many| if quick { few } else { many };
    Plan {
        memory_mib: 160,
        boots: few(1, 5),
        working_sets_mib: if quick { vec![4] } else { vec![1, 4, 16, 64] },
        pause_rounds: few(1, 2),
        pauses: few(2, 4),
        blackout_rounds: few(1, 2),
        kills: few(1, 4),
    }
}

/// Boots a machine and measures in it, telling `progress` what.
///
/// # Errors
/// There can be no machine, or the measurement breaks off.
pub fn measure(quick: bool, progress: &mut dyn Write) -> Result<Measurement, MeasureError> {
    let (started, load_before) = (Instant::now(), load());
    let started_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let plan = plan(quick);
    let setup = Setup { machines: 1, memory_mib: MACHINE_MEMORY_MIB, pool_mib: 0, ftvm: None, has_qemu: true };
    let cluster = Cluster::boot(setup)?;
    let machine = &cluster.machines[0];
    let file = Programs::build(None)?.path("nested-measure");
    let content = std::fs::read(&file).map_err(|source| MeasureError::File { path: file, source })?;
    machine.put(PROGRAM, 0o755, &content)?;
    let words = serde_json::to_string(&plan).expect("a plan is plain data");
    let mut process = machine.start(&[PROGRAM, &words])?;
    process.close_input()?;
    let mut told = 0;
    while process.look()?.end.is_none() {
        let output = process.await_output(SILENCE_MAX, |output| output.stderr.len() > told)?;
        // Progress that cannot be written is no reason to stop.
        let _ = progress.write_all(&output.stderr[told..]);
        told = output.stderr.len();
    }
    let output = process.look()?;
    if !output.is_success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let skipped = said.chars().count().saturating_sub(COMPLAINT_CHARS_MAX);
        let complaint = said.chars().skip(skipped).collect::<String>().trim().replace('\n', " | ");
        return Err(MeasureError::Broken { end: output.end, complaint });
    }
    let samples = samples(&String::from_utf8_lossy(&output.stdout))?;
    let images = cluster.images();
    Ok(Measurement {
        machine: ftvm_bench::Machine::describe(),
        load: [load_before, load()],
        qemu: qemu_version()?,
        kernels: [images.kernel.name.clone(), images.guest_kernel.name.clone()],
        started_unix,
        seconds: started.elapsed().as_secs_f64(),
        quick,
        plan,
        samples,
    })
}

fn samples(text: &str) -> Result<Vec<Sample>, MeasureError> {
    let sample =
        |line: &str| serde_json::from_str(line).map_err(|source| MeasureError::Line { line: line.to_owned(), source });
    text.lines().map(sample).collect()
}

fn qemu_version() -> Result<String, ToolError> {
    let said = tool::run(Command::new(program()?).arg("--version"), "qemu-system-x86")?;
    let said = String::from_utf8_lossy(&said);
    let first = said.lines().next().unwrap_or_default();
    Ok(first.trim_start_matches("QEMU emulator version ").to_owned())
}

impl Measurement {
    /// The figures, by what they are about: boots, pauses, blackouts.
    #[must_use]
    pub fn rows(&self) -> [Vec<Row>; 3] {
        [report::boots(&self.samples), report::pauses(&self.samples), report::blackouts(&self.samples)]
    }

    /// What could not be measured or broke off, and why.
    #[must_use]
    pub fn unable(&self) -> Vec<(&str, &str)> {
        let mut unable = Vec::new();
        for sample in &self.samples {
            if let Sample::Unable { what, why } = sample {
                unable.push((what.as_str(), why.as_str()));
            }
        }
        unable
    }

    /// The result as a document.
    #[must_use]
    pub fn document(&self) -> String {
        report::document(self)
    }

    /// Everything, as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_json(&self, path: &Path) -> Result<(), MeasureError> {
        let text = serde_json::to_string_pretty(self).expect("a measurement is plain data") + "\n";
        write(path, &text)
    }

    /// The document.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_document(&self, path: &Path) -> Result<(), MeasureError> {
        write(path, &self.document())
    }
}

fn write(path: &Path, text: &str) -> Result<(), MeasureError> {
    std::fs::write(path, text).map_err(|source| MeasureError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::{MeasureError, samples};
    use nested_inside::sample::{Boot, Sample};

    #[test]
    fn each_line_is_a_sample() {
        let boot = Sample::Boot { way: Boot::QemuQ35, ns: 7 };
        let unable = Sample::Unable { what: "a".to_owned(), why: "b\nc".to_owned() };
        let line = |sample: &Sample| serde_json::to_string(sample).unwrap() + "\n";
        assert_eq!(samples(&(line(&boot) + &line(&unable))).unwrap(), [boot.clone(), unable]);
        assert_eq!(samples("").unwrap(), []);
        let cut = line(&boot) + "{\"boot\":{\"way\":";
        assert!(matches!(samples(&cut), Err(MeasureError::Line { .. })));
    }
}
