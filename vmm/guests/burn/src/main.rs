//! Computes without a single exit, then prints the result; `--laps N` does so N times, with a line after each.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "the entry point has a name that the linker looks for")]

use flat_rt::{Args, BootInfo, println};

const ROUNDS_DEFAULT: u64 = 1_000_000_000;
const LAPS_DEFAULT: u64 = 1;

flat_rt::entry!(main);

fn main(boot: &BootInfo) -> u32 {
    let args = Args::parse(boot, &["--rounds", "--laps"]);
    let rounds = args.get("--rounds").unwrap_or(ROUNDS_DEFAULT);
    let laps = args.get("--laps").unwrap_or(LAPS_DEFAULT);
    let mut x: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..laps {
        for round in 0..rounds {
            // A dependent chain of shifts: nothing that a compiler can shorten.
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x = x.wrapping_add(round);
        }
        println!("burn {rounds} {x:016x}");
    }
    0
}
