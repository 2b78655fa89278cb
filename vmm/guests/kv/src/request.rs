//! The protocol: a line is a request, a line is its answer.

use alloc::vec::Vec;

/// Longest key.
const KEY_BYTES_MAX: usize = 128;
/// Longest value.
const VALUE_BYTES_MAX: usize = 1024;
/// Longest line, its end included: the longest command, a key and two values fit.
pub(crate) const LINE_BYTES_MAX: usize = 4096;

const _: () = assert!(LINE_BYTES_MAX > KEY_BYTES_MAX + 2 * VALUE_BYTES_MAX + 8);

/// What a client asks for.
pub(crate) enum Request<'a> {
    /// Something with a key.
    Operation { key: &'a str, operation: Operation<'a> },
    /// How many writes there were.
    Sequence,
    /// The guest is to end.
    Stop,
}

/// What is to be done with a key.
pub(crate) enum Operation<'a> {
    Get,
    Set { value: &'a str },
    Cas { expected: &'a str, new: &'a str },
    Delete,
}

/// What a client is told.
pub(crate) enum Reply<'a> {
    Value { version: u64, value: &'a str },
    None,
    Done { version: u64 },
    Mismatch { version: u64 },
    Sequence(u64),
    Bye,
    Error(&'static str),
}

impl<'a> Request<'a> {
    /// Reads a line without its end.
    pub(crate) fn parse(line: &'a [u8]) -> Result<Self, &'static str> {
        let line = core::str::from_utf8(line).map_err(|_| "a line is UTF-8")?;
        let mut words = line.split(' ');
        let command = words.next().unwrap_or_default();
        let mut word = |length_max: usize, why| match words.next() {
            Some(word) if (1..=length_max).contains(&word.len()) => Ok(word),
            _ => Err(why),
        };
        let mut key = || word(KEY_BYTES_MAX, "a key has 1 to 128 bytes");
        let request = match command {
            "SEQ" => Self::Sequence,
            "STOP" => Self::Stop,
            "GET" => Self::Operation { key: key()?, operation: Operation::Get },
            "DEL" => Self::Operation { key: key()?, operation: Operation::Delete },
            "SET" => {
                let (key, value) = (key()?, word(VALUE_BYTES_MAX, VALUE_RULE)?);
                Self::Operation { key, operation: Operation::Set { value } }
            }
            "CAS" => {
                let key = key()?;
                let (expected, new) = (word(VALUE_BYTES_MAX, VALUE_RULE)?, word(VALUE_BYTES_MAX, VALUE_RULE)?);
                Self::Operation { key, operation: Operation::Cas { expected, new } }
            }
            _ => return Err("known are GET, SET, CAS, DEL, SEQ, STOP"),
        };
        if words.next().is_some() { Err("too many words") } else { Ok(request) }
    }
}

const VALUE_RULE: &str = "a value has 1 to 1024 bytes";

impl Reply<'_> {
    /// Adds the answer's line.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        use core::fmt::Write as _;
        let mut line = alloc::string::String::new();
        // Strings take everything.
        let _ = match self {
            Self::Value { version, value } => writeln!(line, "VALUE {version} {value}"),
            Self::None => writeln!(line, "NONE"),
            Self::Done { version } => writeln!(line, "OK {version}"),
            Self::Mismatch { version } => writeln!(line, "MISMATCH {version}"),
            Self::Sequence(sequence) => writeln!(line, "SEQ {sequence}"),
            Self::Bye => writeln!(line, "BYE"),
            Self::Error(why) => writeln!(line, "ERR {why}"),
        };
        out.extend_from_slice(line.as_bytes());
    }
}
