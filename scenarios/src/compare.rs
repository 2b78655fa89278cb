//! Holds a console against the one that it should be.

use std::fmt;

/// As much of a line as is shown.
const SHOWN_BYTES_MAX: usize = 100;

/// Where two consoles part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The first byte that differs, from 0.
    pub byte: usize,
    /// The line that it is in, from 1.
    pub line: usize,
    /// That line as it should be; empty where nothing should be.
    pub expected: String,
    /// That line as it is.
    pub got: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { byte, line, expected, got } = self;
        write!(f, "differs at byte {byte}, line {line}: expected `{expected}`, got `{got}`")
    }
}

/// The first difference, if there is one.
#[must_use]
pub fn first_difference(expected: &[u8], got: &[u8]) -> Option<Difference> {
    if expected == got {
        return None;
    }
    let byte = expected.iter().zip(got).take_while(|(expected, got)| expected == got).count();
    let line_start = expected[..byte].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    Some(Difference {
        byte,
        line: expected[..byte].iter().filter(|byte| **byte == b'\n').count() + 1,
        expected: line_from(expected, line_start),
        got: line_from(got, line_start),
    })
}

fn line_from(bytes: &[u8], start: usize) -> String {
    let rest = &bytes[start..];
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line[..line.len().min(SHOWN_BYTES_MAX)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_consoles_have_no_difference() {
        assert_eq!(first_difference(b"one\ntwo\n", b"one\ntwo\n"), None);
        assert_eq!(first_difference(b"", b""), None);
    }

    #[test]
    fn a_changed_byte_is_found_with_its_line() {
        let difference = first_difference(b"one\ntwo\nthree\n", b"one\ntwO\nthree\n").unwrap();
        assert_eq!((difference.byte, difference.line), (6, 2));
        assert_eq!((difference.expected.as_str(), difference.got.as_str()), ("two", "twO"));
    }

    #[test]
    fn missing_and_surplus_bytes_are_differences() {
        let missing = first_difference(b"one\ntwo\n", b"one\n").unwrap();
        assert_eq!((missing.byte, missing.line, missing.got.as_str()), (4, 2, ""));
        let surplus = first_difference(b"one\n", b"one\none\n").unwrap();
        assert_eq!((surplus.byte, surplus.line, surplus.expected.as_str()), (4, 2, ""));
        let repeated = first_difference(b"one\ntwo\n", b"one\none\ntwo\n").unwrap();
        assert_eq!((repeated.byte, repeated.got.as_str()), (4, "one"));
    }
}
