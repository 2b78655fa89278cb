//! Making files of the pool with their space, so that no later store finds the pool full.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

use super::device::{self, Place};
use super::error::PoolError;
use crate::mem::{Access, AccessError, Extent, Mapping, PoolRead, PoolWrite, available_bytes, page_bytes};
use crate::numbers::{Offset, PAGE_BYTES, PAGE_SIZE, round_up};
use crate::planted::{self, Laid};

/// Files of the pool belong to its controller alone; others get descriptors.
const FILE_MODE: u32 = 0o600;

/// A file to be made.
pub(super) struct NewFile<'a> {
    pub(super) path: &'a Path,
    pub(super) what: &'static str,
    pub(super) len: u64,
    /// Parts that get their space now; the rest gets it when it is written.
    pub(super) reserved: Vec<(Offset, u64)>,
}

impl<'a> NewFile<'a> {
    /// A file that has all its space from the start.
    pub(super) fn whole(path: &'a Path, what: &'static str, len: u64) -> Self {
        Self { path, what, len, reserved: vec![(Offset::ZERO, len)] }
    }

    /// A file that takes its space as it is written.
    pub(super) fn sparse(path: &'a Path, what: &'static str, len: u64) -> Self {
        Self { path, what, len, reserved: Vec::new() }
    }

    /// Makes the file under a temporary name, lets `fill` write it, and renames it into place.
    pub(super) fn create<T>(&self, fill: impl FnOnce(&Extent) -> Result<T, PoolError>) -> Result<T, PoolError> {
        let unfinished = unfinished_name(self.path);
        if let (Some(place), Some(to)) = (device::place(&unfinished), device::place(self.path)) {
            return self.create_on_device(&place, &to, fill);
        }
        let result = self.create_at(&unfinished, fill).and_then(|value| {
            fs::rename(&unfinished, self.path).map_err(|error| PoolError::file("rename", &unfinished, error))?;
            Ok(value)
        });
        if result.is_err() {
            // The first error is the one to tell; a leftover is removed when the pool is opened.
            let _ = fs::remove_file(&unfinished);
        }
        result
    }

    /// On a device a file has all its space from the start. What was there before is zeroed, but for the parts that get their
    /// meaning from what is written to them.
    fn create_on_device<T>(
        &self,
        place: &Place,
        to: &Place,
        fill: impl FnOnce(&Extent) -> Result<T, PoolError>,
    ) -> Result<T, PoolError> {
        let extent = place.create(self.what, self.len)?;
        let whole = [(Offset::ZERO, self.len)];
        let zeroed = if self.reserved.is_empty() { &whole } else { self.reserved.as_slice() };
        let result = zero(&extent, zeroed).map_err(|error| PoolError::file("zero", self.path, error));
        let result = result.and_then(|()| fill(&extent)).and_then(|value| {
            place.rename(to)?;
            Ok(value)
        });
        if result.is_err() {
            // The first error is the one to tell; a leftover is removed when the pool is opened.
            let _ = place.remove();
        }
        result
    }

    fn create_at<T>(&self, path: &Path, fill: impl FnOnce(&Extent) -> Result<T, PoolError>) -> Result<T, PoolError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(|error| PoolError::file("create", path, error))?;
        self.reserve(&file, path)?;
        fill(&Extent::new(file.into(), Offset::ZERO, self.len)?)
    }

    fn reserve(&self, file: &File, path: &Path) -> Result<(), PoolError> {
        let page_bytes = page_bytes(file).map_err(|error| PoolError::file("examine", path, error))?;
        let len = if page_bytes == PAGE_SIZE { self.len } else { round_up(self.len, page_bytes) };
        file.set_len(len).map_err(|error| PoolError::file("set the length of", path, error))?;
        let needed: u64 = self.reserved.iter().map(|(_, len)| round_up(*len, page_bytes)).sum();
        // Parts next to each other may share a large page.
        let needed = needed.min(round_up(len, page_bytes));
        let available = available_bytes(file).map_err(|error| PoolError::file("examine", path, error))?;
        let no_space = PoolError::NoSpace { what: self.what, needed, available };
        // Asked beforehand, because tmpfs fills up all it has before it says no.
        if needed > available {
            return Err(no_space);
        }
        for (at, len) in &self.reserved {
            match allocate(file, *at, *len) {
                Ok(()) => {}
                Err(nix::Error::ENOSPC) => return Err(no_space),
                Err(errno) => return Err(PoolError::file("reserve space for", path, errno)),
            }
        }
        Ok(())
    }
}

fn zero(extent: &Extent, parts: &[(Offset, u64)]) -> io::Result<()> {
    let memory = Mapping::read_write(extent).map_err(io::Error::other)?;
    zero_parts(&memory, parts).map_err(io::Error::other)
}

/// Zeroes, durably.
pub(crate) fn zero_parts<M: PoolWrite>(memory: &M, parts: &[(Offset, u64)]) -> Result<(), AccessError> {
    for &(at, len) in parts {
        let mut done = 0;
        while done < len {
            let bytes = usize::try_from(len - done).unwrap_or(PAGE_BYTES).min(PAGE_BYTES);
            memory.write(at.plus(done), &[0; PAGE_BYTES][..bytes])?;
            done += PAGE_SIZE;
        }
        planted::settle(memory, at, len, Laid::ZeroedSpace)?;
    }
    Ok(())
}

/// Copies all that one memory has to another one of its length, durably.
pub(crate) fn copy_whole<R: PoolRead, W: PoolWrite>(from: &R, to: &W) -> Result<(), AccessError> {
    let mut page = [0; PAGE_BYTES];
    for at in (0..from.len()).step_by(PAGE_BYTES) {
        let page = &mut page[..usize::try_from(from.len() - at).unwrap_or(PAGE_BYTES).min(PAGE_BYTES)];
        from.read(Offset::new(at), page)?;
        to.write(Offset::new(at), page)?;
    }
    planted::settle(to, Offset::ZERO, from.len(), Laid::CopiedFile)
}

fn allocate(file: &File, at: Offset, len: u64) -> nix::Result<()> {
    let start = i64::try_from(at.get()).map_err(|_| nix::Error::EFBIG)?;
    let len = i64::try_from(len).map_err(|_| nix::Error::EFBIG)?;
    fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, start, len)
}

/// Suffix of files that are being made.
const UNFINISHED: &str = ".new";

fn unfinished_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    PathBuf::from(name)
}

/// Whether a file name is that of a file which was being made.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.ends_with(UNFINISHED)
}

/// Opens a file of the pool anew, with just the access asked for.
pub(super) fn open_extent(path: &Path, access: Access, expected: Option<u64>) -> Result<Extent, PoolError> {
    if let Some(place) = device::place(path) {
        let extent = place.open(access)?;
        let found = extent.len();
        return match expected {
            Some(expected) if found < expected => Err(PoolError::FileLength { path: path.to_owned(), found, expected }),
            Some(expected) => extent.first(expected).map_err(PoolError::from),
            None => Ok(extent),
        };
    }
    let file = OpenOptions::new()
        .read(true)
        .write(access == Access::ReadWrite)
        // Who puts a pipe there does not have us wait for its other end.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| PoolError::file("open", path, error))?;
    let metadata = file.metadata().map_err(|error| PoolError::file("examine", path, error))?;
    let found = metadata.len();
    // Whatever length it has, it has one.
    let expected = expected.unwrap_or(found.max(1));
    if found < expected || !metadata.is_file() {
        return Err(PoolError::FileLength { path: path.to_owned(), found, expected });
    }
    Ok(Extent::new(file.into(), Offset::ZERO, expected)?)
}
