//! Failure detection by heartbeat: when does a host's silence mean that a takeover should be tried?
//!
//! Safety never rests on the answer (the seal is the fence), so the detector only balances speed against false alarms.
//! Silence is added up from the observer's own samples, and a sample that comes late counts no more than
//! [`SAMPLE_CREDIT_MAX`] intervals: an observer that was itself starved or stopped must not accuse others.

use crate::time::{Span, Time};

/// How many sampling intervals of silence one sample may add at most, however late it comes.
pub const SAMPLE_CREDIT_MAX: u64 = 2;

/// Bounds of a [`Detector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectorConfig {
    /// Observed silence after which the host is suspected.
    pub bound: Span,
    /// Intended time between two samples.
    pub interval: Span,
}

/// Watches one host's heartbeat counter.
#[derive(Clone, Debug)]
pub struct Detector {
    config: DetectorConfig,
    last: Option<Sample>,
    silence: Span,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Time,
    count: Option<u64>,
}

/// What the samples so far say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The counter moved within the bound.
    Beating,
    /// The counter stood still for the bound or longer.
    Silent(Span),
}

impl Detector {
    /// A detector that has seen nothing yet.
    ///
    /// # Panics
    /// If the bound is not larger than what one sample may add: one late sample could then accuse a host.
    #[must_use]
    pub fn new(config: DetectorConfig) -> Self {
        assert!(config.interval > Span::ZERO, "a detector needs a sampling interval");
        assert!(config.bound > config.interval.times(SAMPLE_CREDIT_MAX), "heartbeat bound {} too short", config.bound);
        Self { config, last: None, silence: Span::ZERO }
    }

    /// Takes a sample of the counter; `None` when the page could not be read as a heartbeat.
    pub fn sample(&mut self, now: Time, count: Option<u64>) -> Verdict {
        match self.last {
            Some(last) if count.is_none() || last.count == count => {
                let credit = now.since(last.at).min(self.config.interval.times(SAMPLE_CREDIT_MAX));
                self.silence = Span::from_ns(self.silence.ns().saturating_add(credit.ns()));
            }
            Some(_) | None => self.silence = Span::ZERO,
        }
        self.last = Some(Sample { at: now, count: count.or(self.last.and_then(|last| last.count)) });
        self.verdict()
    }

    /// What the samples so far say.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.silence >= self.config.bound { Verdict::Silent(self.silence) } else { Verdict::Beating }
    }

    /// Whether the counter was seen to move within half of the bound: good evidence of life.
    #[must_use]
    pub fn is_lively(&self) -> bool {
        self.last.is_some_and(|last| last.count.is_some()) && self.silence.times(2) < self.config.bound
    }

    /// Forgets all silence, as after a suspicion that proved false.
    pub fn forgive(&mut self) {
        self.silence = Span::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: DetectorConfig = DetectorConfig { bound: Span::from_ms(50), interval: Span::from_ms(5) };

    fn at(ms: u64) -> Time {
        Time::from_ns(ms * 1_000_000)
    }

    #[test]
    fn silence_of_the_bound_is_suspected() {
        let mut detector = Detector::new(CONFIG);
        for tick in 0..=9 {
            assert_eq!(detector.sample(at(tick * 5), Some(1)), Verdict::Beating);
        }
        assert_eq!(detector.sample(at(50), Some(1)), Verdict::Silent(Span::from_ms(50)));
        assert_eq!(detector.sample(at(55), Some(2)), Verdict::Beating);
    }

    #[test]
    fn a_starved_observer_does_not_accuse() {
        let mut detector = Detector::new(CONFIG);
        detector.sample(at(0), Some(1));
        assert_eq!(detector.sample(at(10_000), Some(1)), Verdict::Beating);
        assert!(detector.is_lively());
    }

    #[test]
    fn an_unreadable_page_is_silence() {
        let mut detector = Detector::new(CONFIG);
        detector.sample(at(0), Some(1));
        for tick in 1..=9 {
            assert_eq!(detector.sample(at(tick * 5), None), Verdict::Beating);
        }
        assert!(matches!(detector.sample(at(50), None), Verdict::Silent(_)));
        assert!(!detector.is_lively());
    }
}
