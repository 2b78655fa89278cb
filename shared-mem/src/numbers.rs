//! Newtypes for the numbers that the pool hands out and others give back, so that an epoch is never taken for an offset. Counts that stay within
//! one structure (a beat's, a log entry's sequence) are plain.

use std::fmt;

/// Size of a page: the unit of dirty tracking, of the page index and of the stable image.
pub const PAGE_SIZE: u64 = 4096;

/// [`PAGE_SIZE`] for sizing buffers.
pub const PAGE_BYTES: usize = 4096;

/// Where the disk image begins in the page index of a commit record: entry `DISK_PAGE_BASE + b` is block b of the disk.
/// Far above every page of an image, so that neither can be taken for the other.
pub const DISK_PAGE_BASE: u64 = 1 << 40;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($repr);

        impl $name {
            /// The smallest value.
            pub const ZERO: Self = Self(0);

            /// Wraps a raw number.
            #[must_use]
            pub const fn new(raw: $repr) -> Self {
                Self(raw)
            }

            /// The raw number.
            #[must_use]
            pub const fn get(self) -> $repr {
                self.0
            }

            /// The successor.
            ///
            /// # Panics
            /// At the end of the representation: no counter of this crate comes near it.
            #[must_use]
            pub const fn next(self) -> Self {
                match self.0.checked_add(1) {
                    Some(next) => Self(next),
                    None => panic!("number ran over"),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// The span between two commits. Epoch 0: nothing was committed yet.
    Epoch(u64)
}
number! {
    /// The reign of one primary; the first is 1, each takeover adds one.
    Generation(u64)
}
number! {
    /// A page of the stable image: image offset / [`PAGE_SIZE`]. In a commit record also a block of the disk image, from
    /// [`DISK_PAGE_BASE`] on; see [`place`](PageIndex::place).
    PageIndex(u64)
}
number! {
    /// A block of the disk image: disk offset / [`PAGE_SIZE`].
    BlockIndex(u64)
}
number! {
    /// The index of a VM in the VM directory.
    VmSlot(u16)
}
number! {
    /// The index of a host among the heartbeat pages.
    HostSlot(u16)
}
number! {
    /// How many console bytes came before: the console's position since the VM was created.
    ConsolePosition(u64)
}
number! {
    /// A byte position in the record log, counted from the log's creation, never wrapped.
    LogPosition(u64)
}
number! {
    /// A byte offset within one extent of the pool.
    Offset(u64)
}

impl Offset {
    /// This offset moved up. Saturates: an offset out of range is refused by the bounds check of the access.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }
}

/// What an entry of a commit record's page index names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PagePlace {
    /// A page of the stable image.
    Image(PageIndex),
    /// A block of the disk image.
    Disk(BlockIndex),
}

impl PageIndex {
    /// The entry that names a block of the disk image in a commit record.
    #[must_use]
    pub const fn of_block(block: BlockIndex) -> Self {
        Self(DISK_PAGE_BASE.saturating_add(block.0))
    }

    /// What the entry names.
    #[must_use]
    pub const fn place(self) -> PagePlace {
        match self.0.checked_sub(DISK_PAGE_BASE) {
            None => PagePlace::Image(self),
            Some(block) => PagePlace::Disk(BlockIndex(block)),
        }
    }

    /// Where the page begins in the stable image.
    #[must_use]
    pub const fn offset(self) -> Offset {
        Offset(self.0.saturating_mul(PAGE_SIZE))
    }
}

impl BlockIndex {
    /// Where the block begins in the disk image.
    #[must_use]
    pub const fn offset(self) -> Offset {
        Offset(self.0.saturating_mul(PAGE_SIZE))
    }
}

impl Epoch {
    /// The epoch before, if there is one.
    #[must_use]
    pub const fn previous(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(previous) => Some(Self(previous)),
            None => None,
        }
    }
}

impl ConsolePosition {
    /// The position `bytes` further on.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }
}

impl LogPosition {
    /// The position `bytes` further on.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }
}

/// `value` rounded up to a multiple of `unit`, a power of two.
#[must_use]
pub(crate) const fn round_up(value: u64, unit: u64) -> u64 {
    assert!(unit.is_power_of_two());
    value.saturating_add(unit - 1) & !(unit - 1)
}

/// A length of this process as a number of the pool: `usize` has at most 64 bits here.
#[must_use]
pub(crate) const fn len_u64(len: usize) -> u64 {
    const { assert!(usize::BITS <= u64::BITS) };
    len as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_order_step_and_print() {
        assert!(Epoch::new(3) < Epoch::new(3).next());
        assert_eq!(Epoch::new(7).to_string(), "7");
        assert_eq!(Epoch::ZERO.previous(), None);
        assert_eq!(PageIndex::new(2).offset(), Offset::new(8192));
        assert_eq!(PageIndex::new(2).place(), PagePlace::Image(PageIndex::new(2)));
        let block = BlockIndex::new(7);
        assert_eq!(PageIndex::of_block(block).place(), PagePlace::Disk(block));
        assert_eq!(round_up(1, 4096), 4096);
        assert_eq!(round_up(4096, 4096), 4096);
    }
}
