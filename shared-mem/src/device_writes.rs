//! Which pages of a guest's memory devices have written since they were last asked for.
//!
//! Two levels: a bit for each page, and a bit for each word of those. A commit of a large guest looks at the upper level, and at
//! what has changed: 16 GiB are 65,536 words, and to take each of them costs more than a whole commit of a few pages.

use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::bitmap::{Bitmap, NewBitmap, RefSlice, WithBitmapSlice};

use crate::numbers::PAGE_BYTES;

const WORD_BITS: usize = u64::BITS as usize;

/// A set of pages that any thread adds to, and one takes away.
#[derive(Debug, Default)]
pub struct DeviceWrites {
    /// A bit for each page.
    words: Box<[AtomicU64]>,
    /// A bit for each word that may have any.
    touched: Box<[AtomicU64]>,
}

impl DeviceWrites {
    /// Takes what was written: hands out each word that has pages, with its number. The word's bit `n` is page
    /// `64 * number + n` of the region.
    ///
    /// What is written meanwhile is in what is handed out now, or the next time.
    pub fn take(&self, mut each: impl FnMut(usize, u64)) {
        for (upper, touched) in self.touched.iter().enumerate() {
            // Most are empty: looking costs less than taking.
            if touched.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // Before the words are: a bit that is set behind this leads to its word the next time.
            let mut left = touched.swap(0, Ordering::AcqRel);
            while left != 0 {
                let number = upper * WORD_BITS + left.trailing_zeros() as usize;
                left &= left - 1;
                let pages = self.words[number].swap(0, Ordering::AcqRel);
                if pages != 0 {
                    each(number, pages);
                }
            }
        }
    }

    /// Marks pages of one word.
    fn mark(&self, number: usize, pages: u64) {
        let Some(word) = self.words.get(number) else { return };
        // The word first: were it the other way round, `take` could come in between, find nothing, and never look again.
        word.fetch_or(pages, Ordering::AcqRel);
        self.touched[number / WORD_BITS].fetch_or(1 << (number % WORD_BITS), Ordering::AcqRel);
    }
}

impl<'a> WithBitmapSlice<'a> for DeviceWrites {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for DeviceWrites {
    fn mark_dirty(&self, offset: usize, len: usize) {
        let Some(last) = len.checked_sub(1) else { return };
        let (first, last) = (offset / PAGE_BYTES, offset.saturating_add(last) / PAGE_BYTES);
        let end = self.words.len().saturating_sub(1);
        for number in first / WORD_BITS..=(last / WORD_BITS).min(end) {
            let base = number * WORD_BITS;
            let from = first.saturating_sub(base);
            let to = (last - base).min(WORD_BITS - 1);
            self.mark(number, (u64::MAX >> (WORD_BITS - 1 - to)) & (u64::MAX << from));
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = offset / PAGE_BYTES;
        let word = self.words.get(page / WORD_BITS);
        word.is_some_and(|word| word.load(Ordering::Acquire) & (1 << (page % WORD_BITS)) != 0)
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

impl NewBitmap for DeviceWrites {
    /// Nothing was written yet, in so many bytes.
    fn with_len(len: usize) -> Self {
        let empty = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        let words = len.div_ceil(PAGE_BYTES).div_ceil(WORD_BITS);
        Self { words: empty(words), touched: empty(words.div_ceil(WORD_BITS)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicBool;

    /// Enough for three words of the upper level, and not a multiple of anything.
    const PAGES: usize = 2 * WORD_BITS * WORD_BITS + 3 * WORD_BITS + 5;

    fn taken(writes: &DeviceWrites) -> BTreeSet<usize> {
        let mut pages = BTreeSet::new();
        writes.take(|number, word| {
            pages.extend((0..WORD_BITS).filter(|bit| word & (1 << bit) != 0).map(|bit| number * WORD_BITS + bit));
        });
        pages
    }

    proptest! {
        #[test]
        fn what_is_written_is_taken_once(
            writes in prop::collection::vec((0..PAGES * PAGE_BYTES, 0..700_000usize), 0..20),
        ) {
            let map = DeviceWrites::with_len(PAGES * PAGE_BYTES);
            let mut expected = BTreeSet::new();
            for (offset, length) in writes {
                let length = length.min(PAGES * PAGE_BYTES - offset);
                map.mark_dirty(offset, length);
                if length > 0 {
                    expected.extend(offset / PAGE_BYTES..=(offset + length - 1) / PAGE_BYTES);
                }
            }
            prop_assert!((0..PAGES).all(|page| map.dirty_at(page * PAGE_BYTES) == expected.contains(&page)));
            prop_assert_eq!(taken(&map), expected);
            prop_assert_eq!(taken(&map), BTreeSet::new());
        }
    }

    #[test]
    fn what_lies_beyond_the_end_is_nobodys() {
        let map = DeviceWrites::with_len(3 * PAGE_BYTES);
        map.mark_dirty(usize::MAX - 1, usize::MAX);
        map.mark_dirty(300 * PAGE_BYTES, 1);
        assert!(!map.dirty_at(usize::MAX));
        assert_eq!(taken(&map), BTreeSet::new());
        map.mark_dirty(2 * PAGE_BYTES, usize::MAX);
        assert!(taken(&map).contains(&2));
    }

    #[test]
    fn slices_mark_where_they_begin() {
        let map = DeviceWrites::with_len(PAGES * PAGE_BYTES);
        let slice = map.slice_at(100 * PAGE_BYTES - 1);
        slice.mark_dirty(0, 2);
        assert!(slice.dirty_at(1));
        assert_eq!(taken(&map), BTreeSet::from([99, 100]));
    }

    #[test]
    fn nothing_that_is_written_meanwhile_is_lost() {
        const ROUNDS: usize = if cfg!(miri) { 200 } else { 200_000 };
        let map = DeviceWrites::with_len(PAGES * PAGE_BYTES);
        let over = AtomicBool::new(false);
        let (written, found) = std::thread::scope(|threads| {
            let writer = threads.spawn(|| {
                let page = |round: usize| round * 7_919 % PAGES;
                (0..ROUNDS).for_each(|round| map.mark_dirty(page(round) * PAGE_BYTES, 1));
                over.store(true, Ordering::Release);
                (0..ROUNDS).map(page).collect::<BTreeSet<usize>>()
            });
            let mut found = BTreeSet::new();
            while !over.load(Ordering::Acquire) {
                found.extend(taken(&map));
            }
            found.extend(taken(&map));
            (writer.join().unwrap(), found)
        });
        assert_eq!(found, written);
    }
}
