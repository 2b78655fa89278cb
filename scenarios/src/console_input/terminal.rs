//! A terminal that the guest's own line discipline takes over, and that is given back as it was.

use nix::errno::Errno;
use nix::sys::termios::{LocalFlags, OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, isatty, tcgetpgrp};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// How keys reach the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// By lines, as the terminal makes them: Ctrl-C ends the command. For guests without a line discipline of their own.
    Cooked,
    /// Each by itself, and Ctrl-] ends the command.
    Raw,
}

/// Where input is read from.
#[derive(Debug)]
pub(super) struct Terminal {
    input: OwnedFd,
    keys: Option<Keys>,
    state: Arc<Mutex<State>>,
}

/// What was done to the terminal.
#[derive(Debug, Default)]
struct State {
    before: Option<Termios>,
    /// It is given back for good.
    is_over: bool,
}

/// Gives the terminal back when it is dropped, once and for all.
#[derive(Debug)]
pub struct Restorer {
    input: OwnedFd,
    state: Arc<Mutex<State>>,
}

impl Terminal {
    /// What is no terminal is left as it is.
    pub(super) fn new(input: OwnedFd, keys: Keys) -> std::io::Result<(Self, Restorer)> {
        let state = Arc::<Mutex<State>>::default();
        let restorer = Restorer { input: input.try_clone()?, state: Arc::clone(&state) };
        let keys = isatty(&input).unwrap_or(false).then_some(keys);
        Ok((Self { input, keys, state }, restorer))
    }

    /// Makes it ready to be read. False: it belongs to others at the moment, and must not be touched.
    pub(super) fn ready(&self) -> bool {
        let Some(keys) = self.keys else { return true };
        // A terminal that is not ours at all takes no part in jobs.
        if tcgetpgrp(&self.input).is_ok_and(|foreground| foreground != getpgrp()) {
            return false;
        }
        if keys == Keys::Raw {
            // What cannot be made raw is read as it is.
            let _ = self.make_raw();
        }
        true
    }

    /// Whoever brings a stopped command back may have made the terminal as it was: it is looked at each time.
    fn make_raw(&self) -> Result<(), Errno> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = tcgetattr(&self.input)?;
        if state.is_over || !now.local_flags.contains(LocalFlags::ICANON) {
            return Ok(());
        }
        let mut raw = now.clone();
        cfmakeraw(&mut raw);
        // Lines of the guest and of the command begin at the left.
        raw.output_flags.insert(OutputFlags::OPOST);
        state.before.get_or_insert(now);
        tcsetattr(&self.input, SetArg::TCSANOW, &raw)
    }

    /// The key that ends the command, where keys reach the guest by themselves.
    pub(super) fn has_escape(&self) -> bool {
        self.keys == Some(Keys::Raw)
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.keys.is_some()
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.input.as_fd()
    }
}

impl Restorer {
    /// Another one; the first that is dropped gives the terminal back.
    pub(super) fn another(&self) -> std::io::Result<Self> {
        Ok(Self { input: self.input.try_clone()?, state: Arc::clone(&self.state) })
    }
}

impl Drop for Restorer {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_over = true;
        if let Some(before) = state.before.take() {
            // A terminal that is gone needs nothing.
            let _ = tcsetattr(&self.input, SetArg::TCSANOW, &before);
        }
    }
}
