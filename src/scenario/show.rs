//! How scenarios go, for people.

use crate::output;
use scenarios::runner::{Glimpse, Progress, Report};
use scenarios::units::show_span;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};

/// Clears what is in the line, and goes to its begin.
const CLEAR: &str = "\r\x1b[K";

/// Shows runs while they go on: those that end as lines on standard output, those that go on in one line that changes, if
/// standard error is a terminal.
pub(super) struct Show {
    /// How many runs there will be, if that is known.
    runs: Option<u64>,
    verbose: bool,
    quiet: bool,
    live: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ended: usize,
    failed: usize,
    /// Those that go on: name, and how.
    going: BTreeMap<usize, (String, Option<Glimpse>)>,
}

impl Show {
    pub(super) fn new(runs: Option<u64>, verbose: bool, quiet: bool) -> Self {
        let live = std::io::stderr().is_terminal();
        Self { runs, verbose, quiet, live, state: Mutex::default() }
    }

    pub(super) fn take(&self, progress: Progress<'_>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match progress {
            Progress::Began { run, scenario, seed } => {
                state.going.insert(run, (format!("{} (seed {seed})", scenario.name), None));
            }
            Progress::Goes { run, glimpse } => {
                if let Some((_, last)) = state.going.get_mut(&run) {
                    *last = Some(glimpse.clone());
                }
            }
            Progress::Ended { run, report } => {
                state.going.remove(&run);
                state.ended += 1;
                state.failed += usize::from(!report.holds);
                if !self.quiet {
                    self.clear();
                    // Who cannot be told now is told when the command ends.
                    let _ = output::text(&describe(report, self.verbose));
                }
            }
        }
        self.draw(&state);
    }

    pub(super) fn finish(&self) {
        self.clear();
    }

    fn clear(&self) {
        if self.live {
            eprint!("{CLEAR}");
        }
    }

    fn draw(&self, state: &State) {
        if !self.live {
            return;
        }
        let going = state.going.values().map(|(name, glimpse)| match glimpse {
            Some(glimpse) => format!("{name}: {}", glimpse_line(glimpse)),
            None => format!("{name}: starts"),
        });
        let going = going.collect::<Vec<_>>().join(" | ");
        let of = self.runs.map_or(String::new(), |runs| format!(" of {runs}"));
        let mut line = format!("{}{of} over, {} failed | {going}", state.ended, state.failed);
        line.truncate(line.floor_char_boundary(columns()));
        eprint!("{CLEAR}{line}");
        let _ = std::io::stderr().flush();
    }
}

/// A line that wraps cannot be cleared.
fn columns() -> usize {
    std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).unwrap_or(79)
}

fn glimpse_line(glimpse: &Glimpse) -> String {
    let Glimpse { elapsed, epoch, takeovers, protected, last_step } = glimpse;
    let protected = if *protected { "protected" } else { "NOT protected" };
    let step = last_step.as_ref().map_or(String::new(), |step| format!(", after {step}"));
    format!("{}, epoch {epoch}, {takeovers} takeovers, {protected}{step}", show_span(*elapsed))
}

/// What came of a run: a line if all is well, every expectation that does not hold if not.
fn describe(report: &Report, verbose: bool) -> String {
    let name = format!("{} (seed {}, {:.1} s)", report.scenario, report.seed, report.duration_ms / 1_000.0);
    if let Some(reason) = &report.skipped {
        return format!("skip  {name}: {}\n", plain(reason));
    }
    let mut text = format!("{}  {name}\n", if report.holds { "ok  " } else { "FAIL" });
    let held = report.verdicts.iter().filter(|verdict| verbose && verdict.holds);
    for verdict in report.not_held().chain(held) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:<4}  {}", verdict.mark(), plain(&verdict.to_string()));
    }
    for step in report.steps.iter().filter(|_| !report.holds) {
        let _ = writeln!(text, "  step  {}", plain(step));
    }
    if let Some(directory) = &report.directory {
        let _ = writeln!(text, "  see   {}", directory.display());
    }
    if !report.holds {
        let _ = writeln!(text, "  again {}", report.again);
    }
    text
}

/// Text of guests and files, which must not steer a terminal.
pub(super) fn plain(text: &str) -> String {
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().flat_map(|c| if steers(c) { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// All runs in a line.
pub(super) fn summary(reports: &[Report]) -> String {
    let failed: Vec<&str> =
        reports.iter().filter(|report| !report.holds).map(|report| report.scenario.as_str()).collect();
    let skipped = reports.iter().filter(|report| report.skipped.is_some()).count();
    let passed = reports.len() - failed.len() - skipped;
    let names = if failed.is_empty() { String::new() } else { format!(": {}", failed.join(", ")) };
    let skipped = if skipped == 0 { String::new() } else { format!("{skipped} skipped, ") };
    format!("{passed} scenarios hold, {skipped}{} fail{names}\n", failed.len())
}
