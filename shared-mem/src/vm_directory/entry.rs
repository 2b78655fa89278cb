//! One entry of the VM directory.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::console;
use crate::journal::JournalGeometry;
use crate::numbers::PAGE_SIZE;
use crate::record_log;

/// Longest name of a VM.
pub const NAME_BYTES_MAX: usize = 63;

const TAG_FREE: u32 = 1;
const TAG_USED: u32 = 2;
const TAG_DELETING: u32 = 3;
const FLAG_SPARSE: u32 = 1;
const MEMORY_BYTES_MAX: u64 = 1 << 42;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct EntryBytes {
    tag: U32,
    name_length: U32,
    name: [u8; NAME_BYTES_MAX + 1],
    memory_bytes: U64,
    journal_slots: U32,
    flags: U32,
    journal_slot_bytes: U64,
    journal_reserved_bytes: U64,
    log_bytes: U64,
    console_bytes: U64,
    disk_bytes: U64,
    state_slot_bytes: U64,
    reserved: [u8; 120],
}

const _: () = assert!(size_of::<EntryBytes>() == 256);

/// A text that cannot name a VM.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// No byte, or too many.
    #[error("a VM name has 1 to {NAME_BYTES_MAX} bytes, not {found}")]
    Length {
        /// Bytes given.
        found: usize,
    },
    /// A character that file names and messages would not like.
    #[error("{found:?} in a VM name: only letters, digits, '.', '_' and '-' are allowed")]
    Character {
        /// The character.
        found: char,
    },
}

/// The name of a VM: 1 to 63 letters, digits, dots, underscores and hyphens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmName(String);

impl FromStr for VmName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > NAME_BYTES_MAX {
            return Err(NameError::Length { found: text.len() });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        match text.chars().find(|c| !allowed(*c)) {
            Some(found) => Err(NameError::Character { found }),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl VmName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The shape of a VM's partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmGeometry {
    /// Guest memory, and so the stable image; whole pages.
    pub memory_bytes: u64,
    /// Shape of each generation's journal.
    pub journal: JournalGeometry,
    /// Ring of each generation's record log; whole pages.
    pub log_bytes: u64,
    /// Ring of the console; a power of two.
    pub console_bytes: u64,
    /// Disk image; whole pages, 0: no disk.
    pub disk_bytes: u64,
    /// One of the two slots for machine state; whole pages.
    pub state_slot_bytes: u64,
    /// Whether image and disk take their space only as they are written, at the risk that the pool runs full.
    pub sparse: bool,
}

/// An impossible shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{what} of {found} is not possible")]
pub struct GeometryError {
    /// Which number.
    pub what: &'static str,
    /// Its value.
    pub found: u64,
}

impl VmGeometry {
    /// Checks each number.
    ///
    /// # Errors
    /// When one makes no sense.
    pub fn check(&self) -> Result<(), GeometryError> {
        let whole_pages = |bytes: u64| bytes.is_multiple_of(PAGE_SIZE) && bytes <= MEMORY_BYTES_MAX;
        let rules = [
            ("memory size", self.memory_bytes, whole_pages(self.memory_bytes) && self.memory_bytes > 0),
            ("journal slot size", self.journal.slot_bytes, self.journal.is_sound()),
            ("record log size", self.log_bytes, record_log::is_log_size(self.log_bytes)),
            ("console size", self.console_bytes, console::is_ring_size(self.console_bytes)),
            ("disk size", self.disk_bytes, whole_pages(self.disk_bytes)),
            (
                "machine state size",
                self.state_slot_bytes,
                self.state_slot_bytes > 0
                    && self.state_slot_bytes.is_multiple_of(PAGE_SIZE)
                    && self.state_slot_bytes <= 1 << 32,
            ),
        ];
        match rules.into_iter().find(|(_, _, sound)| !sound) {
            Some((what, found, _)) => Err(GeometryError { what, found }),
            None => Ok(()),
        }
    }
}

/// Where a VM is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmState {
    /// It exists.
    Used,
    /// Its files are being removed.
    Deleting,
}

/// What the directory says about a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmEntry {
    /// Where the VM is in its life.
    pub state: VmState,
    /// Its name.
    pub name: VmName,
    /// The shape of its partition.
    pub geometry: VmGeometry,
}

