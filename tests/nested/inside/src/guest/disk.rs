//! Writes all over a disk, round by round, with fdatasync; reads what it wrote in the rounds before and compares. Its last
//! line is a checksum of the whole disk as it should be, and as it was read from the device.

use crate::noise::{CHECKSUM_START, Noise, checksum};
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const BLOCK_BYTES: usize = 4096;
const BLOCKS_PER_ROUND: u64 = 16;
/// What is written of: the beginning of large disks.
const BLOCKS_MAX: u64 = 4096;

pub(crate) fn write(device: &Path, rounds: u64, seed: u64) -> Result<(), Box<dyn Error>> {
    let mut file = OpenOptions::new().read(true).write(true).open(device)?;
    let bytes = file.seek(SeekFrom::End(0))?;
    let blocks = (bytes / u64::try_from(BLOCK_BYTES)?).min(BLOCKS_MAX);
    if blocks == 0 {
        return Err(format!("{} is smaller than a block", device.display()).into());
    }
    let mut seeds: Vec<Option<u64>> = vec![None; usize::try_from(blocks)?];
    let mut noise = Noise::new(seed);
    for round in 1..=rounds {
        for _ in 0..BLOCKS_PER_ROUND {
            let index = noise.next() % blocks;
            let content = noise.next();
            file.write_all_at(&block(content), offset(index))?;
            seeds[usize::try_from(index)?] = Some(content);
        }
        file.sync_data()?;
        let index = noise.next() % blocks;
        if let Some(content) = seeds[usize::try_from(index)?] {
            let mut read = vec![0; BLOCK_BYTES];
            file.read_exact_at(&mut read, offset(index))?;
            if read != block(content) {
                return Err(format!("round {round}: block {index} is not what was written").into());
            }
        }
        println!("diskwriter: round {round} of {rounds}");
    }
    let (expected, read) = sums(&mut file, &seeds)?;
    println!("diskwriter: {read:016x}");
    if expected == read { Ok(()) } else { Err(format!("the disk should have {expected:016x}").into()) }
}

fn block(content: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_BYTES];
    Noise::new(content).fill(&mut bytes);
    bytes
}

fn offset(index: u64) -> u64 {
    index * u64::try_from(BLOCK_BYTES).unwrap_or(u64::MAX)
}

/// Of the blocks that were written: as they should be, and as the disk has them.
fn sums(file: &mut File, seeds: &[Option<u64>]) -> std::io::Result<(u64, u64)> {
    let (mut expected, mut read) = (CHECKSUM_START, CHECKSUM_START);
    let mut bytes = vec![0; BLOCK_BYTES];
    file.seek(SeekFrom::Start(0))?;
    for seed in seeds {
        file.read_exact(&mut bytes)?;
        if let Some(content) = seed {
            expected = checksum(expected, &block(*content));
            read = checksum(read, &bytes);
        }
    }
    Ok((expected, read))
}
