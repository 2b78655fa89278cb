//! The disk of a protected guest between its file and the pool.
//!
//! The file gives the disk its first content, and is left alone while the guest runs: what the guest writes is in the pool.
//! When the guest has ended, the file is replaced by the disk image, whole or not at all.

use crate::devices::DiskOption;
use ft_protocol::wire::{Access, ExtentTag, Grant, Part};
use shared_mem::{Extent, Mapping, Offset, PoolRead as _};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use vmm::disk_file::{DiskFile, DiskFileError};

/// How much is copied at once.
const STEP_BYTES: usize = 1 << 20;

/// A disk's file, locked for as long as a guest has the disk.
#[derive(Debug)]
pub struct GuestDisk {
    file: DiskFile,
    path: PathBuf,
    bytes: u64,
}

/// Why a disk's image did not get into a file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The image cannot be read.
    #[error("the disk image in the pool cannot be read")]
    Image(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The file cannot be written.
    #[error("cannot write the disk to {}: it is as it was", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl GuestDisk {
    /// Opens and locks the file, or makes it where its size is given.
    ///
    /// # Errors
    /// It is not there, not permitted, in use, or no disk.
    pub fn open(option: &DiskOption) -> Result<Self, DiskFileError> {
        let file = DiskFile::open(&option.path, option.size.map(crate::units::ByteCount::get))?;
        let failed = |source| DiskFileError::Open { path: option.path.clone(), source };
        // Another name for the file is kept: what is replaced in the end is the file, not the link.
        let path = fs::canonicalize(&option.path).map_err(failed)?;
        let bytes = file.bytes();
        Ok(Self { file, path, bytes })
    }

    /// The disk's size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, to travel beside a request: the disk's first content.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    ///
    /// # Panics
    /// Never: an extent may begin at zero.
    pub fn upload(&self) -> io::Result<(ExtentTag, Extent)> {
        let file = self.file.reader()?;
        let grant = Grant { part: Part::UploadedDisk, access: Access::ReadOnly };
        let tag = ExtentTag { grant, offset: 0, len: self.bytes };
        Ok((tag, Extent::new(file.into(), Offset::ZERO, self.bytes).expect("an extent may begin at zero")))
    }
}

/// Replaces a file by a disk's image, whole or not at all.
///
/// # Errors
/// The image cannot be read, or the file not be written; it is then as it was.
pub fn export(image: &Extent, to: &Path) -> Result<(), ExportError> {
    let mapping = Mapping::read_only(image).map_err(|error| ExportError::Image(error.into()))?;
    let failed = |source| ExportError::Write { path: to.to_owned(), source };
    let directory = match to.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new().prefix(".ftvm-disk-").tempfile_in(directory).map_err(failed)?;
    copy(&mapping, file.as_file_mut()).map_err(|error| match error {
        CopyError::Read(error) => ExportError::Image(error),
        CopyError::Write(source) => failed(source),
    })?;
    if let Ok(before) = fs::metadata(to) {
        file.as_file().set_permissions(before.permissions()).map_err(failed)?;
    }
    file.as_file().sync_all().map_err(failed)?;
    file.persist(to).map_err(|error| failed(error.error))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

enum CopyError {
    Read(Box<dyn std::error::Error + Send + Sync>),
    Write(io::Error),
}

fn copy(image: &Mapping<shared_mem::ReadOnly>, file: &mut File) -> Result<(), CopyError> {
    let bytes = image.len();
    file.set_len(bytes).map_err(CopyError::Write)?;
    let mut buffer = vec![0; STEP_BYTES];
    let mut at = 0;
    while at < bytes {
        let count = usize::try_from(bytes - at).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
        let step = &mut buffer[..count];
        image.read(Offset::new(at), step).map_err(|error| CopyError::Read(error.into()))?;
        // What is zero is so already, and takes no space.
        if step.iter().any(|byte| *byte != 0) {
            io::Seek::seek(file, io::SeekFrom::Start(at)).map_err(CopyError::Write)?;
            file.write_all(step).map_err(CopyError::Write)?;
        }
        at += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn image(content: &[u8]) -> Extent {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(content).expect("written");
        Extent::new(file.into(), Offset::ZERO, content.len() as u64).expect("aligned")
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_permissions() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("disk");
        fs::write(&path, b"before").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("allowed");
        let mut content = vec![0; (2 << 20) + 4096];
        content[5] = 1;
        content[(2 << 20) + 4095] = 2;
        export(&image(&content), &path).expect("exported");
        assert!(fs::read(&path).expect("there") == content);
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(place.path()).expect("there").count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let error = export(&image(&[0; 4096]), Path::new("/proc/no-such/disk")).expect_err("no place");
        assert!(error.to_string().contains("/proc/no-such/disk"), "{error}");
    }
}
