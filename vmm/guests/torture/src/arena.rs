//! All RAM that is free, as one row of pages.

use flat_rt::BootInfo;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;
/// More stretches than any machine of this ABI has.
const STRETCHES_MAX: usize = 8;

/// Free RAM.
#[derive(Debug)]
pub struct Arena {
    /// First address and pages of each stretch.
    stretches: [(u64, u64); STRETCHES_MAX],
    pages: u64,
}

impl Arena {
    /// What the boot info says is free.
    pub fn new(boot: &BootInfo) -> Self {
        let mut arena = Self { stretches: [(0, 0); STRETCHES_MAX], pages: 0 };
        for (place, region) in arena.stretches.iter_mut().zip(boot.free_regions()) {
            let start = region.start.next_multiple_of(PAGE_SIZE);
            let pages = (region.start + region.length).saturating_sub(start) / PAGE_SIZE;
            *place = (start, pages);
            arena.pages += pages;
        }
        assert!(arena.pages > 0, "there is free memory");
        arena
    }

    /// How many pages there are.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Address of a page. Below [`Arena::pages`] it is in free RAM.
    pub fn address(&self, page: u64) -> u64 {
        let mut left = page;
        for (start, pages) in self.stretches {
            if left < pages {
                return start + left * PAGE_SIZE;
            }
            left -= pages;
        }
        panic!("page {page} of {}", self.pages);
    }
}
