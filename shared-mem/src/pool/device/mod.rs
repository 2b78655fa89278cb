//! A pool on one device (DAX): names and extents in a table at its beginning, in place of a file system.
//!
//! ```text
//! 0, 2048  head, twice: magic, version, length of the device
//! 4096     the table: a blob store, so that each change of it is whole or not at all; stored twice
//! 2 MiB    the controller's own files, upwards ─────>        <───── files that hosts write, downwards
//! ```
//! There is no access by descriptor here: whoever has the device can write all of it, so hosts are trusted to write what
//! they were granted and nothing else. Nor can space be taken away from a host that is away: it may still write where its journal
//! was. So such space never becomes the controller's, and no page that held a generation's word ever holds a word again: what a
//! dead generation's primary writes there is a damaged record to those who read it, and its compare_exchange fails.
//!
//! Only the controller changes the table. It is read anew for each operation: they are rare.

mod error;
mod table;

pub use error::DeviceError;
pub use table::{DeviceUsage, Table, TableError};

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::PoolError;
use super::files::SUPERBLOCK;
use crate::blob_store::{BlobStore, Mended};
use crate::header::{Closing, Header, HeaderError, OPEN, Preamble, ReadHeaderError};
use crate::mem::{Access, AccessError, Extent, Mapping, PoolRead, PoolWrite, device_bytes};
use crate::numbers::{Offset, PAGE_BYTES, PAGE_SIZE, len_u64};
use crate::planted::{self, Laid, PlantedBug};
use table::{Entry, Owner};

/// Where the second copy of the head lies.
const HEAD_COPY_AT: Offset = Offset::new(PAGE_SIZE / 2);
/// Where the table is.
const TABLE_AT: Offset = Offset::new(PAGE_SIZE);
/// Room for some thousand files.
const TABLE_CAPACITY: u64 = 512 << 10;
/// Where files begin.
pub const FILES_AT: u64 = 2 << 20;
const _: () = assert!(PAGE_SIZE + crate::blob_store::total_bytes(TABLE_CAPACITY) <= FILES_AT);

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    preamble: Preamble,
    device_bytes: U64,
    reserved: [u8; 32],
    closing: Closing,
}

impl Header for Head {
    const MAGIC: [u8; 8] = *b"FTVMDEVC";
    const VERSION: u32 = 2;
    const OLDEST: u32 = 1;
    const UNCHECKED: PlantedBug = PlantedBug::DeviceHeadCrc;
}

/// The first version in which head and table are there twice.
const TWICE_SINCE: u32 = 2;

const HEAD_BYTES: usize = size_of::<Head>();
const _: () = assert!(HEAD_BYTES == 64);

/// A place in a pool on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    device: PathBuf,
    /// Within the pool, with slashes; empty: the pool itself.
    name: String,
}

/// Changes of tables of this process, one at a time: a controller has several threads.
static CHANGING: Mutex<()> = Mutex::new(());

/// Whether a path is on a device that a pool can be on, and where: `DEVICE/name/of/a/file`. A regular file counts as a device.
pub(super) fn place(path: &Path) -> Option<Place> {
    for ancestor in path.ancestors() {
        let Ok(metadata) = fs::metadata(ancestor) else { continue };
        let kind = metadata.file_type();
        let rest = path.strip_prefix(ancestor).ok()?;
        // A file that is there under its own name is the file of a pool in a directory, unless a pool is asked for.
        let is_device = kind.is_char_device() || (kind.is_file() && rest != Path::new(""));
        return is_device.then(|| Place { device: ancestor.to_owned(), name: rest.to_string_lossy().into_owned() });
    }
    None
}

/// The place of a pool as a whole.
pub(super) fn whole(path: &Path) -> Option<Place> {
    let kind = fs::metadata(path).ok()?.file_type();
    (kind.is_char_device() || kind.is_file()).then(|| Place { device: path.to_owned(), name: String::new() })
}

impl Place {
    /// The device itself, opened.
    pub(super) fn open_device(&self, access: Access) -> Result<File, PoolError> {
        let failed = |error: io::Error| PoolError::file("open", &self.device, error);
        let write = access == Access::ReadWrite;
        OpenOptions::new().read(true).write(write).custom_flags(libc::O_NOFOLLOW).open(&self.device).map_err(failed)
    }

