//! Which pages of the image have changed since they were last asked for.

use super::error::{KvmCall, MachineError};
use super::layout::{GuestMemory, PAGE_SIZE, PageIndex, RamRegion};
use super::to_usize;
use kvm_ioctls::VmFd;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

const WORD_PAGES: u64 = u64::BITS as u64;

/// A set of pages of one image, iterated in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyPages {
    words: Vec<u64>,
}

impl DirtyPages {
    /// No pages, of an image of so many bytes.
    #[must_use]
    pub fn new(image_bytes: u64) -> Self {
        let pages = image_bytes.div_ceil(PAGE_SIZE);
        Self { words: vec![0; to_usize(pages.div_ceil(WORD_PAGES))] }
    }

    /// How many pages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Forgets all pages.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Whether a page is in the set.
    #[must_use]
    pub fn contains(&self, page: PageIndex) -> bool {
        let (word, bit) = place(page);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Adds a page of the image.
    pub fn insert(&mut self, page: PageIndex) {
        let (word, bit) = place(page);
        assert!(word < self.words.len(), "page {page:?} is outside the image");
        self.words[word] |= bit;
    }

    /// The pages, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = PageIndex> + '_ {
        self.words.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(|(index, word)| {
            let first = index as u64 * WORD_PAGES;
            set_bits(*word).map(move |bit| PageIndex(first + u64::from(bit)))
        })
    }

    /// Adds the pages of a bitmap whose first bit is page `first`.
    fn merge(&mut self, first: PageIndex, bitmap: &[u64]) {
        assert!(first.0.is_multiple_of(WORD_PAGES), "RAM regions start at whole words");
        let start = to_usize(first.0 / WORD_PAGES);
        // KVM rounds its bitmap up to what its own words need.
        for (word, more) in self.words[start..].iter_mut().zip(bitmap) {
            *word |= more;
        }
    }
}

fn place(page: PageIndex) -> (usize, u64) {
    (to_usize(page.0 / WORD_PAGES), 1 << (page.0 % WORD_PAGES))
}

fn set_bits(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros();
        word &= word.wrapping_sub(1);
        (bit < u64::BITS).then_some(bit)
    })
}

/// Adds to `out` what the guest (KVM's log) and devices (the memory's bitmap) wrote, and starts both afresh.
pub(super) fn harvest(
    vm: &VmFd,
    memory: &GuestMemory,
    ram: &[RamRegion],
    out: &mut DirtyPages,
) -> Result<(), MachineError> {
    for (slot, (stretch, region)) in (0u32..).zip(ram.iter().zip(memory.iter())) {
        assert_eq!(stretch.guest, region.start_addr(), "slots were made from these regions");
        let first = PageIndex(stretch.image_offset / PAGE_SIZE);
        // The devices' bitmap goes first: a page that a device writes in between is then still in one of the two.
        out.merge(first, &region.get_mmap().bitmap().get_and_reset());
        let log = vm.get_dirty_log(slot, to_usize(stretch.length)).map_err(KvmCall::GetDirtyLog.failed())?;
        out.merge(first, &log);
    }
    Ok(())
}
