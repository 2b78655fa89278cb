//! Prints numbered lines.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "the entry point has a name that the linker looks for")]

use flat_rt::{Args, BootInfo, println, wait_us};

const LINES_DEFAULT: u64 = 100;
const EVERY_US_DEFAULT: u64 = 0;

flat_rt::entry!(main);

fn main(boot: &BootInfo) -> u32 {
    let args = Args::parse(boot, &["--lines", "--every-us"]);
    let lines = args.get("--lines").unwrap_or(LINES_DEFAULT);
    let every_us = u32::try_from(args.get("--every-us").unwrap_or(EVERY_US_DEFAULT)).unwrap_or(u32::MAX);
    for line in 1..=lines {
        println!("line {line:06}");
        if every_us > 0 {
            wait_us(every_us);
        }
    }
    0
}