    /// Lays out an empty table on a device whose beginning is empty, or holds a pool that was never completed.
    pub(super) fn format(&self) -> Result<(), PoolError> {
        let (memory, bytes) = self.map_start(Access::ReadWrite, Mapping::read_write)?;
        if bytes <= FILES_AT {
            return Err(PoolError::NoSpace { what: "a pool", needed: FILES_AT + PAGE_SIZE, available: bytes });
        }
        let refused = |error| PoolError::file("write to", &self.device, io::Error::other(error));
        match self.load(&memory, bytes) {
            Ok(table) if table.find(SUPERBLOCK).is_some() => return Err(PoolError::NotEmpty(self.device.clone())),
            // Without its head it is no pool while its table is laid out anew.
            Ok(_) => wipe_head(&memory).map_err(refused)?,
            Err(PoolError::NotAPool(_)) => {
                let mut page = [0; PAGE_BYTES];
                memory.read(Offset::ZERO, &mut page).map_err(refused)?;
                if page != [0; PAGE_BYTES] {
                    return Err(PoolError::NotEmpty(self.device.clone()));
                }
            }
            Err(error) => return Err(error),
        }
        let store = BlobStore::new(&memory, TABLE_AT, TABLE_CAPACITY)?;
        store.format()?;
        store.store_twice(&Table::new(FILES_AT, bytes).to_bytes()).map_err(|error| self.damaged(error))?;
        write_heads(&memory, bytes).map_err(refused)
    }

    /// Sees to it that head and table are there twice, and makes a device of the first version, which had them once, one of
    /// this version. Says what was damaged, a line each. For the pool's one controller.
    pub(super) fn mend(&self) -> Result<Vec<String>, PoolError> {
        let _turn: MutexGuard<'_, ()> = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        let (memory, bytes) = self.map_start(Access::ReadWrite, Mapping::read_write)?;
        let refused = |error| PoolError::file("write to", &self.device, io::Error::other(error));
        let mut mended = Vec::new();
        if self.check_head(&memory, bytes)? {
            for (copy, error) in wrong_heads(&memory).map_err(refused)? {
                mended.push(format!("the {copy} header of the device: {error}"));
                write_heads(&memory, bytes).map_err(refused)?;
            }
        } else {
            let table = read_table(&memory, bytes, false).map_err(|error| self.damaged(error))?;
            let store = BlobStore::new(&memory, TABLE_AT, TABLE_CAPACITY)?;
            store.store_twice(&table.to_bytes()).map_err(|error| self.damaged(error))?;
            write_heads(&memory, bytes).map_err(refused)?;
        }
        let store = BlobStore::new(&memory, TABLE_AT, TABLE_CAPACITY)?;
        match store.mend().map_err(|error| self.damaged(error))? {
            Mended::Nothing | Mended::Unfinished => {}
            Mended::Damage(error) => mended.push(format!("a copy of the device's table: {error}")),
            Mended::Torn(error) => {
                mended.push(format!("a copy of the device's table, damaged or half written: {error}"));
            }
        }
        Ok(mended)
    }

    /// What is wrong with one of two copies, and whether it is the one that counts.
    pub(super) fn wrong_copies(&self) -> Result<Vec<(String, bool)>, PoolError> {
        let (memory, bytes) = self.map_start(Access::ReadOnly, Mapping::read_only)?;
        if !self.check_head(&memory, bytes)? {
            return Ok(Vec::new());
        }
        let refused = |error| PoolError::file("read", &self.device, io::Error::other(error));
        let heads = wrong_heads(&memory).map_err(refused)?;
        let mut wrong: Vec<_> =
            heads.into_iter().map(|(copy, error)| (format!("{copy} header: {error}"), true)).collect();
        let store = BlobStore::new(&memory, TABLE_AT, TABLE_CAPACITY)?;
        if let Ok((_, Some(error))) = store.load_twin() {
            wrong.push((format!("the copy of the table that counts: {error}"), true));
        } else if let Ok(Some(error)) = store.check_other() {
            wrong.push((format!("the other copy of the table: {error}"), false));
        }
        Ok(wrong)
    }

    /// Makes the device one without a pool.
    pub(super) fn wipe(&self) -> Result<(), PoolError> {
        self.change(|table| {
            *table = table.emptied();
            Ok(())
        })?;
        let (memory, _) = self.map_start(Access::ReadWrite, Mapping::read_write)?;
        wipe_head(&memory).map_err(|error| PoolError::file("write to", &self.device, io::Error::other(error)))
    }

    /// A file, as it is.
    pub(super) fn open(&self, access: Access) -> Result<Extent, PoolError> {
        let entry = self.table()?.find(&self.name).cloned();
        let entry = entry.ok_or_else(|| self.missing("open"))?;
        self.extent(&entry, access)
    }

