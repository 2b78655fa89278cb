//! Sizes and times as people write them.

use ft_protocol::Span;
use std::fmt;
use std::str::FromStr;

/// A number of bytes: `64MiB`, `1GiB`, `512K`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteCount(u64);

/// Text that is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ByteCountError {
    /// No number in front, or an unknown unit behind it.
    #[error("`{given}` is no size: write a number and B, K, KiB, M, MiB, G or GiB, as in 64MiB")]
    Malformed {
        /// The text.
        given: String,
    },
    /// More than 64 bits.
    #[error("`{given}` is too large for a size")]
    TooLarge {
        /// The text.
        given: String,
    },
}

impl ByteCount {
    /// A number of bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A number of MiB.
    #[must_use]
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteCount {
    type Err = ByteCountError;

    fn from_str(text: &str) -> Result<Self, ByteCountError> {
        let given = || text.chars().take(40).collect::<String>();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim_start() {
            "" | "B" => 0,
            "K" | "KiB" => 10,
            "M" | "MiB" => 20,
            "G" | "GiB" => 30,
            _ => return Err(ByteCountError::Malformed { given: given() }),
        };
        if digits == 0 {
            return Err(ByteCountError::Malformed { given: given() });
        }
        let too_large = || ByteCountError::TooLarge { given: given() };
        let number: u64 = number.parse().map_err(|_| too_large())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(too_large)
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{} {unit}", self.0 >> shift);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

/// Text that is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no length of time: write a number and us, ms, s, min or h, as in 250ms")]
pub struct SpanError {
    given: String,
}

/// Reads a length of time: `250ms`, `1.5s`, `2min`, `1h`, `80us`.
///
/// # Errors
/// When the text is none.
pub fn parse_span(text: &str) -> Result<Span, SpanError> {
    let error = || SpanError { given: text.chars().take(40).collect() };
    let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, unit) = text.split_at(digits);
    let unit_ns: u64 = match unit.trim_start() {
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(error()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| error())?;
    let mut ns = whole.checked_mul(unit_ns).ok_or_else(error)?;
    let mut place = unit_ns;
    for digit in fraction.bytes() {
        place /= 10;
        let digit = u64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10).ok_or_else(error)?);
        ns = ns.checked_add(digit * place).ok_or_else(error)?;
    }
    Ok(Span::from_ns(ns))
}

/// A length of time with three significant places: `0.412 ms`, `35.1 ms`, `2.05 s`.
#[must_use]
pub fn show_span(span: Span) -> String {
    let us = span.ns() / 1_000;
    match us {
        0..1_000 => format!("{us} us"),
        1_000..10_000 => format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10),
        10_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{:02} s", us / 1_000_000, us % 1_000_000 / 10_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_they_are_written() {
        for (text, bytes) in [
            ("4096", 4096),
            ("0", 0),
            ("512K", 512 << 10),
            ("512KiB", 512 << 10),
            ("64 MiB", 64 << 20),
            ("64M", 64 << 20),
            ("2G", 2 << 30),
        ] {
            assert_eq!(text.parse::<ByteCount>().map(ByteCount::get), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5G", "64mib", "64 parsecs"] {
            assert!(matches!(text.parse::<ByteCount>(), Err(ByteCountError::Malformed { .. })), "{text}");
        }
        for text in ["99999999999999999999", "17179869184GiB"] {
            assert!(matches!(text.parse::<ByteCount>(), Err(ByteCountError::TooLarge { .. })), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_whole_unit() {
        assert_eq!(ByteCount::mib(64).to_string(), "64 MiB");
        assert_eq!(ByteCount::mib(2048).to_string(), "2 GiB");
        assert_eq!(ByteCount::new(5000).to_string(), "5000 bytes");
    }

    #[test]
    fn times_read_as_they_are_written() {
        for (text, ns) in [
            ("80us", 80_000),
            ("250ms", 250_000_000),
            ("250 ms", 250_000_000),
            ("1.5s", 1_500_000_000),
            ("2min", 120_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("0.25ms", 250_000),
        ] {
            assert_eq!(parse_span(text).map(Span::ns), Ok(ns), "{text}");
        }
        for text in
            ["", "12", "ms", "-1ms", "1..5s", "1d", "1 hour", "99999999999999999999s", "18446744073709551615min"]
        {
            assert!(parse_span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_shown_with_three_places() {
        for (ns, text) in
            [(412_000, "412 us"), (4_127_000, "4.12 ms"), (35_190_000, "35.1 ms"), (2_059_000_000, "2.05 s")]
        {
            assert_eq!(show_span(Span::from_ns(ns)), text);
        }
    }
}
