//! Which hosts the demo kills, and when: drawn from a seed.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;

/// The longest that a kill comes after its console position: so that it hits any point of an epoch.
const JITTER_US_MAX: u64 = 30_000;
/// One kill in so many aims at the secondary.
const SECONDARY_ONE_IN: u32 = 3;
/// No kill in the first and the last part of the console: one in so many bytes.
const MARGIN_ONE_IN: u64 = 20;

/// Whom a kill aims at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// Whoever is primary at that moment.
    Primary,
    /// Whoever is secondary at that moment.
    Secondary,
}

/// One kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedKill {
    /// It waits until the console is this long,
    pub console_position: u64,
    /// and then for so many microseconds.
    pub jitter_us: u64,
    /// Whom it aims at.
    pub victim: Victim,
}

/// Kills spread over a console of this length: one at a random place of each of `kills` equal parts, so that they are
/// random but neither all at once nor after the end.
#[must_use]
pub fn plan_kills(seed: u64, kills: u32, console_bytes: u64) -> Vec<PlannedKill> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let margin = console_bytes / MARGIN_ONE_IN;
    let span = console_bytes.saturating_sub(2 * margin);
    let kill = |index: u32| {
        let part = |index: u32| margin + span * u64::from(index) / u64::from(kills);
        let part: Range<u64> = part(index)..part(index + 1).max(part(index) + 1);
        PlannedKill {
            console_position: random.random_range(part),
            jitter_us: random.random_range(0..JITTER_US_MAX),
            // The first one always hits the primary: a demo without a takeover shows nothing.
            victim: if index > 0 && random.random_ratio(1, SECONDARY_ONE_IN) {
                Victim::Secondary
            } else {
                Victim::Primary
            },
        }
    };
    (0..kills).map(kill).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_plans_the_same_kills() {
        assert_eq!(plan_kills(7, 6, 5_000), plan_kills(7, 6, 5_000));
        assert_ne!(plan_kills(7, 6, 5_000), plan_kills(8, 6, 5_000));
    }

    #[test]
    fn kills_are_in_order_and_inside_the_console() {
        for seed in 0..200 {
            let kills = plan_kills(seed, 50, 5_000);
            assert_eq!(kills.len(), 50);
            assert_eq!(kills[0].victim, Victim::Primary);
            assert!(kills.windows(2).all(|pair| pair[0].console_position <= pair[1].console_position));
            assert!(kills.iter().all(|kill| (250..4_750).contains(&kill.console_position)), "{kills:?}");
        }
    }

    #[test]
    fn a_short_console_is_no_problem() {
        assert_eq!(plan_kills(1, 3, 0).len(), 3);
        assert_eq!(plan_kills(1, 3, 2).len(), 3);
        assert_eq!(plan_kills(1, 0, 100), []);
    }
}
