//! What ftvm costs and how fast it is: suites of measurements, each figure beside a baseline or limit of the same run.
//!
//! ```text
//!   suites ──▶ rows (figures, baseline, ratio, target, verdict) ──▶ table | JSON | docs/performance.md
//! ```
//! Machines differ and are shared, so what is judged is a ratio of two figures taken in turns wherever there is a
//! baseline, and the load of the machine stands beside every suite.
#![forbid(unsafe_code)]

mod baseline;
mod commit_lines;
mod figures;
mod lab;
mod laps;
mod machine;
mod plot;
mod processes;
mod report;
mod row;
mod suites;
mod table;

pub use commit_lines::Commit;
pub use figures::Figures;
pub use machine::{Machine, load};
pub use report::{ReportError, markdown, write_report};
pub use row::{Baseline, Judged, Part, Row, Target, Unit, Verdict};
pub use suites::Suite;
pub use table::{amount, table};

use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Whatever stands in the way of a suite.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What is to be measured, and how.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// The ftvm program, for clusters.
    pub executable: PathBuf,
    /// Where pools are made: a tmpfs.
    pub pool_parent: PathBuf,
    /// Fewer repetitions: all suites in under three minutes.
    pub quick: bool,
    /// Which suites.
    pub suites: Vec<Suite>,
    /// The commit that the program was built from.
    pub commit: String,
    /// Why there is no KVM, if there is none: suites that need it are skipped.
    pub no_kvm: Option<String>,
}

/// What a suite came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SuiteReport {
    /// Which.
    pub suite: Suite,
    /// Why it was not run.
    pub skipped: Option<String>,
    /// Why it broke off.
    pub failed: Option<String>,
    /// How long it took.
    pub seconds: f64,
    /// The machine's load (runnable tasks, one-minute average) when it began and ended.
    pub load: [f64; 2],
    /// The figures.
    pub rows: Vec<Row>,
}

/// What a run of the bench came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// The commit that was measured.
    pub commit: String,
    /// Seconds since 1970 at its begin.
    pub started_unix: u64,
    /// Whether it was a quick run.
    pub quick: bool,
    /// How long all took.
    pub seconds: f64,
    /// All suites that were asked for.
    pub suites: Vec<SuiteReport>,
}

impl Report {
    /// Rows with a target: how many, and how many of them pass.
    #[must_use]
    pub fn judged(&self) -> (usize, usize) {
        let rows = || self.suites.iter().flat_map(|suite| &suite.rows);
        let judged = rows().filter(|row| row.verdict != Verdict::Shown).count();
        (judged, rows().filter(|row| row.verdict == Verdict::Pass).count())
    }

    /// Whether a suite broke off.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.suites.iter().any(|suite| suite.failed.is_some())
    }
}

/// Runs suites one after the other, telling `progress` which.
pub fn run(options: &BenchOptions, progress: &mut dyn Write) -> Report {
    let started = Instant::now();
    let started_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let machine = Machine::describe();
    let suites = options.suites.iter().map(|suite| run_suite(*suite, options, progress)).collect();
    Report {
        machine,
        commit: options.commit.clone(),
        started_unix,
        quick: options.quick,
        seconds: started.elapsed().as_secs_f64(),
        suites,
    }
}

fn run_suite(suite: Suite, options: &BenchOptions, progress: &mut dyn Write) -> SuiteReport {
    let mut report =
        SuiteReport { suite, skipped: None, failed: None, seconds: 0.0, load: [machine::load(); 2], rows: Vec::new() };
    if let (true, Some(reason)) = (suite.needs_kvm(), &options.no_kvm) {
        // Progress that cannot be written is no reason to stop.
        let _ = writeln!(progress, "ftvm bench: {suite}: SKIPPED: {reason}");
        report.skipped = Some(reason.clone());
        return report;
    }
    let _ = writeln!(progress, "ftvm bench: {suite} ...");
    let started = Instant::now();
    if let Err(failure) = suite.measure(options, &mut report.rows) {
        let line = lines_of(&*failure);
        let _ = writeln!(progress, "ftvm bench: {suite}: FAILED: {line}");
        report.failed = Some(line);
    }
    report.seconds = started.elapsed().as_secs_f64();
    report.load[1] = machine::load();
    report
}

/// An error with all its sources.
fn lines_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
