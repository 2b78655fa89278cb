//! The two traits every structure of the pool is written against.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use thiserror::Error;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

use crate::numbers::Offset;

/// An access that pool memory refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AccessError {
    /// The range does not lie within the extent.
    #[error("access of {len} bytes at {at} is outside the extent of {capacity} bytes")]
    OutOfBounds {
        /// First byte.
        at: Offset,
        /// Length of the access.
        len: u64,
        /// Length of the extent.
        capacity: u64,
    },
    /// A word access at an address that is no multiple of 8.
    #[error("word access at {at} is not aligned")]
    Misaligned {
        /// Where.
        at: Offset,
    },
    /// The memory no longer answers this host: its link to the pool is cut, or (in a model) the host has crashed.
    #[error("the pool is not reachable")]
    Unreachable,
}

/// Memory of the pool that may be read.
pub trait PoolRead {
    /// Length of the extent in bytes.
    fn len(&self) -> u64;

    /// Whether the extent has no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies bytes out into private memory.
    ///
    /// # Errors
    /// When the range is outside the extent, or the pool unreachable.
    fn read(&self, at: Offset, into: &mut [u8]) -> Result<(), AccessError>;

    /// Copies bytes out into memory that others may write too, such as guest memory.
    ///
    /// # Errors
    /// When the range is outside the extent, or the pool unreachable.
    fn read_volatile<B: BitmapSlice>(&self, at: Offset, into: &VolatileSlice<'_, B>) -> Result<(), AccessError>;

    /// Loads an aligned word.
    ///
    /// # Errors
    /// When the word is outside the extent or not aligned, or the pool unreachable.
    fn load_u64(&self, at: Offset, order: Ordering) -> Result<u64, AccessError>;
}

/// Memory of the pool that may be written.
pub trait PoolWrite: PoolRead {
    /// Copies private bytes in.
    ///
    /// # Errors
    /// When the range is outside the extent, or the pool unreachable.
    fn write(&self, at: Offset, bytes: &[u8]) -> Result<(), AccessError>;

    /// Copies private bytes in, past the caches where the memory has such stores: for much that nobody here reads soon.
    /// Before a [`drain`](Self::drain) by the same thread these stores have no order, and to [`flush`](Self::flush) their
    /// lines is in vain.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    fn stream(&self, at: Offset, bytes: &[u8]) -> Result<(), AccessError> {
        self.write(at, bytes)
    }

    /// Puts what this thread has streamed before all that it stores and flushes from now on.
    fn drain(&self) {}

    /// Copies bytes in from memory that others may write too, such as guest memory.
    ///
    /// # Errors
    /// When the range is outside the extent, or the pool unreachable.
    fn write_volatile<B: BitmapSlice>(&self, at: Offset, from: &VolatileSlice<'_, B>) -> Result<(), AccessError>;

    /// Stores an aligned word.
    ///
    /// # Errors
    /// When the word is outside the extent or not aligned, or the pool unreachable.
    fn store_u64(&self, at: Offset, value: u64, order: Ordering) -> Result<(), AccessError>;

    /// Replaces `current` by `new` (acquire and release); the inner result is what `AtomicU64::compare_exchange` says.
    ///
    /// # Errors
    /// When the word is outside the extent or not aligned, or the pool unreachable.
    fn compare_exchange_u64(&self, at: Offset, current: u64, new: u64) -> Result<Result<u64, u64>, AccessError>;

    /// Sets bits (acquire and release) and returns the word as it was before.
    ///
    /// # Errors
    /// When the word is outside the extent or not aligned, or the pool unreachable.
    fn fetch_or_u64(&self, at: Offset, bits: u64) -> Result<u64, AccessError>;

    /// Has memory put behind a range before it is written, so that the stores need not wait for it. Only a favour: it may
    /// do nothing, and it changes no byte. The range must have its space.
    fn populate(&self, _at: Offset, _len: u64) {}

    /// Starts writing the lines of a range back to the pool. They are durable after the next [`fence`](Self::fence).
    ///
    /// # Errors
    /// When the range is outside the extent, or the pool unreachable.
    fn flush(&self, at: Offset, len: u64) -> Result<(), AccessError>;

    /// Waits until all lines flushed before are durable.
    ///
    /// # Errors
    /// When the pool is unreachable.
    fn fence(&self) -> Result<(), AccessError>;
}

/// Checks that `len` bytes at `at` lie within `capacity`, and returns the start.
#[inline]
pub(crate) fn check_bounds(at: Offset, len: u64, capacity: u64) -> Result<u64, AccessError> {
    match at.get().checked_add(len) {
        Some(end) if end <= capacity => Ok(at.get()),
        _ => Err(AccessError::OutOfBounds { at, len, capacity }),
    }
}

/// Checks that an aligned word lies within `capacity`, and returns its start.
pub(crate) fn check_word(at: Offset, capacity: u64) -> Result<u64, AccessError> {
    if !at.get().is_multiple_of(8) {
        return Err(AccessError::Misaligned { at });
    }
    check_bounds(at, 8, capacity)
}

macro_rules! forward {
    ($pointer:ty) => {
        impl<T: PoolRead> PoolRead for $pointer {
            fn len(&self) -> u64 {
                (**self).len()
            }
            fn read(&self, at: Offset, into: &mut [u8]) -> Result<(), AccessError> {
                (**self).read(at, into)
            }
            fn read_volatile<B: BitmapSlice>(
                &self,
                at: Offset,
                into: &VolatileSlice<'_, B>,
            ) -> Result<(), AccessError> {
                (**self).read_volatile(at, into)
            }
            fn load_u64(&self, at: Offset, order: Ordering) -> Result<u64, AccessError> {
                (**self).load_u64(at, order)
            }
        }

        impl<T: PoolWrite> PoolWrite for $pointer {
            fn write(&self, at: Offset, bytes: &[u8]) -> Result<(), AccessError> {
                (**self).write(at, bytes)
            }
            fn stream(&self, at: Offset, bytes: &[u8]) -> Result<(), AccessError> {
                (**self).stream(at, bytes)
            }
            fn drain(&self) {
                (**self).drain();
            }
            fn write_volatile<B: BitmapSlice>(
                &self,
                at: Offset,
                from: &VolatileSlice<'_, B>,
            ) -> Result<(), AccessError> {
                (**self).write_volatile(at, from)
            }
            fn store_u64(&self, at: Offset, value: u64, order: Ordering) -> Result<(), AccessError> {
                (**self).store_u64(at, value, order)
            }
            fn compare_exchange_u64(
                &self,
                at: Offset,
                current: u64,
                new: u64,
            ) -> Result<Result<u64, u64>, AccessError> {
                (**self).compare_exchange_u64(at, current, new)
            }
            fn fetch_or_u64(&self, at: Offset, bits: u64) -> Result<u64, AccessError> {
                (**self).fetch_or_u64(at, bits)
            }
            fn populate(&self, at: Offset, len: u64) {
                (**self).populate(at, len);
            }
            fn flush(&self, at: Offset, len: u64) -> Result<(), AccessError> {
                (**self).flush(at, len)
            }
            fn fence(&self) -> Result<(), AccessError> {
                (**self).fence()
            }
        }
    };
}

forward!(&T);
forward!(Rc<T>);
forward!(Arc<T>);
