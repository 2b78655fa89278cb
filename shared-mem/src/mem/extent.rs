//! A piece of the pool as it is handed around: a descriptor with just the right access, and a range in it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl};
use thiserror::Error;

use super::backing::{available_bytes, page_bytes};
use crate::journal::{SpillError, SpillSpace};
use crate::numbers::{Offset, PAGE_SIZE};

/// What a descriptor may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// The kernel refuses every write and every shared writable mapping.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

/// An extent could not be made or passed on.
#[derive(Debug, Error)]
pub enum ExtentError {
    /// Mappings begin at pages.
    #[error("extent begins at {offset}, which is no multiple of {PAGE_SIZE}")]
    Misaligned {
        /// The offset asked for.
        offset: u64,
    },
    /// The descriptor could not be duplicated or examined.
    #[error("cannot use the descriptor of an extent")]
    Descriptor(#[source] io::Error),
}

/// A range of a file or device that holds one structure of the pool.
///
/// On tmpfs each structure has its own file and the offset is 0; on a DAX device all share one descriptor.
#[derive(Debug)]
pub struct Extent {
    fd: OwnedFd,
    offset: Offset,
    len: u64,
}

impl Extent {
    /// An extent over a descriptor, for example one received over a socket.
    ///
    /// # Errors
    /// When `offset` is not a multiple of the page size.
    pub fn new(fd: OwnedFd, offset: Offset, len: u64) -> Result<Self, ExtentError> {
        if offset.get().is_multiple_of(PAGE_SIZE) {
            Ok(Self { fd, offset, len })
        } else {
            Err(ExtentError::Misaligned { offset: offset.get() })
        }
    }

    /// The same extent over a duplicate of the descriptor (same open file description, same access).
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone(&self) -> Result<Self, ExtentError> {
        Ok(Self { fd: self.fd.try_clone().map_err(ExtentError::Descriptor)?, offset: self.offset, len: self.len })
    }

    /// Its first `len` bytes.
    ///
    /// # Errors
    /// Never, for an extent that was made.
    pub(crate) fn first(self, len: u64) -> Result<Self, ExtentError> {
        assert!(len <= self.len, "the first part of an extent lies within it");
        Self::new(self.fd, self.offset, len)
    }

    /// Where the extent begins in its file.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the extent has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the kernel lets the holder of this descriptor do.
    ///
    /// # Errors
    /// When the descriptor cannot be examined.
    pub fn access(&self) -> Result<Access, ExtentError> {
        let flags = fcntl(&self.fd, FcntlArg::F_GETFL).map_err(|errno| ExtentError::Descriptor(errno.into()))?;
        if OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE == OFlag::O_RDONLY {
            Ok(Access::ReadOnly)
        } else {
            Ok(Access::ReadWrite)
        }
    }

    /// The descriptor, to be passed on.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// The descriptor as a file of its own.
    pub(crate) fn to_file(&self) -> Result<File, ExtentError> {
        Ok(File::from(self.fd.try_clone().map_err(ExtentError::Descriptor)?))
    }

    /// Size of the pages that its file is made of: those of hugetlbfs, or the processor's.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn page_bytes(&self) -> io::Result<u64> {
        page_bytes(&self.fd)
    }

    /// Space that the file system has left for more.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn available_bytes(&self) -> io::Result<u64> {
        available_bytes(&self.fd)
    }

    /// Takes space for a range in which somebody else writes, or may have written already: where the pool cannot give all of
    /// it, as much as there is stays there on hugetlbfs, until whoever writes there has asked for it in vain.
    ///
    /// # Errors
    /// When the pool has less, or the kernel refuses.
    pub fn offer(&self, at: Offset, len: u64) -> Result<(), SpillError> {
        match self.allocate(FallocateFlags::empty(), at, len) {
            Ok(()) => Ok(()),
            Err(nix::Error::ENOSPC) => {
                // Only told: what cannot be asked is shown as nothing.
                Err(SpillError::NoSpace { needed: len, available: available_bytes(&self.fd).unwrap_or(0) })
            }
            // A device has all its space from the start.
            Err(nix::Error::ENODEV | nix::Error::EOPNOTSUPP | nix::Error::ESPIPE) => Ok(()),
            Err(errno) => Err(SpillError::Refused(errno.into())),
        }
    }

    fn allocate(&self, flags: FallocateFlags, at: Offset, len: u64) -> nix::Result<()> {
        let start = i64::try_from(self.offset.plus(at.get()).get()).map_err(|_| nix::Error::EFBIG)?;
        let len = i64::try_from(len).map_err(|_| nix::Error::EFBIG)?;
        loop {
            // What was taken until a signal came is given back by tmpfs, and found again on hugetlbfs.
            match fallocate(&self.fd, flags | FallocateFlags::FALLOC_FL_KEEP_SIZE, start, len) {
                Err(nix::Error::EINTR) => {}
                done => return done,
            }
        }
    }
}

impl AsFd for Extent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl SpillSpace for Extent {
    fn reserve(&self, at: Offset, len: u64) -> Result<(), SpillError> {
        let offered = self.offer(at, len);
        // On tmpfs the call takes all or nothing; on hugetlbfs it keeps what it got.
        if matches!(offered, Err(SpillError::NoSpace { .. }))
            && page_bytes(&self.fd).is_ok_and(|bytes| bytes > PAGE_SIZE)
        {
            self.release(at, len)?;
        }
        offered
    }

    fn reserve_spare(&self, at: Offset, len: u64, spare: u64) -> Result<(), SpillError> {
        let available = self.available()?;
        if available < spare.saturating_add(len) {
            return Err(SpillError::NoSpace { needed: len, available });
        }
        self.reserve(at, len)
    }

    fn available(&self) -> Result<u64, SpillError> {
        self.available_bytes().map_err(SpillError::Refused)
    }

    fn release(&self, at: Offset, len: u64) -> Result<(), SpillError> {
        match self.allocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE, at, len) {
            Ok(()) | Err(nix::Error::ENODEV | nix::Error::EOPNOTSUPP | nix::Error::ESPIPE) => Ok(()),
            Err(errno) => Err(SpillError::Refused(errno.into())),
        }
    }
}
