//! Memory of the crash model, as one host sees it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

use super::cache::LossyCache;
use super::page::{LINE, Page};
use super::survivors::Kept;
use crate::mem::{AccessError, PoolRead, PoolWrite};
use crate::mem::{check_bounds, check_word};
use crate::numbers::{Offset, PAGE_BYTES, len_u64};

/// Page numbers are spread well enough by one multiplication.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte) ^ self.0);
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

type Pages = HashMap<u64, Rc<Page>, BuildHasherDefault<PageHasher>>;

/// A write-back that was started and not yet fenced.
#[derive(Debug, Clone, Copy)]
struct Pending {
    cache: u32,
    page: u64,
    lines: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Shared {
    len: u64,
    pages: Pages,
    pending: Vec<Pending>,
    /// Pages that were streamed into and are not drained yet, and by which cache.
    streamed: Vec<(u64, u32)>,
    /// Stores and losses, see [`LossyMemory::changes`].
    changes: u64,
}

impl Shared {
    fn page_mut(&mut self, page: u64) -> &mut Page {
        Rc::make_mut(self.pages.entry(page).or_insert_with(|| Rc::new(Page::new())))
    }

    fn fence(&mut self, cache: u32) {
        let mut pending = std::mem::take(&mut self.pending);
        pending.retain(|entry| {
            if entry.cache == cache {
                self.page_mut(entry.page).fence(entry.lines, cache);
            }
            entry.cache != cache
        });
        self.pending = pending;
    }

    pub(super) fn crash(&mut self, cache: u32, choose: &mut dyn FnMut(u64, usize) -> Kept) {
        self.changes += 1;
        self.pending.retain(|entry| entry.cache != cache);
        self.streamed.retain(|(_, by)| *by != cache);
        let mut numbers: Vec<u64> =
            self.pages.iter().filter(|(_, page)| !page.is_clean()).map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        for number in numbers {
            let first_line = number * len_u64(PAGE_BYTES / LINE);
            self.page_mut(number).crash(cache, &mut |line, stores| choose(first_line + len_u64(line), stores));
        }
    }
}

/// Lossy memory as reached through one cache. Clones are the same memory through the same cache.
#[derive(Clone)]
pub struct LossyMemory {
    shared: Rc<RefCell<Shared>>,
    cache: LossyCache,
}

impl fmt::Debug for LossyMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LossyMemory")
            .field("len", &self.shared.borrow().len)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

/// A piece of an access that lies within one page.
struct Piece {
    page: u64,
    start: usize,
    len: usize,
    /// Where the piece begins in the caller's buffer.
    done: usize,
}

fn pieces(at: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let position = at + len_u64(done);
        let start = usize::try_from(position % len_u64(PAGE_BYTES)).unwrap_or(0);
        let piece =
            Piece { page: position / len_u64(PAGE_BYTES), start, len: (PAGE_BYTES - start).min(len - done), done };
        done += piece.len;
        (piece.len > 0).then_some(piece)
    })
}

impl LossyMemory {
    /// Zeroed, durable memory of `len` bytes, reached through `cache`. Costs nothing until it is written.
    #[must_use]
    pub fn new(len: u64, cache: &LossyCache) -> Self {
        let shared = Rc::new(RefCell::new(Shared {
            len,
            pages: Pages::default(),
            pending: Vec::new(),
            streamed: Vec::new(),
            changes: 0,
        }));
        cache.meets(&shared);
        Self { shared, cache: cache.clone() }
    }

    /// The same memory as another host sees it.
    #[must_use]
    pub fn through(&self, cache: &LossyCache) -> Self {
        cache.meets(&self.shared);
        Self { shared: Rc::clone(&self.shared), cache: cache.clone() }
    }

    /// An independent copy of the whole memory in its present condition, reached through `cache`. Pages are shared
    /// until one side writes them.
    #[must_use]
    pub fn fork(&self, cache: &LossyCache) -> Self {
        let shared = Rc::new(RefCell::new(self.shared.borrow().clone()));
        cache.meets(&shared);
        Self { shared, cache: cache.clone() }
    }

    /// The cache this handle goes through.
    #[must_use]
    pub fn cache(&self) -> &LossyCache {
        &self.cache
    }

    /// Back to zeroes, durably, whatever any cache holds.
    pub fn reset(&self) {
        let mut shared = self.shared.borrow_mut();
        shared.changes += 1;
        shared.pages.clear();
        shared.pending.clear();
        shared.streamed.clear();
    }

    /// Gives the space of whole pages back: they read as zeroes, durably.
    pub fn punch(&self, at: Offset, len: u64) {
        let mut shared = self.shared.borrow_mut();
        shared.changes += 1;
        let page = len_u64(PAGE_BYTES);
        let range = at.get().div_ceil(page)..at.plus(len).get() / page;
        shared.pages.retain(|number, _| !range.contains(number));
        shared.pending.retain(|entry| !range.contains(&entry.page));
    }

