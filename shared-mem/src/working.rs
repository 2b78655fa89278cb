//! Working memory: what a guest runs on, a host's copy-on-write view of the stable image.
//!
//! The view is a private mapping of a read-only descriptor: pages that the guest has not written are the pool's own,
//! and cost the host nothing; a written page becomes the host's own copy. Guest memory below 3 GiB lies at its image
//! offset; memory beyond continues at 4 GiB, the hole in between is for devices.
//!
//! A DAX device has no private mappings: over one, working memory is memory of the host's own, filled from the stable image
//! when the guest is to run on it (`refresh`), and again where the view would fall back to the image.
#![allow(unsafe_code, reason = "gives private pages back to the kernel")]

use std::io;
use std::ops::Range;

use thiserror::Error;
use vm_memory::bitmap::BS;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion, VolatileMemory,
    VolatileSlice,
};

use crate::device_writes::DeviceWrites;
use crate::mem::{AccessError, Extent, ExtentError, MapError, Mapping, PoolRead, ReadOnly, is_device, page_bytes};
use crate::numbers::{PAGE_BYTES, PAGE_SIZE, PageIndex};

/// Guest physical address at which low memory ends and the hole begins.
pub const HOLE_START: u64 = 3 << 30;

/// Guest physical address at which the hole ends and high memory begins.
pub const HOLE_END: u64 = 4 << 30;

/// Guest memory with the bitmap in which devices note what they wrote.
pub type GuestMemory = GuestMemoryMmap<DeviceWrites>;

/// A page of working memory.
pub type WorkingPage<'a> = VolatileSlice<'a, BS<'a, DeviceWrites>>;

