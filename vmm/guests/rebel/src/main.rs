//! Does what a flat guest must not do: lets its history depend on instructions that ask the processor, not the machine.
//!
//! In checkpoint mode nothing is wrong with that. In modes that replay, the machine has to notice.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "instructions without a safe name, and an entry point with a name")]

use core::arch::asm;
use core::arch::x86_64::_rdtsc;
use flat_rt::{Args, BootInfo, println, wait_us};

const LINES: &str = "--lines";
const EVERY_US: &str = "--every-us";
const FROM: &str = "--from";

const LINES_DEFAULT: u64 = 100;
/// Tries until the processor has a number: more than it is ever said to need.
const RDRAND_TRIES: u32 = 10;

flat_rt::entry!(main);

fn main(boot: &BootInfo) -> u32 {
    let args = Args::parse(boot, &[LINES, EVERY_US, FROM]);
    let lines = args.get(LINES).unwrap_or(LINES_DEFAULT);
    let every_us = u32::try_from(args.get(EVERY_US).unwrap_or(0)).unwrap_or(u32::MAX);
    // Until then it behaves.
    let from = args.get(FROM).unwrap_or(1);
    for line in 1..=lines {
        if line < from {
            println!("line {line:06} is like any other");
        } else {
            // SAFETY: the instruction only reads a counter.
            let ticks = unsafe { _rdtsc() };
            println!("line {line:06} at tick {ticks:016x} with number {:016x}", rdrand());
        }
        if every_us > 0 {
            wait_us(every_us);
        }
    }
    0
}

/// A number from the processor; zero if it has none. CPUID does not tell of the instruction, but it works.
fn rdrand() -> u64 {
    for _ in 0..RDRAND_TRIES {
        let (number, has_number): (u64, u8);
        // SAFETY: the instruction changes these two registers and the flags.
        unsafe { asm!("rdrand {}", "setc {}", out(reg) number, out(reg_byte) has_number, options(nomem, nostack)) };
        if has_number != 0 {
            return number;
        }
    }
    0
}
