//! One line of the result: a figure, what it is held against, and what came of it.

use super::Figures;
use serde::{Deserialize, Serialize};

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Nanoseconds.
    Ns,
    /// Things in a second.
    PerSecond,
    /// Things in a minute.
    PerMinute,
    /// Percent.
    Percent,
    /// Bytes.
    Bytes,
    /// Bytes in a second.
    BytesPerSecond,
}

/// Which of the figures a target is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Judged {
    /// The median.
    Median,
    /// The 99th percentile.
    P99,
}

/// What a figure should reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// In the figure's unit.
    AtMost(f64),
    /// In the figure's unit.
    AtLeast(f64),
    /// The ratio.
    RatioAtMost(f64),
    /// So many times the baseline, and so much more.
    BaselineTimes {
        /// Times.
        factor: f64,
        /// In the figure's unit.
        plus: f64,
    },
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The target is reached.
    Pass,
    /// It is not.
    Fail,
    /// There is no target: the figure is shown.
    Shown,
}

/// What a figure is held against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// What was measured.
    pub what: String,
    /// In the unit of the row.
    pub figures: Figures,
}

/// A part of a figure, such as a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// In the unit of the row.
    pub figures: Figures,
}

/// One line of the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured, in words.
    pub name: String,
    /// What it counts.
    pub unit: Unit,
    /// The figure.
    pub measured: Figures,
    /// Which of the figures is compared with the baseline and the target.
    pub judged: Judged,
    /// What it is held against.
    pub baseline: Option<Baseline>,
    /// Figure over baseline.
    pub ratio: Option<f64>,
    /// What it should reach.
    pub target: Option<Target>,
    /// What came of it.
    pub verdict: Verdict,
    /// What the figure is made of.
    pub parts: Vec<Part>,
    /// Which plot the figure belongs to, and its place on the horizontal axis there.
    pub point: Option<(String, f64)>,
}

impl Row {
    /// A figure that is only shown.
    #[must_use]
    pub fn new(name: impl Into<String>, unit: Unit, samples: &[f64]) -> Self {
        Self {
            name: name.into(),
            unit,
            measured: Figures::of(samples),
            judged: Judged::Median,
            baseline: None,
            ratio: None,
            target: None,
            verdict: Verdict::Shown,
            parts: Vec::new(),
            point: None,
        }
    }

    /// Judges this figure instead of the median.
    #[must_use]
    pub fn judged_by(mut self, judged: Judged) -> Self {
        self.judged = judged;
        self
    }

    /// Holds it against samples of something else, taken in turns with its own.
    #[must_use]
    pub fn against(mut self, what: &str, samples: &[f64]) -> Self {
        let figures = Figures::of(samples);
        self.ratio = (figures.median > 0.0).then(|| self.value() / figures.median);
        self.baseline = Some(Baseline { what: what.to_owned(), figures });
        self
    }

    /// Holds each sample against the one that was taken beside it: the ratio is the median of the pairs' ratios.
    #[must_use]
    pub fn in_pairs(mut self, what: &str, own: &[f64], samples: &[f64]) -> Self {
        let ratios: Vec<f64> =
            own.iter().zip(samples).filter(|(_, base)| **base > 0.0).map(|(own, base)| own / base).collect();
        self.ratio = (!ratios.is_empty()).then(|| Figures::of(&ratios).median);
        self.baseline = Some(Baseline { what: what.to_owned(), figures: Figures::of(samples) });
        self
    }

    /// Says what it should reach, and whether it does. Nothing was measured: it does not.
    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        let value = self.value();
        let reached = match target {
            Target::AtMost(limit) => value <= limit,
            Target::AtLeast(limit) => value >= limit,
            Target::RatioAtMost(limit) => self.ratio.is_some_and(|ratio| ratio <= limit),
            Target::BaselineTimes { factor, plus } => {
                self.baseline.as_ref().is_some_and(|base| value <= factor * base.figures.median + plus)
            }
        };
        self.target = Some(target);
        self.verdict = if reached && self.measured.count > 0 { Verdict::Pass } else { Verdict::Fail };
        self
    }

    /// Says what it is made of.
    #[must_use]
    pub fn part(mut self, name: &str, samples: &[f64]) -> Self {
        self.parts.push(Part { name: name.to_owned(), figures: Figures::of(samples) });
        self
    }

    /// Puts it into a plot.
    #[must_use]
    pub fn point(mut self, plot: &str, x: f64) -> Self {
        self.point = Some((plot.to_owned(), x));
        self
    }

    /// The figure that is judged.
    #[must_use]
    pub fn value(&self) -> f64 {
        match self.judged {
            Judged::Median => self.measured.median,
            Judged::P99 => self.measured.p99,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_judged() {
        let row = |samples: &[f64]| Row::new("x", Unit::Ns, samples);
        let judge = |row: Row, target| row.target(target).verdict;
        assert_eq!(judge(row(&[5.0]), Target::AtMost(5.0)), Verdict::Pass);
        assert_eq!(judge(row(&[5.1]), Target::AtMost(5.0)), Verdict::Fail);
        assert_eq!(judge(row(&[5.0]), Target::AtLeast(5.1)), Verdict::Fail);
        let beside = row(&[100.0]).against("base", &[40.0]);
        assert_eq!(beside.ratio, Some(2.5));
        assert_eq!(judge(beside.clone(), Target::BaselineTimes { factor: 2.0, plus: 20.0 }), Verdict::Pass);
        assert_eq!(judge(beside, Target::BaselineTimes { factor: 2.0, plus: 19.0 }), Verdict::Fail);
        assert_eq!(judge(row(&[]), Target::AtMost(5.0)), Verdict::Fail, "nothing was measured");
        assert_eq!(judge(row(&[5.0]), Target::RatioAtMost(2.0)), Verdict::Fail, "no baseline");
    }

    #[test]
    fn pairs_forgive_what_both_suffered() {
        let (own, base) = ([10.0, 110.0, 10.0], [10.0, 100.0, 9.0]);
        let row = Row::new("x", Unit::Ns, &own).in_pairs("base", &own, &base);
        assert_eq!(row.ratio, Some(1.1));
    }
}
