//! The VM directory: which VMs the pool holds, and the shape of their partitions.
//!
//! One blob store per entry, so that an entry changes whole or not at all.

mod entry;

use thiserror::Error;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::blob_store::{self, BlobError, BlobStore, Mended};
use crate::header::{Closing, Header, HeaderError, OPEN, Preamble, ReadHeaderError};
use crate::mem::{AccessError, PoolRead, PoolWrite, check_bounds};
use crate::numbers::{Offset, PAGE_SIZE, VmSlot};
use crate::planted::{self, Laid, PlantedBug};

pub use entry::{EntryError, GeometryError, NAME_BYTES_MAX, NameError, VmEntry, VmGeometry, VmName, VmState};

/// Space of one entry.
pub const ENTRY_BYTES: u64 = 1024;

/// Largest content of an entry.
const ENTRY_CAPACITY: u64 = 384;

const ENTRIES_AT: u64 = PAGE_SIZE;

/// Where the second copy of the header lies, since layout 4.
const HEADER_COPY_AT: Offset = Offset::new(PAGE_SIZE / 2);

const _: () = assert!(blob_store::total_bytes(ENTRY_CAPACITY) <= ENTRY_BYTES);

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DirectoryHeader {
    preamble: Preamble,
    entries: U32,
    entry_bytes: U32,
    reserved: [u8; 32],
    closing: Closing,
}

impl Header for DirectoryHeader {
    const MAGIC: [u8; 8] = *b"FTVMVDIR";
    const VERSION: u32 = 1;
    const UNCHECKED: PlantedBug = PlantedBug::DirectoryHeaderCrc;
}

const _: () = assert!(size_of::<DirectoryHeader>() == 64);