/// An entry whose content makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Not as long as an entry.
    #[error("{found} bytes are no directory entry")]
    Length {
        /// Bytes given.
        found: usize,
    },
    /// No known state.
    #[error("entry tag {found} is unknown")]
    Tag {
        /// The tag.
        found: u32,
    },
    /// A name that no VM can have.
    #[error("the name of the entry is refused")]
    Name,
    /// Flags that this version does not know.
    #[error("entry flags {found:#x} are unknown")]
    Flags {
        /// The flags.
        found: u32,
    },
    /// A shape that no partition can have.
    #[error("the geometry of the entry is refused")]
    Geometry(#[from] GeometryError),
}

impl VmEntry {
    /// Parses an entry's content; `None`: the slot is free.
    ///
    /// # Errors
    /// When the content makes no sense.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, EntryError> {
        let length = EntryError::Length { found: bytes.len() };
        let found = EntryBytes::read_from_bytes(bytes).map_err(|_| length)?;
        let state = match found.tag.get() {
            TAG_FREE => return Ok(None),
            TAG_USED => VmState::Used,
            TAG_DELETING => VmState::Deleting,
            found => return Err(EntryError::Tag { found }),
        };
        let flags = found.flags.get();
        if flags & !FLAG_SPARSE != 0 {
            return Err(EntryError::Flags { found: flags });
        }
        let geometry = VmGeometry {
            memory_bytes: found.memory_bytes.get(),
            journal: JournalGeometry {
                slots: found.journal_slots.get(),
                slot_bytes: found.journal_slot_bytes.get(),
                reserved_bytes: found.journal_reserved_bytes.get(),
            },
            log_bytes: found.log_bytes.get(),
            console_bytes: found.console_bytes.get(),
            disk_bytes: found.disk_bytes.get(),
            state_slot_bytes: found.state_slot_bytes.get(),
            sparse: flags & FLAG_SPARSE != 0,
        };
        geometry.check()?;
        let name = parse_name(&found)?;
        Ok(Some(Self { state, name, geometry }))
    }

    /// The entry as stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = EntryBytes::new_zeroed();
        bytes.tag = U32::new(match self.state {
            VmState::Used => TAG_USED,
            VmState::Deleting => TAG_DELETING,
        });
        let name = self.name.as_str().as_bytes();
        bytes.name_length = U32::new(u32::try_from(name.len()).unwrap_or(u32::MAX));
        bytes.name[..name.len()].copy_from_slice(name);
        bytes.memory_bytes = U64::new(self.geometry.memory_bytes);
        bytes.journal_slots = U32::new(self.geometry.journal.slots);
        bytes.flags = U32::new(if self.geometry.sparse { FLAG_SPARSE } else { 0 });
        bytes.journal_slot_bytes = U64::new(self.geometry.journal.slot_bytes);
        bytes.journal_reserved_bytes = U64::new(self.geometry.journal.reserved_bytes);
        bytes.log_bytes = U64::new(self.geometry.log_bytes);
        bytes.console_bytes = U64::new(self.geometry.console_bytes);
        bytes.disk_bytes = U64::new(self.geometry.disk_bytes);
        bytes.state_slot_bytes = U64::new(self.geometry.state_slot_bytes);
        bytes.as_bytes().to_vec()
    }

    /// The content of a free slot.
    pub(super) fn free_bytes() -> Vec<u8> {
        let mut bytes = EntryBytes::new_zeroed();
        bytes.tag = U32::new(TAG_FREE);
        bytes.as_bytes().to_vec()
    }
}

fn parse_name(found: &EntryBytes) -> Result<VmName, EntryError> {
    let length = usize::try_from(found.name_length.get()).map_err(|_| EntryError::Name)?;
    let name = found.name.get(..length).ok_or(EntryError::Name)?;
    let name = std::str::from_utf8(name).map_err(|_| EntryError::Name)?;
    name.parse().map_err(|_| EntryError::Name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!("a".parse::<VmName>().is_ok());
        assert_eq!("".parse::<VmName>(), Err(NameError::Length { found: 0 }));
        assert_eq!("a/b".parse::<VmName>(), Err(NameError::Character { found: '/' }));
        assert!("x".repeat(63).parse::<VmName>().is_ok());
        assert!("x".repeat(64).parse::<VmName>().is_err());
    }
}
