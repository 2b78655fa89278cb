//! Flat guests: a static ELF64 program that owns a machine at privilege level 3, without an operating system.
//! `docs/flat-guest.md` is the contract; this module is its other side.
//!
//! Everything here only writes to memory, so it needs no KVM: a guest is loaded once, and its memory and [`Entry`]
//! are the first state of its history.

mod boot_info;
mod elf_file;
mod paging;
#[cfg(test)]
mod tests;

pub use boot_info::{ABI_VERSION, BOOT_INFO_MAGIC, RegionKind};
pub use elf_file::ElfDefect;
pub(super) use paging::{GDT_START, PML4_START, SELECTORS, TSS_LIMIT, TSS_START};

use super::layout::{GuestMemory, MemoryError, checked_ram_bytes};
use elf_file::Program;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

/// End of the reserved first MiB: no segment may start below.
pub const RESERVED_END: u64 = 1 << 20;
/// Where the boot info lies.
pub const BOOT_INFO_START: u64 = 0x9_0000;
/// Where the argument table and the strings lie.
pub const ARGUMENTS_START: u64 = 0x9_1000;
/// End of the space for arguments.
pub const ARGUMENTS_END: u64 = 0xb_0000;
/// Lowest byte of the first stack; the page below is not mapped.
pub const STACK_BOTTOM: u64 = 0xc_0000;
/// First byte above the first stack.
pub const STACK_TOP: u64 = RESERVED_END;

/// Where the guest's first instruction runs, and what it finds there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// First instruction.
    pub rip: GuestAddress,
    /// Stack pointer: 8 below a multiple of 16, at a zero return address, as behind a call.
    pub rsp: GuestAddress,
    /// RDI: the boot info.
    pub boot_info: GuestAddress,
}

/// Why a file does not start as a flat guest.
#[derive(Debug, thiserror::Error)]
pub enum FlatGuestError {
    /// The file itself is at fault.
    #[error(transparent)]
    Elf(#[from] ElfDefect),
    /// The memory's layout is not that of a flat guest.
    #[error("memory does not suit a flat guest")]
    Memory(#[from] MemoryError),
    /// A C string cannot carry this argument.
    #[error("guest argument {index} contains a NUL byte")]
    ArgumentNul {
        /// Which argument, from 0.
        index: usize,
    },
    /// The space for arguments is too small.
    #[error("guest arguments need {needed} bytes, {available} are there")]
    ArgumentsTooLong {
        /// Table and strings.
        needed: usize,
        /// What the ABI reserves.
        available: usize,
    },
    /// Guest memory refused a write inside the bounds that were checked.
    #[error("cannot write to guest memory at {at:#x}")]
    Write {
        /// Guest physical address.
        at: u64,
        /// Why.
        source: GuestMemoryError,
    },
}

/// Loads a program, its arguments, page tables and descriptor tables into `memory`, which must be all zero.
///
/// # Errors
/// Any defect of the file, arguments that do not fit, and memory of another layout.
pub fn load(memory: &GuestMemory, elf: &[u8], arguments: &[String]) -> Result<Entry, FlatGuestError> {
    let ram_bytes = checked_ram_bytes(memory)?;
    let program = Program::parse(elf, ram_bytes)?;
    for segment in &program.segments {
        write(memory, segment.start, segment.bytes)?;
    }
    paging::write_tables(memory, ram_bytes)?;
    boot_info::write_boot_info(memory, ram_bytes, &program.image(), arguments)?;
    // The return address below STACK_TOP is zero because memory is: returning from the entry point faults.
    Ok(Entry {
        rip: GuestAddress(program.entry),
        rsp: GuestAddress(STACK_TOP - 8),
        boot_info: GuestAddress(BOOT_INFO_START),
    })
}

fn write(memory: &GuestMemory, at: u64, bytes: &[u8]) -> Result<(), FlatGuestError> {
    memory.write_slice(bytes, GuestAddress(at)).map_err(|source| FlatGuestError::Write { at, source })
}
