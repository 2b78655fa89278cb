//! The 64-bit word that the pool uses wherever one store decides something.
//!
//! Bits 0..=45 value, bits 48..=62 a CRC-15 of the value, bits 46, 47 and 63 the seal: all set or none. The CRC takes the
//! seal for zero, so that one `fetch_or` can set it without knowing the value. An aligned 8-byte store never tears, so a
//! word is either the old or the new one; flipped bits and never-written memory (all zero) are refused: no flip of one or
//! two bits makes another word, an open one of a sealed one, or a sealed one of an open one.

use thiserror::Error;

use crate::planted::{PlantedBug, planted};

/// Largest value a word can carry.
pub const VALUE_MAX: u64 = (1 << 46) - 1;

/// What closes a word for its writer: all of these bits.
pub const SEALED: u64 = 1 << 63 | 1 << 47 | 1 << 46;

/// The seal of layouts 1 and 2. Alone it is no seal any more.
const SEALED_BEFORE_LAYOUT_3: u64 = 1 << 63;

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
    /// Whether the seal is set.
    pub sealed: bool,
}

// All-zero memory must not decode, and the parts of a word must not overlap.
const _: () = assert!(check_by_bits(0) != 0);
const _: () = assert!(VALUE_MAX & SEALED == 0 && (VALUE_MAX | SEALED) ^ (CHECK_MASK << CHECK_SHIFT) == u64::MAX);

/// Bytes below the check.
const CHECKED_BYTES: usize = 6;

/// What each byte of a value, at each of its places, adds to the check: a CRC is linear, so the check of a value is that of
/// zero with all of these on top. An append to the record log would spend half of its time on the bits one by one.
static CONTRIBUTIONS: [[u16; 256]; CHECKED_BYTES] = contributions();

const fn contributions() -> [[u16; 256]; CHECKED_BYTES] {
    let mut tables = [[0; 256]; CHECKED_BYTES];
    let mut place = 0;
    while place < CHECKED_BYTES {
        let mut byte: u64 = 0;
        while byte < 256 {
            let part = check_by_bits(byte << (8 * place)) ^ check_by_bits(0);
            // The check has 15 bits.
            let [low, high, ..] = part.to_le_bytes();
            #[allow(clippy::cast_possible_truncation, reason = "an index below 256")]
            let index = byte as usize;
            tables[place][index] = u16::from_le_bytes([low, high]);
            byte += 1;
        }
        place += 1;
    }
    tables
}

/// CRC-15/CAN over the six bytes below the check, started at all ones.
fn check(value: u64) -> u64 {
    const OF_ZERO: u64 = check_by_bits(0);
    let bytes = value.to_le_bytes();
    let contribution = |place: usize| u64::from(CONTRIBUTIONS[place][usize::from(bytes[place])]);
    (0..CHECKED_BYTES).fold(OF_ZERO, |check, place| check ^ contribution(place))
}

