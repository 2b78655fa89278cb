//! Which pages of the image have changed since they were last asked for.

use super::error::{KvmCall, MachineError};
use super::layout::{GuestMemory, PAGE_SIZE, PageIndex, RamRegion};
use super::to_usize;
use kvm_ioctls::VmFd;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

const WORD_PAGES: u64 = u64::BITS as u64;
/// Words that are looked at together.
const STRETCH_WORDS: usize = 64;

/// A set of pages of one image, iterated in ascending order.
///
/// Two levels, so that what is asked of it costs what is in it and little for the rest: a bit for each page, and one for each word
/// of those that has any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyPages {
    words: Vec<u64>,
    used: Vec<u64>,
}

impl DirtyPages {
    /// No pages, of an image of so many bytes.
    #[must_use]
    pub fn new(image_bytes: u64) -> Self {
        let words = image_bytes.div_ceil(PAGE_SIZE).div_ceil(WORD_PAGES);
        Self { words: vec![0; to_usize(words)], used: vec![0; to_usize(words.div_ceil(WORD_PAGES))] }
    }

    /// How many pages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used_words().map(|word| self.words[word].count_ones() as usize).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used.iter().all(|words| *words == 0)
    }

    /// Forgets all pages.
    pub fn clear(&mut self) {
        for (upper, used) in self.used.iter_mut().enumerate() {
            set_bits(std::mem::take(used)).for_each(|bit| self.words[number(upper, bit)] = 0);
        }
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
        self.add(word, bit);
    }

    /// The pages, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = PageIndex> + '_ {
        self.used_words().flat_map(|word| {
            let first = word as u64 * WORD_PAGES;
            set_bits(self.words[word]).map(move |bit| PageIndex(first + u64::from(bit)))
        })
    }

    /// The numbers of words that have pages, in ascending order.
    fn used_words(&self) -> impl Iterator<Item = usize> + '_ {
        let used = self.used.iter().enumerate().filter(|(_, used)| **used != 0);
        used.flat_map(|(upper, used)| set_bits(*used).map(move |bit| number(upper, bit)))
    }

    fn add(&mut self, word: usize, pages: u64) {
        self.words[word] |= pages;
        self.used[word / u64::BITS as usize] |= 1 << (word % u64::BITS as usize);
    }

    /// Adds the pages of a bitmap whose first bit is that of word `start`.
    fn merge(&mut self, start: usize, bitmap: &[u64]) {
        // KVM rounds its bitmap up to what its own words need.
        let bitmap = &bitmap[..bitmap.len().min(self.words.len() - start)];
        // Most of it is empty, and a stretch is seen to be so faster than each of its words.
        for (stretch, words) in (start..).step_by(STRETCH_WORDS).zip(bitmap.chunks(STRETCH_WORDS)) {
            if words.iter().fold(0, |any, word| any | word) == 0 {
                continue;
            }
            for (word, pages) in (stretch..).zip(words).filter(|(_, pages)| **pages != 0) {
                self.add(word, *pages);
            }
        }
    }
}

/// The number of a word whose bit is this one of the upper level.
fn number(upper: usize, bit: u32) -> usize {
    upper * u64::BITS as usize + bit as usize
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
        let first = stretch.image_offset / PAGE_SIZE;
        assert!(first.is_multiple_of(WORD_PAGES), "RAM regions start at whole words");
        let first = to_usize(first / WORD_PAGES);
        // The devices' bitmap goes first: a page that a device writes in between is then still in one of the two.
        region.get_mmap().bitmap().take(|word, pages| out.add(first + word, pages));
        let log = vm.get_dirty_log(slot, to_usize(stretch.length)).map_err(KvmCall::GetDirtyLog.failed())?;
        out.merge(first, &log);
    }
    Ok(())
}
