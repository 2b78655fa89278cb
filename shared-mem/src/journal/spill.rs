//! Space for records larger than what a slot has reserved.

use std::io;

use thiserror::Error;

use crate::numbers::Offset;

/// Spill space is taken in steps of this size, to ask the kernel seldom.
pub const SPILL_STEP: u64 = 1 << 20;

/// Space could not be taken or given back.
#[derive(Debug, Error)]
pub enum SpillError {
    /// The pool is full: the writer waits until the controller has applied and freed older records.
    #[error("a large commit record needs {needed} more bytes, the pool has {available} left")]
    NoSpace {
        /// How much was asked for.
        needed: u64,
        /// How much is left.
        available: u64,
    },
    /// The kernel refused otherwise.
    #[error("cannot change the space of the journal")]
    Refused(#[source] io::Error),
}

/// Takes space before it is written, since a store to memory without space kills the writer, and gives it back.
pub trait SpillSpace {
    /// Makes sure that a range of the journal has space.
    ///
    /// # Errors
    /// When the pool is full or the kernel refuses.
    fn reserve(&self, at: Offset, len: u64) -> Result<(), SpillError>;

    /// The same, unless the pool would have less than `spare` bytes left for others.
    ///
    /// # Errors
    /// When the pool has less, is full, or the kernel refuses.
    fn reserve_spare(&self, at: Offset, len: u64, _spare: u64) -> Result<(), SpillError> {
        self.reserve(at, len)
    }

    /// Gives the space of a range back.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn release(&self, at: Offset, len: u64) -> Result<(), SpillError>;

    /// What the pool has left for anybody; all there is where space is not counted.
    ///
    /// # Errors
    /// When the kernel does not say.
    fn available(&self) -> Result<u64, SpillError> {
        Ok(u64::MAX)
    }
}

/// For memory in which all has space from the beginning.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllReserved;

impl SpillSpace for AllReserved {
    fn reserve(&self, _: Offset, _: u64) -> Result<(), SpillError> {
        Ok(())
    }

    fn release(&self, _: Offset, _: u64) -> Result<(), SpillError> {
        Ok(())
    }
}

impl<S: SpillSpace> SpillSpace for &S {
    fn reserve(&self, at: Offset, len: u64) -> Result<(), SpillError> {
        (**self).reserve(at, len)
    }

    fn reserve_spare(&self, at: Offset, len: u64, spare: u64) -> Result<(), SpillError> {
        (**self).reserve_spare(at, len, spare)
    }

    fn release(&self, at: Offset, len: u64) -> Result<(), SpillError> {
        (**self).release(at, len)
    }

    fn available(&self) -> Result<u64, SpillError> {
        (**self).available()
    }
}
