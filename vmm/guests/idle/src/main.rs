//! Waits for time to pass, and prints a line at each tick. With `--touch-kib` it writes so much memory before, once.
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "the entry point has a name that the linker looks for; writes to memory that is nobody's"
)]

use flat_rt::{Args, BootInfo, clock_ns, println, wait_us};

const TICKS_DEFAULT: u64 = 10;
const TICK_MS_DEFAULT: u64 = 100;
const NS_PER_MS: u64 = 1_000_000;
const NS_PER_US: u64 = 1_000;
const KIB_PER_PAGE: u64 = 4;
const PAGE_BYTES: u64 = 4096;

flat_rt::entry!(main);

fn main(boot: &BootInfo) -> u32 {
    let args = Args::parse(boot, &["--ticks", "--tick-ms", "--touch-kib"]);
    touch(boot, args.get("--touch-kib").unwrap_or(0) / KIB_PER_PAGE);
    let ticks = args.get("--ticks").unwrap_or(TICKS_DEFAULT);
    let tick_ns = args.get("--tick-ms").unwrap_or(TICK_MS_DEFAULT).saturating_mul(NS_PER_MS);
    let mut due = clock_ns();
    for tick in 1..=ticks {
        due = due.saturating_add(tick_ns);
        wait_until(due);
        println!("tick {tick:06}");
    }
    0
}

/// Writes a word to each of so many pages of free memory, as far as there are that many.
fn touch(boot: &BootInfo, pages: u64) {
    let mut left = pages;
    for region in boot.free_regions() {
        let mut at = region.start.next_multiple_of(PAGE_BYTES);
        let end = region.start + region.length;
        while left > 0 && at + PAGE_BYTES <= end {
            // SAFETY: the boot information says that this memory is free; nobody else knows of it.
            unsafe { (at as *mut u64).write_volatile(left) };
            at += PAGE_BYTES;
            left -= 1;
        }
    }
}

/// Input ends a wait early, and a wait is no longer than its port can say.
fn wait_until(due: u64) {
    loop {
        let now = clock_ns();
        if now >= due {
            return;
        }
        let us = (due - now).div_ceil(NS_PER_US);
        wait_us(u32::try_from(us).unwrap_or(u32::MAX));
    }
}
