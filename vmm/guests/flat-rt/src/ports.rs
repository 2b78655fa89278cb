//! The ports of the machine.

use core::arch::asm;

const CONSOLE: u16 = 0x3f8;
const CONSOLE_STATUS: u16 = 0x3fd;
const RECEIVED: u8 = 1;
const EXIT: u16 = 0xf4;
const CLOCK_LOW: u16 = 0x600;
const CLOCK_HIGH: u16 = 0x604;
const ENTROPY: u16 = 0x608;
const WAIT_US: u16 = 0x60c;
const WAIT_NS: u16 = 0x610;

/// Guest time in nanoseconds.
#[must_use]
pub fn clock_ns() -> u64 {
    let low = read(CLOCK_LOW);
    u64::from(low) | u64::from(read(CLOCK_HIGH)) << 32
}

/// A random word.
#[must_use]
pub fn entropy() -> u32 {
    read(ENTROPY)
}

/// Waits so many microseconds, or until console input arrives.
pub fn wait_us(us: u32) {
    write(WAIT_US, us);
}

/// Waits so many nanoseconds, or until console input arrives.
pub fn wait_ns(ns: u32) {
    write(WAIT_NS, ns);
}

/// Ends the guest.
pub fn exit(code: u32) -> ! {
    loop {
        write(EXIT, code);
    }
}

pub(crate) fn send(byte: u8) {
    // SAFETY: the console's data register; writing it changes no memory.
    unsafe { asm!("out dx, al", in("dx") CONSOLE, in("al") byte, options(nomem, nostack, preserves_flags)) };
}

pub(crate) fn receive() -> Option<u8> {
    (read_byte(CONSOLE_STATUS) & RECEIVED != 0).then(|| read_byte(CONSOLE))
}

fn read_byte(port: u16) -> u8 {
    let value;
    // SAFETY: the machine's ports change no memory.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

fn read(port: u16) -> u32 {
    let value;
    // SAFETY: the machine's ports change no memory.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) };
    value
}

fn write(port: u16, value: u32) {
    // SAFETY: the machine's ports change no memory.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) };
}
