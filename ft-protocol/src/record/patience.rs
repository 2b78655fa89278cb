//! How long a replay waits for its guest, in processor time of the thread that replays: wall time says nothing about a
//! guest on a machine that has much else to do.

use crate::time::Span;

/// A guest whose replay takes so many times the epoch that is replayed does something else.
const TAKEOVER_EPOCHS: u64 = 10;
/// What even the replay of a short epoch may take.
const TAKEOVER_SPAN_MIN: Span = Span::from_ms(5_000);
/// A guest that the primary has brought to an exit, and that does not come there in so much, does something else.
const EXIT_SPAN: Span = Span::from_ms(10_000);

/// Decides when a replayed guest has gone another way because it comes to no exit that the log knows. All times are
/// processor time that the replaying thread has spent since its beginning.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    bound: Span,
    since: Span,
    exit: u64,
}

impl Patience {
    /// With the replay of a takeover that begins now: for all of what is to be replayed, of epochs of this length.
    #[must_use]
    pub fn with_takeover(epoch_interval: Span, spent: Span) -> Self {
        Self { bound: epoch_interval.times(TAKEOVER_EPOCHS).max(TAKEOVER_SPAN_MIN), since: spent, exit: 0 }
    }

    /// With a follower that stands at this exit: for each exit anew.
    #[must_use]
    pub fn with_follower(exit: u64, spent: Span) -> Self {
        Self { bound: EXIT_SPAN, since: spent, exit }
    }

    /// The guest is at this exit now: another one than before starts the time anew.
    pub fn stands_at(&mut self, exit: u64, spent: Span) {
        if exit != self.exit {
            (self.exit, self.since) = (exit, spent);
        }
    }

    /// The bound, once it was reached.
    #[must_use]
    pub fn is_over(&self, spent: Span) -> Option<Span> {
        (spent.ns().saturating_sub(self.since.ns()) >= self.bound.ns()).then_some(self.bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_takeover_waits_ten_epochs_and_five_seconds_at_least() {
        let ms = Span::from_ms;
        let short = Patience::with_takeover(ms(10), ms(100));
        assert_eq!((short.is_over(ms(5_099)), short.is_over(ms(5_100))), (None, Some(ms(5_000))));
        let long = Patience::with_takeover(ms(1_000), ms(100));
        assert_eq!((long.is_over(ms(10_099)), long.is_over(ms(10_100))), (None, Some(ms(10_000))));
    }

    #[test]
    fn a_follower_waits_for_each_exit_anew() {
        let ms = Span::from_ms;
        let mut patience = Patience::with_follower(7, ms(1));
        patience.stands_at(7, ms(9_000));
        assert_eq!(patience.is_over(ms(10_001)), Some(ms(10_000)));
        patience.stands_at(8, ms(9_000));
        assert_eq!((patience.is_over(ms(18_999)), patience.is_over(ms(19_000))), (None, Some(ms(10_000))));
    }
}
