//! The guest's physical address map, and how it maps to the contiguous image of its memory.
//!
//! ```text
//! 0          first MiB: reserved (page tables, GDT, boot info, first stack), still part of the image
//! 1 MiB      RAM below the hole                     image offset = address
//! 3 GiB      the hole: devices, MMIO window at 0xd000_0000
//! 4 GiB      the rest of the RAM                    image offset = address - 1 GiB
//! ```

use super::to_usize;
use shared_mem::device_writes::DeviceWrites;
use vm_memory::mmap::FromRangesError;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// Guest memory, with a bitmap of the pages that devices wrote.
pub type GuestMemory = GuestMemoryMmap<DeviceWrites>;

/// Bytes in a page of guest memory.
pub const PAGE_SIZE: u64 = 4096;
/// Where RAM stops and the hole for devices starts.
pub const HOLE_START: u64 = 3 << 30;
/// Where RAM goes on behind the hole.
pub const HOLE_END: u64 = 4 << 30;
/// The MMIO window of flat guests.
pub const MMIO_START: u64 = 0xd000_0000;
/// Length of the MMIO window: one large page.
pub const MMIO_LENGTH: u64 = 2 << 20;
/// The smallest guest: the reserved MiB, and a MiB for the program.
pub const MEMORY_MIN: u64 = 2 << 20;
/// The largest guest: one page directory for each GiB, in the space reserved for them.
pub const MEMORY_MAX: u64 = 64 << 30;

/// Number of a page of the image: its offset there divided by [`PAGE_SIZE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(pub u64);

impl PageIndex {
    /// Offset of the page's first byte in the image.
    #[must_use]
    pub fn image_offset(self) -> u64 {
        self.0 * PAGE_SIZE
    }

    /// Guest physical address of the page's first byte.
    #[must_use]
    pub fn guest_address(self) -> GuestAddress {
        let offset = self.image_offset();
        GuestAddress(if offset < HOLE_START { offset } else { offset + (HOLE_END - HOLE_START) })
    }
}

/// Why memory for a guest cannot be laid out.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Not a multiple of the page size.
    #[error("guest memory of {bytes} bytes is not a multiple of {PAGE_SIZE}")]
    Unaligned {
        /// What was asked for.
        bytes: u64,
    },
    /// Too small to hold a guest.
    #[error("guest memory of {bytes} bytes is below the least, {MEMORY_MIN}")]
    TooSmall {
        /// What was asked for.
        bytes: u64,
    },
    /// Too large for the page tables' reserved space.
    #[error("guest memory of {bytes} bytes is above the most, {MEMORY_MAX}")]
    TooLarge {
        /// What was asked for.
        bytes: u64,
    },
    /// The operating system refused the mapping.
    #[error("cannot map guest memory")]
    Map(#[source] FromRangesError),
    /// The regions do not follow the address map.
    #[error("memory region {index} is at {got:#x} with {length:#x} bytes, which is not where RAM belongs")]
    Layout {
        /// Which region.
        index: usize,
        /// Its guest address.
        got: u64,
        /// Its length.
        length: u64,
    },
}

/// One stretch of RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamRegion {
    /// Guest physical address.
    pub guest: GuestAddress,
    /// Offset in the image.
    pub image_offset: u64,
    /// Bytes.
    pub length: u64,
}

/// The stretches of RAM of a guest with `bytes` of memory, in order.
///
/// # Errors
/// Sizes that are not whole pages, too small or too large.
pub fn ram_regions(bytes: u64) -> Result<Vec<RamRegion>, MemoryError> {
    if !bytes.is_multiple_of(PAGE_SIZE) {
        return Err(MemoryError::Unaligned { bytes });
    }
    if bytes < MEMORY_MIN {
        return Err(MemoryError::TooSmall { bytes });
    }
    if bytes > MEMORY_MAX {
        return Err(MemoryError::TooLarge { bytes });
    }
    let low = bytes.min(HOLE_START);
    let mut regions = vec![RamRegion { guest: GuestAddress(0), image_offset: 0, length: low }];
    if bytes > low {
        regions.push(RamRegion { guest: GuestAddress(HOLE_END), image_offset: low, length: bytes - low });
    }
    Ok(regions)
}

/// Memory of its own for a guest that nobody protects.
///
/// # Errors
/// A size that no guest can have, or a mapping that the operating system refuses.
pub fn anonymous_memory(bytes: u64) -> Result<GuestMemory, MemoryError> {
    let ranges: Vec<_> = ram_regions(bytes)?.iter().map(|region| (region.guest, to_usize(region.length))).collect();
    GuestMemory::from_ranges(&ranges).map_err(MemoryError::Map)
}

/// A copy-on-write view of `bytes` of image that starts at `image.start()` of a file: what the guest writes stays
/// private. The file needs to be open for reading only.
///
/// # Errors
/// A size that no guest can have, or a mapping that the operating system refuses.
pub fn copy_on_write_memory(image: &FileOffset, bytes: u64) -> Result<GuestMemory, MemoryError> {
    let mut regions = Vec::new();
    for ram in ram_regions(bytes)? {
        let file = FileOffset::from_arc(image.arc().clone(), image.start() + ram.image_offset);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        let mapping = MmapRegion::build(Some(file), to_usize(ram.length), protection, flags)
            .map_err(|error| MemoryError::Map(FromRangesError::MmapRegion(error)))?;
        regions.push(GuestRegionMmap::new(mapping, ram.guest).expect("RAM regions end far below the address limit"));
    }
    GuestMemory::from_regions(regions).map_err(|error| MemoryError::Map(FromRangesError::from(error)))
}

/// The bytes of RAM in `memory`, once its regions are known to follow the address map.
///
/// # Errors
/// Regions elsewhere than the address map has them.
pub fn checked_ram_bytes(memory: &GuestMemory) -> Result<u64, MemoryError> {
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
    let bytes = memory.iter().map(GuestMemoryRegion::len).sum();
    let expected = ram_regions(bytes)?;
    for (index, region) in memory.iter().enumerate() {
        let fits =
            expected.get(index).is_some_and(|ram| ram.guest == region.start_addr() && ram.length == region.len());
        if !fits {
            return Err(MemoryError::Layout { index, got: region.start_addr().0, length: region.len() });
        }
    }
    Ok(bytes)
}
