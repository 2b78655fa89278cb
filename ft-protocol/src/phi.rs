//! Phi-accrual suspicion (Hayashibara et al., SRDS 2004): how surprising a silence is, given the beats before it.
//!
//! Phi is -log10 of the chance that a beat comes even later than now, if the times between beats are normally distributed
//! with the mean and variance of the recent ones: at phi 3 one alarm in a thousand such silences is false. All of it is
//! integer arithmetic, so that a simulated run is the same run on every machine.

use crate::time::Span;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

/// Times between beats that are remembered: seconds, at the usual intervals.
const GAPS_MAX: usize = 512;

/// Fewer of them say nothing: a sixth of a second, at three beats to the usual bound.
const GAPS_MIN: usize = 5;

/// The standard deviation is taken for at least this part of the bound: a quiet hour must not make the first hiccup an
/// alarm.
const DEVIATION_FLOOR_PART: u64 = 16;

/// Phi in thousandths at 0, 1/2, 1... standard deviations above the mean: -log10 of the normal distribution's tail.
const TAIL: [u32; 25] = [
    301, 511, 800, 1175, 1643, 2207, 2870, 3633, 4499, 5469, 6543, 7721, 9006, 10396, 11893, 13496, 15206, 17023,
    18947, 20979, 23118, 25365, 27719, 30181, 32750,
];

/// Steps of the table in a standard deviation.
const STEPS: u64 = 2;

/// A degree of suspicion, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Phi(u32);

/// Text that is no degree of suspicion.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no suspicion: expected a phi from 1 to {max}", max = Phi::MAX)]
pub struct BadPhi(String);

impl Phi {
    /// The largest that is told apart.
    pub const MAX: Self = Self(TAIL[TAIL.len() - 1]);

    /// Phi in thousandths.
    #[must_use]
    pub const fn from_thousandths(thousandths: u32) -> Self {
        Self(thousandths)
    }

    /// In thousandths.
    #[must_use]
    pub const fn thousandths(self) -> u32 {
        self.0
    }

    /// How many thousandths of a standard deviation above the mean a silence has this phi.
    fn deviations(self) -> u64 {
        let above = TAIL.iter().position(|phi| *phi >= self.0).unwrap_or(TAIL.len() - 1);
        let Some(below) = above.checked_sub(1) else { return 0 };
        let (low, high) = (u64::from(TAIL[below]), u64::from(TAIL[above]));
        let within = u64::from(self.0).clamp(low, high) - low;
        (below as u64 * 1_000 + within * 1_000 / (high - low)) / STEPS
    }

    /// The phi of a silence so many thousandths of a standard deviation above the mean.
    fn at(deviations: u64) -> Self {
        let steps = deviations.saturating_mul(STEPS);
        let below = usize::try_from(steps / 1_000).unwrap_or(usize::MAX);
        let (Some(low), Some(high)) = (TAIL.get(below), TAIL.get(below.saturating_add(1))) else { return Self::MAX };
        let within = u64::from(high - low) * (steps % 1_000) / 1_000;
        Self(low + u32::try_from(within).unwrap_or(0))
    }
}

impl fmt::Display for Phi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 1_000, self.0 % 1_000 / 100)
    }
}

impl FromStr for Phi {
    type Err = BadPhi;
    fn from_str(text: &str) -> Result<Self, BadPhi> {
        let (whole, tenths) = text.split_once('.').unwrap_or((text, "0"));
        let digits =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u32>().ok()).flatten();
        let tenths = digits(tenths).filter(|tenths| *tenths < 10);
        let phi =
            digits(whole).zip(tenths).and_then(|(whole, tenths)| whole.checked_mul(1_000)?.checked_add(tenths * 100));
        phi.filter(|phi| (1_000..=Self::MAX.0).contains(phi))
            .map(Self)
            .ok_or_else(|| BadPhi(text.chars().take(32).collect()))
    }
}

/// The recent times between beats.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gaps {
    us: VecDeque<u64>,
    sum: u64,
    squares: u128,
}

impl Gaps {
    /// Remembers one; none counts for more than `bound`, beyond which every silence is an alarm anyway.
    pub(crate) fn add(&mut self, gap: Span, bound: Span) {
        let us = gap.min(bound).ns() / 1_000;
        if self.us.len() == GAPS_MAX
            && let Some(oldest) = self.us.pop_front()
        {
            self.sum -= oldest;
            self.squares -= u128::from(oldest) * u128::from(oldest);
        }
        self.us.push_back(us);
        self.sum += us;
        self.squares += u128::from(us) * u128::from(us);
    }

