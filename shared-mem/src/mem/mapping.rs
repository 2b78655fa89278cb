//! A shared mapping of an extent, typed by what it may be used for.
#![allow(unsafe_code, reason = "maps pool memory and reaches it by volatile copies and atomics")]

use std::io;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use thiserror::Error;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

use super::access::{AccessError, PoolRead, PoolWrite, check_bounds, check_word};
use super::backing;
use super::stream;
use super::truncation::Guarded;
use super::{Access, Extent, ExtentError, FlushKind};
use crate::numbers::{Offset, PAGE_BYTES, len_u64};

// Words in the pool are little-endian, and atomics work on them in place.
const _: () = assert!(cfg!(target_endian = "little"));

/// Why an extent could not be mapped.
#[derive(Debug, Error)]
pub enum MapError {
    /// The extent has no byte.
    #[error("an empty extent cannot be mapped")]
    Empty,
    /// The extent does not fit the address space.
    #[error("an extent of {len} bytes does not fit the address space")]
    TooLong {
        /// Its length.
        len: u64,
    },
    /// The file behind the extent ends before it: touching the rest would kill the process.
    #[error("the file has {found} bytes, the extent ends at {expected}")]
    Short {
        /// Where the extent ends.
        expected: u64,
        /// Where the file ends.
        found: u64,
    },
    /// A writable mapping of a read-only descriptor.
    #[error("the descriptor is read-only")]
    ReadOnlyDescriptor,
    /// The descriptor could not be examined.
    #[error("cannot examine the extent")]
    Extent(#[source] ExtentError),
    /// The kernel refused.
    #[error("cannot map the extent")]
    Refused(#[source] io::Error),
}

/// Role of a mapping that may only be read.
#[derive(Debug, Clone, Copy)]
pub enum ReadOnly {}

/// Role of a mapping that may be read and written.
#[derive(Debug, Clone, Copy)]
pub enum ReadWrite {}

/// A `MAP_SHARED` mapping of an extent.
#[derive(Debug)]
pub struct Mapping<Role> {
    base: NonNull<u8>,
    len: NonZeroUsize,
    /// What is mapped: no less than from `base` for `len`.
    mapped: (NonNull<u8>, NonZeroUsize),
    flush: FlushKind,
    guarded: Guarded,
    role: PhantomData<fn() -> Role>,
}

// SAFETY: the mapping belongs to the value and is not tied to a thread; all access goes through volatile copies and
// atomics, which other processes race with anyway.
unsafe impl<Role> Send for Mapping<Role> {}
// SAFETY: as above.
unsafe impl<Role> Sync for Mapping<Role> {}

impl Mapping<ReadOnly> {
    /// Maps an extent for reading.
    ///
    /// # Errors
    /// When the file is too short or the kernel refuses.
    pub fn read_only(extent: &Extent) -> Result<Self, MapError> {
        Self::map(extent, ProtFlags::PROT_READ)
    }
}

impl Mapping<ReadWrite> {
    /// Maps an extent for reading and writing.
    ///
    /// # Errors
    /// When the descriptor is read-only, the file is too short or the kernel refuses.
    pub fn read_write(extent: &Extent) -> Result<Self, MapError> {
        if extent.access().map_err(MapError::Extent)? == Access::ReadOnly {
            return Err(MapError::ReadOnlyDescriptor);
        }
        Self::map(extent, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }
}

impl<Role> Mapping<Role> {
    fn map(extent: &Extent, protection: ProtFlags) -> Result<Self, MapError> {
        let len = usize::try_from(extent.len()).map_err(|_| MapError::TooLong { len: extent.len() })?;
        let len = NonZeroUsize::new(len).ok_or(MapError::Empty)?;
        check_file_length(extent)?;
        let page_bytes = backing::page_bytes(extent).map_err(MapError::Refused)?;
        let at = extent.offset().get();
        let (start, mapped) = backing::mapping_window(extent, at, extent.len()).map_err(MapError::Refused)?;
        let offset = i64::try_from(start).map_err(|_| MapError::TooLong { len: extent.len() })?;
        let lead = usize::try_from(at - start).map_err(|_| MapError::TooLong { len: extent.len() })?;
        let mapped = usize::try_from(mapped).map_err(|_| MapError::TooLong { len: extent.len() })?;
        let mapped = NonZeroUsize::new(mapped).ok_or(MapError::Empty)?;
        // Space is reserved by whoever makes a file; a mapping of one that has holes reserves none, of huge pages neither.
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of this program.
        let window: NonNull<u8> = unsafe { mmap(None, mapped, protection, flags, extent, offset) }
            .map_err(|errno| MapError::Refused(errno.into()))?
            .cast();
        let guarded_page_bytes = usize::try_from(page_bytes).unwrap_or(PAGE_BYTES);
        Ok(Self {
            // SAFETY: the window reaches from before the extent's beginning to its end, or behind it.
            base: unsafe { window.byte_add(lead) },
            len,
            mapped: (window, mapped),
            flush: FlushKind::for_mapping(extent.as_fd()),
            guarded: Guarded::new(window.addr().get(), mapped.get(), guarded_page_bytes),
            role: PhantomData,
        })
    }

    /// The same mapping with a forced way of flushing.
    #[must_use]
    pub fn with_flush(mut self, flush: FlushKind) -> Self {
        self.flush = flush;
        self
    }

    /// Whether the file behind the mapping was cut off, so that lost pages read as zeroes; see
    /// [`survive_truncation`](super::survive_truncation).
    #[must_use]
    pub fn is_torn(&self) -> bool {
        self.guarded.is_torn()
    }

    /// How lines become durable here.
    #[must_use]
    pub fn flush_kind(&self) -> FlushKind {
        self.flush
    }

    // Inline, like what calls it: see `WorkingMemory::page`.
    #[inline]
    fn slice(&self, at: Offset, len: u64) -> Result<VolatileSlice<'_>, AccessError> {
        let start = check_bounds(at, len, len_u64(self.len.get()))?;
        let (start, len) = in_memory(start, len);
        // SAFETY: start is within the mapping, by the check above.
        let pointer = unsafe { self.base.as_ptr().add(start) };
        // SAFETY: [start, start + len) is within the mapping, which lives as long as self.
        Ok(unsafe { VolatileSlice::new(pointer, len) })
    }

    fn word(&self, at: Offset) -> Result<&AtomicU64, AccessError> {
        let start = check_word(at, len_u64(self.len.get()))?;
        let (start, _) = in_memory(start, 8);
        // SAFETY: start is within the mapping, by the check above.
        let pointer = unsafe { self.base.as_ptr().add(start) };
        // SAFETY: the eight bytes are within the mapping and aligned (the base is at a page); other processes reach
        // words by atomics only, and a writer that does not can harm values, not memory safety.
        Ok(unsafe { AtomicU64::from_ptr(pointer.cast()) })
    }
}

/// Checked numbers of a mapping as sizes of this address space.
#[inline]
fn in_memory(start: u64, len: u64) -> (usize, usize) {
    const { assert!(usize::BITS == u64::BITS) };
    #[allow(clippy::cast_possible_truncation, reason = "asserted above: same width")]
    (start as usize, len as usize)
}

fn check_file_length(extent: &Extent) -> Result<(), MapError> {
    let file = extent.to_file().map_err(MapError::Extent)?;
    let metadata = file.metadata().map_err(MapError::Refused)?;
    let expected = extent.offset().plus(extent.len()).get();
    if metadata.is_file() && metadata.len() < expected {
        return Err(MapError::Short { expected, found: metadata.len() });
    }
    Ok(())
}

impl<Role> Drop for Mapping<Role> {
    fn drop(&mut self) {
        // The handler must not know of an address range that may become somebody else's.
        self.guarded.forget();
        // SAFETY: the mapping was made by `map` with this base and length, and nothing borrowed from it is left.
        let result = unsafe { munmap(self.mapped.0.cast(), self.mapped.1.get()) };
        debug_assert!(result.is_ok(), "munmap refused its own mapping");
    }
}

impl<Role> PoolRead for Mapping<Role> {
    fn len(&self) -> u64 {
        len_u64(self.len.get())
    }

    fn read(&self, at: Offset, into: &mut [u8]) -> Result<(), AccessError> {
        self.slice(at, len_u64(into.len()))?.copy_to(into);
        Ok(())
    }

    fn read_volatile<B: BitmapSlice>(&self, at: Offset, into: &VolatileSlice<'_, B>) -> Result<(), AccessError> {
        self.slice(at, len_u64(into.len()))?.copy_to_volatile_slice(into.clone());
        Ok(())
    }

    fn load_u64(&self, at: Offset, order: Ordering) -> Result<u64, AccessError> {
        Ok(self.word(at)?.load(order))
    }
}

impl PoolWrite for Mapping<ReadWrite> {
    #[inline]
    fn write(&self, at: Offset, bytes: &[u8]) -> Result<(), AccessError> {
        self.slice(at, len_u64(bytes.len()))?.copy_from(bytes);
        Ok(())
    }

    #[inline]
    fn stream(&self, at: Offset, bytes: &[u8]) -> Result<(), AccessError> {
        let into = self.slice(at, len_u64(bytes.len()))?;
        // SAFETY: the slice lies within the mapping, is as long as the bytes, and is reached by volatile copies only.
        if !unsafe { stream::copy(into.ptr_guard_mut().as_ptr(), bytes) } {
            into.copy_from(bytes);
        }
        Ok(())
    }

    fn drain(&self) {
        stream::drain();
    }

    #[inline]
    fn write_volatile<B: BitmapSlice>(&self, at: Offset, from: &VolatileSlice<'_, B>) -> Result<(), AccessError> {
        let into = self.slice(at, len_u64(from.len()))?;
        from.copy_to_volatile_slice(into);
        Ok(())
    }

    fn store_u64(&self, at: Offset, value: u64, order: Ordering) -> Result<(), AccessError> {
        self.word(at)?.store(value, order);
        Ok(())
    }

    fn compare_exchange_u64(&self, at: Offset, current: u64, new: u64) -> Result<Result<u64, u64>, AccessError> {
        Ok(self.word(at)?.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire))
    }

    fn fetch_or_u64(&self, at: Offset, bits: u64) -> Result<u64, AccessError> {
        Ok(self.word(at)?.fetch_or(bits, Ordering::AcqRel))
    }

    fn populate(&self, at: Offset, len: u64) {
        // Whole pages; the range is from pages of the journal, which begin at pages.
        let Ok(range) = self.slice(at, len) else { return };
        // SAFETY: the slice lies within the mapping; populating it changes no byte. A kernel that cannot do it, or has no
        // memory, says so, and the stores will find out by themselves.
        unsafe { libc::madvise(range.ptr_guard_mut().as_ptr().cast(), range.len(), libc::MADV_POPULATE_WRITE) };
    }

    fn flush(&self, at: Offset, len: u64) -> Result<(), AccessError> {
        let range = self.slice(at, len)?;
        // SAFETY: the slice lies within the mapping.
        unsafe { self.flush.flush_range(range.ptr_guard().as_ptr(), range.len()) };
        Ok(())
    }

    fn fence(&self) -> Result<(), AccessError> {
        self.flush.fence();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    fn extent(len: u64) -> Extent {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        Extent::new(OwnedFd::from(file), Offset::ZERO, len).unwrap()
    }

    #[test]
    fn bytes_and_words_go_in_and_out_and_bounds_hold() {
        let extent = extent(8192);
        let writer = Mapping::read_write(&extent).unwrap();
        let reader = Mapping::read_only(&extent).unwrap();
        writer.write(Offset::new(4090), b"over the page").unwrap();
        let mut copy = [0; 13];
        reader.read(Offset::new(4090), &mut copy).unwrap();
        assert_eq!(&copy, b"over the page");
        writer.store_u64(Offset::new(64), 7, Ordering::Release).unwrap();
        assert_eq!(writer.compare_exchange_u64(Offset::new(64), 7, 9), Ok(Ok(7)));
        assert_eq!(writer.compare_exchange_u64(Offset::new(64), 7, 9), Ok(Err(9)));
        assert_eq!(writer.fetch_or_u64(Offset::new(64), 6), Ok(9));
        assert_eq!(reader.load_u64(Offset::new(64), Ordering::Acquire), Ok(15));
        assert!(matches!(reader.read(Offset::new(8190), &mut copy), Err(AccessError::OutOfBounds { .. })));
        assert!(matches!(reader.read(Offset::new(u64::MAX), &mut copy), Err(AccessError::OutOfBounds { .. })));
        assert!(matches!(reader.load_u64(Offset::new(63), Ordering::Acquire), Err(AccessError::Misaligned { .. })));
    }

    #[test]
    fn every_flush_instruction_of_this_processor_runs() {
        let extent = extent(8192);
        let best = FlushKind::best_of_processor();
        for kind in [FlushKind::None, FlushKind::Clflush, best] {
            let mapping = Mapping::read_write(&extent).unwrap().with_flush(kind);
            mapping.write(Offset::new(100), &[1; 300]).unwrap();
            mapping.flush(Offset::new(100), 300).unwrap();
            mapping.flush(Offset::new(8191), 1).unwrap();
            mapping.fence().unwrap();
            assert!(mapping.flush(Offset::new(8191), 2).is_err());
        }
    }

    #[test]
    fn a_short_file_and_a_read_only_descriptor_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("extent");
        std::fs::write(&path, [0; 4096]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let long = Extent::new(file.try_clone().unwrap().into(), Offset::ZERO, 8192).unwrap();
        assert!(matches!(Mapping::read_only(&long), Err(MapError::Short { .. })));
        let right = Extent::new(file.into(), Offset::ZERO, 4096).unwrap();
        assert!(Mapping::read_only(&right).is_ok());
        assert!(matches!(Mapping::read_write(&right), Err(MapError::ReadOnlyDescriptor)));
    }
}
