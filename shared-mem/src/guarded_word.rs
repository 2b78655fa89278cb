//! The 64-bit word that the pool uses wherever one store decides something.
//!
//! Bits 0..=47 value, bits 48..=62 a CRC-15 of the value, bit 63 the SEALED flag, which the CRC leaves out so that
//! one `fetch_or` can set it. An aligned 8-byte store never tears, so a word is either the old or the new one; a
//! flipped bit and never-written memory (all zero) are both refused.

use thiserror::Error;

/// Largest value a word can carry.
pub const VALUE_MAX: u64 = (1 << 48) - 1;

/// The flag that closes a word for its writer.
pub const SEALED: u64 = 1 << 63;

const CHECK_SHIFT: u32 = 48;
const CHECK_MASK: u64 = 0x7fff;

/// The word is not one that this crate wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("word {raw:#018x} is damaged or was never written")]
pub struct WordError {
    /// What was found.
    pub raw: u64,
}

/// What a word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// The number carried.
    pub value: u64,
    /// Whether the SEALED flag is set.
    pub sealed: bool,
}

// All-zero memory must not decode.
const _: () = assert!(check(0) != 0);

/// CRC-15/CAN over the six value bytes, started at all ones.
const fn check(value: u64) -> u64 {
    const POLYNOMIAL: u64 = 0x4599;
    let mut crc = CHECK_MASK;
    let mut bit = CHECK_SHIFT;
    while bit > 0 {
        bit -= 1;
        let feedback = ((crc >> 14) ^ (value >> bit)) & 1;
        crc = (crc << 1) & CHECK_MASK;
        if feedback == 1 {
            crc ^= POLYNOMIAL;
        }
    }
    crc
}

/// The unsealed word for `value`.
///
/// # Panics
/// When `value` is above [`VALUE_MAX`]: at one step a microsecond that takes nine years.
#[must_use]
pub const fn encode(value: u64) -> u64 {
    assert!(value <= VALUE_MAX, "value does not fit a guarded word");
    value | (check(value) << CHECK_SHIFT)
}

/// Takes a word apart.
///
/// # Errors
/// When the check bits do not match the value.
pub const fn decode(raw: u64) -> Result<Word, WordError> {
    let value = raw & VALUE_MAX;
    if (raw >> CHECK_SHIFT) & CHECK_MASK == check(value) {
        Ok(Word { value, sealed: raw & SEALED != 0 })
    } else {
        Err(WordError { raw })
    }
}

/// Takes a word apart that nobody may seal.
///
/// # Errors
/// When the check bits do not match, or the SEALED flag is set.
pub const fn decode_unsealed(raw: u64) -> Result<u64, WordError> {
    match decode(raw) {
        Ok(Word { value, sealed: false }) => Ok(value),
        Ok(_) => Err(WordError { raw }),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_single_and_double_flip_of_value_and_check_is_refused() {
        for value in [0, 1, 2, 0xffff, 0x1234_5678_9abc, VALUE_MAX] {
            let raw = encode(value);
            assert_eq!(decode_unsealed(raw), Ok(value));
            for first in 0..63 {
                assert!(decode(raw ^ (1 << first)).is_err());
                for second in 0..first {
                    assert!(decode(raw ^ (1 << first) ^ (1 << second)).is_err());
                }
            }
            assert_eq!(decode(raw | SEALED), Ok(Word { value, sealed: true }));
            assert!(decode_unsealed(raw | SEALED).is_err());
        }
        assert!(decode(0).is_err());
        assert!(decode(u64::MAX).is_err() || decode(u64::MAX).is_ok_and(|w| w.sealed));
    }
}
