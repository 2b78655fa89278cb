//! One entry of a history, and its bytes.
//!
//! A log stores a tag, the exit's number and a payload; the log itself guards them with a CRC and bounds their length.
//! All numbers are little-endian.
//!
//! ```text
//! tag      codec version (1) << 16 | kind
//! payload  0  4  history digest at the exit
//!          4     kind 1, clock:          8  nanoseconds of guest time
//!                kind 2, entropy:        the bytes, at least one
//!                kind 3, console input:  the bytes, at least one
//!                kind 4, packet:         1  network device, then the frame, at least one byte
//!                kind 5, output:         8  console position of the first byte, then the bytes, at least one
//!                kind 6, sent packets:   8  packets sent before them, 4 how many (not zero), 4 their digest
//!                kind 7, mark:           nothing
//!                kind 8, commit:         8  generation, 8 epoch, 1 one if a kick stopped the guest for it, else zero
//! ```

use crate::ids::{Epoch, Generation};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use thiserror::Error;

/// Version of the payloads.
pub const CODEC_VERSION: u16 = 1;
/// Longest payload.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
const DIGEST_BYTES: usize = 4;

/// What came at an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The exit's number.
    pub at_exit: u64,
    /// The history's digest at that exit.
    pub digest: u32,
    /// What it was.
    pub body: EntryBody<'a>,
}

/// An input, or the mark of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryBody<'a> {
    /// A reading of the clock, in nanoseconds of guest time.
    Clock(u64),
    /// Random bytes.
    Entropy(Cow<'a, [u8]>),
    /// Bytes typed at the console.
    ConsoleInput(Cow<'a, [u8]>),
    /// A packet that arrived.
    Packet {
        /// By which network device.
        nic: u8,
        /// The Ethernet frame.
        frame: Cow<'a, [u8]>,
    },
    /// What the guest wrote to its console up to this exit; it may have left.
    Output {
        /// How many bytes came before these.
        position: u64,
        /// The bytes.
        bytes: Cow<'a, [u8]>,
    },
    /// The guest sent packets up to this exit; they may have left.
    Sent {
        /// How many were sent before these.
        position: u64,
        /// How many these are.
        count: u32,
        /// [`sent_digest`] of them.
        digest: u32,
    },
    /// The guest came this far, and the serving of this exit brought no more entries. What stands behind it for the same
    /// exit came when a wait ended there, or at a commit.
    Mark,
    /// A commit is made here; whether it is published, the commit word says. What stands behind it for the same exit is
    /// of the time after.
    Commit(CommitPoint),
}

/// Where in a history a commit was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitPoint {
    /// The generation that made it.
    pub generation: Generation,
    /// The epoch that it makes.
    pub epoch: Epoch,
    /// A kick had stopped the guest, somewhere behind the exit: a replay comes through the same state, but cannot tell
    /// when.
    pub kicked: bool,
}

/// The kinds of entries; the numbers stand in logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u16)]
pub enum EntryKind {
    /// A reading of the clock.
    Clock = 1,
    /// Random bytes.
    Entropy = 2,
    /// Console input.
    ConsoleInput = 3,
    /// A packet that arrived.
    Packet = 4,
    /// Console output.
    Output = 5,
    /// Packets sent.
    Sent = 6,
    /// A mark.
    Mark = 7,
    /// A commit.
    Commit = 8,
}

impl EntryKind {
    const ALL: [Self; 8] = [
        Self::Clock,
        Self::Entropy,
        Self::ConsoleInput,
        Self::Packet,
        Self::Output,
        Self::Sent,
        Self::Mark,
        Self::Commit,
    ];
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clock => "a reading of the clock",
            Self::Entropy => "entropy",
            Self::ConsoleInput => "console input",
            Self::Packet => "a packet",
            Self::Output => "console output",
            Self::Sent => "sent packets",
            Self::Mark => "a mark",
            Self::Commit => "a commit",
        })
    }
}

