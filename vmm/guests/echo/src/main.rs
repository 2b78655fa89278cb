//! Prints each line that comes over the console, as it came, and ends at a line `end`.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "the entry point has a name that the linker looks for")]

use flat_rt::{Args, BootInfo, console, wait_us};

/// Longer lines are printed in pieces of so many bytes.
const PIECE_BYTES: usize = 4096;

flat_rt::entry!(main);

fn main(boot: &BootInfo) -> u32 {
    let _none = Args::parse(boot, &[]);
    let mut piece = [0; PIECE_BYTES];
    let mut length = 0;
    // The piece is the beginning of its line.
    let mut begins = true;
    loop {
        let Some(byte) = console().receive() else {
            // What comes ends the wait.
            wait_us(u32::MAX);
            continue;
        };
        piece[length] = byte;
        length += 1;
        let ends = byte == b'\n';
        if !ends && length < PIECE_BYTES {
            continue;
        }
        console().send(&piece[..length]);
        if begins && &piece[..length] == b"end\n" {
            return 0;
        }
        (begins, length) = (ends, 0);
    }
}
