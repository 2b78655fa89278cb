//! Puts a Linux guest into memory: kernel, initrd, command line, ACPI tables, and the parameters of its boot protocol.
//!
//! A kernel's ELF file with a PVH entry is started there, in 32-bit protected mode; one without it, and a bzImage, by the
//! 64-bit boot protocol; a file with a Multiboot header by that.

use super::super::device::{DeviceId, virtio};
use super::super::layout::{GuestMemory, MemoryError, PAGE_SIZE, checked_ram_bytes};
use super::super::to_usize;
use super::FIRST_VIRTIO_GSI;
use super::acpi::{self, VirtioPlace};
use super::bundle::{BundleError, LinuxGuest};
use super::memory_map::{
    ACPI_START, BOOT_PARAMS, COMMAND_LINE, GDT_START, HIGH_RAM_START, MEMORY_TABLE, MODULE_LIST, PML4, START_INFO,
    Stretch, low_end, stretches,
};
use super::multiboot::{self, MultibootError};
use super::power::{RESET_CODE, RESET_VECTOR};
use linux_loader::loader::bootparam::{XLF_KERNEL_64, boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use linux_loader::loader::{BzImage, Elf, Error as LoaderError, KernelLoader as _, KernelLoaderResult};
use std::io::Cursor;
use vm_memory::{ByteValued, Bytes as _, GuestAddress, GuestMemoryError};

const START_INFO_MAGIC: u32 = 0x336e_c578;
const START_INFO_VERSION: u32 = 1;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
const LOADER_UNDEFINED: u8 = 0xff;
const ELF_CLASS_32: u8 = 1;
/// Offset of the 64-bit entry in a bzImage's kernel.
const ENTRY_64: u64 = 0x200;
/// An initrd has to end below this unless the kernel's header says otherwise.
const INITRD_END_MAX: u64 = 0x3800_0000;
/// Bytes that a kernel needs behind its end before the initrd: its first heap and page tables.
const KERNEL_ROOM: u64 = 1 << 20;

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;
const LARGE_PAGE: u64 = 2 << 20;
const ENTRIES: u64 = 512;
/// GiB that the first page tables map.
const MAPPED_GIB: u64 = 4;

/// Segment descriptors by index: null, unused, code, data, task state. The same numbers for all protocols.
const GDT_32: [u64; 5] = [0, 0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067];
const GDT_64: [u64; 5] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067];

/// How the first vCPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootEntry {
    /// PVH: 32-bit protected mode without paging, EBX at the start info.
    Pvh {
        /// First instruction.
        rip: GuestAddress,
    },
    /// The 64-bit boot protocol: long mode, RSI at the boot parameters.
    Long {
        /// First instruction.
        rip: GuestAddress,
    },
    /// Multiboot: 32-bit protected mode without paging, EBX at the information.
    Multiboot {
        /// First instruction.
        rip: GuestAddress,
        /// What the loader tells.
        information: GuestAddress,
    },
}

/// Why a Linux guest cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LinuxGuestError {
    /// The guest is not in one piece.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The memory's layout is not that of a machine.
    #[error("memory does not suit a Linux guest")]
    Memory(#[from] MemoryError),
    /// Neither a bzImage nor an ELF file.
    #[error("the kernel is neither a bzImage nor an uncompressed ELF file (vmlinux), and has no Multiboot header")]
    NoKernel,
    /// A Multiboot kernel that cannot be loaded.
    #[error("the Multiboot kernel cannot be loaded")]
    Multiboot(#[from] MultibootError),
    /// The kernel cannot be put where it wants to be.
    #[error("the kernel cannot be loaded into {ram_mib} MiB of memory: {source}")]
    Kernel {
        /// Memory.
        ram_mib: u64,
        /// Why not.
        source: LoaderError,
    },
    /// A kernel for other processors.
    #[error("the kernel has no 64-bit entry")]
    Not64Bit,
    /// Kernel and initrd do not fit.
    #[error(
        "an initrd of {bytes} bytes does not fit above the kernel, which ends at {kernel_end:#x}, and below {limit:#x}: give the guest more memory"
    )]
    InitrdRoom {
        /// Its size.
        bytes: u64,
        /// The kernel's end.
        kernel_end: u64,
        /// Where it has to end.
        limit: u64,
    },
    /// Guest memory refused a write.
    #[error("cannot write to guest memory at {at:#x}")]
    Write {
        /// Guest physical address.
        at: u64,
        /// Why.
        source: GuestMemoryError,
    },
}

