//! The envelope of a saved state.
//!
//! ```text
//! offset  bytes  little-endian
//!      0      8  magic "FTVMSTAT"
//!      8      4  version: 2 of a flat guest's machine, 3 of a Linux guest's, 4 of either that has taken console input
//!     12      4  length of the body
//!     16      4  CRC-32 of the body
//!     20      4  CRC-32 of bytes 0 to 19
//!     24         body: postcard of the machine, and since version 2 of its place: packets sent, record log,
//!                digest of its history; in version 3 of what only a Linux guest's machine has; in version 4 of that as
//!                an option, and how much console input was taken
//! ```

use super::MachineState;
use super::saved::{SavedInput, SavedMachine, SavedPlace};
use super::saved_platform::SavedPlatform;

const MAGIC: [u8; 8] = *b"FTVMSTAT";
/// The newest version that is written.
pub const STATE_VERSION: u32 = 4;
/// The oldest version that can be restored.
pub const STATE_VERSION_OLDEST: u32 = 1;
/// The first version whose body ends with a [`SavedPlace`].
const WITH_PLACE: u32 = 2;
/// The version whose body ends with a [`SavedPlatform`]. Machines without one are still written as the version before.
const WITH_PLATFORM: u32 = 3;
/// The first version with an [`Option`] of that, and a [`SavedInput`]. Machines that never took console input are still
/// written as the versions before.
const WITH_INPUT: u32 = 4;
const HEADER_LENGTH: usize = 24;
const HEADER_CRC_OFFSET: usize = 20;
/// A state is a few KiB, and 64 KiB more when console input waits; devices add queues.
const BODY_LENGTH_MAX: usize = 1 << 20;

/// Why bytes are no saved state.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StateError {
    /// Shorter than its header.
    #[error("saved state of {got} bytes is shorter than its header")]
    Truncated {
        /// How many bytes there are.
        got: usize,
    },
    /// Something else.
    #[error("not a saved machine state")]
    Magic,
    /// The header was changed.
    #[error("saved state's header has CRC {got:#010x}, expected {expected:#010x}")]
    HeaderCrc {
        /// What the header says.
        expected: u32,
        /// What it adds up to.
        got: u32,
    },
    /// A version that this program does not know.
    #[error("saved state has version {got}, this program knows {STATE_VERSION_OLDEST} to {STATE_VERSION}")]
    Version {
        /// Its version.
        got: u32,
    },
    /// Not as long as it says, or longer than any state.
    #[error("saved state has a body of {got} bytes, its header says {expected} (at most {BODY_LENGTH_MAX})")]
    Length {
        /// What the header says.
        expected: usize,
        /// What is there.
        got: usize,
    },
    /// The body was changed.
    #[error("saved state's body has CRC {got:#010x}, expected {expected:#010x}")]
    BodyCrc {
        /// What the header says.
        expected: u32,
        /// What it adds up to.
        got: u32,
    },
    /// The body is not in its format.
    #[error("saved state cannot be read: {0}")]
    Body(postcard::Error),
    /// There are bytes behind the body's end.
    #[error("saved state has {0} bytes too many")]
    Trailing(usize),
    /// A processor structure of another length.
    #[error("saved state's {name} has {got} bytes, expected {expected}")]
    StructureLength {
        /// Which.
        name: &'static str,
        /// Its length here.
        expected: usize,
        /// Its length there.
        got: usize,
    },
    /// A machine of another shape than any has.
    #[error("saved state has {got} {what}, which no machine has")]
    Shape {
        /// What there is of.
        what: &'static str,
        /// How many.
        got: usize,
    },
    /// More registers than any processor has.
    #[error("saved state has {count} model-specific registers, at most {limit} can be restored")]
    TooManyMsrs {
        /// How many.
        count: usize,
        /// The bound.
        limit: usize,
    },
    /// A count that no guest can have come to.
    #[error("saved state has {count} as its {name}, which no guest can have come to")]
    Count {
        /// Which.
        name: &'static str,
        /// The count.
        count: u64,
    },
}

