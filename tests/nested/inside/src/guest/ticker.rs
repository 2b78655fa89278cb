//! Fills memory, and then says a number every so often: whoever watches the console sees each silence, and what is said twice.

use crate::noise::{CHECKSUM_START, Noise, checksum};
use std::thread;
use std::time::Duration;

pub(crate) fn tick(every: Duration, mib: usize) {
    let mut memory = vec![0; mib << 20];
    Noise::new(1).fill(&mut memory);
    let mut page = 0;
    for number in 0_u64.. {
        println!("ticker: {number}");
        thread::sleep(every);
        // One page a tick, so that the memory is used and not only held.
        if let Some(bytes) = memory.get_mut(page..page + 4096) {
            let sum = checksum(CHECKSUM_START, bytes);
            bytes[..8].copy_from_slice(&sum.to_le_bytes());
        }
        page = (page + 4096) % memory.len().max(1);
    }
}
