//! When a primary says how long its guest's outputs waited: from the first that left on, rarely later, and at its end.

use ft_protocol::{Span, Time};

/// Time between two words.
const INTERVAL: Span = Span::from_ms(1_000);
/// The same at a generation's beginning: it may not live as long. Doubled each time, up to the usual.
const INTERVAL_FIRST: Span = Span::from_ms(10);

/// The words of one generation.
#[derive(Debug)]
pub(super) struct OutputWords {
    /// When the last one was said; none was.
    said: Option<Time>,
    /// Outputs that were told of, and after how long the next are.
    told: u64,
    interval: Span,
}

impl Default for OutputWords {
    fn default() -> Self {
        Self { said: None, told: 0, interval: INTERVAL_FIRST }
    }
}

impl OutputWords {
    /// Whether it is time for one, if there is anything to say.
    pub(super) fn is_due(&self, now: Time) -> bool {
        self.said.is_none_or(|said| now >= said + self.interval)
    }

    /// So many outputs have left until now. Says whether that is worth a word, which is then said.
    pub(super) fn say(&mut self, now: Time, outputs: u64) -> bool {
        if outputs <= self.told {
            return false;
        }
        if self.said.replace(now).is_some() {
            self.interval = self.interval.times(2).min(INTERVAL);
        }
        self.told = outputs;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a guest that puts something out each millisecond for so long: when a word is said, in milliseconds, and what of.
    fn words(outputs_from: u64, until: u64) -> Vec<(u64, u64)> {
        let mut words = OutputWords::default();
        let mut said = Vec::new();
        for ms in 0..=until {
            let outputs = (ms + 1).saturating_sub(outputs_from);
            let now = Time::ZERO + Span::from_ms(ms);
            if (words.is_due(now) || ms == until) && words.say(now, outputs) {
                said.push((ms, outputs));
            }
        }
        said
    }

    #[test]
    fn the_first_output_is_told_of_and_later_ones_ever_more_rarely() {
        let said = words(5, 5_000);
        assert_eq!(said[..5], [(5, 1), (15, 11), (35, 31), (75, 71), (155, 151)]);
        let gaps: Vec<u64> = said.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!(gaps.iter().all(|gap| *gap <= 1_000) && gaps.contains(&1_000), "{gaps:?}");
    }

    #[test]
    fn a_generation_that_ends_early_has_told_of_its_beginning_and_tells_the_rest() {
        assert_eq!(words(0, 6), [(0, 1), (6, 7)]);
        assert_eq!(words(3, 2), [], "there is nothing to tell");
    }

    #[test]
    fn what_is_told_already_is_not_said_again() {
        let mut words = OutputWords::default();
        assert!(words.say(Time::ZERO, 1));
        assert!(!words.say(Time::ZERO + Span::from_ms(9_000), 1));
        assert!(words.say(Time::ZERO + Span::from_ms(9_001), 2));
    }
}
