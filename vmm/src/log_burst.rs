//! Bounds what others can make us log: the first line of a burst is written, the rest is counted.

use ft_protocol::{Span, Time};

/// How long a burst is waited out before it is summed up.
const BURST: Span = Span::from_ms(10_000);

/// Lines of one kind. At most two of them are written in each [`BURST`], however many there are.
#[derive(Debug, Default)]
pub(crate) struct LogBurst {
    /// Lines until then belong to the burst.
    until: Option<Time>,
    unwritten: u64,
}

impl LogBurst {
    /// Whether a line is to be written now: it begins a burst.
    pub(crate) fn begins(&mut self, now: Time) -> bool {
        if self.until.is_some() {
            self.unwritten += 1;
            return false;
        }
        self.until = Some(now + BURST);
        true
    }

    /// How many lines were not written, once the burst's time is over; told once.
    pub(crate) fn ended(&mut self, now: Time) -> Option<u64> {
        if self.until.is_none_or(|until| now < until) {
            return None;
        }
        let unwritten = std::mem::take(&mut self.unwritten);
        // More may come: then the sum is all that is written of them.
        self.until = (unwritten > 0).then(|| now + BURST);
        (unwritten > 0).then_some(unwritten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_one_line_and_a_count() {
        let mut burst = LogBurst::default();
        let mut lines = 0;
        let mut counted = 0;
        for ms in 0..100_000 {
            let now = Time::ZERO + Span::from_ms(ms);
            lines += u64::from(burst.begins(now));
            if let Some(count) = burst.ended(now) {
                lines += 1;
                counted += count;
            }
        }
        assert!(lines <= 11, "{lines} lines");
        let late = Time::ZERO + Span::from_ms(200_000);
        counted += burst.ended(late).expect("the last burst is counted too");
        assert_eq!(counted + 1, 100_000, "every line is written or counted");
        // After a quiet time the next one is written at once.
        let later = late + BURST;
        assert_eq!(burst.ended(later), None);
        assert!(burst.begins(later));
    }
}
