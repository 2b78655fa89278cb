//! The runtime of flat guests in Rust. `docs/flat-guest.md` is the contract with the machine.
//!
//! A guest is a `no_std`, `no_main` binary that names its main function:
//!
//! ```ignore
//! flat_rt::entry!(main);
//! fn main(boot: &flat_rt::BootInfo) -> u32 { ... }
//! ```
#![no_std]
#![allow(unsafe_code, reason = "the guest's hardware")]

mod args;
mod boot;
mod console;
mod memory;
mod ports;

pub use args::{Args, Options, UsageError};
pub use boot::{BootInfo, Region, RegionKind};
pub use console::{Console, console};
pub use ports::{clock_ns, entropy, exit, wait_ns, wait_us};

use core::fmt::Write;

/// Exit code of a guest that was called with arguments it does not know.
pub const EXIT_USAGE: u32 = 2;
/// Exit code of a guest that panicked.
pub const EXIT_PANIC: u32 = 101;

/// Makes `fn main(&BootInfo) -> u32` the guest's main function; what it returns is the exit code.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        /// Called by the machine as if by a `call`, with the boot info's address in RDI.
        // SAFETY: no other item of the guest has this name. By the ABI the machine passes the address of a boot info that
        // nobody writes to.
        #[unsafe(no_mangle)]
        extern "C" fn _start(boot: &'static $crate::BootInfo) -> ! {
            $crate::start(boot, $main)
        }
    };
}

/// Prints a line on the console.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => {{
        use ::core::fmt::Write as _;
        // The console never fails.
        let _ = ::core::writeln!($crate::console(), $($arg)*);
    }};
}

/// What [`entry!`] calls.
pub fn start(boot: &'static BootInfo, main: fn(&BootInfo) -> u32) -> ! {
    boot.check();
    exit(main(boot))
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(console(), "{info}");
    exit(EXIT_PANIC)
}
