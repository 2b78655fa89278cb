//! The console: a 16550 that is always ready to send.

use crate::ports;
use core::fmt;

/// The console: its writer, and what comes over it.
#[derive(Debug, Clone, Copy)]
pub struct Console;

/// The console.
#[must_use]
pub fn console() -> Console {
    Console
}

impl Console {
    /// The next byte that has come, if any has.
    pub fn receive(self) -> Option<u8> {
        ports::receive()
    }

    /// Prints these bytes.
    pub fn send(self, bytes: &[u8]) {
        bytes.iter().copied().for_each(ports::send);
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(ports::send);
        Ok(())
    }
}
