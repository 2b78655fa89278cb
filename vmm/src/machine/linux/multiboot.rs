//! Kernels that are started by the Multiboot specification, version 1: small kernels, among them tests of KVM itself.
//!
//! ```text
//!   kernel's own places   segments of the ELF file, or what the header says
//!   next page             the initrd, as the only module
//!   0x9000                information: its table, the module's entry, the memory map, the command line; where the kernel is
//!                         there itself, in the page behind the module
//! ```
//!
//! The file is untrusted: every bound is checked here, or by guest memory.

use super::super::layout::{GuestMemory, PAGE_SIZE};
use super::super::to_usize;
use super::boot::{BootEntry, LinuxGuestError, write};
use super::bundle::LinuxGuest;
use super::memory_map::{ACPI_START, HIGH_RAM_START, LOW_RAM_END, Stretch, low_end};
use elf::ElfBytes;
use elf::abi::{EM_386, EM_X86_64, PT_LOAD};
use elf::endian::LittleEndian;
use std::ops::Range;
use vm_memory::GuestAddress;

/// Where the header may be: in the first bytes of the file, at a multiple of four.
const SEARCHED_BYTES: usize = 8192;
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// Modules at page boundaries, and what is known of memory: both are done for every kernel.
const FLAGS_KEPT: u32 = 1 << 0 | 1 << 1;
/// The header says where the kernel's parts go.
const FLAG_PLACES: u32 = 1 << 16;
/// Flags that a loader must know or refuse the kernel.
const FLAGS_REQUIRED: u32 = 0xffff;

/// Preferred place of the information: the same as QEMU's.
const INFORMATION: u64 = 0x9000;
const INFORMATION_BYTES: usize = 88;
/// Memory, command line, module, memory map, name of the loader.
const INFORMATION_FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
const MODULE_BYTES: usize = 16;
const STRETCH_BYTES: u32 = 24;
const LOADER_NAME: &[u8] = b"ftvm\0";
/// A command line begins with the name of the kernel, as loaders give it.
const KERNEL_NAME: &str = "kernel";

/// What is wrong with a kernel that has a Multiboot header.
#[derive(Debug, thiserror::Error)]
pub enum MultibootError {
    /// It wants something of its loader that there is not.
    #[error("it wants flags {flags:#x} of its loader, which knows {FLAGS_KEPT:#x}: there is no screen")]
    Flags {
        /// What it wants.
        flags: u32,
    },
    /// The headers of its file contradict themselves.
    #[error("damaged ELF file: {0}")]
    Elf(#[from] elf::ParseError),
    /// For another processor.
    #[error("an ELF file for another processor (machine {machine})")]
    NotX86 {
        /// `e_machine`.
        machine: u16,
    },
    /// What the header says of places makes no sense.
    #[error("its header wants {load:#x} to {end:#x} loaded, which its file does not have")]
    Places {
        /// Where it is to be loaded.
        load: u32,
        /// To where.
        end: u32,
    },
    /// A part of the file is not in it.
    #[error("segment {index} is not in the file")]
    Segment {
        /// Program header number.
        index: usize,
    },
    /// A part of the kernel has no place.
    #[error(
        "it wants to be at {start:#x} to {end:#x}, where the guest has no free memory: below {ACPI_START:#x} or behind 1 MiB is"
    )]
    Place {
        /// Where it starts.
        start: u64,
        /// Where it ends.
        end: u64,
    },
    /// Nothing is left for the module.
    #[error(
        "there is no room for {bytes} bytes of initrd and information behind the kernel, which ends at {kernel_end:#x}: give the guest more memory"
    )]
    Room {
        /// How many.
        bytes: u64,
        /// Where the kernel ends.
        kernel_end: u64,
    },
}

/// The header of a kernel.
struct Header<'a> {
    at: usize,
    flags: u32,
    /// The fields behind the checksum.
    rest: &'a [u8],
}

/// A piece of the file, and where it goes.
struct Part<'a> {
    start: u64,
    bytes: &'a [u8],
    /// Its length in memory, zeros included.
    length: u64,
}

impl Part<'_> {
    fn range(&self) -> Range<u64> {
        self.start..self.start.saturating_add(self.length)
    }
}

/// Whether a file is meant to be started this way. Linux kernels have no such header; other kernels' 64-bit ELF files may have
/// one by chance, and are started by their PVH entry.
pub(super) fn is_meant(kernel: &[u8]) -> bool {
    let is_linux = kernel.get(0x202..0x206) == Some(b"HdrS");
    let is_elf_64 = kernel.starts_with(b"\x7fELF\x02");
    !is_linux && !is_elf_64 && Header::find(kernel).is_some()
}

impl<'a> Header<'a> {
    fn find(kernel: &'a [u8]) -> Option<Self> {
        let searched = &kernel[..kernel.len().min(SEARCHED_BYTES)];
        (0..searched.len()).step_by(4).find_map(|at| {
            let [magic, flags, checksum] = [0, 4, 8].map(|field| word(searched, at + field));
            let is_header = magic? == HEADER_MAGIC && HEADER_MAGIC.wrapping_add(flags?).wrapping_add(checksum?) == 0;
            is_header.then(|| Header { at, flags: flags.unwrap_or(0), rest: &kernel[at + 12..] })
        })
    }

