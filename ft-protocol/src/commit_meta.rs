//! The meta part of a commit record: all of an epoch's effects that are not pages.
//!
//! shared-mem carries these bytes under the record's CRC without looking inside. They are parsed as hostile: a host
//! that went mad may have written them.

use serde::{Deserialize, Serialize};

/// Version of the encoding below; the first byte of every meta part.
pub const META_VERSION: u8 = 1;

/// How a guest's life ended. Deterministic: a takeover cannot change it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestEnd {
    /// The guest wrote this code to its exit port.
    Exited(u32),
    /// The guest did something no machine survives (a triple fault); one line that says what and where.
    Crashed(String),
}

/// Meta part of the record that turns epoch E into E+1.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitMeta<'a> {
    /// Absolute position, in bytes since the guest's birth, of the first byte of `console`.
    pub console_start: u64,
    /// Console output of the epoch.
    #[serde(borrow)]
    pub console: &'a [u8],
    /// Encoded machine state at the end of the epoch.
    #[serde(borrow)]
    pub machine_state: &'a [u8],
    /// Set in a guest's last record.
    pub ended: Option<GuestEnd>,
}

/// Why meta bytes were refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CommitMetaError {
    /// No bytes at all.
    #[error("commit meta is empty")]
    Empty,
    /// Written by another version.
    #[error("commit meta has version {found}, expected {META_VERSION}")]
    Version {
        /// The version found.
        found: u8,
    },
    /// Not an encoding of this version.
    #[error("commit meta does not decode ({0})")]
    Malformed(postcard::Error),
    /// Bytes after the end of the encoding.
    #[error("commit meta has {extra} bytes after its end")]
    Trailing {
        /// How many.
        extra: usize,
    },
}

impl<'a> CommitMeta<'a> {
    /// Encodes into bytes for the record.
    ///
    /// # Panics
    /// Never: encoding into a growing buffer has no failing case.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.machine_state.len() + self.console.len() + 64);
        bytes.push(META_VERSION);
        postcard::to_extend(self, bytes).expect("encoding into a Vec cannot fail")
    }

    /// Decodes bytes from a record, borrowing from them.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, CommitMetaError> {
        let (&version, body) = bytes.split_first().ok_or(CommitMetaError::Empty)?;
        if version != META_VERSION {
            return Err(CommitMetaError::Version { found: version });
        }
        let (meta, rest) = postcard::take_from_bytes(body).map_err(CommitMetaError::Malformed)?;
        if rest.is_empty() { Ok(meta) } else { Err(CommitMetaError::Trailing { extra: rest.len() }) }
    }

    /// Position just behind the epoch's console output.
    #[must_use]
    pub fn console_end(&self) -> u64 {
        self.console_start.saturating_add(self.console.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let meta = CommitMeta {
            console_start: 7,
            console: b"hello",
            machine_state: &[1, 2, 3],
            ended: Some(GuestEnd::Exited(3)),
        };
        let bytes = meta.encode();
        assert_eq!(CommitMeta::decode(&bytes), Ok(meta));
    }

    #[test]
    fn hostile_bytes_are_refused() {
        assert_eq!(CommitMeta::decode(&[]), Err(CommitMetaError::Empty));
        assert_eq!(CommitMeta::decode(&[9, 0]), Err(CommitMetaError::Version { found: 9 }));
        let mut bytes = CommitMeta { console_start: 0, console: &[], machine_state: &[], ended: None }.encode();
        for cut in 1..bytes.len() {
            assert!(matches!(CommitMeta::decode(&bytes[..cut]), Err(CommitMetaError::Malformed(_))));
        }
        bytes.push(0);
        assert_eq!(CommitMeta::decode(&bytes), Err(CommitMetaError::Trailing { extra: 1 }));
    }
}
