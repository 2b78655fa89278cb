//! The boot info: what a flat guest finds at the address in RDI. `docs/flat-guest.md` gives it byte by byte.

use super::{
    ARGUMENTS_END, ARGUMENTS_START, BOOT_INFO_START, FlatGuestError, RESERVED_END, STACK_BOTTOM, STACK_TOP, write,
};
use crate::machine::layout::{GuestMemory, HOLE_START, MMIO_LENGTH, MMIO_START, PAGE_SIZE, ram_regions};
use crate::machine::to_usize;
use std::ops::Range;
use zerocopy::{Immutable, IntoBytes};

/// First eight bytes of the boot info, as a little-endian number: `FTVMBOOT`.
pub const BOOT_INFO_MAGIC: u64 = u64::from_le_bytes(*b"FTVMBOOT");
/// Version of the ABI. Fields are only ever added at the end, within the same version.
pub const ABI_VERSION: u32 = 1;

/// What a stretch of the address map is for. Zero is never a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum RegionKind {
    /// RAM that the guest may use as it likes.
    Free = 1,
    /// RAM that holds the tables, boot info and first stack.
    Reserved = 2,
    /// RAM from the program's lowest to its highest segment.
    Image = 3,
    /// The MMIO window.
    Mmio = 4,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct BootInfo {
    magic: u64,
    abi_version: u32,
    length: u32,
    ram_bytes: u64,
    argument_table: u64,
    argument_count: u32,
    region_count: u32,
    region_table: u64,
    image_start: u64,
    image_end: u64,
    stack_bottom: u64,
    stack_top: u64,
    mmio_start: u64,
    mmio_length: u64,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Region {
    start: u64,
    length: u64,
    kind: u32,
    reserved: u32,
}

const REGIONS_MAX: usize = 7;
const REGION_TABLE_OFFSET: u64 = 0x80;

const _: () = {
    assert!(size_of::<BootInfo>() == 0x60, "the ABI fixes the length");
    assert!(size_of::<Region>() == 24, "the ABI fixes the length");
    assert!(REGION_TABLE_OFFSET + (REGIONS_MAX * size_of::<Region>()) as u64 <= ARGUMENTS_START - BOOT_INFO_START);
};

/// Writes boot info, region table and arguments. `image` is the span of the program's segments.
pub(super) fn write_boot_info(
    memory: &GuestMemory,
    ram_bytes: u64,
    image: &Range<u64>,
    arguments: &[String],
) -> Result<(), FlatGuestError> {
    let argument_count = write_arguments(memory, arguments)?;
    let regions = regions(ram_bytes, image)?;
    assert!(regions.len() <= REGIONS_MAX, "the table has room for every layout");
    let info = BootInfo {
        magic: BOOT_INFO_MAGIC,
        abi_version: ABI_VERSION,
        length: u32::try_from(size_of::<BootInfo>()).expect("a small structure"),
        ram_bytes,
        argument_table: ARGUMENTS_START,
        argument_count,
        region_count: u32::try_from(regions.len()).expect("at most REGIONS_MAX"),
        region_table: BOOT_INFO_START + REGION_TABLE_OFFSET,
        image_start: image.start,
        image_end: image.end,
        stack_bottom: STACK_BOTTOM,
        stack_top: STACK_TOP,
        mmio_start: MMIO_START,
        mmio_length: MMIO_LENGTH,
    };
    write(memory, BOOT_INFO_START, info.as_bytes())?;
    write(memory, BOOT_INFO_START + REGION_TABLE_OFFSET, regions.as_bytes())
}

/// The address map in ascending order, without empty stretches. `image` is rounded outwards to whole pages.
fn regions(ram_bytes: u64, image: &Range<u64>) -> Result<Vec<Region>, FlatGuestError> {
    let image = image.start / PAGE_SIZE * PAGE_SIZE..image.end.next_multiple_of(PAGE_SIZE);
    let mut regions = Vec::new();
    let mut add = |range: Range<u64>, kind: RegionKind| {
        if range.start < range.end {
            regions.push(Region {
                start: range.start,
                length: range.end - range.start,
                kind: kind as u32,
                reserved: 0,
            });
        }
    };
    add(0..RESERVED_END, RegionKind::Reserved);
    let ram = ram_regions(ram_bytes)?;
    let mut image_left = image;
    for stretch in &ram {
        let (start, end) = (stretch.guest.0.max(RESERVED_END), stretch.guest.0 + stretch.length);
        if start >= HOLE_START {
            add(MMIO_START..MMIO_START + MMIO_LENGTH, RegionKind::Mmio);
        }
        let inside = image_left.start.clamp(start, end)..image_left.end.clamp(start, end);
        add(start..inside.start, RegionKind::Free);
        add(inside.clone(), RegionKind::Image);
        add(inside.end..end, RegionKind::Free);
        image_left.start = image_left.start.max(inside.end);
    }
    if ram.len() == 1 {
        add(MMIO_START..MMIO_START + MMIO_LENGTH, RegionKind::Mmio);
    }
    Ok(regions)
}

/// Writes a table of pointers that ends with a null pointer, and the strings behind it. Gives the count of arguments.
fn write_arguments(memory: &GuestMemory, arguments: &[String]) -> Result<u32, FlatGuestError> {
    if let Some(index) = arguments.iter().position(|argument| argument.contains('\0')) {
        return Err(FlatGuestError::ArgumentNul { index });
    }
    let table_length = (arguments.len() + 1) * size_of::<u64>();
    let needed = table_length + arguments.iter().map(|argument| argument.len() + 1).sum::<usize>();
    let available = to_usize(ARGUMENTS_END - ARGUMENTS_START);
    if needed > available {
        return Err(FlatGuestError::ArgumentsTooLong { needed, available });
    }
    let mut table = Vec::with_capacity(table_length);
    let mut strings = Vec::with_capacity(needed - table_length);
    for argument in arguments {
        let at = ARGUMENTS_START + (table_length + strings.len()) as u64;
        table.extend_from_slice(&at.to_le_bytes());
        strings.extend_from_slice(argument.as_bytes());
        strings.push(0);
    }
    table.extend_from_slice(&0u64.to_le_bytes());
    table.append(&mut strings);
    write(memory, ARGUMENTS_START, &table)?;
    Ok(u32::try_from(arguments.len()).expect("the space for arguments bounds their number"))
}
