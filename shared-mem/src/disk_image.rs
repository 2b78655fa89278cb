//! The first content of a VM's disk: copied from a file that somebody passed, before anybody runs the VM.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use thiserror::Error;

use crate::mem::{AccessError, PoolWrite};
use crate::numbers::{Offset, len_u64};
use crate::planted::{self, Laid};

/// How much is copied at once.
const STEP_BYTES: usize = 1 << 20;

/// A disk could not be filled.
#[derive(Debug, Error)]
pub enum FillDiskError {
    /// Reading anything else might wait for somebody, or never end.
    #[error("what the disk is to be filled from is not a regular file")]
    NotAFile,
    /// A larger file than the disk.
    #[error("a file of {found} bytes does not fit a disk of {disk_bytes} bytes")]
    TooLarge {
        /// Length of the file.
        found: u64,
        /// Length of the disk.
        disk_bytes: u64,
    },
    /// The file cannot be read, or became shorter meanwhile.
    #[error("cannot read what the disk is to be filled from")]
    Read(#[source] io::Error),
    /// The pool refused.
    #[error("cannot write the disk image")]
    Access(#[from] AccessError),
}

/// Copies a file to the beginning of a disk that is all zero, durably.
///
/// # Errors
/// When the file is not a regular one, does not fit, or cannot be read, or the pool refuses.
pub fn fill<M: PoolWrite>(disk: &M, from: impl AsFd) -> Result<(), FillDiskError> {
    let file = File::from(from.as_fd().try_clone_to_owned().map_err(FillDiskError::Read)?);
    let metadata = file.metadata().map_err(FillDiskError::Read)?;
    if !metadata.is_file() {
        return Err(FillDiskError::NotAFile);
    }
    let (found, disk_bytes) = (metadata.len(), disk.len());
    if found > disk_bytes {
        return Err(FillDiskError::TooLarge { found, disk_bytes });
    }
    let mut buffer = vec![0; STEP_BYTES];
    let mut at = 0;
    while at < found {
        let count = usize::try_from(found - at).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
        let step = &mut buffer[..count];
        file.read_exact_at(step, at).map_err(FillDiskError::Read)?;
        // Zeroes are there already; writing them would cost a sparse disk its space.
        if step.iter().any(|byte| *byte != 0) {
            disk.write(Offset::new(at), step)?;
        }
        at += len_u64(count);
    }
    planted::settle(disk, Offset::ZERO, found, Laid::DiskImage)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lossy::{LossyCache, LossyMemory};
    use crate::mem::PoolRead;
    use crate::numbers::PAGE_SIZE;

    #[test]
    fn a_file_fills_the_beginning_of_the_disk() {
        let disk = LossyMemory::new((3 << 20) + PAGE_SIZE, &LossyCache::new());
        let mut content = vec![0; (2 << 20) + 1000];
        content[..3].copy_from_slice(b"MBR");
        content[(2 << 20) + 999] = 7;
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &content).unwrap();
        fill(&disk, &file).unwrap();
        let mut found = vec![1; (3 << 20) + 4096];
        disk.read(Offset::ZERO, &mut found).unwrap();
        content.resize(found.len(), 0);
        assert!(found == content);
    }

    #[test]
    fn what_does_not_fit_or_is_no_file_is_refused() {
        let disk = LossyMemory::new(PAGE_SIZE, &LossyCache::new());
        let file = tempfile::tempfile().unwrap();
        file.set_len(PAGE_SIZE + 1).unwrap();
        assert!(matches!(fill(&disk, &file), Err(FillDiskError::TooLarge { found: 4097, disk_bytes: 4096 })));
        file.set_len(PAGE_SIZE).unwrap();
        fill(&disk, &file).unwrap();
        let (pipe, _writer) = io::pipe().unwrap();
        assert!(matches!(fill(&disk, &pipe), Err(FillDiskError::NotAFile)));
    }
}