/// Working memory could not be made.
#[derive(Debug, Error)]
pub enum WorkingError {
    /// Guest memory is whole pages, and at least one.
    #[error("guest memory cannot have {bytes} bytes")]
    Size {
        /// Bytes asked for.
        bytes: u64,
    },
    /// The file is shorter than the image: touching the rest would kill the host.
    #[error("the stable image has {found} bytes, expected {expected}")]
    Short {
        /// Where the image ends.
        expected: u64,
        /// Where the file ends.
        found: u64,
    },
    /// The descriptor cannot be used.
    #[error("cannot use the descriptor of the stable image")]
    Extent(#[from] ExtentError),
    /// The file cannot be examined.
    #[error("cannot examine the stable image")]
    Examine(#[source] io::Error),
    /// The kernel refused a mapping.
    #[error("cannot map guest memory")]
    Map(#[source] MmapRegionError),
    /// There are not enough huge pages for the copies of what the guest writes.
    #[error(
        "the machine has no {bytes} bytes of huge pages left for a guest's working memory; raise vm.nr_hugepages, or make the pool on a tmpfs"
    )]
    NoHugePages {
        /// Bytes needed.
        bytes: u64,
    },
    /// The stable image cannot be mapped, to be copied.
    #[error("cannot map the stable image")]
    Image(#[from] MapError),
    /// The regions do not fit together.
    #[error("cannot lay out guest memory")]
    Regions(#[source] vm_memory::GuestRegionCollectionError),
}

/// Private pages could not be given back.
#[derive(Debug, Error)]
pub enum DropPrivateError {
    /// Pages that guest memory does not have.
    #[error("pages {start}..{end} are not in guest memory of {pages} pages")]
    OutOfRange {
        /// First page.
        start: PageIndex,
        /// Page after the last.
        end: PageIndex,
        /// Pages there are.
        pages: u64,
    },
    /// Anonymous memory has no stable image to fall back to: its pages would be lost.
    #[error("guest memory without a stable image cannot drop pages")]
    Anonymous,
    /// The stable image cannot be read.
    #[error("cannot copy the stable image")]
    Image(#[from] AccessError),
    /// The kernel refused.
    #[error("cannot drop private pages")]
    Refused(#[source] io::Error),
}

/// A host's own view of a guest's memory.
#[derive(Debug)]
pub struct WorkingMemory {
    memory: GuestMemory,
    low_pages: u64,
    pages: u64,
    anonymous: bool,
    /// What the memory is filled from, where it is no view.
    source: Option<Mapping<ReadOnly>>,
}

/// A piece of the image and where the guest sees it.
struct Piece {
    image_offset: u64,
    guest: u64,
    bytes: u64,
}

/// The pieces that an image of `bytes` bytes falls into.
fn pieces(bytes: u64) -> Vec<Piece> {
    let low = bytes.min(HOLE_START);
    let mut pieces = vec![Piece { image_offset: 0, guest: 0, bytes: low }];
    if bytes > low {
        pieces.push(Piece { image_offset: low, guest: HOLE_END, bytes: bytes - low });
    }
    pieces
}

/// Where the guest sees a page of the image.
#[must_use]
pub fn guest_address(page: PageIndex) -> GuestAddress {
    let offset = page.offset().get();
    GuestAddress(if offset < HOLE_START { offset } else { offset.saturating_add(HOLE_END - HOLE_START) })
}

/// Which page of the image a guest address lies in; `None`: in the hole.
#[must_use]
pub fn page_index(address: GuestAddress) -> Option<PageIndex> {
    match address.0 {
        low if low < HOLE_START => Some(PageIndex::new(low / PAGE_SIZE)),
        high if high >= HOLE_END => Some(PageIndex::new((high - (HOLE_END - HOLE_START)) / PAGE_SIZE)),
        _ => None,
    }
}

impl WorkingMemory {
    /// A copy-on-write view of a stable image. A read-only descriptor is enough.
    ///
    /// # Errors
    /// When the image makes no guest memory, or the kernel refuses.
    pub fn over_image(image: &Extent) -> Result<Self, WorkingError> {
        check_file_length(image)?;
        if is_device(image).map_err(WorkingError::Examine)? {
            return Self::copy_of_image(image);
        }
        Self::build(image.len(), Some(image))
    }

    /// Memory of the host's own, to be filled from a stable image: what a view is where there are private mappings.
    ///
    /// # Errors
    /// As for [`over_image`](Self::over_image).
    pub fn copy_of_image(image: &Extent) -> Result<Self, WorkingError> {
        let source = Some(Mapping::read_only(image)?);
        Ok(Self { source, ..Self::build(image.len(), None)? })
    }

    /// Makes the memory what the stable image is now. To be called when the guest is to run from there; a view is the
    /// image anyway, where the host has written nothing.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn refresh(&self) -> Result<(), AccessError> {
        match &self.source {
            Some(source) => self.copy(source, &(0..self.pages)),
            None => Ok(()),
        }
    }

    /// Copies pages of the image. Devices' bitmaps are for what the guest's devices write, and stay as they are.
    fn copy(&self, source: &Mapping<ReadOnly>, pages: &Range<u64>) -> Result<(), AccessError> {
        for page in pages.clone().map(PageIndex::new) {
            let Some((region, offset)) = self.region(page) else { return Ok(()) };
            assert!(offset + PAGE_BYTES <= region.size(), "the page lies in its region");
            // SAFETY: the page lies within the region, by the check above, which lives as long as self; there are no
            // references into it.
            let into = unsafe { VolatileSlice::new(region.as_ptr().wrapping_add(offset), PAGE_BYTES) };
            source.read_volatile(page.offset(), &into)?;
        }
        Ok(())
    }

    /// Guest memory without a pool behind it, for unprotected runs.
    ///
    /// # Errors
    /// When the size makes no guest memory, or the kernel refuses.
    pub fn anonymous(bytes: u64) -> Result<Self, WorkingError> {
        Self::build(bytes, None)
    }

    fn build(bytes: u64, image: Option<&Extent>) -> Result<Self, WorkingError> {
        if bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE) {
            return Err(WorkingError::Size { bytes });
        }
        let regions =
            pieces(bytes).into_iter().map(|piece| map_piece(&piece, image, bytes)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            memory: GuestMemory::from_regions(regions).map_err(WorkingError::Regions)?,
            low_pages: bytes.min(HOLE_START) / PAGE_SIZE,
            pages: bytes / PAGE_SIZE,
            anonymous: image.is_none(),
            source: None,
        })
    }

    /// The guest memory, to be given to KVM and devices.
    #[must_use]
    pub fn guest_memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// How many pages there are.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The region a page lies in, and its byte offset there.
    #[inline]
    fn region(&self, page: PageIndex) -> Option<(&GuestRegionMmap<DeviceWrites>, usize)> {
        let (index, first) = if page.get() < self.low_pages { (0, 0) } else { (1, self.low_pages) };
        let region = self.memory.iter().nth(index)?;
        let offset = usize::try_from((page.get() - first) * PAGE_SIZE).ok()?;
        Some((region, offset))
    }

    /// A page of working memory; `None` beyond its end. Writes through it are noted in the bitmap.
    // Inline: a result that goes through memory makes a commit wait, page after page, until the page before has left the
    // processor's store buffer.
    #[inline]
    #[must_use]
    pub fn page(&self, page: PageIndex) -> Option<WorkingPage<'_>> {
        if page.get() >= self.pages {
            return None;
        }
        let (region, offset) = self.region(page)?;
        VolatileMemory::get_slice(&**region, offset, PAGE_BYTES).ok()
    }

    /// Forgets the host's own copies of a range of pages: the guest sees the stable image there from now on. Only for
    /// pages whose content the stable image has, that is, after their epoch was applied.
    ///
    /// # Errors
    /// When the range is outside the memory, the memory is anonymous, or the kernel refuses.
    pub fn drop_private(&self, range: Range<PageIndex>) -> Result<(), DropPrivateError> {
        let Range { start, end } = range;
        if start > end || end.get() > self.pages {
            let pages = self.pages;
            return Err(DropPrivateError::OutOfRange { start, end, pages });
        }
        if let Some(source) = &self.source {
            return Ok(self.copy(source, &(start.get()..end.get()))?);
        }
        if self.anonymous {
            return Err(DropPrivateError::Anonymous);
        }
        let low = start.get()..end.get().min(self.low_pages);
        let high = start.get().max(self.low_pages)..end.get();
        for part in [low, high].into_iter().filter(|part| !part.is_empty()) {
            self.drop_within_region(&part)?;
        }
        Ok(())
    }

    fn drop_within_region(&self, pages: &Range<u64>) -> Result<(), DropPrivateError> {
        let Some((region, offset)) = self.region(PageIndex::new(pages.start)) else {
            return Ok(());
        };
        let length = usize::try_from((pages.end - pages.start) * PAGE_SIZE).unwrap_or(usize::MAX);
        assert!(offset + length <= region.size(), "the range was checked");
        let start = region.as_ptr().wrapping_add(offset);
        // SAFETY: the range lies within a private file mapping that this value owns; there are no references into
        // it, only volatile accesses, for which the memory stays valid.
        let result = unsafe { libc::madvise(start.cast(), length, libc::MADV_DONTNEED) };
        if result == 0 { Ok(()) } else { Err(DropPrivateError::Refused(io::Error::last_os_error())) }
    }
}

fn map_piece(piece: &Piece, image: Option<&Extent>, total: u64) -> Result<GuestRegionMmap<DeviceWrites>, WorkingError> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let mut flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
    let file = match image {
        Some(image) => {
            let start = image.offset().plus(piece.image_offset).get();
            Some(FileOffset::new(image.to_file()?, start))
        }
        None => {
            flags |= libc::MAP_ANONYMOUS;
            None
        }
    };
    let bytes = usize::try_from(piece.bytes).map_err(|_| WorkingError::Size { bytes: total })?;
    let huge = match image {
        Some(image) => page_bytes(image).map_err(WorkingError::Examine)? > PAGE_SIZE,
        None => false,
    };
    if huge {
        // Reserved now: a write that finds no huge page would kill the host.
        flags &= !libc::MAP_NORESERVE;
    }
    let refused = |error| match error {
        MmapRegionError::Mmap(error) if huge && error.raw_os_error() == Some(libc::ENOMEM) => {
            WorkingError::NoHugePages { bytes: piece.bytes }
        }
        error => WorkingError::Map(error),
    };
    let mapping = MmapRegion::build(file, bytes, protection, flags).map_err(refused)?;
    GuestRegionMmap::new(mapping, GuestAddress(piece.guest)).ok_or(WorkingError::Size { bytes: total })
}

