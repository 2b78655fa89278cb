//! Writes blocks all over its disk, reads each one before it is written again, and in the end all of them.
//!
//! What is where after so many steps follows from the seed alone (`docs/flat-guest.md`), so whoever has the image can check it.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "the entry point has a name that the linker looks for")]

extern crate alloc;

mod pattern;

use alloc::vec;
use alloc::vec::Vec;
use flat_rt::{BootInfo, Options, println, wait_us};
use flat_virtio::{Disk, SECTOR_BYTES, disk, init_heap};
use pattern::{BLOCK_BYTES, WORDS, block_of_step, block_words, digest_of};

const STEPS: &str = "--steps";
const SEED: &str = "--seed";
const FLUSH_EVERY: &str = "--flush-every";
const EVERY_US: &str = "--every-us";

const STEPS_DEFAULT: u64 = 1000;
const SEED_DEFAULT: u64 = 1;
const FLUSH_EVERY_DEFAULT: u64 = 32;

const SECTORS_PER_BLOCK: usize = BLOCK_BYTES / SECTOR_BYTES;

const EXIT_WRONG_BLOCK: u32 = 1;
const EXIT_NO_DISK: u32 = 3;
const EXIT_DISK_FAILED: u32 = 4;

flat_rt::entry!(main);

/// Why the guest ends before its time.
enum Trouble {
    /// A block is not what was written there last.
    Wrong { block: u64, step: u64, found_step: u64 },
    /// The disk did not do what it was asked for.
    Failed { what: &'static str, block: u64 },
}

fn main(boot: &BootInfo) -> u32 {
    let options = Options::parse(boot, &[STEPS, SEED, FLUSH_EVERY, EVERY_US]);
    let steps = options.get(STEPS, STEPS_DEFAULT);
    let flush_every = options.get(FLUSH_EVERY, FLUSH_EVERY_DEFAULT).max(1);
    let every_us = options.get(EVERY_US, 0u32);
    init_heap(boot);
    let Some(disk) = disk(boot) else {
        println!("disk has no disk: run it with one");
        return EXIT_NO_DISK;
    };
    let mut writer = Writer::new(disk, options.get(SEED, SEED_DEFAULT));
    println!("disk of {} blocks, {steps} steps with seed {}", writer.last_steps.len(), writer.seed);
    match writer.run(steps, flush_every, every_us) {
        Ok(()) => 0,
        Err(Trouble::Wrong { block, step, found_step }) => {
            println!("block {block} is wrong: step {step} wrote it last, it says step {found_step}");
            EXIT_WRONG_BLOCK
        }
        Err(Trouble::Failed { what, block }) => {
            println!("{what} of block {block} failed");
            EXIT_DISK_FAILED
        }
    }
}

struct Writer {
    disk: Disk,
    seed: u64,
    /// The step that wrote each block last; 0: none has.
    last_steps: Vec<u64>,
    buffer: Vec<u8>,
}

impl Writer {
    fn new(disk: Disk, seed: u64) -> Self {
        let blocks = usize::try_from(disk.capacity()).expect("64-bit") / SECTORS_PER_BLOCK;
        Self { disk, seed, last_steps: vec![0; blocks], buffer: vec![0; BLOCK_BYTES] }
    }

    fn run(&mut self, steps: u64, flush_every: u64, every_us: u32) -> Result<(), Trouble> {
        for step in 1..=steps {
            let block = block_of_step(self.seed, step, self.last_steps.len() as u64);
            self.verify(block)?;
            self.write(block, step)?;
            if step.is_multiple_of(flush_every) {
                self.flush(block)?;
                println!("step {step:06} flushed");
            }
            if every_us > 0 {
                wait_us(every_us);
            }
        }
        self.flush(0)?;
        let (mut written, mut digest) = (0u64, 0u64);
        for block in 0..self.last_steps.len() as u64 {
            if let Some(of_block) = self.verify(block)? {
                written += 1;
                digest = digest.wrapping_add(of_block);
            }
        }
        println!("verified {written} blocks after {steps} steps, digest {digest:016x}");
        Ok(())
    }

    /// Reads a block and compares it with what was written there last; its digest, if anything was.
    fn verify(&mut self, block: u64) -> Result<Option<u64>, Trouble> {
        let index = usize::try_from(block).expect("64-bit");
        let step = self.last_steps[index];
        if step == 0 {
            return Ok(None);
        }
        let failed = |_| Trouble::Failed { what: "the read", block };
        self.disk.read_blocks(index * SECTORS_PER_BLOCK, &mut self.buffer).map_err(failed)?;
        let mut found = [0; WORDS];
        for (word, bytes) in found.iter_mut().zip(self.buffer.chunks_exact(size_of::<u64>())) {
            *word = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        }
        if found != block_words(self.seed, block, step) {
            return Err(Trouble::Wrong { block, step, found_step: found[1] });
        }
        Ok(Some(digest_of(&found)))
    }

    fn write(&mut self, block: u64, step: u64) -> Result<(), Trouble> {
        let index = usize::try_from(block).expect("64-bit");
        let words = block_words(self.seed, block, step);
        for (bytes, word) in self.buffer.chunks_exact_mut(size_of::<u64>()).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let failed = |_| Trouble::Failed { what: "the write", block };
        self.disk.write_blocks(index * SECTORS_PER_BLOCK, &self.buffer).map_err(failed)?;
        self.last_steps[index] = step;
        Ok(())
    }

    fn flush(&mut self, block: u64) -> Result<(), Trouble> {
        self.disk.flush().map_err(|_| Trouble::Failed { what: "the flush", block })
    }
}
