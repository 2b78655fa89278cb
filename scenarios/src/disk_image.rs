//! Checks the image of a disk that the bundled guest `disk` has written, as `docs/flat-guest.md` describes it.
//!
//! Written from that description, not from the guest: what both agree on is what the description says.

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Bytes of a block.
const BLOCK_BYTES: usize = 4096;
const WORD_BYTES: usize = 8;
const WORDS: usize = BLOCK_BYTES / WORD_BYTES;
/// Words in front of the noise: block, step, seed.
const HEADER_WORDS: usize = 3;

/// What an image holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskImage {
    /// The image is that behind each of these steps, whole and in order.
    pub steps: RangeInclusive<u64>,
    /// Blocks that were written.
    pub written: u64,
    /// The sum of their digests.
    pub digest: u64,
}

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum DiskImageError {
    /// It cannot be read.
    #[error("the disk image cannot be read")]
    Read(#[from] io::Error),
    /// A block says which step wrote it, but is not what that step writes.
    #[error("block {block} is not what step {step} writes there")]
    Torn {
        /// The block.
        block: u64,
        /// The step that it names.
        step: u64,
    },
    /// Blocks of different times.
    #[error("block {late} has step {late_step}, but step {missing_step} for block {early} is missing")]
    Mixed {
        /// A block that is late.
        late: u64,
        /// The step that it has.
        late_step: u64,
        /// A block that is too old beside it.
        early: u64,
        /// The step that it should have had by then.
        missing_step: u64,
    },
}

/// Checks an image that `steps_max` steps at most have written, which had nothing on it before.
///
/// # Errors
/// The image is not that of a moment between two steps.
pub fn verify(image: &Path, seed: u64, steps_max: u64) -> Result<DiskImage, DiskImageError> {
    let image = File::open(image)?;
    let blocks = image.metadata()?.len() / BLOCK_BYTES as u64;
    let plan = Plan::new(seed, blocks, steps_max);
    // The latest step found, and the first one that is missing, each with its block.
    let (mut latest, mut missing) = ((0, 0), (steps_max + 1, 0));
    let (mut written, mut digest) = (0, 0u64);
    for block in 0..blocks {
        let words = read_block(&image, block)?;
        let found = words[1];
        if plan.block_of(found) == Some(block) {
            if words != block_words(seed, block, found) {
                return Err(DiskImageError::Torn { block, step: found });
            }
            latest = latest.max((found, block));
            written += 1;
            digest = digest.wrapping_add(words[WORDS - 1]);
        } else if words.iter().any(|word| *word != 0) {
            return Err(DiskImageError::Torn { block, step: found });
        }
        missing = plan.next_of(block, found).map_or(missing, |next| missing.min((next, block)));
    }
    let ((late_step, late), (missing_step, early)) = (latest, missing);
    if late_step >= missing_step {
        return Err(DiskImageError::Mixed { late, late_step, early, missing_step });
    }
    Ok(DiskImage { steps: late_step..=missing_step - 1, written, digest })
}

/// Which step writes which block.
struct Plan {
    /// The block of step 1 first.
    blocks: Vec<u64>,
}

impl Plan {
    fn new(seed: u64, blocks: u64, steps: u64) -> Self {
        let block_of = |step| if blocks == 0 { 0 } else { mix(seed ^ mix(step)) % blocks };
        Self { blocks: (1..=steps).map(block_of).collect() }
    }

    fn block_of(&self, step: u64) -> Option<u64> {
        let index = usize::try_from(step.checked_sub(1)?).ok()?;
        self.blocks.get(index).copied()
    }

    /// The next step for a block behind this one.
    fn next_of(&self, block: u64, step: u64) -> Option<u64> {
        let skip = usize::try_from(step).unwrap_or(usize::MAX);
        let next = self.blocks.iter().skip(skip).position(|of_step| *of_step == block)?;
        Some(step + next as u64 + 1)
    }
}

fn read_block(image: &File, block: u64) -> io::Result<[u64; WORDS]> {
    let mut bytes = [0; BLOCK_BYTES];
    image.read_exact_at(&mut bytes, block * BLOCK_BYTES as u64)?;
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<WORD_BYTES>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    Ok(words)
}

fn block_words(seed: u64, block: u64, step: u64) -> [u64; WORDS] {
    let start = mix(seed ^ mix(step ^ mix(block)));
    let mut words = [0; WORDS];
    words[..HEADER_WORDS].copy_from_slice(&[block, step, seed]);
    for (index, word) in (0u64..).zip(&mut words[HEADER_WORDS..WORDS - 1]) {
        *word = mix(start.wrapping_add(index));
    }
    let mut digest: u64 = 0xcbf2_9ce4_8422_2325;
    for word in &words[..WORDS - 1] {
        digest = (digest ^ word).wrapping_mul(0x0100_0000_01b3);
    }
    words[WORDS - 1] = digest;
    words
}

fn mix(value: u64) -> u64 {
    let a = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let b = (a ^ (a >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let c = (b ^ (b >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    c ^ (c >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 7;
    const BLOCKS: u64 = 16;
    const STEPS: u64 = 40;

    /// An image behind so many steps, without one of them.
    fn image(steps: u64, without: Option<u64>) -> tempfile::NamedTempFile {
        let image = tempfile::NamedTempFile::new().expect("a file");
        image.as_file().set_len(BLOCKS * BLOCK_BYTES as u64).expect("room");
        let plan = Plan::new(SEED, BLOCKS, steps);
        for step in (1..=steps).filter(|step| Some(*step) != without) {
            let block = plan.block_of(step).expect("in the plan");
            let bytes: Vec<u8> = block_words(SEED, block, step).iter().flat_map(|word| word.to_le_bytes()).collect();
            image.as_file().write_all_at(&bytes, block * BLOCK_BYTES as u64).expect("written");
        }
        image
    }

    #[test]
    fn every_moment_is_recognised() {
        for steps in 0..=STEPS {
            let found = verify(image(steps, None).path(), SEED, STEPS).expect("whole");
            assert!(found.steps.contains(&steps), "{steps}: {found:?}");
            assert!(verify(image(steps, None).path(), SEED + 1, STEPS).is_err() || steps == 0, "another seed");
        }
    }

    #[test]
    fn a_lost_write_is_found_as_soon_as_a_later_one_is_there() {
        let plan = Plan::new(SEED, BLOCKS, STEPS);
        for without in 1..STEPS {
            let is_overwritten = plan.next_of(plan.block_of(without).expect("in the plan"), without).is_some();
            let found = verify(image(STEPS, Some(without)).path(), SEED, STEPS);
            match found {
                Ok(found) => assert!(is_overwritten && found.steps.contains(&STEPS), "{without}: {found:?}"),
                Err(DiskImageError::Mixed { missing_step, .. }) => assert_eq!(missing_step, without),
                Err(other) => panic!("{without}: {other}"),
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let image = image(STEPS, None);
        for at in [0, 8, 16, 100, 4095] {
            let at = at + 5 * BLOCK_BYTES as u64;
            let mut byte = [0];
            image.as_file().read_exact_at(&mut byte, at).expect("read");
            image.as_file().write_all_at(&[byte[0] ^ 1], at).expect("written");
            assert!(matches!(verify(image.path(), SEED, STEPS), Err(DiskImageError::Torn { .. })), "byte {at}");
            image.as_file().write_all_at(&byte, at).expect("written");
        }
        verify(image.path(), SEED, STEPS).expect("whole again");
    }
}
