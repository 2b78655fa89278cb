//! The files of the pool itself, which its controller has mapped: what somebody removes or cuts off under it is made anew.
//!
//! Of a file that is gone the mapping still has everything. Of one that is cut off it has lost pages, and what is written to
//! those is written to nobody ([`is_torn`](Mapping::is_torn)): the controller goes by what it knows.

use std::fs;
use std::io;
use std::path::Path;

use super::error::PoolError;
use super::files;
use super::open::Pool;
use super::reserve::{NewFile, copy_whole};
use crate::blob_store::{self, BlobStore};
use crate::mem::{Extent, Mapping, PoolRead, PoolWrite, ReadWrite};
use crate::numbers::{Offset, PAGE_SIZE, VmSlot, round_up};
use crate::planted::{self, Laid};
use crate::vm_directory::{VmDirectory, VmEntry, directory_file_bytes};

/// What became of a file under its controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// It has no name any more.
    Gone,
    /// It is shorter than it was, or has been since it was mapped.
    CutOff,
}

impl Loss {
    /// What became of the file, if anything did. On a device nothing can.
    fn of(path: &Path, memory: &Mapping<ReadWrite>) -> Result<Option<Self>, PoolError> {
        if super::device::place(path).is_some() {
            return Ok(None);
        }
        match fs::symlink_metadata(path) {
            Ok(found) if memory.is_torn() || (found.is_file() && found.len() < memory.len()) => Ok(Some(Self::CutOff)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound && memory.is_torn() => Ok(Some(Self::CutOff)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(Self::Gone)),
            Err(error) => Err(PoolError::file("examine", path, error)),
        }
    }

    fn line(self, name: &str) -> String {
        match self {
            Self::Gone => format!("the file `{name}`: it was gone"),
            Self::CutOff => format!("the file `{name}`: it was cut off"),
        }
    }
}

/// Length of the cluster state's file in a new pool.
pub(super) fn cluster_file_bytes(cluster_bytes: u64) -> u64 {
    round_up(blob_store::total_bytes(cluster_bytes), PAGE_SIZE)
}

impl Pool {
    /// Replaces the cluster's state, durably. A file that turns out to be gone or cut off is made anew with it.
    ///
    /// # Errors
    /// When the state is too large, or the pool refuses: then it may or may not be stored.
    pub fn store_cluster(&mut self, state: &[u8]) -> Result<(), PoolError> {
        self.cluster.store_twice(state)?;
        // Behind the stores: they are what meets a lost page.
        let renewed = self.renew_cluster(Some(state))?;
        self.unsaid.extend(renewed);
        Ok(())
    }

    /// Makes files again that are gone or cut off, from what this controller has of them, and of the cluster state from what
    /// was stored last.
    pub(super) fn look_after_files(&mut self, stored: Option<&[u8]>) -> Result<Vec<String>, PoolError> {
        let mut mended = std::mem::take(&mut self.unsaid);
        mended.extend(self.lock.look_after(&self.path)?);
        mended.extend(self.renew_cluster(stored)?);
        mended.extend(self.renew_directory()?);
        Ok(mended)
    }

    fn renew_cluster(&mut self, stored: Option<&[u8]>) -> Result<Option<String>, PoolError> {
        let (path, bytes) = (self.path.join(files::CLUSTER), self.superblock.cluster_bytes);
        let Some(loss) = Loss::of(&path, self.cluster.memory())? else { return Ok(None) };
        let lost = self.cluster.memory();
        self.cluster = NewFile::whole(&path, "the cluster state", cluster_file_bytes(bytes)).create(|extent| {
            let fresh = BlobStore::new(Mapping::read_write(extent)?, Offset::ZERO, bytes)?;
            match (loss, stored) {
                (Loss::Gone, _) => copied(&path, lost, fresh.memory())?,
                (Loss::CutOff, Some(state)) => {
                    fresh.format()?;
                    fresh.store_twice(state)?;
                }
                // Whatever is left is more than nothing.
                (Loss::CutOff, None) => copied(&path, lost, fresh.memory())?,
            }
            Ok(fresh)
        })?;
        Ok(Some(loss.line(files::CLUSTER)))
    }

    fn renew_directory(&mut self) -> Result<Option<String>, PoolError> {
        let (path, slots) = (self.path.join(files::VM_DIRECTORY), self.superblock.vm_slots);
        let Some(loss) = Loss::of(&path, self.directory.memory())? else {
            self.know_directory()?;
            return Ok(None);
        };
        let (lost, known) = (self.directory.memory(), self.directory_bytes.lock());
        let known = known.unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        self.directory = NewFile::whole(&path, "the VM directory", lost.len()).create(|extent: &Extent| {
            let fresh = Mapping::read_write(extent)?;
            match loss {
                Loss::Gone => copied(&path, lost, &fresh)?,
                Loss::CutOff => {
                    let refused = |error| PoolError::file("write", &path, io::Error::other(error));
                    fresh.write(Offset::ZERO, &known).map_err(refused)?;
                    planted::settle(&fresh, Offset::ZERO, fresh.len(), Laid::CopiedFile).map_err(refused)?;
                }
            }
            Ok(VmDirectory::open(fresh, slots)?)
        })?;
        Ok(Some(loss.line(files::VM_DIRECTORY)))
    }

    /// Replaces a VM's entry, durably.
    pub(super) fn set_entry(&self, slot: VmSlot, entry: Option<&VmEntry>) -> Result<(), PoolError> {
        self.directory.set_entry(slot, entry)?;
        self.know_directory()
    }

    /// Keeps what the VM directory says, as long as it can be read: once it is cut off this is all that there is of it.
    pub(super) fn know_directory(&self) -> Result<(), PoolError> {
        let path = self.path.join(files::VM_DIRECTORY);
        let memory = self.directory.memory();
        let len =
            usize::try_from(directory_file_bytes(self.superblock.vm_slots)).expect("a directory fits into memory");
        let mut bytes = vec![0; len];
        memory
            .read(Offset::ZERO, &mut bytes)
            .map_err(|error| PoolError::file("read", &path, io::Error::other(error)))?;
        // Behind the read, which is what meets a lost page.
        if Loss::of(&path, memory)? == Some(Loss::CutOff) {
            return Err(PoolError::CutOff { path });
        }
        *self.directory_bytes.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = bytes;
        Ok(())
    }
}

/// Copies all that is left of a file to the one that takes its place.
fn copied(path: &Path, from: &Mapping<ReadWrite>, to: &Mapping<ReadWrite>) -> Result<(), PoolError> {
    copy_whole(from, to).map_err(|error| PoolError::file("write", path, io::Error::other(error)))
}