/// The same, bit by bit.
const fn check_by_bits(value: u64) -> u64 {
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

/// The open word for `value`.
///
/// # Panics
/// When `value` is above [`VALUE_MAX`]: at one step a microsecond that takes two years.
#[must_use]
pub fn encode(value: u64) -> u64 {
    assert!(value <= VALUE_MAX, "value does not fit a guarded word");
    value | (check(value) << CHECK_SHIFT)
}

/// Takes a word apart. Its CRC is not checked if a test has planted the bug `unchecked`.
///
/// # Errors
/// When the check bits do not match the value, or a part of the seal is set.
pub(crate) fn decode(raw: u64, unchecked: PlantedBug) -> Result<Word, WordError> {
    let value = raw & VALUE_MAX;
    let seal = raw & SEALED;
    let is_whole = (raw >> CHECK_SHIFT) & CHECK_MASK == check(value) || planted(unchecked);
    if is_whole && (seal == 0 || seal == SEALED) {
        Ok(Word { value, sealed: seal == SEALED })
    } else {
        Err(WordError { raw })
    }
}

/// Takes a word apart that has just been sealed: from what was there before. Whatever part of the seal was set, no writer
/// can have moved the word since, and it is whole now.
///
/// # Errors
/// When the check bits do not match the value.
pub(crate) fn decode_before_seal(raw: u64, unchecked: PlantedBug) -> Result<u64, WordError> {
    match decode(raw | SEALED, unchecked) {
        Ok(word) => Ok(word.value),
        Err(_) => Err(WordError { raw }),
    }
}

/// Takes a word apart that nobody may seal.
///
/// # Errors
/// When the check bits do not match, or any of the seal is set.
pub(crate) fn decode_unsealed(raw: u64, unchecked: PlantedBug) -> Result<u64, WordError> {
    match decode(raw, unchecked) {
        Ok(Word { value, sealed: false }) => Ok(value),
        Ok(_) => Err(WordError { raw }),
        Err(error) => Err(error),
    }
}

/// Whether the word is sealed as layouts 1 and 2 did it.
#[must_use]
pub(crate) fn is_sealed_the_old_way(raw: u64) -> bool {
    raw & SEALED == SEALED_BEFORE_LAYOUT_3 && decode(raw ^ SEALED_BEFORE_LAYOUT_3, PlantedBug::OldSealCrc).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(raw: u64) -> Result<Word, WordError> {
        super::decode(raw, PlantedBug::CommitWordCrc)
    }

    fn decode_before_seal(raw: u64) -> Result<u64, WordError> {
        super::decode_before_seal(raw, PlantedBug::CommitWordCrc)
    }

    fn decode_unsealed(raw: u64) -> Result<u64, WordError> {
        super::decode_unsealed(raw, PlantedBug::ControlWordCrc)
    }

    const SAMPLES: [u64; 6] = [0, 1, 2, 0xffff, 0x1234_5678_9abc, VALUE_MAX];

    proptest! {
        #[test]
        fn the_check_by_tables_is_that_by_bits(value in 0..=VALUE_MAX) {
            prop_assert_eq!(check(value), check_by_bits(value));
        }
    }

    #[test]
    fn no_one_or_two_flips_make_another_word_or_set_or_take_off_a_seal() {
        for value in SAMPLES {
            for sealed in [false, true] {
                let raw = if sealed { encode(value) | SEALED } else { encode(value) };
                assert_eq!(decode(raw), Ok(Word { value, sealed }));
                for first in 0..64 {
                    let one = raw ^ (1 << first);
                    assert_eq!(decode(one), Err(WordError { raw: one }));
                    for second in 0..first {
                        assert!(decode(one ^ (1 << second)).is_err());
                    }
                }
            }
        }
        assert!(decode(0).is_err());
        assert!(decode(u64::MAX).is_err());
    }

    #[test]
    fn open_words_are_those_of_all_layouts() {
        // As they were written before a seal had three bits (tests/golden).
        assert_eq!(encode(0), 0x689f_0000_0000_0000);
        assert_eq!(encode(7), 0x3b62_0000_0000_0007);
        assert_eq!(encode(VALUE_MAX), 0x4fbe_3fff_ffff_ffff);
    }

    #[test]
    fn who_seals_learns_the_value_if_only_the_seal_was_damaged() {
        for value in SAMPLES {
            let raw = encode(value);
            for part in [0, 1 << 63, 1 << 47, 1 << 46, SEALED] {
                assert_eq!(decode_before_seal(raw | part), Ok(value));
            }
            assert_eq!(decode_before_seal(raw ^ 4), Err(WordError { raw: raw ^ 4 }));
        }
    }

    #[test]
    fn seals_of_older_layouts_are_known() {
        let raw = encode(9);
        assert!(is_sealed_the_old_way(raw | 1 << 63));
        for other in [raw, raw | SEALED, raw | 1 << 47, raw ^ 1 | 1 << 63, 0] {
            assert!(!is_sealed_the_old_way(other), "{other:#x}");
        }
    }

    proptest! {
        #[test]
        fn a_word_comes_back_as_it_went_in(value in 0..=VALUE_MAX) {
            prop_assert_eq!(decode(encode(value)), Ok(Word { value, sealed: false }));
            prop_assert_eq!(decode_unsealed(encode(value)), Ok(value));
            prop_assert_eq!(decode(encode(value) | SEALED), Ok(Word { value, sealed: true }));
            prop_assert!(decode_unsealed(encode(value) | SEALED).is_err());
        }

        #[test]
        fn no_bytes_decode_but_what_is_encoded(raw: u64) {
            if let Ok(Word { value, sealed }) = decode(raw) {
                prop_assert_eq!(raw, encode(value) | if sealed { SEALED } else { 0 });
            }
        }
    }
}
