//! Inputs from inputs: flips, cuts, insertions, splices, and numbers that parsers tend to get wrong.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Longest input that is made.
const LENGTH_MAX: usize = 1 << 15;

/// Numbers at which arithmetic turns.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Makes inputs; one seed is one sequence of them.
#[derive(Debug)]
pub struct Mutator {
    random: ChaCha8Rng,
}

impl Mutator {
    /// The sequence of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// The next input: one of the seeds, changed a few times, or just noise.
    pub fn next_input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = if seeds.is_empty() || self.below(16) == 0 {
            (0..self.below(300)).map(|_| self.byte()).collect()
        } else {
            seeds[self.below(seeds.len())].clone()
        };
        for _ in 0..1 + self.below(5) {
            self.change(&mut input, seeds);
        }
        input.truncate(LENGTH_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let count = 1 + self.below(16);
        let end = input.len().min(at + count);
        match self.below(8) {
            0 | 1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << (self.random.next_u32() % 8);
                }
            }
            2 => {
                let byte = self.byte();
                input[at..end].fill(byte);
            }
            3 => {
                let number = NUMBERS[self.below(NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][self.below(4)].min(input.len() - at);
                input[at..at + width].copy_from_slice(&number[..width]);
            }
            4 => drop(input.drain(at..end)),
            5 => {
                let inserted: Vec<u8> = (0..count).map(|_| self.byte()).collect();
                input.splice(at..at, inserted);
            }
            6 => {
                let repeated = input[at..end].to_vec();
                input.splice(at..at, repeated);
            }
            _ => {
                if let Some(other) = seeds.get(self.below(seeds.len() + 1)) {
                    let from = self.below(other.len() + 1);
                    input.truncate(at);
                    input.extend(&other[from..]);
                }
            }
        }
    }

    fn byte(&mut self) -> u8 {
        self.random.next_u32().to_le_bytes()[0]
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = bound.max(1) as u64;
        usize::try_from(self.random.next_u64() % bound).unwrap_or(0)
    }
}