/// Bytes that are no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Of a codec that this program does not know.
    #[error("entry of codec version {got}, this program knows {CODEC_VERSION}")]
    Version {
        /// Its version.
        got: u16,
    },
    /// Of a kind that this version does not have.
    #[error("entry of unknown kind {got}")]
    Kind {
        /// The kind.
        got: u16,
    },
    /// Not as long as its kind is.
    #[error("{kind} cannot be an entry of {got} bytes")]
    Length {
        /// Its kind.
        kind: EntryKind,
        /// Bytes of payload.
        got: usize,
    },
    /// Sent packets that are none, or more than can be counted.
    #[error("entry of {count} sent packets after {position}")]
    Sent {
        /// How many came before.
        position: u64,
        /// How many these are.
        count: u32,
    },
    /// A flag that is neither zero nor one.
    #[error("entry with a flag of {got}")]
    Flag {
        /// The byte.
        got: u8,
    },
    /// Console output beyond the end of all positions.
    #[error("entry of console output at position {position}")]
    Position {
        /// Where it begins.
        position: u64,
    },
}

impl EntryBody<'_> {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> EntryKind {
        match self {
            Self::Clock(_) => EntryKind::Clock,
            Self::Entropy(_) => EntryKind::Entropy,
            Self::ConsoleInput(_) => EntryKind::ConsoleInput,
            Self::Packet { .. } => EntryKind::Packet,
            Self::Output { .. } => EntryKind::Output,
            Self::Sent { .. } => EntryKind::Sent,
            Self::Mark => EntryKind::Mark,
            Self::Commit(_) => EntryKind::Commit,
        }
    }
}

impl<'a> Entry<'a> {
    /// The tag that says what the payload is; never zero.
    #[must_use]
    pub fn tag(&self) -> NonZeroU32 {
        let tag = u32::from(CODEC_VERSION) << 16 | u32::from(self.body.kind() as u16);
        NonZeroU32::new(tag).expect("versions and kinds begin at 1")
    }

    /// Appends the payload to `out`.
    pub fn encode_payload(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend(self.digest.to_le_bytes());
        match &self.body {
            EntryBody::Clock(ns) => out.extend(ns.to_le_bytes()),
            EntryBody::Entropy(bytes) | EntryBody::ConsoleInput(bytes) => {
                assert!(!bytes.is_empty(), "no entry without an input");
                out.extend_from_slice(bytes);
            }
            EntryBody::Packet { nic, frame } => {
                assert!(!frame.is_empty(), "frames have a header");
                out.push(*nic);
                out.extend_from_slice(frame);
            }
            EntryBody::Output { position, bytes } => {
                assert!(!bytes.is_empty(), "no entry without an output");
                out.extend(position.to_le_bytes());
                out.extend_from_slice(bytes);
            }
            EntryBody::Sent { position, count, digest } => {
                assert!(*count > 0, "no entry without an output");
                out.extend(position.to_le_bytes());
                out.extend(count.to_le_bytes());
                out.extend(digest.to_le_bytes());
            }
            EntryBody::Mark => {}
            EntryBody::Commit(point) => {
                out.extend(point.generation.get().to_le_bytes());
                out.extend(point.epoch.get().to_le_bytes());
                out.push(u8::from(point.kicked));
            }
        }
        assert!(out.len() - start <= PAYLOAD_BYTES_MAX, "devices bound what they take and give");
    }