fn check_file_length(image: &Extent) -> Result<(), WorkingError> {
    let metadata = image.to_file()?.metadata().map_err(WorkingError::Examine)?;
    let expected = image.offset().plus(image.len()).get();
    if metadata.is_file() && metadata.len() < expected {
        let found = metadata.len();
        return Err(WorkingError::Short { expected, found });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use vm_memory::Bytes;
    use vm_memory::bitmap::Bitmap;

    use super::*;
    use crate::numbers::Offset;

    fn sparse_image(bytes: u64) -> (tempfile::NamedTempFile, Extent) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        let reader = File::open(file.path()).unwrap();
        (file, Extent::new(reader.into(), Offset::ZERO, bytes).unwrap())
    }

    #[test]
    fn writes_stay_private_until_they_are_dropped() {
        let (file, image) = sparse_image(16 * PAGE_SIZE);
        let working = WorkingMemory::over_image(&image).unwrap();
        let page = working.page(PageIndex::new(3)).unwrap();
        page.copy_from(&[7u8; PAGE_BYTES][..]);
        assert_eq!(std::fs::read(file.path()).unwrap()[3 * PAGE_BYTES], 0);
        let address = guest_address(PageIndex::new(3));
        assert_eq!(working.guest_memory().read_obj::<u8>(address).unwrap(), 7);
        working.drop_private(PageIndex::new(3)..PageIndex::new(4)).unwrap();
        assert_eq!(working.guest_memory().read_obj::<u8>(address).unwrap(), 0);
        assert!(working.page(PageIndex::new(16)).is_none());
        assert!(matches!(
            working.drop_private(PageIndex::new(3)..PageIndex::new(17)),
            Err(DropPrivateError::OutOfRange { .. })
        ));
    }

    #[test]
    fn memory_beyond_three_gib_continues_behind_the_hole() {
        let (file, image) = sparse_image(HOLE_START + 8 * PAGE_SIZE);
        let working = WorkingMemory::over_image(&image).unwrap();
        let first_high = PageIndex::new(HOLE_START / PAGE_SIZE);
        assert_eq!(guest_address(first_high), GuestAddress(HOLE_END));
        assert_eq!(page_index(GuestAddress(HOLE_END + 5)), Some(first_high));
        assert_eq!(page_index(GuestAddress(HOLE_START)), None);
        assert_eq!(page_index(GuestAddress(HOLE_START - 1)), Some(PageIndex::new(first_high.get() - 1)));
        std::os::unix::fs::FileExt::write_at(file.as_file(), b"high", HOLE_START).unwrap();
        let mut copy = [0; 4];
        working.page(first_high).unwrap().copy_to(&mut copy[..]);
        assert_eq!(&copy, b"high");
        let last_low = PageIndex::new(first_high.get() - 1);
        for page in [last_low, first_high] {
            working.page(page).unwrap().copy_from(&[1u8; 8][..]);
        }
        working.drop_private(last_low..first_high.next()).unwrap();
        let address = guest_address(last_low);
        assert_eq!(working.guest_memory().read_obj::<u8>(address).unwrap(), 0);
        assert_eq!(working.guest_memory().read_obj::<u8>(GuestAddress(HOLE_END)).unwrap(), b'h');
    }

    #[test]
    fn a_copy_is_the_image_of_the_moment_and_falls_back_to_it() {
        let (file, image) = sparse_image(16 * PAGE_SIZE);
        std::os::unix::fs::FileExt::write_at(file.as_file(), b"epoch 1", 3 * PAGE_SIZE).unwrap();
        let working = WorkingMemory::copy_of_image(&image).unwrap();
        let address = guest_address(PageIndex::new(3));
        let seen = || working.guest_memory().read_obj::<[u8; 7]>(address).unwrap();
        assert_eq!(seen(), [0; 7], "it is filled when it is to be used");
        working.refresh().unwrap();
        assert_eq!(&seen(), b"epoch 1");
        std::os::unix::fs::FileExt::write_at(file.as_file(), b"epoch 2", 3 * PAGE_SIZE).unwrap();
        assert_eq!(&seen(), b"epoch 1");
        let dirty = || working.guest_memory().iter().any(|region| region.bitmap().dirty_at(3 * PAGE_BYTES));
        assert!(!dirty(), "a copy is no write of a device's");
        working.page(PageIndex::new(3)).unwrap().copy_from(b"mine".as_slice());
        working.drop_private(PageIndex::new(3)..PageIndex::new(4)).unwrap();
        assert_eq!(&seen(), b"epoch 2");
    }

    #[test]
    fn anonymous_memory_works_but_keeps_its_pages() {
        let working = WorkingMemory::anonymous(4 * PAGE_SIZE).unwrap();
        working.page(PageIndex::new(0)).unwrap().copy_from(b"x".as_slice());
        assert!(matches!(working.drop_private(PageIndex::new(0)..PageIndex::new(1)), Err(DropPrivateError::Anonymous)));
        assert!(matches!(WorkingMemory::anonymous(5), Err(WorkingError::Size { .. })));
        assert!(matches!(WorkingMemory::anonymous(0), Err(WorkingError::Size { .. })));
    }
}
