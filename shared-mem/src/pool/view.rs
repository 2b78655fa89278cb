//! A pool as an onlooker sees it.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::device::{self, Table};
use super::error::PoolError;
use super::files;
use super::lock;
use super::open::{list, open_cluster};
use super::reserve::open_extent;
use crate::blob_store::BlobStore;
use crate::heartbeat::HEARTBEAT_BYTES;
use crate::mem::{Access, Extent, FlushKind, Mapping, ReadOnly, available_bytes};
use crate::numbers::{HostSlot, Offset, VmSlot};
use crate::superblock::{Superblock, TWICE_SINCE};
use crate::vm_directory::{VmDirectory, VmEntry};

/// A pool as an onlooker sees it, alive or dead: nothing is locked, written or cleaned up.
#[derive(Debug)]
pub struct PoolView {
    pub(super) path: PathBuf,
    pub(super) superblock: Superblock,
    pub(super) directory: VmDirectory<Mapping<ReadOnly>>,
    /// What is wrong with one of the superblock's copies.
    pub(super) superblock_copy: Option<String>,
}

/// A copy of something that is there twice is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongCopy {
    /// The file.
    pub file: &'static str,
    /// Which copy, and what is wrong with it.
    pub what: String,
    /// It is the one that is read first. The other one is replaced first, and may be half of what was to come.
    pub counts: bool,
}

impl PoolView {
    /// What kind of pool this is.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The VM directory.
    #[must_use]
    pub fn directory(&self) -> &VmDirectory<Mapping<ReadOnly>> {
        &self.directory
    }

    /// The cluster's state.
    ///
    /// # Errors
    /// When the file cannot be mapped.
    pub fn cluster(&self) -> Result<BlobStore<Mapping<ReadOnly>>, PoolError> {
        let extent = open_cluster(&self.path, &self.superblock, Access::ReadOnly)?;
        let memory = Mapping::read_only(&extent)?;
        Ok(BlobStore::new(memory, Offset::ZERO, self.superblock.cluster_bytes)?)
    }

    /// The cluster's state, as a controller that starts now would find it.
    ///
    /// # Errors
    /// When no copy of it is whole.
    pub fn load_cluster(&self) -> Result<Option<Vec<u8>>, PoolError> {
        let store = self.cluster()?;
        if self.superblock.layout < TWICE_SINCE { Ok(store.load()?) } else { Ok(store.load_twin()?.0) }
    }

    /// What an entry of the VM directory says; `None`: the slot is free.
    ///
    /// # Errors
    /// When no copy of it is whole.
    pub fn entry(&self, slot: VmSlot) -> Result<Option<VmEntry>, PoolError> {
        let twice = self.superblock.layout >= TWICE_SINCE;
        Ok(if twice { self.directory.entry_twin(slot)?.0 } else { self.directory.entry(slot)? })
    }

    /// Copies that are damaged of what is there twice, as long as the other one is whole.
    ///
    /// # Errors
    /// When the pool cannot be read.
    pub fn wrong_copies(&self) -> Result<Vec<WrongCopy>, PoolError> {
        let device = device::whole(&self.path).map(|place| place.wrong_copies()).transpose()?.unwrap_or_default();
        let device = device.into_iter().map(|(what, counts)| WrongCopy { file: "device", what, counts });
        let mut wrong: Vec<WrongCopy> = device.collect();
        if self.superblock.layout < TWICE_SINCE {
            return Ok(wrong);
        }
        let superblock = self.superblock_copy.iter().cloned();
        wrong.extend(superblock.map(|what| WrongCopy { file: files::SUPERBLOCK, what, counts: true }));
        let mut add = |file, what, counts| wrong.push(WrongCopy { file, what, counts });
        for slot in self.directory.slots() {
            if let Ok((_, Some(error))) = self.directory.entry_twin(slot) {
                add(files::VM_DIRECTORY, format!("the copy of entry {slot} that counts: {error}"), true);
            }
        }
        for (copy, error) in self.directory.check_copies()? {
            let counts = copy.contains("header");
            add(files::VM_DIRECTORY, format!("{copy}: {error}"), counts);
        }
        let cluster = self.cluster()?;
        if let Ok((_, Some(error))) = cluster.load_twin() {
            add(files::CLUSTER, format!("the copy that counts: {error}"), true);
        } else if let Ok(Some(error)) = cluster.check_other() {
            add(files::CLUSTER, format!("the other copy: {error}"), false);
        }
        Ok(wrong)
    }

    /// The heartbeat page of a host.
    ///
    /// # Errors
    /// When there is no such host slot, or the file cannot be opened.
    pub fn heartbeat(&self, host: HostSlot) -> Result<Extent, PoolError> {
        let path = files::heartbeat(&self.path, host);
        open_extent(&path, Access::ReadOnly, Some(HEARTBEAT_BYTES))
    }

    /// How this process would flush what it writes there.
    #[must_use]
    pub fn flush_kind(&self) -> FlushKind {
        self.directory.memory().flush_kind()
    }

    /// Where the pool lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a controller holds the pool at this moment. Asks without taking the lock: a controller that starts
    /// meanwhile does not notice.
    ///
    /// # Errors
    /// When directory or lock file cannot be opened or asked about.
    pub fn is_locked(&self) -> Result<bool, PoolError> {
        lock::is_held(&self.path)
    }

    /// What the memory behind the pool has left.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn available_bytes(&self) -> Result<u64, PoolError> {
        if let Some(place) = device::whole(&self.path) {
            return place.available_bytes();
        }
        let available = File::open(&self.path).and_then(|directory| available_bytes(&directory));
        available.map_err(|error| PoolError::file("examine", &self.path, error))
    }

    /// The table of the device that the pool lies on; `None`: it lies in a directory.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn device_table(&self) -> Result<Option<Table>, PoolError> {
        device::whole(&self.path).map(|place| place.table()).transpose()
    }

    /// Names of all files and directories in the pool's directory, sorted.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn file_names(&self) -> Result<Vec<String>, PoolError> {
        Ok(list(&self.path)?.into_iter().map(|(name, _)| name).collect())
    }
}
