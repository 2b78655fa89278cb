//! What came of a scenario.

use super::verdict::Grade;
use super::{RunDirectory, RunnerError, Verdict, again};
use crate::golden::GoldenError;
use crate::language::Scenario;
use crate::report;
use crate::summary::Summary;
use ft_protocol::Span;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What came of a scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Its name.
    pub scenario: String,
    /// Its file.
    pub path: PathBuf,
    /// The seed that it ran with.
    pub seed: u64,
    /// Whether all expectations hold.
    pub holds: bool,
    /// Why it was not run at all, if it was not.
    pub skipped: Option<String>,
    /// Every expectation.
    pub verdicts: Vec<Verdict>,
    /// What its steps did, each in a line.
    #[serde(default)]
    pub steps: Vec<String>,
    /// How long it took.
    pub duration_ms: f64,
    /// The line that runs it again.
    pub again: String,
    /// The run in numbers: of its first VM.
    pub summary: Option<Summary>,
    /// The run's directory, if it was kept.
    pub directory: Option<PathBuf>,
}

/// Writes down what came of a run that is kept.
pub(super) fn keep(mut report: Report, directory: &RunDirectory) -> Result<Report, RunnerError> {
    report.directory = Some(directory.path().to_owned());
    directory.write_json("report.json", &report)?;
    report::write_html(directory.path())?;
    Ok(report)
}

impl Report {
    pub(super) fn skipped(scenario: &Scenario, seed: u64, reason: String) -> Self {
        Self { skipped: Some(reason), ..Self::new(scenario, seed, Vec::new()) }
    }

    /// Of a run that broke, or whose time was over before it began.
    pub(super) fn broken(scenario: &Scenario, seed: u64, error: &RunnerError) -> Self {
        let line = match error {
            RunnerError::Step { line, .. } | RunnerError::Workload { line, .. } => Some(*line),
            RunnerError::Guest { line, .. } => *line,
            _ => None,
        };
        let out_of_time = |what: &str, found: String, line: Option<usize>| {
            let line = scenario.time_limit_line.or(line).unwrap_or(scenario.expect.line);
            Verdict::out_of_time(what, scenario.time_limit, found, line)
        };
        let verdict = match error {
            RunnerError::Golden(GoldenError::TimeOut(after)) => {
                let found = format!(
                    "it had not ended after {:.1} s: it needs another guest, or a longer `time-limit`",
                    after.as_secs_f64()
                );
                // Where the file asks for it.
                let lines = &scenario.expect.lines;
                let line = lines.get("console").or(lines.get("memory")).copied();
                out_of_time("the unprotected run", found, line)
            }
            error if error.gave_up() => out_of_time("the run", "the cluster was not ready by then".to_owned(), None),
            error => {
                let expectation = "the scenario can be run to its end".to_owned();
                Verdict { grade: Grade::Broken, ..Verdict::decided(expectation, false, vmm::chain(error), line) }
            }
        };
        Self::new(scenario, seed, vec![verdict])
    }

    pub(super) fn new(scenario: &Scenario, seed: u64, verdicts: Vec<Verdict>) -> Self {
        Self {
            scenario: scenario.name.clone(),
            path: scenario.path.clone(),
            seed,
            holds: verdicts.iter().all(|verdict| verdict.holds),
            skipped: None,
            verdicts,
            steps: Vec::new(),
            duration_ms: 0.0,
            again: again(scenario, seed),
            summary: None,
            directory: None,
        }
    }

    /// Nothing failed but that time ran out.
    #[must_use]
    pub fn ran_out_of_time(&self) -> bool {
        !self.holds && self.failures().all(|verdict| verdict.grade == Grade::OutOfTime)
    }

    /// What is wrong, the cause first.
    pub fn failures(&self) -> impl Iterator<Item = &Verdict> {
        self.verdicts.iter().filter(|verdict| verdict.fails())
    }

    /// What is wrong, then what is open.
    pub fn not_held(&self) -> impl Iterator<Item = &Verdict> {
        let open = self.verdicts.iter().filter(|verdict| verdict.grade == Grade::Open);
        self.failures().chain(open)
    }

    /// The same run, which took so long.
    pub(super) fn took(self, time: Span) -> Self {
        Self { duration_ms: crate::summary::ms(time), ..self }
    }
}
