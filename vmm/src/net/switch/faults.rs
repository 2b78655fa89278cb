//! Faults of a segment, for tests: frames that are lost or late.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most frames that are on their way at a time; what comes beyond them is lost.
const LATE_FRAMES_MAX: usize = 4096;

/// What goes wrong with frames.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Faults {
    /// The share of frames that are lost, 0 to 1.
    pub loss: f64,
    /// How long each frame takes.
    pub delay: Duration,
    /// Which frames: the same seed loses the same ones of the same sequence.
    pub seed: u64,
}

/// The faults at work.
#[derive(Debug)]
pub(super) struct Weather {
    faults: Faults,
    random: ChaCha8Rng,
    late: VecDeque<(Instant, super::PortId, Vec<u8>)>,
}

impl Weather {
    pub(super) fn new(faults: Faults) -> Self {
        Self { faults, random: ChaCha8Rng::seed_from_u64(faults.seed), late: VecDeque::new() }
    }

    /// Takes a frame: it is due now (given back), later, or lost (none given back, false).
    pub(super) fn take(&mut self, from: super::PortId, frame: &[u8], now: Instant) -> bool {
        let lost = self.faults.loss > 0.0 && self.random.random::<f64>() < self.faults.loss;
        if lost || self.late.len() >= LATE_FRAMES_MAX {
            return false;
        }
        self.late.push_back((now + self.faults.delay, from, frame.to_vec()));
        true
    }

    /// The next frame that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<(super::PortId, Vec<u8>)> {
        match self.late.front() {
            Some((at, ..)) if *at <= now => self.late.pop_front().map(|(_, from, frame)| (from, frame)),
            _ => None,
        }
    }

    /// How long until a frame is due.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.late.front().map(|(at, ..)| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::super::PortId;
    use super::*;

    #[test]
    fn the_seed_says_which_frames_are_lost() {
        let lost = |seed| {
            let mut weather = Weather::new(Faults { loss: 0.5, delay: Duration::ZERO, seed });
            (0..64).map(|_| !weather.take(PortId(1), &[1], Instant::now())).collect::<Vec<_>>()
        };
        assert_eq!(lost(1), lost(1));
        assert_ne!(lost(1), lost(2));
        assert!((16..48).contains(&lost(1).into_iter().filter(|lost| *lost).count()));
    }

    #[test]
    fn late_frames_come_in_order_and_not_before_their_time() {
        let mut weather = Weather::new(Faults { delay: Duration::from_millis(5), ..Faults::default() });
        let now = Instant::now();
        assert!(weather.take(PortId(1), &[1], now) && weather.take(PortId(2), &[2], now));
        assert_eq!(weather.due(now), None);
        assert_eq!(weather.wait(now), Some(Duration::from_millis(5)));
        let later = now + Duration::from_millis(5);
        assert_eq!(weather.due(later), Some((PortId(1), vec![1])));
        assert_eq!(weather.due(later), Some((PortId(2), vec![2])));
        assert_eq!((weather.due(later), weather.wait(later)), (None, None));
    }
}
