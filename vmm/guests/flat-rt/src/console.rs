//! The console: a 16550 that is always ready to send.

use crate::ports;
use core::fmt;

/// The console's writer.
#[derive(Debug, Clone, Copy)]
pub struct Console;

/// The console's writer.
#[must_use]
pub fn console() -> Console {
    Console
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(ports::send);
        Ok(())
    }
}
