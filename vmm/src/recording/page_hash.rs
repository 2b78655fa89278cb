//! Hashes of pages, and of all memory, kept up to date page by page.

use super::chunk::PAGE_BYTES;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The hash of a page: XXH3 (64 bits) with the page's number as its seed; of a page of zeroes, zero.
#[must_use]
pub fn page_hash(number: u64, page: &[u8; PAGE_BYTES]) -> u64 {
    if page.iter().all(|byte| *byte == 0) { 0 } else { xxh3_64_with_seed(page, number) }
}

/// The hashes of all pages of a memory.
#[derive(Debug, Clone)]
pub struct PageHashes {
    pages: Vec<u64>,
    digest: u64,
}

impl PageHashes {
    /// Of a memory of so many pages, all zeroes.
    #[must_use]
    pub fn new(pages: usize) -> Self {
        Self { pages: vec![0; pages], digest: 0 }
    }

    /// A page is now this; `false`: there is no such page.
    pub fn set(&mut self, number: u64, hash: u64) -> bool {
        let Some(known) = usize::try_from(number).ok().and_then(|number| self.pages.get_mut(number)) else {
            return false;
        };
        self.digest = self.digest.wrapping_sub(*known).wrapping_add(hash);
        *known = hash;
        true
    }

    /// What a page is.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<u64> {
        usize::try_from(number).ok().and_then(|number| self.pages.get(number)).copied()
    }

    /// All of the memory in a number: the sum of the pages' hashes, modulo 2^64.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

#[cfg(test)]
mod tests {
    use super::{PAGE_BYTES, PageHashes, page_hash};

    /// Hashes stand in files.
    #[test]
    fn the_function_stays_what_it_is() {
        let mut page = [0; PAGE_BYTES];
        assert_eq!(page_hash(7, &page), 0);
        page[100] = 1;
        assert_eq!(page_hash(7, &page), 0x9ddc_b344_f0d5_56b5);
        assert_ne!(page_hash(8, &page), page_hash(7, &page), "a page that has moved is another");
    }

    #[test]
    fn the_digest_is_that_of_the_last_content_whatever_the_way() {
        let mut hashes = PageHashes::new(4);
        assert!(hashes.set(1, 10) && hashes.set(3, u64::MAX) && hashes.set(1, 20));
        assert_eq!((hashes.get(1), hashes.get(3), hashes.digest()), (Some(20), Some(u64::MAX), 19));
        assert!(!hashes.set(4, 1));
        assert!(hashes.set(1, 0) && hashes.set(3, 0));
        assert_eq!(hashes.digest(), PageHashes::new(4).digest());
    }
}