/// The VM directory cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DirectoryError {
    /// The header is damaged or something else.
    #[error("the header of the VM directory is refused")]
    Header(#[from] HeaderError),
    /// The directory has another shape than the superblock says.
    #[error("the VM directory has {found} entries, expected {expected}")]
    Shape {
        /// Entries named.
        found: u32,
        /// Entries of the pool.
        expected: u16,
    },
    /// There is no such entry.
    #[error("VM slot {slot} is beyond the directory of {entries}")]
    NoSuchSlot {
        /// Slot asked for.
        slot: VmSlot,
        /// Entries there are.
        entries: u16,
    },
    /// The blob that holds an entry is damaged.
    #[error("the entry of VM slot {slot} cannot be read or written")]
    Blob {
        /// The slot.
        slot: VmSlot,
        /// What is wrong.
        source: BlobError,
    },
    /// The content of an entry makes no sense.
    #[error("the entry of VM slot {slot} is refused")]
    Entry {
        /// The slot.
        slot: VmSlot,
        /// What is wrong.
        source: EntryError,
    },
    /// The pool refused.
    #[error("cannot reach the VM directory")]
    Access(#[from] AccessError),
}

impl From<ReadHeaderError> for DirectoryError {
    fn from(error: ReadHeaderError) -> Self {
        match error {
            ReadHeaderError::Access(error) => Self::Access(error),
            ReadHeaderError::Header(error) => Self::Header(error),
        }
    }
}

/// Length of a directory with `entries` entries.
#[must_use]
pub const fn directory_file_bytes(entries: u16) -> u64 {
    ENTRIES_AT + entries as u64 * ENTRY_BYTES
}

/// The VM directory.
#[derive(Debug, Clone)]
pub struct VmDirectory<M> {
    memory: M,
    entries: u16,
}

impl<M: PoolRead> VmDirectory<M> {
    /// Opens the directory of a pool that has `entries` VM slots.
    ///
    /// # Errors
    /// When it is damaged, or of another shape.
    pub fn open(memory: M, entries: u16) -> Result<Self, DirectoryError> {
        let header = match DirectoryHeader::load(&memory, Offset::ZERO) {
            Ok(header) => header,
            Err(ReadHeaderError::Access(error)) => return Err(error.into()),
            Err(error) => DirectoryHeader::load(&memory, HEADER_COPY_AT).map_err(|_| error)?,
        };
        let found = header.entries.get();
        if found != u32::from(entries) || u64::from(header.entry_bytes.get()) != ENTRY_BYTES {
            return Err(DirectoryError::Shape { found, expected: entries });
        }
        check_bounds(Offset::ZERO, directory_file_bytes(entries), memory.len())?;
        Ok(Self { memory, entries })
    }

    /// The memory that it lies in.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// All slots.
    pub fn slots(&self) -> impl Iterator<Item = VmSlot> + use<M> {
        (0..self.entries).map(VmSlot::new)
    }

    fn store(&self, slot: VmSlot) -> Result<BlobStore<&M>, DirectoryError> {
        if slot.get() >= self.entries {
            return Err(DirectoryError::NoSuchSlot { slot, entries: self.entries });
        }
        let at = Offset::new(ENTRIES_AT + u64::from(slot.get()) * ENTRY_BYTES);
        BlobStore::new(&self.memory, at, ENTRY_CAPACITY).map_err(|source| DirectoryError::Blob { slot, source })
    }

    /// What an entry says; `None`: the slot is free.
    ///
    /// # Errors
    /// When the entry is damaged or makes no sense.
    pub fn entry(&self, slot: VmSlot) -> Result<Option<VmEntry>, DirectoryError> {
        let blob = self.store(slot)?.load().map_err(|source| DirectoryError::Blob { slot, source })?;
        parse(slot, blob)
    }

    /// What an entry of a pool of layout 4 or later says, by whichever of its copies is whole; and what is wrong.
    ///
    /// # Errors
    /// When no copy is whole, or it makes no sense.
    pub fn entry_twin(&self, slot: VmSlot) -> Result<(Option<VmEntry>, Option<BlobError>), DirectoryError> {
        let found = self.store(slot)?.load_twin();
        let (blob, wrong) = found.map_err(|source| DirectoryError::Blob { slot, source })?;
        Ok((parse(slot, blob)?, wrong))
    }

    /// What is wrong with copies that are not needed: headers, and those of entries that do not count.
    ///
    /// # Errors
    /// When the pool refuses.
    pub fn check_copies(&self) -> Result<Vec<(String, String)>, DirectoryError> {
        let mut wrong = Vec::new();
        for (name, at) in [("first header", Offset::ZERO), ("second header", HEADER_COPY_AT)] {
            match DirectoryHeader::load(&self.memory, at) {
                Ok(_) => {}
                Err(ReadHeaderError::Access(error)) => return Err(error.into()),
                Err(ReadHeaderError::Header(error)) => wrong.push((name.to_owned(), error.to_string())),
            }
        }
        for slot in self.slots() {
            if let Ok(Some(error)) = self.store(slot)?.check_other() {
                wrong.push((format!("the other copy of entry {slot}"), error.to_string()));
            }
        }
        Ok(wrong)
    }
}

fn parse(slot: VmSlot, blob: Option<Vec<u8>>) -> Result<Option<VmEntry>, DirectoryError> {
    match blob {
        None => Ok(None),
        Some(bytes) => VmEntry::parse(&bytes).map_err(|source| DirectoryError::Entry { slot, source }),
    }
}

impl<M: PoolWrite> VmDirectory<M> {
    /// Lays out a directory without VMs and opens it.
    ///
    /// # Errors
    /// When the memory is too short.
    pub fn format(memory: M, entries: u16) -> Result<Self, DirectoryError> {
        let directory = Self { memory, entries };
        for slot in directory.slots() {
            let store = directory.store(slot)?;
            store.format().map_err(|source| DirectoryError::Blob { slot, source })?;
        }
        directory.write_headers()?;
        Ok(directory)
    }

    /// Writes both copies of the header.
    fn write_headers(&self) -> Result<(), DirectoryError> {
        let header = DirectoryHeader {
            preamble: DirectoryHeader::preamble(),
            entries: U32::new(self.entries.into()),
            entry_bytes: U32::new(u32::try_from(ENTRY_BYTES).unwrap_or(u32::MAX)),
            reserved: [0; 32],
            closing: OPEN,
        };
        for at in [Offset::ZERO, HEADER_COPY_AT] {
            self.memory.write(at, &header.sealed_bytes())?;
            planted::settle(&self.memory, at, ENTRIES_AT / 2, Laid::DirectoryHeaders)?;
        }
        Ok(())
    }

    /// Sees to it that headers and entries are there twice, of a pool in which they are; says what was damaged. An entry of
    /// which no copy is whole stays as it is: it costs its VM, and is an error to whoever asks for it.
    ///
    /// # Errors
    /// When the pool refuses.
    pub fn mend(&self) -> Result<Vec<String>, DirectoryError> {
        let mut mended = Vec::new();
        for at in [Offset::ZERO, HEADER_COPY_AT] {
            match DirectoryHeader::load(&self.memory, at) {
                Ok(_) => {}
                Err(ReadHeaderError::Access(error)) => return Err(error.into()),
                Err(ReadHeaderError::Header(error)) => {
                    mended.push(format!("a copy of the header of the VM directory: {error}"));
                    self.write_headers()?;
                }
            }
        }
        for slot in self.slots() {
            match self.store(slot)?.mend() {
                Ok(Mended::Nothing | Mended::Unfinished) => {}
                Ok(Mended::Damage(error)) => mended.push(format!("a copy of the entry of VM slot {slot}: {error}")),
                Ok(Mended::Torn(error)) => {
                    mended.push(format!("a copy of the entry of VM slot {slot}, damaged or half written: {error}"));
                }
                Err(source @ BlobError::Access(_)) => return Err(DirectoryError::Blob { slot, source }),
                // Told by whoever asks for it.
                Err(_) => {}
            }
        }
        Ok(mended)
    }

    /// Makes a directory of an older layout, which had everything once, one that has it twice.
    ///
    /// # Errors
    /// When the pool refuses.
    pub fn double(&self) -> Result<(), DirectoryError> {
        self.write_headers()?;
        for slot in self.slots() {
            let store = self.store(slot)?;
            match store.load() {
                Ok(Some(blob)) => store.store_twice(&blob).map_err(|source| DirectoryError::Blob { slot, source })?,
                Ok(None) => {}
                Err(source) => return Err(DirectoryError::Blob { slot, source }),
            }
        }
        Ok(())
    }

    /// Frees a slot of whose entry no copy is whole.
    ///
    /// # Errors
    /// When the pool refuses.
    pub fn free_damaged(&self, slot: VmSlot) -> Result<(), DirectoryError> {
        self.store(slot)?.format().map_err(|source| DirectoryError::Blob { slot, source })
    }

    /// Replaces an entry durably; `None` frees the slot.
    ///
    /// # Errors
    /// When the pool refuses, or the selector of the entry is damaged.
    pub fn set_entry(&self, slot: VmSlot, entry: Option<&VmEntry>) -> Result<(), DirectoryError> {
        let bytes = entry.map_or_else(VmEntry::free_bytes, VmEntry::to_bytes);
        self.store(slot)?.store_twice(&bytes).map_err(|source| DirectoryError::Blob { slot, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::JournalGeometry;
    use crate::lossy::{LossyCache, LossyMemory};

    fn entry(name: &str) -> VmEntry {
        VmEntry {
            state: VmState::Used,
            name: name.parse().unwrap(),
            geometry: VmGeometry {
                memory_bytes: 1 << 20,
                journal: JournalGeometry::for_memory(1 << 20, 4, 1 << 18),
                log_bytes: 1 << 16,
                console_bytes: 1 << 20,
                disk_bytes: 0,
                state_slot_bytes: 1 << 20,
                sparse: true,
            },
        }
    }

    #[test]
    fn entries_are_kept_and_every_flipped_bit_is_refused_or_harmless() {
        let memory = LossyMemory::new(directory_file_bytes(3), &LossyCache::new());
        assert!(VmDirectory::open(&memory, 3).is_err());
        VmDirectory::format(&memory, 3).unwrap();
        let directory = VmDirectory::open(&memory, 3).unwrap();
        let slot = VmSlot::new(1);
        assert_eq!(directory.entry(slot), Ok(None));
        directory.set_entry(slot, Some(&entry("first"))).unwrap();
        directory.set_entry(slot, Some(&entry("second.vm-1"))).unwrap();
        assert_eq!(directory.entry(slot), Ok(Some(entry("second.vm-1"))));
        assert!(matches!(directory.entry(VmSlot::new(3)), Err(DirectoryError::NoSuchSlot { .. })));
        assert!(matches!(VmDirectory::open(&memory, 4), Err(DirectoryError::Shape { .. })));
        let start = ENTRIES_AT + ENTRY_BYTES;
        for bit in 0..ENTRY_BYTES * 8 {
            let at = Offset::new(start + bit / 8);
            let mut byte = [0];
            memory.read(at, &mut byte).unwrap();
            memory.write(at, &[byte[0] ^ (1 << (bit % 8))]).unwrap();
            match directory.entry(slot) {
                Ok(found) => assert_eq!(found, Some(entry("second.vm-1"))),
                Err(error) => assert!(matches!(error, DirectoryError::Blob { .. }), "{error:?}"),
            }
            memory.write(at, &byte).unwrap();
        }
        directory.set_entry(slot, None).unwrap();
        assert_eq!(directory.entry(slot), Ok(None));
    }
}
