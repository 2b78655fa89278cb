//! Samples in a few numbers.

use serde::{Deserialize, Serialize};

/// Samples in a few numbers. Quantiles are samples themselves, not interpolated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// How many samples.
    pub count: usize,
    /// The smallest.
    pub min: f64,
    /// A quarter is below.
    pub p25: f64,
    /// Half is below.
    pub median: f64,
    /// Three quarters are below.
    pub p75: f64,
    /// 99 of 100 are below: with fewer than 100 samples, the largest.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Figures {
    /// The figures of samples; of none, zeroes.
    #[must_use]
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |hundredths: usize| {
            let rank = (sorted.len() * hundredths).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or(0.0)
        };
        Self { count: sorted.len(), min: at(0), p25: at(25), median: at(50), p75: at(75), p99: at(99), max: at(100) }
    }

    /// How far apart the middle half of the samples is, as a share of the median.
    #[must_use]
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.p75 - self.p25) / self.median }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let figures = Figures::of(&samples);
        assert_eq!((figures.count, figures.min, figures.max), (200, 1.0, 200.0));
        assert_eq!((figures.p25, figures.median, figures.p75, figures.p99), (50.0, 100.0, 150.0, 198.0));
        assert_eq!(figures.spread(), 1.0);
    }

    #[test]
    fn none_and_one() {
        assert_eq!(Figures::of(&[]), Figures::default());
        let one = Figures::of(&[7.0]);
        assert_eq!((one.min, one.median, one.p99, one.spread()), (7.0, 7.0, 7.0, 0.0));
    }
}