    /// Mean and standard deviation in microseconds, once there are enough.
    fn distribution(&self, bound: Span) -> Option<(u64, u64)> {
        let count = self.us.len();
        if count < GAPS_MIN {
            return None;
        }
        let mean = self.sum / count as u64;
        let variance = (self.squares / count as u128).saturating_sub(u128::from(mean) * u128::from(mean));
        let floor = (bound.ns() / 1_000 / DEVIATION_FLOOR_PART).max(1);
        Some((mean, u64::try_from(variance.isqrt()).unwrap_or(u64::MAX).max(floor)))
    }

    /// The silence that has this phi.
    pub(crate) fn silence_of(&self, phi: Phi, bound: Span) -> Option<Span> {
        let (mean, deviation) = self.distribution(bound)?;
        Some(Span::from_us(mean.saturating_add(deviation.saturating_mul(phi.deviations()) / 1_000)))
    }

    /// The phi of a silence.
    pub(crate) fn phi_of(&self, silence: Span, bound: Span) -> Option<Phi> {
        let (mean, deviation) = self.distribution(bound)?;
        let above = (silence.ns() / 1_000).saturating_sub(mean);
        Some(Phi::at(above.saturating_mul(1_000) / deviation))
    }

    /// How unevenly the beats come: their standard deviation, no less than a sixteenth of the bound.
    pub(crate) fn jitter(&self, bound: Span) -> Option<Span> {
        self.distribution(bound).map(|(_, deviation)| Span::from_us(deviation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Span = Span::from_ms(100);

    /// The tail of the normal distribution, integrated by Simpson's rule.
    fn tail(deviations: f64) -> f64 {
        let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let steps = 20_000;
        let width = 20.0 / f64::from(steps);
        let sum: f64 = (0..=steps)
            .map(|step| {
                let weight = if step == 0 || step == steps {
                    1.0
                } else if step % 2 == 1 {
                    4.0
                } else {
                    2.0
                };
                weight * density(deviations + f64::from(step) * width)
            })
            .sum();
        sum * width / 3.0
    }

    #[test]
    fn the_table_is_the_normal_distributions() {
        for (step, phi) in TAIL.iter().enumerate() {
            let deviations = f64::from(u32::try_from(step).expect("the table is short")) / 2.0;
            let expected = -tail(deviations).log10() * 1_000.0;
            assert!((f64::from(*phi) - expected).abs() < 1.0, "at {deviations}: {phi}, not {expected}");
        }
    }

    #[test]
    fn phi_and_silence_are_inverse_and_grow() {
        let mut gaps = Gaps::default();
        assert_eq!(gaps.silence_of(Phi::from_thousandths(8_000), BOUND), None, "nothing is known yet");
        for turn in 0..40 {
            gaps.add(Span::from_ms(if turn % 2 == 0 { 2 } else { 22 }), BOUND);
        }
        let mut before = Span::ZERO;
        for thousandths in (1_000..30_000).step_by(500) {
            let phi = Phi::from_thousandths(thousandths);
            let silence = gaps.silence_of(phi, BOUND).expect("enough gaps");
            let back = gaps.phi_of(silence, BOUND).expect("enough gaps");
            assert!(silence > before && back.thousandths().abs_diff(thousandths) < 20, "{phi}: {silence}, {back}");
            before = silence;
        }
        // Mean 12 ms, deviation 10 ms: three deviations are phi 2.87.
        assert_eq!(gaps.phi_of(Span::from_ms(42), BOUND), Some(Phi::from_thousandths(2_870)));
    }

    #[test]
    fn even_beats_are_not_trusted_beyond_the_floor_and_old_ones_are_forgotten() {
        let mut gaps = Gaps::default();
        for _ in 0..GAPS_MAX {
            gaps.add(Span::from_ms(80), BOUND);
        }
        for _ in 0..GAPS_MAX {
            gaps.add(Span::from_ms(5), BOUND);
        }
        assert_eq!(gaps.jitter(BOUND), Some(Span::from_us(6_250)));
        assert_eq!(gaps.phi_of(Span::from_ms(5), BOUND), Some(Phi::from_thousandths(301)));
    }

    #[test]
    fn suspicions_are_written_as_numbers() {
        assert_eq!("16".parse(), Ok(Phi::from_thousandths(16_000)));
        assert_eq!("8.5".parse::<Phi>().map(|phi| phi.to_string()), Ok("8.5".to_owned()));
        for bad in ["", "0", "0.9", "40", "8.55", "-8", "8.", "+8", "none"] {
            assert!(bad.parse::<Phi>().is_err(), "{bad}");
        }
    }
}
