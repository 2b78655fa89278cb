//! The boot info.

use core::ffi::{CStr, c_char};

const MAGIC: u64 = u64::from_le_bytes(*b"FTVMBOOT");
const ABI_VERSION: u32 = 1;

/// What the machine tells the guest.
#[derive(Debug)]
#[repr(C)]
pub struct BootInfo {
    magic: u64,
    abi_version: u32,
    length: u32,
    ram_bytes: u64,
    argument_table: *const *const c_char,
    argument_count: u32,
    region_count: u32,
    region_table: *const Region,
    image_start: u64,
    image_end: u64,
    stack_bottom: u64,
    stack_top: u64,
    mmio_start: u64,
    mmio_length: u64,
}

/// A stretch of the address map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    kind: u32,
    reserved: u32,
}

/// What a stretch of the address map is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionKind {
    /// RAM without use.
    Free,
    /// Tables, boot info and first stack.
    Reserved,
    /// The program.
    Image,
    /// The MMIO window.
    Mmio,
    /// Something that a later machine has.
    Other(u32),
}

impl Region {
    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> RegionKind {
        match self.kind {
            1 => RegionKind::Free,
            2 => RegionKind::Reserved,
            3 => RegionKind::Image,
            4 => RegionKind::Mmio,
            other => RegionKind::Other(other),
        }
    }
}

impl BootInfo {
    pub(crate) fn check(&self) {
        assert!(self.magic == MAGIC, "no boot info");
        assert!(self.abi_version == ABI_VERSION, "another ABI version");
    }

    /// Bytes of memory.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        self.ram_bytes
    }

    /// The address map.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        // SAFETY: by the ABI the table has that many entries and nobody writes to it.
        unsafe { core::slice::from_raw_parts(self.region_table, self.region_count as usize) }
    }

    /// The stretches of RAM without use.
    pub fn free_regions(&self) -> impl Iterator<Item = &Region> {
        self.regions().iter().filter(|region| region.kind() == RegionKind::Free)
    }

    /// The arguments. The machine takes them as UTF-8.
    pub fn arguments(&self) -> impl Iterator<Item = &str> {
        // SAFETY: by the ABI the table has that many entries and nobody writes to it.
        let table = unsafe { core::slice::from_raw_parts(self.argument_table, self.argument_count as usize) };
        table.iter().map(|argument| {
            // SAFETY: by the ABI each entry points to a string that ends with a NUL byte.
            let text = unsafe { CStr::from_ptr(*argument) };
            text.to_str().expect("the machine passes UTF-8")
        })
    }
}
