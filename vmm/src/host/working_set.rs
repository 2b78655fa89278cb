//! Bounds the copy-on-write pages that a primary keeps.
//!
//! A page that the guest writes becomes the host's own copy and would stay it for ever. A copy whose epoch the controller
//! has applied is in the stable image, too: dropping it changes nothing that the guest can see. That is only known while
//! the vCPU stands still and the dirty set is harvested: a page that is dirty now, or was last dirty in an epoch that is not
//! yet applied, must stay.

use crate::machine::DirtyPages;
use shared_mem::working::DropPrivateError;
use shared_mem::{PAGE_SIZE, WorkingMemory};
use std::collections::HashMap;
use std::ops::Range;

/// How much of the bound is left after a clean-up, so that not every cut needs one.
const KEPT_QUARTERS: usize = 3;

/// What an epoch should dirty at most under a bound of so many bytes, in pages: what a clean-up leaves room for. No copy can
/// be dropped before its epoch is applied.
pub(super) fn epoch_pages_max(bytes_max: u64) -> u64 {
    (bytes_max / PAGE_SIZE / 4).max(1)
}

#[derive(Debug)]
pub(super) struct WorkingSet {
    pages_max: usize,
    /// Pages that the host holds copies of, with the epoch in which they were last found dirty.
    held: HashMap<u64, u64>,
}

impl WorkingSet {
    pub(super) fn new(pages_max: usize) -> Self {
        Self { pages_max, held: HashMap::new() }
    }

    /// All copies are gone.
    pub(super) fn forget(&mut self) {
        self.held.clear();
    }

    /// Notes what an epoch dirtied and picks what can be dropped now, given the last epoch that the stable image has.
    fn pick(&mut self, dirty: &DirtyPages, epoch: u64, applied: u64) -> Vec<Range<u64>> {
        if applied >= epoch {
            // Applied were epochs of a successor: this host stood still for a while, and is about to find itself deposed.
            return Vec::new();
        }
        self.held.extend(dirty.iter().map(|page| (page.0, epoch)));
        if self.held.len() <= self.pages_max {
            return Vec::new();
        }
        let mut droppable: Vec<(u64, u64)> =
            self.held.iter().filter(|(_, last)| **last <= applied).map(|(page, last)| (*last, *page)).collect();
        // The longest untouched first: they are the least likely to be written, and copied, again.
        droppable.sort_unstable();
        droppable.truncate(self.held.len() - self.pages_max / 4 * KEPT_QUARTERS);
        let mut pages: Vec<u64> = droppable.into_iter().map(|(_, page)| page).collect();
        pages.sort_unstable();
        for page in &pages {
            self.held.remove(page);
        }
        ranges(&pages)
    }

    /// To be called with the vCPU stopped, and `dirty` just harvested for `epoch`.
    pub(super) fn trim(
        &mut self,
        memory: &WorkingMemory,
        dirty: &DirtyPages,
        epoch: u64,
        applied: u64,
    ) -> Result<(), DropPrivateError> {
        for range in self.pick(dirty, epoch, applied) {
            let page = shared_mem::PageIndex::new;
            memory.drop_private(page(range.start)..page(range.end))?;
        }
        Ok(())
    }
}

/// Neighbouring pages as ranges; `pages` ascends.
fn ranges(pages: &[u64]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for &page in pages {
        match ranges.last_mut() {
            Some(range) if range.end == page => range.end += 1,
            _ => ranges.push(page..page + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::PageIndex;

    fn dirty(pages: &[u64]) -> DirtyPages {
        let mut dirty = DirtyPages::new(1 << 20);
        for page in pages {
            dirty.insert(PageIndex(*page));
        }
        dirty
    }

    #[test]
    fn only_what_is_applied_and_clean_is_dropped() {
        let mut set = WorkingSet::new(4);
        assert_eq!(set.pick(&dirty(&[1, 2, 3, 9]), 1, 0), []);
        // Above the bound, but nothing is applied.
        assert_eq!(set.pick(&dirty(&[4]), 2, 0), []);
        // Epoch 1 is applied; page 2 is dirty again and stays.
        assert_eq!(set.pick(&dirty(&[2]), 3, 1), [1..2, 3..4]);
        assert_eq!(set.held.len(), 3);
        // A successor is further than this primary ever was.
        assert_eq!(set.pick(&dirty(&[5, 6, 7]), 4, 9), []);
        assert_eq!(set.held.len(), 3);
        // Page 9 has been clean since epoch 1, but the bound is kept.
        assert_eq!(set.pick(&dirty(&[]), 4, 3), []);
    }

    #[test]
    fn neighbours_are_dropped_together() {
        assert_eq!(ranges(&[]), []);
        assert_eq!(ranges(&[1, 2, 3, 7, 9, 10]), [1..4, 7..8, 9..11]);
    }
}
