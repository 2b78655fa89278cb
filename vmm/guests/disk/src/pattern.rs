//! What is in a block: a function of seed, block and step.

/// Bytes of a block.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// Words of a block: block, step, seed, noise, and the digest of all before it.
pub(crate) const WORDS: usize = BLOCK_BYTES / size_of::<u64>();

const NOISE_START: usize = 3;
const DIGEST_AT: usize = WORDS - 1;

/// The block that a step writes.
pub(crate) fn block_of_step(seed: u64, step: u64, blocks: u64) -> u64 {
    mix(seed ^ mix(step)) % blocks
}

/// What a step writes into its block.
pub(crate) fn block_words(seed: u64, block: u64, step: u64) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    words[..NOISE_START].copy_from_slice(&[block, step, seed]);
    let start = mix(seed ^ mix(step ^ mix(block)));
    for (index, word) in (0u64..).zip(&mut words[NOISE_START..DIGEST_AT]) {
        *word = mix(start.wrapping_add(index));
    }
    words[DIGEST_AT] = digest(&words[..DIGEST_AT]);
    words
}

/// The digest that a block ends with.
pub(crate) fn digest_of(words: &[u64; WORDS]) -> u64 {
    words[DIGEST_AT]
}

/// FNV-1a, by words.
fn digest(words: &[u64]) -> u64 {
    words.iter().fold(0xcbf2_9ce4_8422_2325, |digest, word| (digest ^ word).wrapping_mul(0x0100_0000_01b3))
}

/// The finalizer of SplitMix64.
fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
