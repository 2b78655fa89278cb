//! Programs of others that do not outlive the process that starts them.

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// The program will be killed when the thread that starts it ends, however that comes (`PR_SET_PDEATHSIG`); what it starts itself is not.
pub fn ends_with_us(command: &mut Command) {
    let parent = Pid::this();
    let tie = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before.
        if getppid() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(nix::libc::ESRCH)) }
    };
    // SAFETY: between fork and exec only async-signal-safe things are done: two system calls, no allocation, no lock.
    unsafe { command.pre_exec(tie) };
}
