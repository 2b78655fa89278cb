//! Where every random decision of a run comes from: one seed, one stream per actor.
//!
//! Each actor draws its delays from a stream of its own, so that a fault that is taken out of a run (by the shrinker)
//! leaves the delays of everybody else as they were.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of decisions.
#[derive(Clone, Debug)]
pub(crate) struct Draw {
    stream: ChaCha8Rng,
}

impl Draw {
    /// Stream `stream` of `seed`.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self { stream: rng }
    }

    /// Any number.
    pub(crate) fn bits(&mut self) -> u64 {
        self.stream.next_u64()
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// If `bound` is zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below zero");
        let wide = u128::from(self.bits()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// A number of the range, both ends included.
    pub(crate) fn between(&mut self, range: Range) -> u64 {
        range.least + self.below(range.most - range.least + 1)
    }

    /// True in `percent` of 100 cases.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of the choices.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap_or(0)]
    }
}

/// Bounds of a drawn number, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Range {
    /// The smallest.
    pub least: u64,
    /// The largest.
    pub most: u64,
}

impl Range {
    /// From `least` to `most`.
    ///
    /// # Panics
    /// If the range is empty.
    #[must_use]
    pub const fn new(least: u64, most: u64) -> Self {
        assert!(least <= most, "an empty range");
        Self { least, most }
    }
}

/// Mixes two numbers into one (SplitMix64's finish): for values that are a function of other values, not draws.
pub(crate) const fn mix(left: u64, right: u64) -> u64 {
    let mut mixed = left ^ right.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let numbers = |seed, stream| {
            let mut draw = Draw::new(seed, stream);
            [draw.bits(), draw.bits(), draw.bits()]
        };
        assert_eq!(numbers(7, 1), numbers(7, 1));
        assert_ne!(numbers(7, 1), numbers(7, 2));
        assert_ne!(numbers(7, 1), numbers(8, 1));
        let mut draw = Draw::new(1, 1);
        assert!((0..1000).all(|_| (3..=5).contains(&draw.between(Range::new(3, 5)))));
        assert!((0..1000).all(|_| draw.below(1) == 0));
    }
}
