//! A commit record as its reader sees it: private bytes, every one of them hostile until checked.

use thiserror::Error;

use super::layout::{INDEX_ENTRY_BYTES, META_BYTES_MAX, PAGE_COST, PAGES_AT, RecordHeader, VERSION_WITH_BLOCKS};
use crate::crc::{self, Mismatch};
use crate::header::{Header, HeaderError};
use crate::numbers::{BlockIndex, Epoch, Generation, Offset, PAGE_BYTES, PAGE_SIZE, PageIndex, PagePlace, len_u64};
use crate::planted::{PlantedBug, planted};

/// What a record may at most be and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordLimits {
    /// Pages of the stable image.
    pub image_pages: u64,
    /// Blocks of the disk image; 0: the VM has no disk.
    pub disk_blocks: u64,
    /// Most meta bytes that make sense to the reader.
    pub meta_bytes_max: u64,
}

/// A record that must not be applied; the host that wrote it is not to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The header is damaged or something else.
    #[error("the record header is refused")]
    Header(#[from] HeaderError),
    /// A record of another generation.
    #[error("record of generation {found}, expected {expected}")]
    Generation {
        /// In the record.
        found: Generation,
        /// Of the journal.
        expected: Generation,
    },
    /// A record of another epoch, such as one that lay in the slot before.
    #[error("record of epoch {found}, expected {expected}")]
    Epoch {
        /// In the record.
        found: Epoch,
        /// Looked for.
        expected: Epoch,
    },
    /// Lengths that contradict each other or do not fit the slot.
    #[error("a record of {pages} pages and {meta_bytes} meta bytes cannot have {total_bytes} bytes")]
    Length {
        /// Pages named.
        pages: u64,
        /// Meta bytes named.
        meta_bytes: u64,
        /// Total length named, or bytes at hand.
        total_bytes: u64,
    },
    /// More pages than image and disk have.
    #[error("{found} pages and blocks, stable image and disk have {there_are}")]
    TooManyPages {
        /// Pages and blocks named.
        found: u64,
        /// Pages of the image and blocks of the disk.
        there_are: u64,
    },
    /// More meta bytes than allowed.
    #[error("{found} meta bytes, at most {allowed} are allowed")]
    TooMuchMeta {
        /// Bytes named.
        found: u64,
        /// Bytes allowed.
        allowed: u64,
    },
    /// The content does not match its CRC.
    #[error("record CRC is {found:#010x}, computed {computed:#010x}")]
    BodyCrc {
        /// In the header.
        found: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// A page outside the stable image.
    #[error("page {page} lies outside the stable image of {image_pages} pages")]
    PageOutside {
        /// Page named.
        page: PageIndex,
        /// Pages of the image.
        image_pages: u64,
    },
    /// A block outside the disk image.
    #[error("block {block} lies outside the disk image of {disk_blocks} blocks")]
    BlockOutside {
        /// Block named.
        block: BlockIndex,
        /// Blocks of the disk that a record of its version can name.
        disk_blocks: u64,
    },
    /// The page index does not ascend.
    #[error("page {page} follows page {previous} in the index")]
    PageOrder {
        /// The later entry.
        page: PageIndex,
        /// The earlier entry.
        previous: PageIndex,
    },
    /// Sound, but another one than that whose application was begun.
    #[error("it is not the record that an earlier controller has begun to apply")]
    NotBegun,
}

/// A checked commit record in private memory.
#[derive(Debug, Clone, Copy)]
pub struct Record<'bytes> {
    generation: Generation,
    epoch: Epoch,
    header: &'bytes [u8],
    body: &'bytes [u8],
    pages: &'bytes [u8],
    index: &'bytes [u8],
    meta: &'bytes [u8],
}

/// Lengths of a record, checked against each other and the limits.
pub(super) struct Extents {
    pub(super) pages: u64,
    pub(super) meta_bytes: u64,
    pub(super) total_bytes: u64,
}

/// Where a record lies: what a test plants that wants its CRCs unchecked there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordCrcs {
    /// In a slot of the journal.
    Journal,
    /// In the controller's own copy.
    Redo,
}

