//! Space of the pool that is kept free for a commit record which finds no other.
//!
//! A file that holds space and no content: what it gives back, a record can have.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use super::device;
use super::error::PoolError;
use super::files;
use super::open::Pool;
use crate::journal::{SpillError, SpillSpace};
use crate::mem::{Extent, page_bytes};
use crate::numbers::{Offset, round_up};

/// Space is taken in such steps, so that nobody waits long for whoever takes much.
const STEP_BYTES: u64 = 16 << 20;

/// Space that the controller holds.
#[derive(Debug)]
pub struct SpaceReserve {
    file: File,
    extent: Extent,
    page_bytes: u64,
}

impl Pool {
    /// The space that is held in this pool, as much as an earlier controller has left of it; `None` on a device, where
    /// every file has all its space from the start.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn space_reserve(&self) -> Result<Option<SpaceReserve>, PoolError> {
        if device::whole(&self.path).is_some() {
            return Ok(None);
        }
        let path = self.path.join(files::RESERVE);
        let failed = |what: &'static str| {
            let path = path.clone();
            move |error| PoolError::file(what, &path, error)
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&path).map_err(failed("open"))?;
        let page_bytes = page_bytes(&file).map_err(failed("examine"))?;
        let fd = file.try_clone().map_err(failed("open"))?;
        Ok(Some(SpaceReserve { file, extent: Extent::new(fd.into(), Offset::ZERO, u64::MAX)?, page_bytes }))
    }
}

impl SpaceReserve {
    /// So many bytes in whole pages of the pool, as they are held.
    #[must_use]
    pub fn in_pages(&self, bytes: u64) -> u64 {
        round_up(bytes, self.page_bytes)
    }

    /// What is held.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn held(&self) -> Result<u64, SpillError> {
        Ok(self.file.metadata().map_err(SpillError::Refused)?.blocks().saturating_mul(512))
    }

    /// What the pool has left beside.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn available(&self) -> Result<u64, SpillError> {
        self.extent.available()
    }

    /// Takes one step towards holding `bytes`; says whether as much is held.
    ///
    /// # Errors
    /// When there is no more to be had, or the kernel refuses.
    pub fn take(&self, bytes: u64) -> Result<bool, SpillError> {
        let bytes = round_up(bytes, self.page_bytes);
        let held = self.held()?;
        if held >= bytes {
            return Ok(true);
        }
        // Not more than there is: the kernel takes all of that from others before it says no.
        let available = self.available()? / self.page_bytes * self.page_bytes;
        if available == 0 {
            return Err(SpillError::NoSpace { needed: bytes - held, available });
        }
        // What is held lies at the beginning, unless somebody has changed the file: then it is taken once more.
        let from = if self.file.metadata().map_err(SpillError::Refused)?.len() == held { held } else { 0 };
        let step = self.in_pages(STEP_BYTES).min(available);
        let until = (held + step).min(bytes);
        self.file.set_len(until).map_err(SpillError::Refused)?;
        self.extent.reserve(Offset::new(from), until - from)?;
        Ok(until == bytes)
    }

    /// Gives back so much of what is held, or all of it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn give_up(&self, bytes: u64) -> Result<(), SpillError> {
        if bytes == 0 {
            return Ok(());
        }
        let keep = self.held()?.saturating_sub(round_up(bytes, self.page_bytes));
        self.file.set_len(keep).map_err(SpillError::Refused)
    }

    /// Gives back what is held beyond `bytes`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn give_back(&self, bytes: u64) -> Result<(), SpillError> {
        let keep = round_up(bytes, self.page_bytes).min(self.held()?);
        self.file.set_len(keep).map_err(SpillError::Refused)
    }
}
