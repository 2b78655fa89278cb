//! Writes all over its memory in a pseudo-random order that depends on what it read there, and ends with a checksum of
//! memory and registers. One lost, repeated or torn write changes the checksum.
//!
//! Memory is visited in windows, so that the pages written in a few milliseconds are few; now and then a step goes anywhere.
//! `--pages` bounds the memory that is visited, `--window-steps` says how long a window is, and `--far-bits` how seldom a
//! step goes anywhere (one in two to that power): with the three the rate at which pages get dirty can be chosen.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "writes to memory that belongs to no Rust object")]

mod arena;

use arena::{Arena, PAGE_SIZE};
use core::arch::x86_64::{
    __m128d, __m128i, _mm_add_epi64, _mm_add_pd, _mm_castpd_si128, _mm_cvtsi128_si64, _mm_mul_pd, _mm_set1_epi64x,
    _mm_set1_pd, _mm_shuffle_epi32, _mm_unpackhi_epi64, _mm_xor_si128,
};
use flat_rt::{Args, BootInfo, println};

/// About two seconds on a processor of today.
const STEPS_DEFAULT: u64 = 400_000_000;
const PROGRESS_LINES_DEFAULT: u64 = 100;
const SEED_DEFAULT: u64 = 1;
const WINDOW_PAGES: u64 = 64;
/// Fewer where there are so many windows that some would not be visited at all.
const STEPS_PER_WINDOW_MAX: u64 = 1 << 18;
/// One step in two to this power goes anywhere in memory.
const FAR_BITS_DEFAULT: u64 = 12;
const FAR_BITS_MAX: u64 = 63;
const VECTOR_BYTES: u64 = 16;
const VECTORS_PER_PAGE: u64 = PAGE_SIZE / VECTOR_BYTES;

flat_rt::entry!(main);

fn main(boot: &BootInfo) -> u32 {
    let args = Args::parse(boot, &["--steps", "--progress", "--seed", "--pages", "--window-steps", "--far-bits"]);
    let arena = Arena::new(boot);
    let steps = args.get("--steps").unwrap_or(STEPS_DEFAULT);
    let every = args.get("--progress").unwrap_or(steps / PROGRESS_LINES_DEFAULT).max(1);
    let pages = args.get("--pages").unwrap_or(u64::MAX).clamp(1, arena.pages());
    let mut torture = Torture::new(arena, pages, steps, args.get("--seed").unwrap_or(SEED_DEFAULT));
    if let Some(steps) = args.get("--window-steps") {
        torture.steps_per_window = steps.max(1);
    }
    torture.far_shift = 64 - args.get("--far-bits").unwrap_or(FAR_BITS_DEFAULT).clamp(1, FAR_BITS_MAX) as u32;

    println!("torture of {pages} pages, {steps} steps");
    let mut done = 0;
    let mut line = 0;
    while done < steps {
        let batch = every.min(steps - done);
        torture.run(done..done + batch);
        done += batch;
        line += 1;
        println!("progress {line:06} step {done} sum {:016x}", torture.registers());
    }
    println!("checksum {:016x}", torture.checksum());
    0
}

struct Torture {
    arena: Arena,
    /// Pages that are visited.
    pages: u64,
    windows: u64,
    steps_per_window: u64,
    /// A step goes anywhere when the random number has zeros above this bit.
    far_shift: u32,
    random: u64,
    sum: __m128i,
    real: __m128d,
}

impl Torture {
    fn new(arena: Arena, pages: u64, steps: u64, seed: u64) -> Self {
        let windows = pages.div_ceil(WINDOW_PAGES);
        let steps_per_window = (steps / windows).clamp(WINDOW_PAGES, STEPS_PER_WINDOW_MAX);
        // SAFETY: every x86-64 processor has SSE2.
        let (sum, real) = unsafe { (_mm_set1_epi64x(0x0123_4567_89ab_cdef), _mm_set1_pd(1.0)) };
        // The generator must not start at zero.
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let far_shift = 64 - FAR_BITS_DEFAULT as u32;
        Self { arena, pages, windows, steps_per_window, far_shift, random, sum, real }
    }

    fn run(&mut self, steps: core::ops::Range<u64>) {
        let pages = self.pages;
        for step in steps {
            let window = step / self.steps_per_window % self.windows * WINDOW_PAGES;
            let in_window = step % self.steps_per_window;
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let page = if in_window < WINDOW_PAGES {
                // Each page of the window at least once.
                window + in_window
            } else if self.random >> self.far_shift == 0 {
                self.random % pages
            } else {
                window + self.random % WINDOW_PAGES
            };
            let vector = (self.random >> 32) % VECTORS_PER_PAGE;
            // The last window may be short.
            self.step(self.arena.address(page % pages) + vector * VECTOR_BYTES);
        }
    }

    fn step(&mut self, address: u64) {
        let place = address as *mut __m128i;
        // SAFETY: the arena gives addresses in free RAM, aligned to pages; nothing else uses it.
        let old = unsafe { place.read_volatile() };
        // SAFETY: every x86-64 processor has SSE2.
        let new = unsafe {
            self.real = _mm_add_pd(_mm_mul_pd(self.real, _mm_set1_pd(0.75)), _mm_set1_pd((self.random >> 44) as f64));
            let mixed = _mm_xor_si128(old, _mm_xor_si128(self.sum, _mm_castpd_si128(self.real)));
            let new = _mm_add_epi64(mixed, _mm_set1_epi64x(self.random as i64));
            self.sum = _mm_add_epi64(_mm_shuffle_epi32::<0b10_01_00_11>(self.sum), new);
            new
        };
        // SAFETY: as for the read.
        unsafe { place.write_volatile(new) };
    }

    /// All registers that steps depend on, in one word.
    fn registers(&self) -> u64 {
        // SAFETY: every x86-64 processor has SSE2.
        let words = unsafe {
            let mixed = _mm_xor_si128(self.sum, _mm_castpd_si128(self.real));
            [_mm_cvtsi128_si64(mixed) as u64, _mm_cvtsi128_si64(_mm_unpackhi_epi64(mixed, mixed)) as u64]
        };
        mix(mix(self.random, words[0]), words[1])
    }

    /// Registers and every word of memory.
    fn checksum(&self) -> u64 {
        let words = PAGE_SIZE / size_of::<u64>() as u64;
        (0..self.pages).map(|page| self.arena.address(page)).fold(self.registers(), |sum, start| {
            (0..words).fold(sum, |sum, word| {
                let place = (start + word * size_of::<u64>() as u64) as *const u64;
                // SAFETY: in free RAM, by the arena's contract.
                mix(sum, unsafe { place.read_volatile() })
            })
        })
    }
}

fn mix(sum: u64, word: u64) -> u64 {
    (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}
