//! A primary's account of its record log: whether the guest may go on, and what a commit makes free.

use crate::ids::Epoch;
use std::collections::VecDeque;

/// The part of the ring that must be free before the guest may go to its next exit: whatever one exit brings fits.
const ROOM_SHARE: u64 = 4;

/// The account. Positions are those of the log.
#[derive(Debug)]
pub struct LogSpace {
    recording: bool,
    /// The guest is to pause at its next exit.
    pausing: bool,
    sealed: bool,
    room: u64,
    /// Epochs that are not known to be applied, and where the log of the time after each begins.
    marks: VecDeque<(Epoch, u64)>,
}

impl LogSpace {
    /// Of a log with a ring of so many bytes, to which nothing is written yet.
    #[must_use]
    pub fn new(ring_bytes: u64) -> Self {
        Self { recording: false, pausing: false, sealed: false, room: ring_bytes / ROOM_SHARE, marks: VecDeque::new() }
    }

    /// Inputs are written down from now on, or no more: then the mode does not want them, and the log stays as it is.
    pub fn record(&mut self, recording: bool) {
        self.recording = recording;
    }

    /// Whether inputs are written down.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// Has the guest pause at its next exit, or no more.
    pub fn pause(&mut self, pausing: bool) {
        self.pausing = pausing;
    }

    /// Whether the guest is to pause at its next exit.
    #[must_use]
    pub fn is_pausing(&self) -> bool {
        self.pausing
    }

    /// The log was found closed: this host reigns no more.
    pub fn seal(&mut self) {
        self.sealed = true;
    }

    /// Whether the log was found closed.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// Whether the guest may go to its next exit, with so many bytes of the ring free.
    #[must_use]
    pub fn has_room(&self, free_bytes: u64) -> bool {
        !self.recording || (!self.pausing && free_bytes >= self.room)
    }

    /// The record of `epoch` says that the log of the time after it begins at `tail`.
    pub fn mark(&mut self, epoch: Epoch, tail: u64) {
        assert!(self.marks.back().is_none_or(|(last, at)| *last < epoch && *at <= tail), "commits go forward");
        self.marks.push_back((epoch, tail));
    }

    /// What came before `applied` is in the stable image and will not be replayed again: up to where the log is free now.
    pub fn free(&mut self, applied: Epoch) -> Option<u64> {
        let mut free = None;
        while let Some((_, position)) = self.marks.pop_front_if(|(epoch, _)| *epoch <= applied) {
            free = Some(position);
        }
        free
    }

    /// Whether a commit would free something once it is applied.
    #[must_use]
    pub fn grew_since_mark(&self, tail: u64) -> bool {
        self.marks.back().is_none_or(|(_, position)| *position < tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_free_up_to_the_last_applied_epoch() {
        let mut space = LogSpace::new(4096);
        assert!(space.has_room(0), "nothing is written down");
        space.record(true);
        assert!(space.has_room(1024) && !space.has_room(1023));
        space.pause(true);
        assert!(!space.has_room(4096));
        assert!(space.grew_since_mark(0), "nobody knows what an earlier reign has left");
        space.mark(Epoch::new(4), 100);
        space.mark(Epoch::new(5), 220);
        assert!(!space.grew_since_mark(220) && space.grew_since_mark(221));
        assert_eq!([3, 4, 4, 9].map(|epoch| space.free(Epoch::new(epoch))), [None, Some(100), None, Some(220)]);
    }
}
