//! What a successor must know of the end of a log before it replays it, and what becomes of the guest there.

use super::cursor::Extent;
use super::entry::{Entry, EntryBody};
use crate::spec::Mode;

/// The end of a log, as its entries tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    last_exit: Option<u64>,
    console_end: u64,
    entries: u64,
}

impl LogEnd {
    /// Of a log without entries behind a commit up to which so many console bytes were written.
    #[must_use]
    pub fn new(console_start: u64) -> Self {
        Self { last_exit: None, console_end: console_start, entries: 0 }
    }

    /// Another entry.
    pub fn note(&mut self, entry: &Entry<'_>) {
        self.last_exit = Some(entry.at_exit);
        self.entries += 1;
        if let EntryBody::Output { position, bytes } = &entry.body {
            self.console_end = position.saturating_add(bytes.len() as u64);
        }
    }

    /// Where the console output ends that has left by the log.
    #[must_use]
    pub fn console_end(&self) -> u64 {
        self.console_end
    }

    /// The exit of the last entry.
    #[must_use]
    pub fn last_exit(&self) -> u64 {
        self.last_exit.unwrap_or(0)
    }

    /// How many entries there are.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// How far the log reaches, for the cursor.
    #[must_use]
    pub fn extent(&self) -> Extent {
        Extent::Ended { last_exit: self.last_exit }
    }
}

/// How a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayEnd {
    /// Where the log does.
    Complete,
    /// The guest did something else than the log says.
    Diverged,
    /// The log could not be read any further.
    LogDamaged,
}

/// How the guest goes on behind a replay. Its console goes on where what has left ends, by position: whatever became of the
/// replay, what it writes again before that place is not shown again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landing {
    /// How it is protected.
    pub mode: Mode,
    /// Packets that may not have left before leave at once; otherwise with the next commit.
    pub packets_leave: bool,
}

impl Landing {
    /// Of a VM that is protected in this mode.
    #[must_use]
    pub fn of(mode: Mode, end: ReplayEnd) -> Self {
        // A guest that is not deterministic cannot be protected by what it was given.
        let mode = if end == ReplayEnd::Complete { mode } else { Mode::Checkpoint };
        Self { mode, packets_leave: mode.records() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_left_its_log_goes_on_in_checkpoint_mode() {
        let landing = Landing::of(Mode::Lockstep, ReplayEnd::Complete);
        assert_eq!((landing.mode, landing.packets_leave), (Mode::Lockstep, true));
        let diverged = Landing::of(Mode::Lockstep, ReplayEnd::Diverged);
        assert_eq!((diverged.mode, diverged.packets_leave), (Mode::Checkpoint, false));
        assert_eq!(Landing::of(Mode::Replay, ReplayEnd::LogDamaged), diverged);
        assert!(!Landing::of(Mode::Checkpoint, ReplayEnd::Complete).packets_leave);
    }

    #[test]
    fn the_end_of_a_log_is_that_of_its_last_entries() {
        let mut end = LogEnd::new(7);
        assert_eq!((end.console_end(), end.extent()), (7, Extent::Ended { last_exit: None }));
        let body = EntryBody::Output { position: 7, bytes: b"abc"[..].into() };
        end.note(&Entry { at_exit: 3, digest: 0, body });
        end.note(&Entry { at_exit: 5, digest: 0, body: EntryBody::Mark });
        assert_eq!((end.console_end(), end.last_exit(), end.entries()), (10, 5, 2));
    }
}