    /// Counts what may have changed the bytes that hosts read: as long as it stays, they are the same.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.shared.borrow().changes
    }

    /// Reads what would be left if every host lost its cache now; for tests.
    ///
    /// # Errors
    /// When the range is outside the memory.
    pub fn read_durable(&self, at: Offset, into: &mut [u8]) -> Result<(), AccessError> {
        let shared = self.shared.borrow();
        let start = check_bounds(at, len_u64(into.len()), shared.len)?;
        for piece in pieces(start, into.len()) {
            let target = &mut into[piece.done..piece.done + piece.len];
            match shared.pages.get(&piece.page) {
                Some(page) => target.copy_from_slice(&page.durable()[piece.start..piece.start + piece.len]),
                None => target.fill(0),
            }
        }
        Ok(())
    }

    /// One store after the other, a line each, until all are done or the host has died in between.
    fn store(&self, at: u64, len: usize, mut copy: impl FnMut(&mut [u8], usize)) -> Result<(), AccessError> {
        for piece in pieces(at, len) {
            let end = piece.start + piece.len;
            let mut start = piece.start;
            while start < end {
                self.cache.run_interrupt();
                let first = start / LINE;
                let wanted = (end - 1) / LINE - first + 1;
                let granted = self.cache.events_at_most(len_u64(wanted));
                let granted = usize::try_from(granted).unwrap_or(wanted);
                if granted == 0 {
                    return Err(AccessError::Unreachable);
                }
                let until = ((first + granted) * LINE).min(end);
                let mut shared = self.shared.borrow_mut();
                shared.changes += 1;
                let page = shared.page_mut(piece.page);
                page.touch(first, first + granted - 1, self.cache.id());
                copy(&mut page.bytes_mut()[start..until], piece.done + (start - piece.start));
                start = until;
            }
        }
        Ok(())
    }

    fn update_word(&self, at: Offset, update: impl FnOnce(u64) -> Option<u64>) -> Result<u64, AccessError> {
        // Nothing comes between the load and the store of a read-modify-write.
        self.cache.run_interrupt();
        let before = self.load_u64(at, Ordering::Acquire)?;
        if let Some(after) = update(before) {
            self.store(at.get(), 8, |target, _| target.copy_from_slice(&after.to_le_bytes()))?;
        }
        Ok(before)
    }
}

impl PoolRead for LossyMemory {
    fn len(&self) -> u64 {
        self.shared.borrow().len
    }

    fn read(&self, at: Offset, into: &mut [u8]) -> Result<(), AccessError> {
        let shared = self.shared.borrow();
        let start = check_bounds(at, len_u64(into.len()), shared.len)?;
        self.cache.check_alive()?;
        for piece in pieces(start, into.len()) {
            let target = &mut into[piece.done..piece.done + piece.len];
            match shared.pages.get(&piece.page) {
                Some(page) => target.copy_from_slice(&page.current()[piece.start..piece.start + piece.len]),
                None => target.fill(0),
            }
        }
        Ok(())
    }

    fn read_volatile<B: BitmapSlice>(&self, at: Offset, into: &VolatileSlice<'_, B>) -> Result<(), AccessError> {
        let mut private = vec![0; into.len()];
        self.read(at, &mut private)?;
        into.copy_from(&private);
        Ok(())
    }

    fn load_u64(&self, at: Offset, _: Ordering) -> Result<u64, AccessError> {
        check_word(at, self.len())?;
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

impl PoolWrite for LossyMemory {
    fn write(&self, at: Offset, bytes: &[u8]) -> Result<(), AccessError> {
        let start = check_bounds(at, len_u64(bytes.len()), self.len())?;
        self.store(start, bytes.len(), |target, done| {
            target.copy_from_slice(&bytes[done..done + target.len()]);
        })
    }

    fn stream(&self, at: Offset, bytes: &[u8]) -> Result<(), AccessError> {
        self.write(at, bytes)?;
        let mut shared = self.shared.borrow_mut();
        for piece in pieces(at.get(), bytes.len()) {
            let streamed = (piece.page, self.cache.id());
            if !shared.streamed.contains(&streamed) {
                shared.streamed.push(streamed);
            }
        }
        Ok(())
    }

    fn drain(&self) {
        self.shared.borrow_mut().streamed.retain(|(_, by)| *by != self.cache.id());
    }

    fn write_volatile<B: BitmapSlice>(&self, at: Offset, from: &VolatileSlice<'_, B>) -> Result<(), AccessError> {
        let mut private = vec![0; from.len()];
        from.copy_to(&mut private);
        self.write(at, &private)
    }

    fn store_u64(&self, at: Offset, value: u64, _: Ordering) -> Result<(), AccessError> {
        check_word(at, self.len())?;
        self.write(at, &value.to_le_bytes())
    }

    fn compare_exchange_u64(&self, at: Offset, current: u64, new: u64) -> Result<Result<u64, u64>, AccessError> {
        let before = self.update_word(at, |before| (before == current).then_some(new))?;
        Ok(if before == current { Ok(before) } else { Err(before) })
    }

    fn fetch_or_u64(&self, at: Offset, bits: u64) -> Result<u64, AccessError> {
        self.update_word(at, |before| Some(before | bits))
    }

    fn flush(&self, at: Offset, len: u64) -> Result<(), AccessError> {
        self.cache.event()?;
        let mut shared = self.shared.borrow_mut();
        let start = check_bounds(at, len, shared.len)?;
        let len = usize::try_from(len).map_err(|_| AccessError::Unreachable)?;
        for piece in pieces(start, len) {
            let cache = self.cache.id();
            let in_vain = shared.streamed.contains(&(piece.page, cache));
            if in_vain || shared.pages.get(&piece.page).is_none_or(|page| page.is_clean()) {
                continue;
            }
            let last = (piece.start + piece.len - 1) / LINE;
            let lines = shared.page_mut(piece.page).flush(piece.start / LINE, last, cache);
            if lines != 0 {
                shared.pending.push(Pending { cache, page: piece.page, lines });
            }
        }
        Ok(())
    }

    fn fence(&self) -> Result<(), AccessError> {
        self.cache.event()?;
        self.shared.borrow_mut().fence(self.cache.id());
        Ok(())
    }
}