impl RecordCrcs {
    fn header(self) -> PlantedBug {
        match self {
            Self::Journal => PlantedBug::RecordHeaderCrc,
            Self::Redo => PlantedBug::RedoHeaderCrc,
        }
    }

    fn body(self) -> PlantedBug {
        match self {
            Self::Journal => PlantedBug::RecordBodyCrc,
            Self::Redo => PlantedBug::RedoCrc,
        }
    }
}

/// Whether this is the sound header of a controller's own copy of a record, whatever has become of the rest.
pub(crate) fn is_header_of(bytes: &[u8], generation: Generation, epoch: Epoch, limits: &RecordLimits) -> bool {
    checked_bytes(bytes, generation, epoch, limits).is_ok()
}

/// Whose record the header of a controller's own copy says that it is of; what it says is to be checked yet.
pub(crate) fn generation_in(header: &[u8]) -> Generation {
    RecordHeader::parse_unless(header, RecordCrcs::Redo.header())
        .map_or(Generation::new(0), |header| Generation::new(header.generation.get()))
}

/// How long the record is whose header this is in a controller's own copy, if it may be that of the epoch.
pub(crate) fn checked_bytes(
    bytes: &[u8],
    generation: Generation,
    epoch: Epoch,
    limits: &RecordLimits,
) -> Result<u64, RecordError> {
    check_header(bytes, generation, epoch, limits, RecordCrcs::Redo).map(|(header, _)| header.total_bytes.get())
}

/// Checks what can be known of a record from its header.
pub(super) fn check_header(
    bytes: &[u8],
    generation: Generation,
    epoch: Epoch,
    limits: &RecordLimits,
    crcs: RecordCrcs,
) -> Result<(RecordHeader, Extents), RecordError> {
    let header = RecordHeader::parse_unless(bytes, crcs.header())?;
    let found = Generation::new(header.generation.get());
    if found != generation && !planted(PlantedBug::RecordGenerationCheck) {
        return Err(RecordError::Generation { found, expected: generation });
    }
    let found = Epoch::new(header.epoch.get());
    if found != epoch && !planted(PlantedBug::RecordEpochCheck) {
        return Err(RecordError::Epoch { found, expected: epoch });
    }
    Ok((header, check_lengths(&header, limits)?))
}

fn check_lengths(header: &RecordHeader, limits: &RecordLimits) -> Result<Extents, RecordError> {
    let pages = u64::from(header.page_count.get());
    let there_are = limits.image_pages.saturating_add(limits.disk_blocks);
    if pages > there_are {
        return Err(RecordError::TooManyPages { found: pages, there_are });
    }
    let meta_bytes = header.meta_bytes.get();
    let allowed = limits.meta_bytes_max.min(META_BYTES_MAX);
    if meta_bytes > allowed {
        return Err(RecordError::TooMuchMeta { found: meta_bytes, allowed });
    }
    let total_bytes = header.total_bytes.get();
    // Cannot run over: the page count has 32 bits and the meta length was just bounded.
    if PAGES_AT + pages * PAGE_COST + meta_bytes != total_bytes {
        return Err(RecordError::Length { pages, meta_bytes, total_bytes });
    }
    Ok(Extents { pages, meta_bytes, total_bytes })
}

impl<'bytes> Record<'bytes> {
    /// Checks a private copy of a slot's beginning: magic, version, generation, epoch, counts, bounds, order of
    /// pages and both CRCs.
    ///
    /// # Errors
    /// When anything is wrong with the bytes.
    pub fn parse(
        bytes: &'bytes [u8],
        generation: Generation,
        epoch: Epoch,
        limits: &RecordLimits,
    ) -> Result<Self, RecordError> {
        Self::parse_in(bytes, generation, epoch, limits, RecordCrcs::Journal)
    }

