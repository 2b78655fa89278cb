//! Where things lie in a Linux guest's first MiB, and what the kernel is told about its memory.
//!
//! ```text
//! 0x0_0500  GDT                      0x0_9000  page tables (6 pages)
//! 0x0_6000  PVH start info           0x2_0000  command line
//! 0x0_7000  boot parameters          0x9_fc00  end of the low RAM
//! 0x0_8ff0  first stack              0xe_0000  ACPI tables, to 1 MiB
//! ```

use super::super::layout::{HOLE_START, MemoryError};
use super::super::layout::{RamRegion, ram_regions};

pub(super) const GDT_START: u64 = 0x500;
pub(super) const START_INFO: u64 = 0x6000;
pub(super) const MODULE_LIST: u64 = 0x6040;
pub(super) const MEMORY_TABLE: u64 = 0x6080;
pub(super) const BOOT_PARAMS: u64 = 0x7000;
pub(super) const STACK: u64 = 0x8ff0;
pub(super) const PML4: u64 = 0x9000;
pub(super) const COMMAND_LINE: u64 = 0x2_0000;
pub(super) const LOW_RAM_END: u64 = 0x9_fc00;
pub(super) const ACPI_START: u64 = 0xe_0000;
/// Kernels lie from here on.
pub(super) const HIGH_RAM_START: u64 = 1 << 20;

/// A stretch of guest memory as the kernel is told of it: both boot protocols have the BIOS's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) kind: u32,
}

pub(super) const RAM: u32 = 1;
pub(super) const RESERVED: u32 = 2;

/// All stretches of a guest with `ram_bytes` of memory.
pub(super) fn stretches(ram_bytes: u64) -> Result<Vec<Stretch>, MemoryError> {
    let high = |ram: &RamRegion| {
        let start = ram.guest.0.max(HIGH_RAM_START);
        Stretch { start, length: ram.guest.0 + ram.length - start, kind: RAM }
    };
    let mut stretches = vec![
        Stretch { start: 0, length: LOW_RAM_END, kind: RAM },
        Stretch { start: LOW_RAM_END, length: HIGH_RAM_START - LOW_RAM_END, kind: RESERVED },
    ];
    stretches.extend(ram_regions(ram_bytes)?.iter().map(high));
    Ok(stretches)
}

/// First byte behind the RAM below the hole.
pub(super) fn low_end(ram_bytes: u64) -> u64 {
    ram_bytes.min(HOLE_START)
}
