//! Which standard streams the process was started with. Rust's runtime opens /dev/null in place of closed ones before `main`,
//! so that nothing can tell later that whatever is written goes nowhere: the kernel is asked before.
#![allow(unsafe_code, reason = "code that runs before main is named in a link section")]

use std::sync::atomic::{AtomicBool, Ordering};

static OUTPUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);

extern "C" fn look() {
    // SAFETY: F_GETFD takes no pointer; a number that is no descriptor is answered with an error.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    OUTPUT_WAS_CLOSED.store(flags == -1, Ordering::Relaxed);
}

// SAFETY: The C library calls every function of this section once, before main and before any thread, with arguments that
// this one may ignore (System V ABI, initialization functions). `look` needs nothing that is made later.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// Whether the process was started without a standard output.
#[must_use]
pub fn output_was_closed() -> bool {
    OUTPUT_WAS_CLOSED.load(Ordering::Relaxed)
}