    /// As `parse`; where the record was says which bugs leave its CRCs unchecked.
    pub(super) fn parse_in(
        bytes: &'bytes [u8],
        generation: Generation,
        epoch: Epoch,
        limits: &RecordLimits,
        crcs: RecordCrcs,
    ) -> Result<Self, RecordError> {
        let (header, lengths) = check_header(bytes, generation, epoch, limits, crcs)?;
        let short = RecordError::Length {
            pages: lengths.pages,
            meta_bytes: lengths.meta_bytes,
            total_bytes: len_u64(bytes.len()),
        };
        let as_len = |number: u64| usize::try_from(number).map_err(|_| short);
        let total = as_len(lengths.total_bytes)?;
        let body = bytes.get(as_len(PAGES_AT)?..total).ok_or(short)?;
        let intact = crc::check(header.body_crc.get(), crc::of(body), crcs.body());
        intact.map_err(|Mismatch { found, computed }| RecordError::BodyCrc { found, computed })?;
        let (pages, rest) = body.split_at_checked(as_len(lengths.pages * PAGE_SIZE)?).ok_or(short)?;
        let (index, meta) = rest.split_at_checked(as_len(lengths.pages * INDEX_ENTRY_BYTES)?).ok_or(short)?;
        let record = Self {
            generation: Generation::new(header.generation.get()),
            epoch: Epoch::new(header.epoch.get()),
            header: bytes.get(..size_of::<RecordHeader>()).ok_or(short)?,
            body,
            pages,
            index,
            meta,
        };
        let has_blocks = header.preamble.version() >= VERSION_WITH_BLOCKS;
        record.check_index(limits.image_pages, if has_blocks { limits.disk_blocks } else { 0 })?;
        Ok(record)
    }

    fn check_index(&self, image_pages: u64, disk_blocks: u64) -> Result<(), RecordError> {
        let mut previous = None;
        for page in self.page_indices() {
            match page.place() {
                PagePlace::Image(page) if page.get() >= image_pages && !planted(PlantedBug::RecordIndexCheck) => {
                    return Err(RecordError::PageOutside { page, image_pages });
                }
                PagePlace::Disk(block) if block.get() >= disk_blocks && !planted(PlantedBug::RecordBlockCheck) => {
                    return Err(RecordError::BlockOutside { block, disk_blocks });
                }
                PagePlace::Image(_) | PagePlace::Disk(_) => {}
            }
            if let Some(previous) = previous.filter(|previous| *previous >= page) {
                return Err(RecordError::PageOrder { page, previous });
            }
            previous = Some(page);
        }
        Ok(())
    }

    /// The generation whose primary wrote the record.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The epoch that the record commits.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Header and body as they are stored, and where in a slot the body begins.
    pub(crate) fn stored(&self) -> (&'bytes [u8], Offset, &'bytes [u8]) {
        (self.header, Offset::new(PAGES_AT), self.body)
    }

    /// The bytes that this crate carries without knowing them.
    #[must_use]
    pub fn meta(&self) -> &'bytes [u8] {
        self.meta
    }

    /// Bytes that the record takes in its slot.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        PAGES_AT + len_u64(self.body.len())
    }

    /// How many pages and blocks the record holds.
    #[must_use]
    pub fn page_count(&self) -> usize {
        self.pages.len() / PAGE_BYTES
    }

    /// The pages of the image that the record holds, ascending, and then the blocks of the disk.
    pub fn page_indices(&self) -> impl Iterator<Item = PageIndex> + use<'bytes> {
        let (entries, _) = self.index.as_chunks::<8>();
        entries.iter().map(|entry| PageIndex::new(u64::from_le_bytes(*entry)))
    }

    /// The pages with their content, ascending, and then the blocks of the disk; [`PageIndex::place`] tells them apart.
    #[must_use]
    pub fn pages(&self) -> Pages<'bytes> {
        Pages { index: self.index.as_chunks().0.iter(), contents: self.pages.chunks_exact(PAGE_BYTES) }
    }
}

/// Iterator over the pages of a record.
#[derive(Debug, Clone)]
pub struct Pages<'bytes> {
    index: std::slice::Iter<'bytes, [u8; 8]>,
    contents: std::slice::ChunksExact<'bytes, u8>,
}

impl<'bytes> Iterator for Pages<'bytes> {
    type Item = (PageIndex, &'bytes [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let page = PageIndex::new(u64::from_le_bytes(*self.index.next()?));
        Some((page, self.contents.next()?))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.index.size_hint()
    }
}

impl ExactSizeIterator for Pages<'_> {}
