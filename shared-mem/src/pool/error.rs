//! What can go wrong with a pool as a whole.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::device::DeviceError;
use crate::blob_store::BlobError;
use crate::boot_image::BootImageError;
use crate::console::ConsoleError;
use crate::control::ControlError;
use crate::disk_image::FillDiskError;
use crate::journal::FormatJournalError;
use crate::mem::{ExtentError, MapError};
use crate::numbers::{HostSlot, VmSlot};
use crate::record_log::{CopyLogError, FormatLogError};
use crate::superblock::SuperblockError;
use crate::vm_directory::{DirectoryError, GeometryError, VmName};

/// An operation on the pool failed.
#[derive(Debug, Error)]
pub enum PoolError {
    /// Another controller holds the pool.
    #[error("pool {} is in use by another controller", .0.display())]
    AlreadyLocked(PathBuf),
    /// There is no pool at the path, or one that was never completed.
    #[error("{} holds no pool", .0.display())]
    NotAPool(PathBuf),
    /// What a pool is known by is gone, and the rest of it is there.
    #[error("pool {} has no file `superblock`: {vms} of its VMs and its other files are still there", path.display())]
    SuperblockMissing {
        /// The pool.
        path: PathBuf,
        /// How many directories of VMs there are.
        vms: usize,
    },
    /// The path for a new pool is taken.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// The memory behind the pool cannot hold what was asked for.
    #[error("{what} needs {needed} bytes, the pool has {available} left")]
    NoSpace {
        /// What was to be made.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes left.
        available: u64,
    },
    /// Guest memory ends within a page of the pool.
    #[error("guest memory of {memory_bytes} bytes is no multiple of the pool's pages of {page_bytes} bytes")]
    PartOfPage {
        /// Guest memory.
        memory_bytes: u64,
        /// Size of a page.
        page_bytes: u64,
    },
    /// All VM slots are taken.
    #[error("the pool has no VM slot left of {slots}")]
    NoFreeSlot {
        /// Slots there are.
        slots: u16,
    },
    /// Another VM has the name.
    #[error("VM {0} exists")]
    NameTaken(VmName),
    /// No VM has the name.
    #[error("there is no VM {0}")]
    NoSuchVm(VmName),
    /// The VM slot is free.
    #[error("VM slot {0} is free")]
    SlotFree(VmSlot),
    /// The pool has no heartbeat page for the host.
    #[error("the pool has {slots} host slots, there is no slot {slot}")]
    NoSuchHost {
        /// Slot asked for.
        slot: HostSlot,
        /// Slots there are.
        slots: u16,
    },
    /// The VM was made without a disk.
    #[error("the VM has no disk")]
    NoDisk,
    /// The disk could not be filled.
    #[error("the disk image cannot be filled")]
    FillDisk(#[from] FillDiskError),
    /// A pool opened for inspection is never written.
    #[error("the pool is opened for inspection only")]
    Inspection,
    /// The numbers of the new pool are out of range.
    #[error("no pool can be made like that")]
    Config(#[source] SuperblockError),
    /// The superblock is refused.
    #[error("pool {} cannot be opened", path.display())]
    Superblock {
        /// The pool.
        path: PathBuf,
        /// What is wrong.
        source: SuperblockError,
    },
    /// The beginning of the pool's device is refused.
    #[error("device {} cannot be used", path.display())]
    Device {
        /// The device.
        path: PathBuf,
        /// What is wrong.
        source: DeviceError,
    },
    /// The VM directory is refused.
    #[error("the VM directory cannot be used")]
    Directory(#[from] DirectoryError),
    /// The shape of the new VM is not possible.
    #[error("no VM can be made like that")]
    Geometry(#[from] GeometryError),
    /// The cluster state is refused.
    #[error("the cluster state cannot be used")]
    Cluster(#[from] BlobError),
    /// The control block could not be laid out.
    #[error("the control block cannot be used")]
    Control(#[from] ControlError),
    /// The console could not be laid out.
    #[error("the console cannot be used")]
    Console(#[from] ConsoleError),
    /// The journal could not be laid out.
    #[error("the journal cannot be laid out")]
    Journal(#[from] FormatJournalError),
    /// The record log could not be laid out.
    #[error("the record log cannot be laid out")]
    Log(#[from] FormatLogError),
    /// The record log could not be carried over.
    #[error("the record log cannot be carried over")]
    CopyLog(#[from] CopyLogError),
    /// The boot image could not be stored.
    #[error("the boot image cannot be stored")]
    Boot(#[from] BootImageError),
    /// A file could not be mapped.
    #[error("a file of the pool cannot be mapped")]
    Map(#[from] MapError),
    /// An extent could not be made.
    #[error("an extent of the pool cannot be made")]
    Extent(#[from] ExtentError),
    /// A file is shorter than what says how long it is has it.
    #[error("{} has {found} bytes, expected {expected} at least", path.display())]
    FileLength {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The length it should have.
        expected: u64,
    },
    /// A file is being cut off under its controller, which makes it anew; what was written meanwhile is lost.
    #[error("{} was cut off, and what was written to it is lost: try again", path.display())]
    CutOff {
        /// The file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl PoolError {
    /// Whether it says that there is no such file.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    pub(super) fn file(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::File { action, path: path.to_owned(), source: source.into() }
    }
}
