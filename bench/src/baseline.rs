//! The yardstick for copies: plain memcpy of as many pages between memory of the same kinds, used as commits use it: the
//! pages have just been written, here and there, and go to one slot of a journal after the other.

use super::Failure;
use shared_mem::{Extent, Mapping, Offset, PAGE_BYTES, PAGE_SIZE, PageIndex, PoolWrite as _, ReadWrite, WorkingMemory};
use std::cell::Cell;
use std::path::Path;
use std::time::Instant;

/// Slots of a journal.
const SLOTS: u64 = 4;

/// A guest's working memory and pool memory, both with all their pages there.
pub(crate) struct Memcpy {
    from: WorkingMemory,
    to: Mapping<ReadWrite>,
    pages: u64,
    /// The slot that is next.
    slot: Cell<u64>,
}

impl Memcpy {
    /// Of `pages` pages; `parent` is a directory on the pool's tmpfs.
    pub(crate) fn new(parent: &Path, pages: u64) -> Result<Self, Failure> {
        let bytes = pages.max(1) * PAGE_SIZE;
        let extent = |bytes| -> Result<Extent, Failure> {
            let file = tempfile::tempfile_in(parent)?;
            file.set_len(bytes)?;
            Ok(Extent::new(file.into(), Offset::ZERO, bytes)?)
        };
        let from = WorkingMemory::over_image(&extent(bytes)?)?;
        let to = Mapping::read_write(&extent(bytes * SLOTS)?)?;
        for page in 0..pages.max(1) {
            let private = from.page(PageIndex::new(page)).ok_or("the memory was made as large")?;
            private.copy_from(&[u8::try_from(page % 251)?; PAGE_BYTES][..]);
        }
        let memcpy = Self { from, to, pages, slot: Cell::new(0) };
        for _ in 0..SLOTS {
            memcpy.once()?;
        }
        Ok(memcpy)
    }

    /// Copies all pages; says how long that took, in nanoseconds.
    pub(crate) fn once(&self) -> Result<f64, Failure> {
        let slot = self.slot.replace((self.slot.get() + 1) % SLOTS) * self.pages.max(1);
        for page in (0..self.pages).map(PageIndex::new) {
            let content = self.from.page(page).ok_or("the memory was made as large")?;
            content.copy_from(&slot.to_le_bytes()[..]);
        }
        let begun = Instant::now();
        for page in (0..self.pages).map(PageIndex::new) {
            let content = self.from.page(page).ok_or("the memory was made as large")?;
            self.to.write_volatile(PageIndex::new(slot + page.get()).offset(), &content)?;
        }
        Ok(begun.elapsed().as_secs_f64() * 1e9)
    }
}