    /// Whether there is such a file, or something below it. A table that cannot be read says neither yes nor no.
    pub(super) fn exists(&self) -> Result<bool, PoolError> {
        match self.table() {
            Ok(table) => Ok(table.find(&self.name).is_some() || !table.below(&self.name).is_empty()),
            Err(PoolError::NotAPool(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes a file of so many bytes; one that is there goes. Hosts write those whose names say so.
    pub(super) fn create(&self, what: &'static str, len: u64) -> Result<Extent, PoolError> {
        let owner = if is_written_by_hosts(&self.name) { Owner::Hosts } else { Owner::Controller };
        let entry = self.change(|table| {
            table.remove(&self.name);
            let made = table.add(&self.name, len, owner).cloned();
            made.ok_or_else(|| PoolError::NoSpace { what, needed: len, available: table.largest_gap() })
        })?;
        self.extent(&entry, Access::ReadWrite)
    }

    /// Gives a file another name, and removes what had it.
    pub(super) fn rename(&self, to: &Self) -> Result<(), PoolError> {
        self.change(|table| {
            table.remove(&to.name);
            if table.rename(&self.name, &to.name) { Ok(()) } else { Err(self.missing("rename")) }
        })
    }

    /// Removes a file.
    pub(super) fn remove(&self) -> Result<(), PoolError> {
        self.change(|table| if table.remove(&self.name) { Ok(()) } else { Err(self.missing("remove")) })
    }

    /// Removes all that is below this name, if anything is.
    pub(super) fn remove_all(&self) -> Result<(), PoolError> {
        self.change(|table| {
            for name in table.below(&self.name) {
                table.remove(&name);
            }
            Ok(())
        })
    }

    /// What is directly below this name: names, and the bytes of those that are files.
    pub(super) fn list(&self) -> Result<Vec<(String, u64)>, PoolError> {
        let table = self.table()?;
        let mut found: Vec<(String, u64)> = Vec::new();
        for name in table.below(&self.name) {
            let rest = name[self.name.len()..].trim_start_matches('/');
            let (first, bytes) = match rest.split_once('/') {
                Some((first, _)) => (first, 0),
                None => (rest, table.find(&name).map_or(0, |entry| entry.len)),
            };
            if found.last().is_none_or(|(last, _)| last != first) {
                found.push((first.to_owned(), bytes));
            }
        }
        Ok(found)
    }

    /// Whether there would be a place for files of hosts of all these lengths.
    pub(super) fn check_room(&self, what: &'static str, lens: &[u64]) -> Result<(), PoolError> {
        let table = self.table()?;
        match table.lacks_room_for(lens) {
            None => Ok(()),
            Some(_) => Err(PoolError::NoSpace { what, needed: lens.iter().sum(), available: table.free_bytes() }),
        }
    }

    /// The largest file that still fits.
    pub(super) fn available_bytes(&self) -> Result<u64, PoolError> {
        Ok(self.table()?.largest_gap())
    }

    pub(super) fn table(&self) -> Result<Table, PoolError> {
        let (memory, bytes) = self.map_start(Access::ReadOnly, Mapping::read_only)?;
        self.load(&memory, bytes)
    }

    fn change<T>(&self, how: impl FnOnce(&mut Table) -> Result<T, PoolError>) -> Result<T, PoolError> {
        let _turn: MutexGuard<'_, ()> = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        let (memory, bytes) = self.map_start(Access::ReadWrite, Mapping::read_write)?;
        let mut table = self.load(&memory, bytes)?;
        let result = how(&mut table)?;
        let store = BlobStore::new(memory, TABLE_AT, TABLE_CAPACITY)?;
        // Of a device of the first version, only one copy counts; it makes no difference there.
        store.store_twice(&table.to_bytes()).map_err(|error| self.damaged(error))?;
        Ok(result)
    }

    fn load<M: PoolRead>(&self, memory: &M, bytes: u64) -> Result<Table, PoolError> {
        let twice = self.check_head(memory, bytes)?;
        read_table(memory, bytes, twice).map_err(|error| self.damaged(error))
    }

    /// Maps head and table.
    fn map_start<M>(
        &self,
        access: Access,
        map: impl FnOnce(&Extent) -> Result<M, crate::mem::MapError>,
    ) -> Result<(M, u64), PoolError> {
        let file = self.open_device(access)?;
        let bytes = device_bytes(file.as_fd()).map_err(|error| PoolError::file("examine", &self.device, error))?;
        if bytes < FILES_AT {
            return Err(PoolError::NotAPool(self.device.clone()));
        }
        Ok((map(&Extent::new(file.into(), Offset::ZERO, FILES_AT)?)?, bytes))
    }

    /// Whether head and table are there twice. A head that is damaged is told from none by its copy, or else by the table
    /// behind it.
    fn check_head<M: PoolRead>(&self, memory: &M, bytes: u64) -> Result<bool, PoolError> {
        let refused = |error| PoolError::file("read", &self.device, io::Error::other(error));
        let load = |at| match Head::load(memory, at) {
            Ok(head) => Ok(Ok(head)),
            Err(ReadHeaderError::Header(error)) => Ok(Err(error)),
            Err(ReadHeaderError::Access(error)) => Err(refused(error)),
        };
        let is_twin = |head: &Head| head.preamble.version() >= TWICE_SINCE;
        let holds_pool = |twice| read_table(memory, bytes, twice).is_ok_and(|table| table.find(SUPERBLOCK).is_some());
        let found = match load(Offset::ZERO)? {
            Ok(head) => Ok(head),
            Err(error) => load(HEAD_COPY_AT)?.ok().filter(is_twin).ok_or(error),
        };
        match found {
            Ok(head) if head.device_bytes.get() == bytes => Ok(is_twin(&head)),
            Ok(head) => Err(self.damaged(DeviceError::Length { found: bytes, expected: head.device_bytes.get() })),
            Err(error) if holds_pool(true) => Err(self.damaged(error)),
            Err(_) => Err(PoolError::NotAPool(self.device.clone())),
        }
    }

    fn damaged(&self, source: impl Into<DeviceError>) -> PoolError {
        PoolError::Device { path: self.device.clone(), source: source.into() }
    }

    fn extent(&self, entry: &Entry, access: Access) -> Result<Extent, PoolError> {
        Ok(Extent::new(self.open_device(access)?.into(), Offset::new(entry.at), entry.len)?)
    }

    fn missing(&self, action: &'static str) -> PoolError {
        PoolError::file(action, &self.device.join(&self.name), io::Error::from(io::ErrorKind::NotFound))
    }
}

/// `twice`: whichever copy is whole counts.
fn read_table<M: PoolRead>(memory: &M, device_bytes: u64, twice: bool) -> Result<Table, DeviceError> {
    let store = BlobStore::new(memory, TABLE_AT, TABLE_CAPACITY)?;
    let stored = if twice { store.load_twin()?.0 } else { store.load()? };
    Ok(Table::parse(&stored.ok_or(DeviceError::NoTable)?, FILES_AT, device_bytes)?)
}

/// Writes both copies of the head, the second one first: as long as the first is there, it says what is behind it.
pub(crate) fn write_heads<M: PoolWrite>(memory: &M, device_bytes: u64) -> Result<(), AccessError> {
    let device_bytes = U64::new(device_bytes);
    let head = Head { preamble: Head::preamble(), device_bytes, reserved: [0; 32], closing: OPEN };
    for at in [HEAD_COPY_AT, Offset::ZERO] {
        memory.write(at, &head.sealed_bytes())?;
        planted::settle(memory, at, len_u64(HEAD_BYTES), Laid::DeviceHead)?;
    }
    Ok(())
}

/// Which copies of the head are damaged.
pub(crate) fn wrong_heads<M: PoolRead>(memory: &M) -> Result<Vec<(&'static str, HeaderError)>, AccessError> {
    let mut wrong = Vec::new();
    for (copy, at) in [("first", Offset::ZERO), ("second", HEAD_COPY_AT)] {
        match Head::load(memory, at) {
            Ok(_) => {}
            Err(ReadHeaderError::Header(error)) => wrong.push((copy, error)),
            Err(ReadHeaderError::Access(error)) => return Err(error),
        }
    }
    Ok(wrong)
}

pub(crate) fn wipe_head<M: PoolWrite>(memory: &M) -> Result<(), AccessError> {
    memory.write(Offset::ZERO, &[0; PAGE_BYTES])?;
    planted::settle(memory, Offset::ZERO, PAGE_SIZE, Laid::DeviceWipe)
}

/// Journals, record logs and heartbeat pages, finished or not.
fn is_written_by_hosts(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    ["journal.", "log.", "heartbeat."].iter().any(|prefix| file.starts_with(prefix))
}
