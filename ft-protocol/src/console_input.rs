//! Console input on its way to a guest: each byte once and in order, whoever dies meanwhile.
//!
//! A byte has a position: how many were ever given to the guest before it. Whoever feeds the guest ([`Feed`]) keeps a byte
//! until the guest has taken it and that can be rebuilt from the pool; the primary's host ([`Intake`]) says how far that is.
//! Bytes that wait there are the guest's only as long as that host lives: the next primary says what it has, and what it has
//! not is sent again. So all that is sent can be lost, or come twice, and it does not matter.
//!
//! ```text
//!   feeder:   start ........ sent ........ end of what was read     (at most WINDOW_BYTES)
//!   primary:        safe .. taken .. have ...... room_to            (room_to = taken + WINDOW_BYTES)
//! ```

use crate::ids::Epoch;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

#[cfg(test)]
mod tests;

/// Most console input bytes that wait for a guest, and most that whoever feeds it keeps.
pub const WINDOW_BYTES: usize = 64 << 10;

/// Most bytes of one message.
pub const MESSAGE_INPUT_MAX: usize = 16 << 10;

/// Messages of input that are on their way to a primary at one time. Further ones are lost, and sent again.
pub const MESSAGES_UNTOLD_MAX: u32 = 256;

/// Nobody has come this far: at a thousand million bytes a second that would take a century.
const POSITION_MAX: u64 = 1 << 62;

/// A primary tells how far its guest is at least once in so many messages, and in so many bytes that the guest took.
const MESSAGES_TOLD: u32 = 64;
const BYTES_TOLD: u64 = 8 << 10;

const _: () = assert!(MESSAGES_TOLD < MESSAGES_UNTOLD_MAX, "who is told in time loses nothing");
const _: () = assert!(2 * BYTES_TOLD <= WINDOW_BYTES as u64, "the window opens again before it is used up");

/// How far a guest's console input has come, by its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputAt {
    /// What comes next belongs here. Only in the answer to a request to open the input.
    pub have: Option<u64>,
    /// What is before this is never asked for again.
    pub safe: u64,
    /// There is room up to here.
    pub room_to: u64,
}

/// The part of `bytes`, which begin at `position`, that a guest does not have that has everything before `have`: nothing
/// where that would leave a gap.
#[must_use]
pub fn input_beyond(have: u64, position: u64, bytes: &[u8]) -> &[u8] {
    let known = have.checked_sub(position).and_then(|known| usize::try_from(known).ok());
    known.and_then(|known| bytes.get(known..)).unwrap_or_default()
}

/// What somebody feeds to a guest.
#[derive(Debug, Default)]
pub struct Feed {
    bytes: VecDeque<u8>,
    /// Position of the first of them.
    start: u64,
    sent: u64,
    /// Up to where anything was ever sent: what is sent again may be there before.
    sent_most: u64,
    room_to: u64,
    is_open: bool,
}

impl Feed {
    /// How many more bytes it takes.
    #[must_use]
    pub fn room(&self) -> usize {
        WINDOW_BYTES - self.bytes.len()
    }