/// What a boot protocol tells the kernel.
struct Told {
    stretches: Vec<Stretch>,
    initrd: Option<(u64, u64)>,
    line_bytes: u64,
}

/// Loads a guest into `memory`, which must be all zero, and tells it of those of the machine's devices that it cannot find
/// by itself.
///
/// # Errors
/// A file that is no kernel, and what does not fit.
pub fn load(
    memory: &GuestMemory,
    guest: &LinuxGuest<'_>,
    devices: impl Iterator<Item = DeviceId>,
) -> Result<BootEntry, LinuxGuestError> {
    let ram_bytes = checked_ram_bytes(memory)?;
    let is_multiboot = multiboot::is_meant(guest.kernel);
    let entry = match is_multiboot {
        true => multiboot::load(memory, guest, (ram_bytes, &stretches(ram_bytes)?))?,
        false => load_linux(memory, guest, ram_bytes)?,
    };
    let devices: Vec<_> = virtio::slots(devices)
        .map(|slot| VirtioPlace { slot, address: virtio::slot_address(slot), gsi: FIRST_VIRTIO_GSI + u32::from(slot) })
        .collect();
    for (at, table) in acpi::tables(guest.vcpus, &devices) {
        write(memory, at, &table)?;
    }
    write(memory, RESET_VECTOR, &RESET_CODE)?;
    Ok(entry)
}

fn load_linux(memory: &GuestMemory, guest: &LinuxGuest<'_>, ram_bytes: u64) -> Result<BootEntry, LinuxGuestError> {
    let (loaded, is_elf) = load_kernel(memory, guest.kernel, ram_bytes)?;
    let initrd = load_initrd(memory, guest.initrd, &loaded, ram_bytes)?;
    write(memory, COMMAND_LINE, guest.command_line.as_bytes())?;
    let line_bytes = guest.command_line.len() as u64;
    let told = Told { stretches: stretches(ram_bytes)?, initrd, line_bytes };
    match (is_elf, loaded.pvh_boot_cap) {
        (true, PvhBootCapability::PvhEntryPresent(rip)) => {
            write_gdt(memory, &GDT_32)?;
            write_start_info(memory, &told)?;
            Ok(BootEntry::Pvh { rip })
        }
        _ => {
            write_gdt(memory, &GDT_64)?;
            write_boot_params(memory, &told, loaded.setup_header)?;
            write_page_tables(memory)?;
            let offset = if is_elf { 0 } else { ENTRY_64 };
            Ok(BootEntry::Long { rip: GuestAddress(loaded.kernel_load.0 + offset) })
        }
    }
}

fn load_kernel(
    memory: &GuestMemory,
    kernel: &[u8],
    ram_bytes: u64,
) -> Result<(KernelLoaderResult, bool), LinuxGuestError> {
    let failed = |source| LinuxGuestError::Kernel { ram_mib: ram_bytes >> 20, source };
    let mut file = Cursor::new(kernel);
    let high = Some(GuestAddress(HIGH_RAM_START));
    if kernel.starts_with(b"\x7fELF") {
        if kernel.get(4) == Some(&ELF_CLASS_32) {
            return Err(LinuxGuestError::NoKernel);
        }
        return Ok((Elf::load(memory, None, &mut file, high).map_err(failed)?, true));
    }
    let magic = kernel.get(0x202..0x206).ok_or(LinuxGuestError::NoKernel)?;
    if magic != HEADER_MAGIC.to_le_bytes() {
        return Err(LinuxGuestError::NoKernel);
    }
    let loaded = BzImage::load(memory, None, &mut file, high).map_err(failed)?;
    match loaded.setup_header.is_some_and(|header| header.xloadflags & XLF_KERNEL_64 != 0) {
        true => Ok((loaded, false)),
        false => Err(LinuxGuestError::Not64Bit),
    }
}

