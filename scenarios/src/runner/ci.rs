//! Reports for machines that build: JUnit XML, and annotations of GitHub Actions.

use super::{Grade, Report, RunnerError, Verdict};
use crate::language::ScenarioError;
pub use quick_junit::SerializeError as JunitError;
use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// The reports as JUnit XML: a test case for each run, and one for what kept the others from running.
///
/// # Errors
/// Never: the text is made in memory.
pub fn junit(reports: &[Report], broken: Option<&RunnerError>) -> Result<String, JunitError> {
    let case = |report: &Report| {
        let mut case = TestCase::new(format!("{} (seed {})", report.scenario, report.seed), status(report));
        case.set_classname(report.path.to_string_lossy());
        case.set_time(Duration::from_secs_f64(report.duration_ms.max(0.0) / 1_000.0));
        let verdicts: String = report.verdicts.iter().map(|verdict| line(verdict) + "\n").collect();
        case.set_system_out(verdicts);
        case
    };
    let broken = broken.map(|error| error_case("all scenarios run", "broken", error));
    suite_of(reports.iter().map(case).chain(broken))
}

fn error_case(name: &str, of_type: &str, error: &dyn std::error::Error) -> TestCase {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    status.set_type(of_type);
    status.set_message(vmm::chain(error));
    TestCase::new(name, status)
}

/// The same where nothing was run, because of files that are no scenarios: a test case for each, which is an error.
///
/// # Errors
/// Never: the text is made in memory.
pub fn junit_of_invalid(errors: &[ScenarioError]) -> Result<String, JunitError> {
    let case = |error: &ScenarioError| {
        let (path, _) = place(error);
        let mut case = error_case("it is a scenario", "invalid", error);
        case.set_classname(path.to_string_lossy());
        case
    };
    suite_of(errors.iter().map(case))
}

fn suite_of(cases: impl Iterator<Item = TestCase>) -> Result<String, JunitError> {
    let mut suite = TestSuite::new("ftvm scenarios");
    suite.add_test_cases(cases);
    let mut all = quick_junit::Report::new("ftvm");
    all.add_test_suite(suite);
    // Clients say what they like: these two characters are in no XML, not even as references.
    Ok(all.to_string()?.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}"))
}

fn status(report: &Report) -> TestCaseStatus {
    if let Some(reason) = &report.skipped {
        let mut status = TestCaseStatus::skipped();
        status.set_message(reason.as_str());
        return status;
    }
    let Some(first) = report.not_held().next() else { return TestCaseStatus::success() };
    let (kind, of_type) = match first.grade {
        Grade::Broken => (NonSuccessKind::Error, "broken"),
        Grade::OutOfTime => (NonSuccessKind::Failure, "time-out"),
        Grade::Decided | Grade::Open => (NonSuccessKind::Failure, "expectation"),
    };
    let mut status = TestCaseStatus::non_success(kind);
    status.set_type(of_type);
    status.set_message(format!("{}: {}", first.expectation, first.found));
    let lines: String = report.not_held().map(|verdict| line(verdict) + "\n").collect();
    let mut text = format!("{lines}{}again: {}\n", steps(report), report.again);
    if let Some(directory) = &report.directory {
        let _ = writeln!(text, "see: {}", directory.display());
    }
    status.set_description(text);
    status
}

/// What led there: a step in each line.
fn steps(report: &Report) -> String {
    report.steps.iter().map(|step| format!("step: {step}\n")).collect()
}

fn line(verdict: &Verdict) -> String {
    format!("{:<4}  {verdict}", verdict.mark())
}

/// An annotation for each expectation that does not hold, at its line of the scenario's file.
#[must_use]
pub fn github_annotations(reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        for verdict in report.failures() {
            let file = property(&report.path.to_string_lossy());
            let title = property(&format!("{} (seed {})", report.scenario, report.seed));
            let (expectation, found) = (&verdict.expectation, &verdict.found);
            let message = message(&format!("{expectation}: {found}\n{}again: {}", steps(report), report.again));
            let line = verdict.line.unwrap_or(1);
            let _ = writeln!(text, "::error file={file},line={line},title={title}::{message}");
        }
        if let Some(reason) = &report.skipped {
            let file = property(&report.path.to_string_lossy());
            let _ = writeln!(
                text,
                "::notice file={file},title={} skipped::{}",
                property(&report.scenario),
                message(reason)
            );
        }
    }
    text
}