impl MachineState {
    /// The saved format.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let header = vec![0; HEADER_LENGTH];
        let body = (SavedMachine::of(self), SavedPlace::of(self));
        let mut bytes = postcard::to_extend(&body, header).expect("plain data always encodes into a vector");
        let platform = self.platform.as_ref().map(|platform| SavedPlatform::of(&self.cpu, platform));
        let (version, rest) = match &platform {
            _ if self.console_taken > 0 => (WITH_INPUT, postcard::to_extend(&(&platform, SavedInput::of(self)), bytes)),
            Some(platform) => (WITH_PLATFORM, postcard::to_extend(platform, bytes)),
            None => (WITH_PLACE, Ok(bytes)),
        };
        bytes = rest.expect("plain data always encodes into a vector");
        let (header, body) = bytes.split_at_mut(HEADER_LENGTH);
        assert!(body.len() <= BODY_LENGTH_MAX, "devices bound their queues");
        let length = u32::try_from(body.len()).expect("bounded above");
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&version.to_le_bytes());
        header[12..16].copy_from_slice(&length.to_le_bytes());
        header[16..20].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        let header_crc = crc32fast::hash(&header[..HEADER_CRC_OFFSET]);
        header[HEADER_CRC_OFFSET..].copy_from_slice(&header_crc.to_le_bytes());
        bytes
    }

    /// Reads the saved format. The bytes are untrusted.
    ///
    /// # Errors
    /// Anything but what [`encode`](Self::encode) gave.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let truncated = StateError::Truncated { got: bytes.len() };
        let Some((header, body)) = bytes.split_first_chunk::<HEADER_LENGTH>() else { return Err(truncated) };
        if header[..8] != MAGIC {
            return Err(StateError::Magic);
        }
        let (expected, got) = (number(header, HEADER_CRC_OFFSET), crc32fast::hash(&header[..HEADER_CRC_OFFSET]));
        if expected != got {
            return Err(StateError::HeaderCrc { expected, got });
        }
        let version = number(header, 8);
        if !(STATE_VERSION_OLDEST..=STATE_VERSION).contains(&version) {
            return Err(StateError::Version { got: version });
        }
        let expected = usize::try_from(number(header, 12)).expect("usize has 64 bits");
        if expected != body.len() || expected > BODY_LENGTH_MAX {
            return Err(StateError::Length { expected, got: body.len() });
        }
        let (expected, got) = (number(header, 16), crc32fast::hash(body));
        if expected != got {
            return Err(StateError::BodyCrc { expected, got });
        }
        let (saved, mut rest) = postcard::take_from_bytes::<SavedMachine<'_>>(body).map_err(StateError::Body)?;
        let mut place = SavedPlace::default();
        if version >= WITH_PLACE {
            (place, rest) = postcard::take_from_bytes(rest).map_err(StateError::Body)?;
        }
        let (mut platform, mut input) = (None, SavedInput::default());
        if version >= WITH_INPUT {
            ((platform, input), rest) = postcard::take_from_bytes(rest).map_err(StateError::Body)?;
        } else if version == WITH_PLATFORM {
            let saved: SavedPlatform<'_>;
            (saved, rest) = postcard::take_from_bytes(rest).map_err(StateError::Body)?;
            platform = Some(saved);
        }
        if !rest.is_empty() {
            return Err(StateError::Trailing(rest.len()));
        }
        let mut state = saved.into_state(&place, &input)?;
        if let Some(platform) = platform {
            state.platform = Some(platform.into_platform(&mut state.cpu)?);
        }
        Ok(state)
    }
}

fn number(header: &[u8; HEADER_LENGTH], offset: usize) -> u32 {
    u32::from_le_bytes(header[offset..offset + 4].try_into().expect("four bytes of the header"))
}