/// As high as it may be, so that it is out of the kernel's way. Says where it is, and how long.
fn load_initrd(
    memory: &GuestMemory,
    initrd: &[u8],
    kernel: &KernelLoaderResult,
    ram_bytes: u64,
) -> Result<Option<(u64, u64)>, LinuxGuestError> {
    if initrd.is_empty() {
        return Ok(None);
    }
    let bytes = initrd.len() as u64;
    // A bzImage's kernel unpacks itself to behind its start; its header says how much that takes.
    let (end_max, kernel_end) = match &kernel.setup_header {
        Some(header) => {
            let unpacked =
                u64::from(header.code32_start).max(header.pref_address).saturating_add(u64::from(header.init_size));
            (u64::from(header.initrd_addr_max).saturating_add(1), kernel.kernel_end.max(unpacked))
        }
        None => (INITRD_END_MAX, kernel.kernel_end),
    };
    let limit = low_end(ram_bytes).min(end_max);
    let start = limit.checked_sub(bytes).map(|start| start / PAGE_SIZE * PAGE_SIZE);
    match start.filter(|start| *start >= kernel_end.saturating_add(KERNEL_ROOM)) {
        Some(start) => {
            write(memory, start, initrd)?;
            Ok(Some((start, bytes)))
        }
        None => Err(LinuxGuestError::InitrdRoom { bytes, kernel_end, limit }),
    }
}

fn write_start_info(memory: &GuestMemory, told: &Told) -> Result<(), LinuxGuestError> {
    let modules = u32::from(told.initrd.is_some());
    if let Some((paddr, size)) = told.initrd {
        write(memory, MODULE_LIST, hvm_modlist_entry { paddr, size, ..Default::default() }.as_slice())?;
    }
    for (at, stretch) in (MEMORY_TABLE..).step_by(size_of::<hvm_memmap_table_entry>()).zip(&told.stretches) {
        let entry =
            hvm_memmap_table_entry { addr: stretch.start, size: stretch.length, type_: stretch.kind, reserved: 0 };
        write(memory, at, entry.as_slice())?;
    }
    let info = hvm_start_info {
        magic: START_INFO_MAGIC,
        version: START_INFO_VERSION,
        flags: 0,
        nr_modules: modules,
        modlist_paddr: if modules > 0 { MODULE_LIST } else { 0 },
        cmdline_paddr: COMMAND_LINE,
        rsdp_paddr: ACPI_START,
        memmap_paddr: MEMORY_TABLE,
        memmap_entries: u32::try_from(told.stretches.len()).expect("a few"),
        reserved: 0,
    };
    write(memory, START_INFO, info.as_slice())
}

fn write_boot_params(memory: &GuestMemory, told: &Told, header: Option<setup_header>) -> Result<(), LinuxGuestError> {
    let low = |value: u64| u32::try_from(value).expect("below 4 GiB");
    let mut params = boot_params { acpi_rsdp_addr: ACPI_START, ..Default::default() };
    params.hdr = header.unwrap_or_default();
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = low(COMMAND_LINE);
    params.hdr.cmdline_size = low(told.line_bytes);
    if let Some((start, bytes)) = told.initrd {
        params.hdr.ramdisk_image = low(start);
        params.hdr.ramdisk_size = low(bytes);
    }
    for (entry, stretch) in params.e820_table.iter_mut().zip(&told.stretches) {
        *entry = boot_e820_entry { addr: stretch.start, size: stretch.length, r#type: stretch.kind };
    }
    params.e820_entries = u8::try_from(told.stretches.len()).expect("a few");
    write(memory, BOOT_PARAMS, params.as_slice())
}

/// The first four GiB, one to one.
fn write_page_tables(memory: &GuestMemory) -> Result<(), LinuxGuestError> {
    let (pdpt, directories) = (PML4 + PAGE_SIZE, PML4 + 2 * PAGE_SIZE);
    write(memory, PML4, &(pdpt | PRESENT_WRITABLE).to_le_bytes())?;
    for gib in 0..MAPPED_GIB {
        let directory = directories + gib * PAGE_SIZE;
        write(memory, pdpt + gib * 8, &(directory | PRESENT_WRITABLE).to_le_bytes())?;
        let entries = (0..ENTRIES).map(|page| ((gib << 30) + page * LARGE_PAGE) | PRESENT_WRITABLE | LARGE);
        write(memory, directory, &entries.flat_map(u64::to_le_bytes).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn write_gdt(memory: &GuestMemory, gdt: &[u64]) -> Result<(), LinuxGuestError> {
    let bytes: Vec<u8> = gdt.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    write(memory, GDT_START, &bytes)
}

pub(super) fn write(memory: &GuestMemory, at: u64, bytes: &[u8]) -> Result<(), LinuxGuestError> {
    assert!(to_usize(at).checked_add(bytes.len()).is_some(), "addresses are far from the end");
    memory.write_slice(bytes, GuestAddress(at)).map_err(|source| LinuxGuestError::Write { at, source })
}