/// The same of a file that is no scenario, where its mistake stands.
#[must_use]
pub fn github_annotation_of(error: &ScenarioError) -> String {
    let (path, line) = place(error);
    let file = property(&path.to_string_lossy());
    format!("::error file={file},line={line},title=not a scenario::{}\n", message(&error.to_string()))
}

/// The file that is no scenario, and the line that says so.
fn place(error: &ScenarioError) -> (&Path, usize) {
    match error {
        ScenarioError::Unreadable { path, .. } | ScenarioError::Given { path, .. } => (path, 1),
        ScenarioError::Invalid { path, line, .. } => (path, *line),
    }
}

/// As GitHub wants it behind the two colons.
fn message(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// As GitHub wants it before them.
fn property(text: &str) -> String {
    message(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn report(name: &str, verdicts: Vec<Verdict>, skipped: Option<&str>) -> Report {
        Report {
            scenario: name.to_owned(),
            path: PathBuf::from("dir/a,b.toml"),
            seed: 7,
            holds: verdicts.iter().all(|verdict| verdict.holds),
            skipped: skipped.map(ToOwned::to_owned),
            verdicts,
            steps: vec!["death (line 7) fired after 82.0 ms".to_owned()],
            duration_ms: 1_500.0,
            again: "ftvm scenario run --seed 7 dir/a,b.toml".to_owned(),
            summary: None,
            directory: None,
        }
    }

    fn verdict(holds: bool) -> Verdict {
        Verdict::decided("1 takeovers".to_owned(), holds, "0 takeovers\n<none>".to_owned(), Some(12))
    }

    #[test]
    fn failures_are_annotated_where_they_are_expected() {
        let reports =
            [report("x", vec![verdict(true), verdict(false)], None), report("y", Vec::new(), Some("no mount"))];
        assert_eq!(
            github_annotations(&reports),
            "::error file=dir/a%2Cb.toml,line=12,title=x (seed 7)::1 takeovers: 0 takeovers%0A<none>%0A\
             step: death (line 7) fired after 82.0 ms%0Aagain: ftvm scenario run \
             --seed 7 dir/a,b.toml\n::notice file=dir/a%2Cb.toml,title=y skipped::no mount\n"
        );
    }

    #[test]
    fn junit_has_every_run_and_why_it_failed() {
        let reports = [
            report("good", vec![verdict(true)], None),
            report("bad", vec![verdict(false)], None),
            report("left out", Vec::new(), Some("no mount")),
        ];
        let xml = junit(&reports, None).unwrap();
        for count in ["tests=\"3\"", "errors=\"0\"", "failures=\"1\""] {
            assert!(xml.contains(count), "{count}: {xml}");
        }
        assert!(xml.contains("name=\"bad (seed 7)\"") && xml.contains("time=\"1.500\""), "{xml}");
        for part in ["&lt;none&gt;", "step: death (line 7) fired", "again: ftvm scenario run"] {
            assert!(xml.contains(part), "{part}: {xml}");
        }
        assert!(xml.contains("<skipped message=\"no mount\""), "{xml}");
    }

    /// Found by an acceptance review: two characters that a client said made the whole file unreadable.
    #[test]
    fn junit_has_no_character_that_xml_has_not() {
        let mad = Verdict { found: "it said \u{fffe}\u{ffff}\u{1}".to_owned(), ..verdict(false) };
        let xml = junit(&[report("bad", vec![mad], None)], None).unwrap();
        assert!(xml.contains("it said") && !xml.contains(['\u{fffe}', '\u{ffff}', '\u{1}']), "{xml}");
    }

    #[test]
    fn junit_has_what_kept_scenarios_from_running() {
        let (path, source) = (PathBuf::from("runs/x"), std::io::Error::from_raw_os_error(28));
        let xml = junit(&[], Some(&RunnerError::File { path, source })).unwrap();
        for part in ["tests=\"1\"", "errors=\"1\"", "cannot write runs/x: No space left"] {
            assert!(xml.contains(part), "{part}: {xml}");
        }
    }
}
