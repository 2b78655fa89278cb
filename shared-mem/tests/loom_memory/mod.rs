//! Pool memory whose words are loom's, so that the crate's own code runs under the model checker.

use std::sync::atomic::Ordering;

use loom::sync::atomic::AtomicU64;
use shared_mem::{AccessError, Offset, PoolRead, PoolWrite};
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// A few words at chosen places; everything else must not be touched. Bytes move as relaxed words: all order has to
/// come from the words that decide.
#[derive(Debug)]
pub(crate) struct LoomMemory {
    len: u64,
    regions: Vec<(u64, Vec<AtomicU64>)>,
    /// Order of read-modify-writes: weakened by tests that show that the model would notice.
    update: Ordering,
    /// Touched before each access to a deciding word. Loom remembers only the last access to each object, so a load
    /// can hide an earlier one of another thread from its search; read-modify-writes of this are all remembered.
    /// Being relaxed, it orders nothing in the program itself.
    turnstile: AtomicU64,
}

impl LoomMemory {
    /// Memory of `len` bytes that has words only at `regions` (offset, number of words).
    pub(crate) fn new(len: u64, regions: &[(u64, usize)], update: Ordering) -> Self {
        let words = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        let regions = regions.iter().map(|(at, count)| (*at, words(*count))).collect();
        Self { len, regions, update, turnstile: AtomicU64::new(0) }
    }

    /// A word that decides.
    fn deciding(&self, at: Offset) -> &AtomicU64 {
        self.turnstile.fetch_add(1, Ordering::Relaxed);
        self.word(at.get())
    }

    fn word(&self, at: u64) -> &AtomicU64 {
        assert!(at.is_multiple_of(8), "the model knows whole words only");
        let find = |(start, words): &'_ (u64, Vec<AtomicU64>)| {
            let index = usize::try_from(at.checked_sub(*start)? / 8).ok()?;
            (index < words.len()).then_some(index)
        };
        self.regions
            .iter()
            .find_map(|region| find(region).map(|index| &region.1[index]))
            .unwrap_or_else(|| panic!("no word at {at}"))
    }
}

impl PoolRead for LoomMemory {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, at: Offset, into: &mut [u8]) -> Result<(), AccessError> {
        for (index, chunk) in (0u64..).zip(into.chunks_mut(8)) {
            let word = self.word(at.get() + index * 8).load(Ordering::Relaxed);
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }

    fn read_volatile<B: BitmapSlice>(&self, _: Offset, _: &VolatileSlice<'_, B>) -> Result<(), AccessError> {
        unreachable!("not modelled")
    }

    fn load_u64(&self, at: Offset, order: Ordering) -> Result<u64, AccessError> {
        Ok(self.deciding(at).load(order))
    }
}

impl PoolWrite for LoomMemory {
    fn write(&self, at: Offset, bytes: &[u8]) -> Result<(), AccessError> {
        for (index, chunk) in (0u64..).zip(bytes.chunks(8)) {
            let word = u64::from_le_bytes(chunk.try_into().expect("whole words"));
            self.word(at.get() + index * 8).store(word, Ordering::Relaxed);
        }
        Ok(())
    }

    fn write_volatile<B: BitmapSlice>(&self, _: Offset, _: &VolatileSlice<'_, B>) -> Result<(), AccessError> {
        unreachable!("not modelled")
    }

    fn store_u64(&self, at: Offset, value: u64, order: Ordering) -> Result<(), AccessError> {
        self.deciding(at).store(value, order);
        Ok(())
    }

    fn compare_exchange_u64(&self, at: Offset, current: u64, new: u64) -> Result<Result<u64, u64>, AccessError> {
        let failure = if self.update == Ordering::Relaxed { Ordering::Relaxed } else { Ordering::Acquire };
        Ok(self.deciding(at).compare_exchange(current, new, self.update, failure))
    }

    fn fetch_or_u64(&self, at: Offset, bits: u64) -> Result<u64, AccessError> {
        Ok(self.deciding(at).fetch_or(bits, self.update))
    }

    fn flush(&self, _: Offset, _: u64) -> Result<(), AccessError> {
        Ok(())
    }

    fn fence(&self) -> Result<(), AccessError> {
        Ok(())
    }
}

/// Outcomes that a model has come by, to show that it did explore what it is about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcomes(std::sync::Arc<std::sync::Mutex<std::collections::BTreeSet<u64>>>);

impl Outcomes {
    /// Notes one.
    pub(crate) fn note(&self, outcome: u64) {
        self.0.lock().unwrap().insert(outcome);
    }

    /// Fails unless exactly these were seen.
    pub(crate) fn must_be(&self, expected: impl IntoIterator<Item = u64>) {
        assert_eq!(*self.0.lock().unwrap(), expected.into_iter().collect());
    }
}
