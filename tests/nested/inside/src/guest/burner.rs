//! Computes, and writes all over its memory; says a line each round, and a checksum of everything at the end.

use crate::noise::{CHECKSUM_START, Noise, checksum};
use std::error::Error;

/// Words written in one round.
const WORDS_PER_ROUND: u64 = 100_000;

pub(crate) fn burn(mib: u64, rounds: u64, seed: u64) -> Result<(), Box<dyn Error>> {
    let words = usize::try_from(mib << 20)? / size_of::<u64>();
    if words == 0 {
        return Err("it needs at least one MiB".into());
    }
    let mut memory = vec![0_u64; words];
    let mut noise = Noise::new(seed);
    for round in 1..=rounds {
        for _ in 0..WORDS_PER_ROUND {
            let index = usize::try_from(noise.next() % u64::try_from(words)?)?;
            memory[index] = memory[index].rotate_left(7) ^ noise.next();
        }
        println!("burner: round {round} of {rounds}");
    }
    let sum = memory.iter().fold(CHECKSUM_START, |sum, word| checksum(sum, &word.to_le_bytes()));
    println!("burner: {sum:016x}");
    Ok(())
}
