//! A disk whose image is a file, for guests that nobody protects.
//!
//! The file is written where the guest flushes, when many written blocks are kept, and at the guest's end. In between it has what the
//! guest flushed last, and perhaps some of what it wrote since: what a disk with a cache has.

use crate::machine::device::virtio::{Disk, DiskBase, DiskError};
use ft_protocol::Epoch;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Written blocks that are kept in memory before the file gets them.
const KEPT_BLOCKS_MAX: usize = 8192;

/// Why a file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskFileError {
    /// It cannot be opened or made.
    #[error("cannot open the disk's file {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody else has it.
    #[error("the disk's file {path} is in use by another guest")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It has another size than was asked for.
    #[error("the disk's file {path} has {bytes} bytes, not {asked}: leave the size out, or name another file")]
    OtherSize {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// What was asked for.
        asked: u64,
    },
    /// Its size is that of no disk.
    #[error("the file {path} cannot be a disk")]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: DiskError,
    },
    /// It cannot be written.
    #[error("cannot write the disk's file {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A disk in a file.
#[derive(Debug)]
pub struct DiskFile {
    path: PathBuf,
    file: File,
    disk: Arc<Mutex<Disk>>,
    writes: u64,
}

impl DiskFile {
    /// Opens the file; where a size is given and there is no file, makes one.
    ///
    /// # Errors
    /// It is not there, not permitted, in use, or no disk.
    pub fn open(path: &Path, bytes: Option<u64>) -> Result<Self, DiskFileError> {
        let path = path.to_owned();
        let unfit = |source| DiskFileError::Unfit { path: path.clone(), source };
        if let Some(bytes) = bytes {
            // Before a file is made for it.
            Disk::new(DiskBase::Zeroes, bytes).map_err(unfit)?;
        }
        let failed = |source| DiskFileError::Open { path: path.clone(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(bytes.is_some()).truncate(false);
        let file = options.open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DiskFileError::InUse { path }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let found = file.metadata().map_err(failed)?.len();
        let size = match bytes {
            Some(asked) if found == 0 => {
                file.set_len(asked).map_err(failed)?;
                asked
            }
            Some(asked) if asked != found => return Err(DiskFileError::OtherSize { path, bytes: found, asked }),
            _ => found,
        };
        let disk = Disk::new(DiskBase::File(file.try_clone().map_err(failed)?), size).map_err(unfit)?;
        Ok(Self { path, file, disk: Arc::new(Mutex::new(disk)), writes: 0 })
    }

    /// The disk's size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        lock(&self.disk).bytes()
    }

    /// The file as it is now, for somebody else who reads it.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn reader(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// The disk, for the guest's device.
    #[must_use]
    pub fn disk(&self) -> Arc<Mutex<Disk>> {
        self.disk.clone()
    }

    /// Writes if there is much to be written.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn relieve(&mut self) -> Result<(), DiskFileError> {
        if lock(&self.disk).kept_blocks() > KEPT_BLOCKS_MAX { self.write() } else { Ok(()) }
    }

    /// Writes all that the guest has written, and has it outlive the machine.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(&mut self) -> Result<(), DiskFileError> {
        self.write()?;
        self.file.sync_data().map_err(|source| DiskFileError::Write { path: self.path.clone(), source })
    }

    fn write(&mut self) -> Result<(), DiskFileError> {
        let mut disk = lock(&self.disk);
        for (block, content) in disk.dirty_blocks() {
            let written = self.file.write_all_at(content, block.offset().get());
            written.map_err(|source| DiskFileError::Write { path: self.path.clone(), source })?;
        }
        self.writes += 1;
        let epoch = Epoch::new(self.writes);
        disk.committed(epoch);
        disk.applied(epoch);
        Ok(())
    }
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    // Every change of a disk is whole even if its thread panics behind it.
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_once_and_kept() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("disk");
        assert!(matches!(DiskFile::open(&path, None), Err(DiskFileError::Open { .. })), "nobody said its size");
        assert!(matches!(DiskFile::open(&path, Some(100)), Err(DiskFileError::Unfit { .. })));
        assert!(!path.exists(), "nothing is left behind");
        let file = DiskFile::open(&path, Some(8192)).unwrap();
        assert!(matches!(DiskFile::open(&path, None), Err(DiskFileError::InUse { .. })));
        drop(file);
        assert_eq!(lock(&DiskFile::open(&path, None).unwrap().disk()).bytes(), 8192);
        assert_eq!(lock(&DiskFile::open(&path, Some(8192)).unwrap().disk()).bytes(), 8192);
        let other = DiskFile::open(&path, Some(4096)).unwrap_err();
        assert!(matches!(other, DiskFileError::OtherSize { bytes: 8192, asked: 4096, .. }));
        std::fs::write(&path, b"short").unwrap();
        assert!(matches!(DiskFile::open(&path, None), Err(DiskFileError::Unfit { .. })));
    }

    #[test]
    fn what_is_flushed_is_in_the_file_and_in_no_memory() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("disk");
        let mut file = DiskFile::open(&path, Some(3 * 4096)).unwrap();
        lock(&file.disk()).write(4095, &[7; 4098]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), vec![0; 3 * 4096]);
        file.relieve().unwrap();
        assert_eq!(lock(&file.disk()).kept_blocks(), 3, "that is not much");
        file.flush().unwrap();
        let mut expected = vec![0; 3 * 4096];
        expected[4095..4095 + 4098].fill(7);
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        assert_eq!(lock(&file.disk()).kept_blocks(), 0);
    }
}
