//! Random choices that a printed seed repeats.

use std::hash::{BuildHasher, RandomState};

/// A xorshift generator: small, and the same everywhere.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// From `FTVM_POOL_SEED`, or from nowhere; printed, to be repeated.
    pub(crate) fn new(what: &str) -> Self {
        let given = std::env::var("FTVM_POOL_SEED").ok().map(|text| text.parse().expect("FTVM_POOL_SEED is a number"));
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(what));
        eprintln!("{what}: FTVM_POOL_SEED={seed}");
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let index = self.below(from.len() as u64);
        &from[usize::try_from(index).expect("an index")]
    }
}

/// How long the random parts are to be.
pub(crate) fn rounds(default: u64) -> u64 {
    let given = std::env::var("FTVM_POOL_ROUNDS").ok();
    given.map_or(default, |text| text.parse().expect("FTVM_POOL_ROUNDS is a number"))
}
