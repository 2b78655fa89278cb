//! Page tables and descriptor tables of a flat guest, written into its reserved first MiB.
//!
//! Memory is mapped to itself by 2 MiB pages, except for the first 2 MiB: these have 4 KiB pages, so that page 0 and the
//! page below the stack fault, and the tables themselves are out of the program's reach. Accessed and dirty bits
//! are set beforehand: the processor then never writes to the tables, and they never turn up in a dirty log.

use super::{BOOT_INFO_START, FlatGuestError, RESERVED_END, STACK_BOTTOM, write};
use crate::machine::layout::{
    GuestMemory, HOLE_END, HOLE_START, MEMORY_MAX, MMIO_LENGTH, MMIO_START, PAGE_SIZE, ram_regions,
};
use crate::machine::to_usize;

/// The root, for CR3.
pub(in crate::machine) const PML4_START: u64 = 0x1000;
const PDPT_START: u64 = 0x2000;
const FIRST_TABLE_START: u64 = 0x3000;
pub(in crate::machine) const GDT_START: u64 = 0x4000;
pub(in crate::machine) const TSS_START: u64 = 0x5000;
/// Where the task state segment keeps the offset of its I/O permission bitmap.
const TSS_BITMAP_POINTER: u64 = 0x66;
/// The bitmap follows the segment's fixed part.
const TSS_BITMAP_OFFSET: u16 = 0x68;
/// One bit for each of the 64 Ki ports, and zero means allowed. Software-virtualised KVM forgets the privilege level for
/// I/O in the flags, so the bitmap allows what that level does.
const TSS_BITMAP_LENGTH: u64 = 0x1_0000 / 8;
/// The processor wants a byte of ones behind the bitmap.
const TSS_BITMAP_END: u64 = TSS_BITMAP_OFFSET as u64 + TSS_BITMAP_LENGTH;
/// Length of the task state segment less one.
pub(in crate::machine) const TSS_LIMIT: u64 = TSS_BITMAP_END;
const DIRECTORIES_START: u64 = 0x1_0000;
const DIRECTORIES_END: u64 = 0x7_0000;
/// The page below the stack, which is never mapped.
const GUARD_START: u64 = STACK_BOTTOM - PAGE_SIZE;

const GIB: u64 = 1 << 30;
const LARGE_PAGE: u64 = 2 << 20;
const TABLE_ENTRIES: u64 = 512;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;

const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED;
const SUPERVISOR_PAGE: u64 = PRESENT | WRITABLE | ACCESSED | DIRTY;
const USER_PAGE: u64 = SUPERVISOR_PAGE | USER;
const UNCACHED: u64 = WRITE_THROUGH | CACHE_DISABLE;

const _: () = {
    assert!(DIRECTORIES_START + (MEMORY_MAX / GIB + 1) * PAGE_SIZE <= DIRECTORIES_END, "a directory for each GiB");
    assert!(TSS_START + TSS_LIMIT < DIRECTORIES_START, "the task state segment lies below the directories");
    assert!(DIRECTORIES_END <= BOOT_INFO_START, "boot info lies behind the tables");
    assert!(MMIO_START.is_multiple_of(LARGE_PAGE) && MMIO_LENGTH == LARGE_PAGE, "the window is one large page");
    assert!(RESERVED_END <= LARGE_PAGE, "the first table covers the reserved MiB");
};

/// Selectors of the descriptor table.
pub(in crate::machine) struct Selectors {
    pub(in crate::machine) user_data: u16,
    pub(in crate::machine) user_code: u16,
    pub(in crate::machine) task: u16,
}

/// Selectors of the descriptor table, privilege level 3 included where it is due.
pub(in crate::machine) const SELECTORS: Selectors = Selectors { user_data: 0x18 | 3, user_code: 0x20 | 3, task: 0x28 };

/// Null, kernel code, kernel data, user data, user code (64 bit each), and a busy 64-bit task state segment.
const GDT: [u64; 7] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    (TSS_START & 0xff_ffff) << 16 | 0x8b << 40 | TSS_LIMIT,
    TSS_START >> 32,
];

/// Writes page tables for `ram_bytes` of memory, the descriptor table, and a task state segment that allows all ports.
pub(super) fn write_tables(memory: &GuestMemory, ram_bytes: u64) -> Result<(), FlatGuestError> {
    write_entries(memory, PML4_START, &[PDPT_START | TABLE])?;
    write_entries(memory, FIRST_TABLE_START, &first_table())?;
    write_entries(memory, GDT_START, &GDT)?;
    write(memory, TSS_START + TSS_BITMAP_POINTER, &TSS_BITMAP_OFFSET.to_le_bytes())?;
    write(memory, TSS_START + TSS_BITMAP_END, &[0xff])?;

    let end = ram_regions(ram_bytes)?.iter().map(|ram| ram.guest.0 + ram.length).max().expect("there is RAM");
    let end = end.max(HOLE_END);
    let directories = end.div_ceil(GIB);
    assert!(directories <= TABLE_ENTRIES, "MEMORY_MAX is far below what one pointer table reaches");
    let mut pointers = Vec::new();
    for directory in 0..directories {
        let at = DIRECTORIES_START + directory * PAGE_SIZE;
        write_entries(memory, at, &page_directory(directory, ram_bytes))?;
        pointers.push(at | TABLE);
    }
    write_entries(memory, PDPT_START, &pointers)
}

fn first_table() -> Vec<u64> {
    (0..TABLE_ENTRIES)
        .map(|page| page * PAGE_SIZE)
        .map(|address| match address {
            0 | GUARD_START => 0,
            _ if address < BOOT_INFO_START => address | SUPERVISOR_PAGE,
            _ => address | USER_PAGE,
        })
        .collect()
}

fn page_directory(directory: u64, ram_bytes: u64) -> Vec<u64> {
    (0..TABLE_ENTRIES)
        .map(|page| directory * GIB + page * LARGE_PAGE)
        .map(|address| match address {
            0 => FIRST_TABLE_START | TABLE,
            MMIO_START => address | USER_PAGE | LARGE | UNCACHED,
            _ if is_ram(address, ram_bytes) => address | USER_PAGE | LARGE,
            _ => 0,
        })
        .collect()
}

/// Whether RAM starts somewhere in the large page at `address`.
fn is_ram(address: u64, ram_bytes: u64) -> bool {
    if address < HOLE_START {
        address < ram_bytes
    } else {
        address >= HOLE_END && address - (HOLE_END - HOLE_START) < ram_bytes
    }
}

fn write_entries(memory: &GuestMemory, at: u64, entries: &[u64]) -> Result<(), FlatGuestError> {
    assert!(entries.len() <= to_usize(TABLE_ENTRIES), "a table is one page");
    let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    write(memory, at, &bytes)
}
