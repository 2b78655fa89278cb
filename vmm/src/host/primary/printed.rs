//! What the guest has printed since the last commit, where that left by the record log.
//!
//! A commit record has it once more, so that it can be applied whatever became of the log.

use crate::machine::ConsoleOutput;
use std::borrow::Cow;

/// Of more than this, which is less than the console's ring holds and than a record has room for beside its pages, the last
/// part is kept.
const KEPT_BYTES_MAX: usize = 128 << 10;

/// Console output, as far as it is kept, without a gap.
#[derive(Debug, Default)]
pub(super) struct Printed {
    position: u64,
    bytes: Vec<u8>,
}

impl Printed {
    /// The guest has printed this.
    pub(super) fn note(&mut self, output: &ConsoleOutput) {
        if self.end() != output.position {
            self.bytes.clear();
        }
        if self.bytes.is_empty() {
            self.position = output.position;
        }
        self.bytes.extend_from_slice(&output.bytes);
        // Not for each byte anew.
        if self.bytes.len() > 2 * KEPT_BYTES_MAX {
            self.keep(KEPT_BYTES_MAX);
        }
    }

    /// All of it is in a commit record.
    pub(super) fn forget(&mut self) {
        self.bytes.clear();
    }

    /// It and what comes behind it, which begins at `position`: where the whole begins, and the whole.
    pub(super) fn with<'a>(&mut self, position: u64, pending: &'a [u8]) -> (u64, Cow<'a, [u8]>) {
        if self.bytes.is_empty() || self.end() != position {
            return (position, Cow::Borrowed(pending));
        }
        self.keep(KEPT_BYTES_MAX);
        (self.position, Cow::Owned([&self.bytes[..], pending].concat()))
    }

    fn end(&self) -> u64 {
        self.position + self.bytes.len() as u64
    }

    fn keep(&mut self, bytes: usize) {
        let excess = self.bytes.len().saturating_sub(bytes);
        self.bytes.drain(..excess);
        self.position += excess as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(position: u64, bytes: &[u8]) -> ConsoleOutput {
        ConsoleOutput { position, bytes: bytes.to_vec() }
    }

    #[test]
    fn what_was_printed_comes_before_what_is_pending() {
        let mut printed = Printed::default();
        assert_eq!(printed.with(7, b"new"), (7, b"new".into()));
        printed.note(&output(3, b"ab"));
        printed.note(&output(5, b"cd"));
        assert_eq!(printed.with(7, b"new"), (3, b"abcdnew".into()));
        assert_eq!(printed.with(7, b""), (3, b"abcd".into()), "a record that found no space is tried again");
        assert_eq!(printed.with(8, b"x"), (8, b"x".into()), "nothing with a gap in it");
        printed.note(&output(9, b"e"));
        assert_eq!(printed.with(10, b""), (9, b"e".into()));
        printed.forget();
        assert_eq!(printed.with(10, b"f"), (10, b"f".into()));
    }

    #[test]
    fn the_last_of_much_is_kept() {
        let mut printed = Printed::default();
        let chunk = vec![b'x'; 100 << 10];
        for round in 0..30 {
            printed.note(&output(round * chunk.len() as u64, &chunk));
            assert!(printed.bytes.len() <= 2 * KEPT_BYTES_MAX);
        }
        let end = 30 * chunk.len() as u64;
        let (position, bytes) = printed.with(end, b"y");
        assert_eq!((position, bytes.len()), (end - KEPT_BYTES_MAX as u64, KEPT_BYTES_MAX + 1));
    }
}
