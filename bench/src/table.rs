//! The result as a table for people.

use super::{Figures, Judged, Report, Row, SuiteReport, Target, Unit, Verdict};
use std::fmt::Write as _;

const HEADS: [&str; 7] = ["measured", "p99", "spread", "baseline", "ratio", "target", ""];

/// A number with its unit, in three digits or so.
#[must_use]
pub fn amount(value: f64, unit: Unit) -> String {
    let scaled = |steps: &[(f64, &str)]| {
        let (scale, name) = steps.iter().rev().find(|(scale, _)| value.abs() >= *scale * 0.9995).unwrap_or(&steps[0]);
        format!("{}{name}", digits(value / scale))
    };
    match unit {
        Unit::Ns => scaled(&[(1.0, " ns"), (1e3, " us"), (1e6, " ms"), (1e9, " s")]),
        Unit::Bytes => scaled(&[(1.0, " B"), (1024.0, " KiB"), (1048576.0, " MiB"), (1073741824.0, " GiB")]),
        Unit::BytesPerSecond => scaled(&[(1.0, " B/s"), (1e3, " kB/s"), (1e6, " MB/s"), (1e9, " GB/s")]),
        Unit::PerSecond => scaled(&[(1.0, "/s"), (1e3, " k/s"), (1e6, " M/s")]),
        Unit::PerMinute => scaled(&[(1.0, "/min"), (1e3, " k/min"), (1e6, " M/min")]),
        Unit::Percent => format!("{} %", digits(value)),
    }
}

fn digits(value: f64) -> String {
    match value.abs() {
        large if large >= 99.95 => format!("{value:.0}"),
        middle if middle >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A target in words.
pub(crate) fn target_words(target: Target, unit: Unit) -> String {
    match target {
        Target::AtMost(limit) => format!("<= {}", amount(limit, unit)),
        Target::AtLeast(limit) => format!(">= {}", amount(limit, unit)),
        Target::RatioAtMost(limit) => format!("ratio <= {limit}"),
        Target::BaselineTimes { factor, plus } => format!("<= {factor} x baseline + {}", amount(plus, unit)),
    }
}

/// What came of a row, in a word.
pub(crate) fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "FAIL",
        Verdict::Shown => "",
    }
}

/// The cells of a row, its name first.
pub(crate) fn cells(row: &Row) -> [String; 8] {
    let baseline = row.baseline.as_ref().map_or_else(String::new, |baseline| {
        format!("{} ({})", amount(baseline.figures.median, row.unit), baseline.what)
    });
    let mark = |judged: Judged, text: String| {
        // Which figure the target is about, where it is not the median.
        if row.target.is_some() && row.judged == judged && judged == Judged::P99 { format!("{text}*") } else { text }
    };
    [
        row.name.clone(),
        amount(row.measured.median, row.unit),
        mark(Judged::P99, amount(row.measured.p99, row.unit)),
        spread(&row.measured),
        baseline,
        row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}")),
        row.target.map_or_else(String::new, |target| target_words(target, row.unit)),
        verdict_word(row.verdict).to_owned(),
    ]
}

fn spread(figures: &Figures) -> String {
    if figures.count < 4 { String::new() } else { format!("{:.0} %", figures.spread() * 100.0) }
}

/// The whole result.
#[must_use]
pub fn table(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "ftvm bench{}: {} x {}, {} of memory, Linux {}, KVM: {}\n",
        if report.quick { " --quick" } else { "" },
        machine.processors,
        machine.processor,
        amount(machine.memory_bytes as f64, Unit::Bytes),
        machine.kernel,
        machine.kvm,
    );
    text.push_str(
        "measured: median. spread: middle half of the samples, as a share of it. ratio: measured over baseline, taken in\n\
         turns in this run. A star: the target is about the 99th percentile.\n",
    );
    for suite in &report.suites {
        suite_table(&mut text, suite);
    }
    let (judged, passed) = report.judged();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n{passed} of {judged} targets reached, in {:.0} s", report.seconds);
    text
}

fn suite_table(text: &mut String, suite: &SuiteReport) {
    let _ = writeln!(
        text,
        "\n{}: {}; {:.0} s, load {:.1} to {:.1}",
        suite.suite,
        suite.suite.about(),
        suite.seconds,
        suite.load[0],
        suite.load[1]
    );
    if let Some(reason) = &suite.skipped {
        let _ = writeln!(text, "  SKIPPED: {reason}");
    }
    if let Some(reason) = &suite.failed {
        let _ = writeln!(text, "  BROKE OFF: {reason}");
    }
    if suite.rows.is_empty() {
        return;
    }
    let mut lines = vec![{
        let mut heads = [const { String::new() }; 8];
        heads.iter_mut().skip(1).zip(HEADS).for_each(|(cell, head)| head.clone_into(cell));
        heads
    }];
    for row in &suite.rows {
        lines.push(cells(row));
        for part in &row.parts {
            let mut line = [const { String::new() }; 8];
            line[0] = format!("  of which {}", part.name);
            line[1] = amount(part.figures.median, row.unit);
            line[2] = amount(part.figures.p99, row.unit);
            lines.push(line);
        }
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    for line in &lines {
        let mut shown = String::from(" ");
        for (cell, (column, width)) in line.iter().zip(widths.iter().enumerate()) {
            let _ = match column {
                1..=3 | 5 => write!(shown, " {cell:>width$} "),
                _ => write!(shown, " {cell:<width$} "),
            };
        }
        let _ = writeln!(text, "{}", shown.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_three_digits_and_a_unit() {
        for (value, unit, shown) in [
            (0.0, Unit::Ns, "0.00 ns"),
            (12.34, Unit::Ns, "12.3 ns"),
            (999.7, Unit::Ns, "1.00 us"),
            (12_345.0, Unit::Ns, "12.3 us"),
            (2e9, Unit::Ns, "2.00 s"),
            (33_554_432.0, Unit::Bytes, "32.0 MiB"),
            (2.5e9, Unit::BytesPerSecond, "2.50 GB/s"),
            (15_000.0, Unit::PerMinute, "15.0 k/min"),
            (0.5, Unit::Percent, "0.50 %"),
        ] {
            assert_eq!(amount(value, unit), shown);
        }
    }

    #[test]
    fn a_row_says_what_it_is_held_against() {
        let row = Row::new("append", Unit::Ns, &[50.0]).against("copy", &[25.0]).target(Target::AtMost(100.0));
        assert_eq!(
            cells(&row),
            ["append", "50.0 ns", "50.0 ns", "", "25.0 ns (copy)", "2.000", "<= 100 ns", "pass"].map(str::to_owned)
        );
    }
}