    /// Nothing is left that the guest has not taken for good.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes bytes to feed.
    ///
    /// # Panics
    /// If there is no room for them.
    pub fn push(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "no more than there is room for");
        self.bytes.extend(bytes);
    }

    /// The guest's primary has said how far the input is. Says how many bytes are lost: those that a guest had which has gone
    /// back to before them, because part of its history was damaged.
    pub fn told(&mut self, at: InputAt) -> u64 {
        let mut lost = 0;
        if let Some(have) = at.have.filter(|have| *have <= POSITION_MAX) {
            if have > self.sent_most {
                // Somebody else fed it before, or meanwhile.
                self.drop_before(self.sent_most);
                (self.start, self.sent_most) = (have, have);
            } else if have < self.start {
                // What is between was not read by us, or is kept no more: what we have comes next.
                lost = self.start - have;
                (self.start, self.sent_most) = (have, have);
            }
            (self.sent, self.room_to, self.is_open) = (have, at.room_to, true);
        }
        if self.is_open {
            self.drop_before(at.safe.min(self.sent));
            self.room_to = self.room_to.max(at.room_to);
        }
        lost
    }

    /// Nothing is sent before the primary has said what it has.
    pub fn close(&mut self) {
        self.is_open = false;
    }

    /// What to send next: its position, and the bytes. The same again until it is [sent](Self::sent).
    #[must_use]
    pub fn next_message(&self) -> Option<(u64, Vec<u8>)> {
        if !self.is_open {
            return None;
        }
        let from = usize::try_from(self.sent - self.start).expect("within the window");
        let room = usize::try_from(self.room_to.saturating_sub(self.sent)).unwrap_or(usize::MAX);
        let count = (self.bytes.len() - from).min(room).min(MESSAGE_INPUT_MAX);
        (count > 0).then(|| (self.sent, self.bytes.range(from..from + count).copied().collect()))
    }

    /// So many bytes of the next message are sent.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn sent(&mut self, count: usize) {
        self.sent += count as u64;
        assert!(self.sent - self.start <= self.bytes.len() as u64, "only what is there is sent");
        self.sent_most = self.sent_most.max(self.sent);
    }

    fn drop_before(&mut self, position: u64) {
        let count = usize::try_from(position.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.bytes.len());
        self.bytes.drain(..count);
        self.start += count as u64;
    }
}

/// What a primary's host tells of its guest's console input, and when.
#[derive(Debug)]
pub struct Intake {
    is_open: bool,
    taken: u64,
    safe: u64,
    /// What records that are not published yet have made of it.
    written: VecDeque<(Epoch, u64)>,
    told: InputAt,
    untold_messages: u32,
}

impl Intake {
    /// For a guest that had taken so much in what its successor would begin with.
    #[must_use]
    pub fn new(taken: u64) -> Self {
        let told = InputAt { have: None, safe: 0, room_to: 0 };
        Self { is_open: false, taken, safe: taken, written: VecDeque::new(), told, untold_messages: 0 }
    }

    /// Somebody wants to feed the guest, which has been given everything before `have`.
    pub fn open(&mut self, have: u64) -> InputAt {
        self.is_open = true;
        InputAt { have: Some(have), ..self.tell() }
    }

    /// A message of input was dealt with.
    pub fn came(&mut self) -> Option<InputAt> {
        self.untold_messages += 1;
        (self.is_open && self.untold_messages >= MESSAGES_TOLD).then(|| self.tell())
    }

    /// The guest has taken everything before `taken`; and every input that it took is safe, if `logged`.
    pub fn took(&mut self, taken: u64, logged: bool) -> Option<InputAt> {
        assert!(taken >= self.taken, "what a guest took it never gives back");
        self.taken = taken;
        if logged {
            self.safe = taken;
        }
        (self.is_open && self.safe - self.told.safe.min(self.safe) >= BYTES_TOLD).then(|| self.tell())
    }

    /// The record of an epoch is written, at whose end the guest had taken everything before `taken`.
    pub fn written(&mut self, epoch: Epoch, taken: u64) {
        assert!(self.written.back().is_none_or(|(last, _)| *last < epoch), "epochs are written in order");
        self.taken = self.taken.max(taken);
        self.written.push_back((epoch, taken));
    }

    /// That epoch is published.
    pub fn published(&mut self, epoch: Epoch) -> Option<InputAt> {
        while let Some((_, taken)) = self.written.pop_front_if(|(written, _)| *written <= epoch) {
            self.safe = self.safe.max(taken);
        }
        (self.is_open && self.now() != self.told).then(|| self.tell())
    }

    fn now(&self) -> InputAt {
        InputAt { have: None, safe: self.safe, room_to: self.taken + WINDOW_BYTES as u64 }
    }

    fn tell(&mut self) -> InputAt {
        (self.told, self.untold_messages) = (self.now(), 0);
        self.told
    }
}