    /// Reads an entry from what a log stored. The bytes are untrusted.
    ///
    /// # Errors
    /// Anything but what [`encode_payload`](Self::encode_payload) gave for that tag.
    pub fn decode(tag: NonZeroU32, at_exit: u64, payload: &'a [u8]) -> Result<Self, EntryError> {
        let [k0, k1, v0, v1] = tag.get().to_le_bytes();
        let (version, number) = (u16::from_le_bytes([v0, v1]), u16::from_le_bytes([k0, k1]));
        if version != CODEC_VERSION {
            return Err(EntryError::Version { got: version });
        }
        let kind = EntryKind::ALL.into_iter().find(|kind| *kind as u16 == number);
        let kind = kind.ok_or(EntryError::Kind { got: number })?;
        let wrong = EntryError::Length { kind, got: payload.len() };
        let (digest, rest) = payload.split_first_chunk::<DIGEST_BYTES>().ok_or(wrong)?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(wrong);
        }
        let body = decode_body(kind, rest, wrong)?;
        Ok(Self { at_exit, digest: u32::from_le_bytes(*digest), body })
    }

    /// The same entry with bytes of its own.
    #[must_use]
    pub fn into_owned(self) -> Entry<'static> {
        let own = |bytes: Cow<'_, [u8]>| Cow::Owned(bytes.into_owned());
        let body = match self.body {
            EntryBody::Clock(ns) => EntryBody::Clock(ns),
            EntryBody::Entropy(bytes) => EntryBody::Entropy(own(bytes)),
            EntryBody::ConsoleInput(bytes) => EntryBody::ConsoleInput(own(bytes)),
            EntryBody::Packet { nic, frame } => EntryBody::Packet { nic, frame: own(frame) },
            EntryBody::Output { position, bytes } => EntryBody::Output { position, bytes: own(bytes) },
            EntryBody::Sent { position, count, digest } => EntryBody::Sent { position, count, digest },
            EntryBody::Mark => EntryBody::Mark,
            EntryBody::Commit(point) => EntryBody::Commit(point),
        };
        Entry { at_exit: self.at_exit, digest: self.digest, body }
    }
}

fn decode_body(kind: EntryKind, rest: &[u8], wrong: EntryError) -> Result<EntryBody<'_>, EntryError> {
    let some = |bytes: &'_ [u8]| if bytes.is_empty() { Err(wrong) } else { Ok(()) };
    Ok(match kind {
        EntryKind::Clock => EntryBody::Clock(u64::from_le_bytes(rest.try_into().map_err(|_| wrong)?)),
        EntryKind::Entropy => {
            some(rest)?;
            EntryBody::Entropy(rest.into())
        }
        EntryKind::ConsoleInput => {
            some(rest)?;
            EntryBody::ConsoleInput(rest.into())
        }
        EntryKind::Packet => {
            let (nic, frame) = rest.split_first().ok_or(wrong)?;
            some(frame)?;
            EntryBody::Packet { nic: *nic, frame: frame.into() }
        }
        EntryKind::Output => {
            let (position, bytes) = rest.split_first_chunk::<8>().ok_or(wrong)?;
            some(bytes)?;
            let position = u64::from_le_bytes(*position);
            if position.checked_add(bytes.len() as u64).is_none() {
                return Err(EntryError::Position { position });
            }
            EntryBody::Output { position, bytes: bytes.into() }
        }
        EntryKind::Sent => {
            let rest: &[u8; 16] = rest.try_into().map_err(|_| wrong)?;
            let position = u64::from_le_bytes(rest[..8].try_into().expect("eight bytes"));
            let count = u32::from_le_bytes(rest[8..12].try_into().expect("four bytes"));
            let digest = u32::from_le_bytes(rest[12..].try_into().expect("four bytes"));
            if count == 0 || position.checked_add(u64::from(count)).is_none() {
                return Err(EntryError::Sent { position, count });
            }
            EntryBody::Sent { position, count, digest }
        }
        EntryKind::Mark if rest.is_empty() => EntryBody::Mark,
        EntryKind::Mark => return Err(wrong),
        EntryKind::Commit => {
            let rest: &[u8; 17] = rest.try_into().map_err(|_| wrong)?;
            let number = |at: usize| u64::from_le_bytes(rest[at..at + 8].try_into().expect("eight bytes"));
            let kicked = match rest[16] {
                0 => false,
                1 => true,
                got => return Err(EntryError::Flag { got }),
            };
            let (generation, epoch) = (Generation::new(number(0)), Epoch::new(number(8)));
            EntryBody::Commit(CommitPoint { generation, epoch, kicked })
        }
    })
}

/// A number for one packet that was sent.
#[must_use]
pub fn frame_digest(nic: u8, frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[nic]);
    hasher.update(frame);
    hasher.finalize()
}

/// A number for several packets that were sent, made of their [`frame_digest`]s.
#[must_use]
pub fn sent_digest(frames: impl IntoIterator<Item = u32>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    frames.into_iter().for_each(|digest| hasher.update(&digest.to_le_bytes()));
    hasher.finalize()
}
