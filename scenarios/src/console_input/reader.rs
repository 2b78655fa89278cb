//! The thread that reads standard input: a read may take for ever, and a run has hosts and signals to mind.

use super::PIECE_BYTES;
use super::terminal::{Keys, Restorer, Terminal};
use crossbeam_channel::{SendTimeoutError, Sender};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, read};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Ctrl-].
const ESCAPE: u8 = 0x1d;

/// Between two looks whether a terminal that belongs to others is ours again.
const LOOK: Duration = Duration::from_millis(200);

/// Between two rings while nobody takes what was read.
const RING: Duration = Duration::from_millis(50);

/// Who types.
#[derive(Debug)]
pub struct Typist {
    /// Where.
    pub input: OwnedFd,
    /// How.
    pub keys: Keys,
}

/// The thread. Dropped, it ends once it is not in the middle of a read, and the terminal is as it was.
#[derive(Debug)]
pub struct Reader {
    restorer: Restorer,
    stop: Arc<EventFd>,
}

struct Reading<F> {
    terminal: Terminal,
    stop: Arc<EventFd>,
    pieces: Sender<Vec<u8>>,
    ring: F,
}

impl Reader {
    /// Reads, piece by piece, until the end; `ring` is called behind each, and behind the end, at which the channel closes.
    ///
    /// # Errors
    /// When there are no more descriptors or threads.
    pub fn start(typist: Typist, pieces: Sender<Vec<u8>>, ring: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (terminal, restorer) = Terminal::new(typist.input, typist.keys)?;
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let reading = Reading { terminal, stop: Arc::clone(&stop), pieces, ring };
        std::thread::Builder::new().name("console-input".to_owned()).spawn(move || reading.run())?;
        Ok(Self { restorer, stop })
    }
}

impl Reader {
    /// Gives the terminal back, too, when it is dropped: for ways out on which this is not.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn restorer(&self) -> io::Result<Restorer> {
        self.restorer.another()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // A counter that is full tells as much.
        let _ = self.stop.write(1);
    }
}

impl<F: Fn()> Reading<F> {
    fn run(self) {
        // Of a job in the background a read fails instead of stopping all of the command.
        let _fails_for_no_signal = SigSet::from_iter([Signal::SIGTTIN, Signal::SIGTTOU]).thread_block();
        let mut buffer = [0; PIECE_BYTES];
        while let Some(count) = self.next(&mut buffer) {
            if !self.pass_on(&buffer[..count]) {
                return;
            }
        }
        let Self { terminal, pieces, ring, .. } = self;
        // First: who has seen the channel's end may count on the input being closed.
        drop(terminal);
        drop(pieces);
        ring();
    }

    /// Waits for input and reads it. `None`: there is no more.
    fn next(&self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            let ready = self.terminal.ready();
            let wanted = if ready { PollFlags::POLLIN } else { PollFlags::empty() };
            let mut fds =
                [PollFd::new(self.stop.as_fd(), PollFlags::POLLIN), PollFd::new(self.terminal.as_fd(), wanted)];
            // A terminal changes hands without a word.
            let watches = self.terminal.is_terminal();
            let timeout =
                if watches { PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX) } else { PollTimeout::NONE };
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
            let [stopped, readable] = fds.map(|fd| fd.any().unwrap_or(false));
            if stopped {
                return None;
            }
            if !ready || !readable {
                // Nothing was asked for: only its end is told.
                if readable {
                    return None;
                }
                continue;
            }
            match read(self.terminal.as_fd(), buffer) {
                Ok(0) => return None,
                Ok(count) => return Some(count),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                // It belongs to others since a moment ago.
                Err(Errno::EIO) if watches && !self.terminal.ready() => {}
                Err(_) => return None,
            }
        }
    }

    /// Hands a piece over. False: there is nobody any more.
    fn pass_on(&self, piece: &[u8]) -> bool {
        let escape = if self.terminal.has_escape() { piece.iter().position(|byte| *byte == ESCAPE) } else { None };
        let mut piece = match escape {
            Some(at) => {
                // As if the terminal had done it: whoever waits for signals ends in good order.
                let _ = kill(Pid::this(), Signal::SIGINT);
                piece[..at].to_vec()
            }
            None => piece.to_vec(),
        };
        if piece.is_empty() {
            return true;
        }
        loop {
            match self.pieces.send_timeout(piece, RING) {
                Ok(()) => {
                    (self.ring)();
                    return true;
                }
                // A guest that takes input without ever stopping by itself is given more when it is stopped.
                Err(SendTimeoutError::Timeout(back)) => {
                    if self.stop.read().is_ok() {
                        return false;
                    }
                    (self.ring)();
                    piece = back;
                }
                Err(SendTimeoutError::Disconnected(_)) => return false,
            }
        }
    }
}
