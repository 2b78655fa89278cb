//! Standard input as what a guest's console is fed with.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::signals::EndSignals;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use scenarios::console_input::{ConsoleInput, Keys, Reader, Restorer, Typist};
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use vmm::unprotected::{Bell, TypedInput};

fn failed(error: io::Error) -> Failure {
    Failure::new(ExitCode::Internal, &error)
}

fn typist(keys: Keys) -> Result<Typist, Failure> {
    Ok(Typist { input: io::stdin().as_fd().try_clone_to_owned().map_err(failed)?, keys })
}

/// For a guest that runs in a cluster.
pub(crate) fn protected(keys: Keys) -> Result<ConsoleInput, Failure> {
    ConsoleInput::start(typist(keys)?).map_err(failed)
}

/// For a guest that runs in this process. The reader gives the terminal back when it is dropped.
pub(crate) fn unprotected(keys: Keys) -> Result<(TypedInput, Reader), Failure> {
    // Made first: all threads leave the signals to it. Without a terminal that has to be given back they end the process.
    let signals = (keys == Keys::Raw && io::stdin().is_terminal()).then(EndSignals::new).transpose()?;
    let (sender, bytes) = TypedInput::channel();
    let bell = Bell::default();
    let ringing = bell.clone();
    let reader = Reader::start(typist(keys)?, sender, move || ringing.ring()).map_err(failed)?;
    if let Some(signals) = signals {
        let restorer = reader.restorer().map_err(failed)?;
        let watch = move || end_at_signal(&signals, restorer);
        std::thread::Builder::new().name("signals".to_owned()).spawn(watch).map_err(failed)?;
    }
    Ok((TypedInput { bytes, bell }, reader))
}

/// Ends the process as a signal would, but with the terminal as it was.
fn end_at_signal(signals: &EndSignals, restorer: Restorer) {
    loop {
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        // Interrupted: looked at again.
        let _ = poll(&mut fds, PollTimeout::NONE);
        if let Some(code) = signals.received() {
            drop(restorer);
            std::process::exit(code as i32);
        }
    }
}