    /// Where the header says that everything is.
    fn places(&self, kernel: &'a [u8]) -> Result<(u64, Vec<Part<'a>>), MultibootError> {
        let [header, load, load_end, bss_end, entry] =
            [0, 4, 8, 12, 16].map(|field| word(self.rest, field).unwrap_or(0));
        let defect = || MultibootError::Places { load, end: load_end };
        // The header's own place tells at which byte of the file the load address is.
        let before = header.checked_sub(load).ok_or_else(defect)?;
        let start = self.at.checked_sub(to_usize(before.into())).ok_or_else(defect)?;
        let bytes = match load_end {
            0 => kernel.get(start..),
            end => end.checked_sub(load).and_then(|length| kernel.get(start..start + to_usize(length.into()))),
        };
        let bytes = bytes.ok_or_else(defect)?;
        let with_zeros = u64::from(bss_end.saturating_sub(load));
        let part = Part { start: load.into(), bytes, length: with_zeros.max(bytes.len() as u64) };
        Ok((entry.into(), vec![part]))
    }
}

/// Where the ELF file's segments go.
fn segments(kernel: &[u8]) -> Result<(u64, Vec<Part<'_>>), MultibootError> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(kernel)?;
    if ![EM_386, EM_X86_64].contains(&file.ehdr.e_machine) {
        return Err(MultibootError::NotX86 { machine: file.ehdr.e_machine });
    }
    let mut parts = Vec::new();
    for (index, segment) in file.segments().into_iter().flatten().enumerate() {
        if segment.p_type != PT_LOAD || segment.p_memsz == 0 {
            continue;
        }
        let bytes = file.segment_data(&segment).map_err(|_| MultibootError::Segment { index })?;
        parts.push(Part { start: segment.p_paddr, bytes, length: segment.p_memsz.max(bytes.len() as u64) });
    }
    Ok((file.ehdr.e_entry, parts))
}

/// Loads the kernel with its module and all that it is told.
pub(super) fn load(
    memory: &GuestMemory,
    guest: &LinuxGuest<'_>,
    (ram_bytes, stretches): (u64, &[Stretch]),
) -> Result<BootEntry, LinuxGuestError> {
    let header = Header::find(guest.kernel).ok_or(LinuxGuestError::NoKernel)?;
    if header.flags & FLAGS_REQUIRED & !FLAGS_KEPT != 0 {
        return Err(MultibootError::Flags { flags: header.flags & FLAGS_REQUIRED }.into());
    }
    let (entry, parts) = match header.flags & FLAG_PLACES {
        0 => segments(guest.kernel)?,
        _ => header.places(guest.kernel)?,
    };
    let limit = low_end(ram_bytes);
    for part in &parts {
        let range = part.range();
        // All but the addresses of ROMs.
        let is_free = |within: Range<u64>| within.start <= range.start && range.end <= within.end;
        if !is_free(0..LOW_RAM_END) && !is_free(HIGH_RAM_START..limit) {
            return Err(MultibootError::Place { start: range.start, end: range.end }.into());
        }
        write(memory, part.start, part.bytes)?;
    }
    let kernel_end = parts.iter().map(|part| part.range().end).max().unwrap_or(0).max(HIGH_RAM_START);
    let module = kernel_end.next_multiple_of(PAGE_SIZE);
    let behind = (module + guest.initrd.len() as u64).next_multiple_of(PAGE_SIZE);
    let is_taken = |part: &Part<'_>| part.range().start < INFORMATION + PAGE_SIZE && INFORMATION < part.range().end;
    let information = if parts.iter().any(is_taken) { behind } else { INFORMATION };
    if behind + PAGE_SIZE > limit {
        let bytes = behind - module + PAGE_SIZE;
        return Err(MultibootError::Room { bytes, kernel_end }.into());
    }
    write(memory, module, guest.initrd)?;
    let told = Told { at: information, module, guest, limit, stretches };
    write(memory, information, &told.bytes())?;
    Ok(BootEntry::Multiboot { rip: GuestAddress(entry), information: GuestAddress(information) })
}

/// What the kernel is told.
struct Told<'a> {
    at: u64,
    module: u64,
    guest: &'a LinuxGuest<'a>,
    /// First byte behind the memory below the hole.
    limit: u64,
    stretches: &'a [Stretch],
}

impl Told<'_> {
    fn bytes(&self) -> Vec<u8> {
        let low = |value: u64| u32::try_from(value).expect("below 4 GiB");
        let kib = |bytes: u64| low(bytes >> 10);
        let module_at = INFORMATION_BYTES;
        let map_at = module_at + MODULE_BYTES;
        let name_at = map_at + self.stretches.len() * to_usize(STRETCH_BYTES.into());
        let line_at = name_at + LOADER_NAME.len();
        let place = |offset: usize| low(self.at + offset as u64);
        let mut bytes = vec![0; INFORMATION_BYTES];
        let mut set = |offset: usize, value: u32| bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        set(0, INFORMATION_FLAGS);
        set(4, kib(LOW_RAM_END));
        set(8, kib(self.limit - HIGH_RAM_START));
        set(16, place(line_at));
        set(20, u32::from(!self.guest.initrd.is_empty()));
        set(24, place(module_at));
        set(44, low(self.stretches.len() as u64) * STRETCH_BYTES);
        set(48, place(map_at));
        set(64, place(name_at));
        let module_end = self.module + self.guest.initrd.len() as u64;
        // The module is called what the loader is.
        for value in [low(self.module), low(module_end), place(name_at), 0] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        for stretch in self.stretches {
            // An entry's size does not count itself.
            bytes.extend_from_slice(&(STRETCH_BYTES - 4).to_le_bytes());
            bytes.extend_from_slice(&stretch.start.to_le_bytes());
            bytes.extend_from_slice(&stretch.length.to_le_bytes());
            bytes.extend_from_slice(&stretch.kind.to_le_bytes());
        }
        bytes.extend_from_slice(LOADER_NAME);
        let line = format!("{KERNEL_NAME} {}", self.guest.command_line);
        bytes.extend_from_slice(line.trim_end().as_bytes());
        bytes.push(0);
        assert!(bytes.len() as u64 <= PAGE_SIZE, "command lines are short");
        bytes
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}
