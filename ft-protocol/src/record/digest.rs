//! A running digest of a guest's history: every exit, what it asked for and what it was given.

use serde::{Deserialize, Serialize};

/// An odd number without pattern (the golden ratio's fraction).
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// One exit, as its digest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access<'a> {
    /// The exit's number.
    pub exit: u64,
    /// A port, rather than an address.
    pub is_port: bool,
    /// A write, rather than a read.
    pub is_write: bool,
    /// Bytes of one word.
    pub width: u8,
    /// The port or address.
    pub address: u64,
    /// What is written; of a read only the length counts here, the answer comes later.
    pub data: &'a [u8],
}

/// The digest, part of the machine's saved state.
///
/// Two histories that differ give different digests but once in four thousand million times: it guards against accidents,
/// not against guests that want to be taken for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HistoryDigest {
    running: u64,
    at_exit: u32,
}

impl HistoryDigest {
    /// The digest of all exits before the last one, answers included, and of what the last one asked for.
    #[must_use]
    pub fn at_exit(self) -> u32 {
        self.at_exit
    }

    /// Takes in what an exit asks for.
    pub fn ask(&mut self, access: &Access<'_>) {
        let kind = u64::from(access.is_port) | u64::from(access.is_write) << 1 | u64::from(access.width) << 8;
        self.mix(access.exit);
        self.mix(access.address);
        self.mix(kind | (access.data.len() as u64) << 16);
        if access.is_write {
            self.mix_bytes(access.data);
        }
        self.at_exit = fold(self.running);
    }

    /// Takes in what the guest was given.
    pub fn answer(&mut self, data: &[u8]) {
        self.mix_bytes(data);
    }

    fn mix_bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.mix(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.mix(u64::from_le_bytes(word));
        }
    }

    /// Every bit of the word reaches every bit of the digest; the order of words counts.
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.running ^ word ^ FACTOR) * u128::from(FACTOR);
        let [low, high] = halves(product);
        self.running = (low ^ high).rotate_left(23).wrapping_add(word);
    }
}

fn halves(product: u128) -> [u64; 2] {
    let bytes = product.to_le_bytes();
    let (halves, _) = bytes.as_chunks::<8>();
    [u64::from_le_bytes(halves[0]), u64::from_le_bytes(halves[1])]
}

fn fold(running: u64) -> u32 {
    let bytes = (running ^ running >> 32).to_le_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    use super::{Access, HistoryDigest};

    const OUT: Access<'static> =
        Access { exit: 1, is_port: true, is_write: true, width: 1, address: 0x3f8, data: b"a" };

    fn of(accesses: &[(Access<'_>, &[u8])]) -> HistoryDigest {
        let mut digest = HistoryDigest::default();
        for (access, answer) in accesses {
            digest.ask(access);
            digest.answer(answer);
        }
        digest
    }

    /// Digests stand in logs and files: another function of the same history would make all of them diverge.
    #[test]
    fn the_function_stays_what_it_is() {
        let read = Access { exit: 2, is_write: false, width: 4, address: 0x600, data: &[0; 4], ..OUT };
        let digest = of(&[(OUT, b""), (read, &[1, 2, 3, 4]), (OUT, b"")]);
        assert_eq!((digest.running, digest.at_exit), (GOLDEN_RUNNING, GOLDEN_AT_EXIT));
    }

    const GOLDEN_RUNNING: u64 = 18_183_033_564_935_919_150;
    const GOLDEN_AT_EXIT: u32 = 2_102_758_046;

    #[test]
    fn everything_counts() {
        let base = of(&[(OUT, b"")]);
        let others = [
            Access { exit: 2, ..OUT },
            Access { is_port: false, ..OUT },
            Access { is_write: false, ..OUT },
            Access { width: 2, ..OUT },
            Access { address: 0x3f9, ..OUT },
            Access { data: b"b", ..OUT },
            Access { data: b"a\0", ..OUT },
        ];
        for other in others {
            assert_ne!(of(&[(other, b"")]).at_exit, base.at_exit, "{other:?}");
        }
        let then = Access { exit: 2, ..OUT };
        assert_ne!(of(&[(OUT, b"x"), (then, b"")]).at_exit, of(&[(OUT, b"y"), (then, b"")]).at_exit);
        assert_eq!(of(&[(OUT, b"x")]).at_exit, of(&[(OUT, b"y")]).at_exit, "an answer counts from the next exit on");
    }
}
