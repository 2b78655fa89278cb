//! Reads a static ELF64 executable. The file is untrusted: every bound is checked here.

use super::RESERVED_END;
use crate::machine::layout::ram_regions;
use elf::abi::{
    EI_CLASS, EI_DATA, ELFCLASS64, ELFDATA2LSB, EM_X86_64, ET_DYN, ET_EXEC, PT_DYNAMIC, PT_INTERP, PT_LOAD,
};
use elf::endian::LittleEndian;
use elf::segment::ProgramHeader;
use elf::{ElfBytes, ParseError};
use std::ops::Range;

const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
/// Bytes up to and with `e_machine`, which say what kind of file it is.
const IDENTIFICATION_LENGTH: usize = 20;
/// Programs have a handful of segments; a bound keeps the checks on hostile files short.
const SEGMENTS_MAX: usize = 1024;

/// What is wrong with an ELF file as a flat guest.
#[derive(Debug, thiserror::Error)]
pub enum ElfDefect {
    /// The magic is missing.
    #[error("not an ELF file")]
    NotElf,
    /// A 32-bit file.
    #[error("a 32-bit ELF file: flat guests are 64-bit")]
    Not64Bit,
    /// A file for another processor.
    #[error("not an x86-64 ELF file (machine {machine}, {byte_order})")]
    NotX86 {
        /// `e_machine`.
        machine: u16,
        /// Which byte order it claims.
        byte_order: &'static str,
    },
    /// A shared object or position-independent executable.
    #[error("position-independent or dynamically linked: link with -static -no-pie")]
    PositionIndependent,
    /// Not an executable at all.
    #[error("not an executable (ELF type {elf_type}): an object file must be linked first")]
    NotExecutable {
        /// `e_type`.
        elf_type: u16,
    },
    /// It asks for a program interpreter or has a dynamic section.
    #[error("dynamically linked: link with -static")]
    Dynamic,
    /// The headers contradict themselves or the length of the file.
    #[error("damaged ELF file: {0}")]
    Malformed(ParseError),
    /// More program headers than any program has.
    #[error("{count} program headers, at most {SEGMENTS_MAX} are read")]
    TooManySegments {
        /// How many.
        count: usize,
    },
    /// Nothing to load.
    #[error("no loadable segment")]
    NoSegments,
    /// The bytes of a segment are not all in the file.
    #[error("segment {index} is at bytes {offset:#x} to {end:#x} of a file of {file_length:#x} bytes")]
    SegmentOutsideFile {
        /// Program header number.
        index: usize,
        /// Where its bytes start in the file.
        offset: u64,
        /// Where they end, if that can be said.
        end: u64,
        /// The file's length.
        file_length: usize,
    },
    /// More bytes in the file than in memory.
    #[error("segment {index} has {file_bytes:#x} bytes in the file but {memory_bytes:#x} in memory")]
    SegmentLargerThanMemory {
        /// Program header number.
        index: usize,
        /// `p_filesz`.
        file_bytes: u64,
        /// `p_memsz`.
        memory_bytes: u64,
    },
    /// In the part of memory that the machine needs.
    #[error("segment {index} starts at {start:#x}, in the reserved first MiB: link at 0x200000 or above")]
    SegmentReserved {
        /// Program header number.
        index: usize,
        /// Where it starts.
        start: u64,
    },
    /// Not in RAM.
    #[error("segment {index} needs {start:#x} to {end:#x}, outside the guest's memory")]
    SegmentOutsideMemory {
        /// Program header number.
        index: usize,
        /// Where it starts.
        start: u64,
        /// Where it ends, if that can be said.
        end: u64,
    },
    /// Two segments claim the same bytes.
    #[error("segments {first} and {second} overlap at {at:#x}")]
    SegmentsOverlap {
        /// Program header number.
        first: usize,
        /// Program header number.
        second: usize,
        /// First byte that both claim.
        at: u64,
    },
    /// The first instruction is nowhere.
    #[error("entry point {entry:#x} is outside every segment")]
    EntryOutside {
        /// `e_entry`.
        entry: u64,
    },
}

/// A program that is known to fit.
pub(super) struct Program<'a> {
    pub(super) entry: u64,
    /// In ascending order, without overlap; never empty.
    pub(super) segments: Vec<Segment<'a>>,
}

pub(super) struct Segment<'a> {
    index: usize,
    pub(super) start: u64,
    end: u64,
    pub(super) bytes: &'a [u8],
}

impl<'a> Program<'a> {
    pub(super) fn parse(file: &'a [u8], ram_bytes: u64) -> Result<Program<'a>, ElfDefect> {
        check_identification(file)?;
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(ElfDefect::Malformed)?;
        check_kind(elf.ehdr.e_type, elf.ehdr.e_machine)?;
        let headers = elf.segments().ok_or(ElfDefect::NoSegments)?;
        if headers.len() > SEGMENTS_MAX {
            return Err(ElfDefect::TooManySegments { count: headers.len() });
        }
        let mut segments = Vec::new();
        for (index, header) in headers.iter().enumerate() {
            match header.p_type {
                PT_INTERP | PT_DYNAMIC => return Err(ElfDefect::Dynamic),
                PT_LOAD if header.p_memsz > 0 => segments.push(Segment::checked(index, &header, file, ram_bytes)?),
                _ => {}
            }
        }
        segments.sort_by_key(|segment| segment.start);
        check_overlaps(&segments)?;
        let entry = elf.ehdr.e_entry;
        match segments.iter().any(|segment| (segment.start..segment.end).contains(&entry)) {
            _ if segments.is_empty() => Err(ElfDefect::NoSegments),
            true => Ok(Program { entry, segments }),
            false => Err(ElfDefect::EntryOutside { entry }),
        }
    }

    /// From the lowest byte of the lowest segment to the end of the highest.
    pub(super) fn image(&self) -> Range<u64> {
        let first = self.segments.first().expect("a program has a segment");
        let last = self.segments.last().expect("a program has a segment");
        first.start..last.end
    }
}

impl<'a> Segment<'a> {
    fn checked(index: usize, header: &ProgramHeader, file: &'a [u8], ram_bytes: u64) -> Result<Self, ElfDefect> {
        let ProgramHeader { p_offset: offset, p_vaddr: start, p_filesz, p_memsz, .. } = *header;
        if p_filesz > p_memsz {
            return Err(ElfDefect::SegmentLargerThanMemory { index, file_bytes: p_filesz, memory_bytes: p_memsz });
        }
        let end = offset.saturating_add(p_filesz);
        let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
        let bytes = range.and_then(|(from, to)| file.get(from..to)).ok_or(ElfDefect::SegmentOutsideFile {
            index,
            offset,
            end,
            file_length: file.len(),
        })?;
        if start < RESERVED_END {
            return Err(ElfDefect::SegmentReserved { index, start });
        }
        let outside = ElfDefect::SegmentOutsideMemory { index, start, end: start.saturating_add(p_memsz) };
        let Some(end) = start.checked_add(p_memsz) else { return Err(outside) };
        let regions = ram_regions(ram_bytes).unwrap_or_default();
        let fits = regions.iter().any(|ram| ram.guest.0 <= start && end <= ram.guest.0 + ram.length);
        if fits { Ok(Segment { index, start, end, bytes }) } else { Err(outside) }
    }
}

fn check_identification(file: &[u8]) -> Result<(), ElfDefect> {
    if file.len() < IDENTIFICATION_LENGTH || !file.starts_with(&ELF_MAGIC) {
        return Err(ElfDefect::NotElf);
    }
    if file[EI_CLASS] != ELFCLASS64 {
        return Err(ElfDefect::Not64Bit);
    }
    if file[EI_DATA] != ELFDATA2LSB {
        let machine = u16::from_be_bytes([file[18], file[19]]);
        return Err(ElfDefect::NotX86 { machine, byte_order: "big-endian" });
    }
    Ok(())
}

fn check_kind(elf_type: u16, machine: u16) -> Result<(), ElfDefect> {
    match (machine, elf_type) {
        (EM_X86_64, ET_EXEC) => Ok(()),
        (EM_X86_64, ET_DYN) => Err(ElfDefect::PositionIndependent),
        (EM_X86_64, elf_type) => Err(ElfDefect::NotExecutable { elf_type }),
        (machine, _) => Err(ElfDefect::NotX86 { machine, byte_order: "little-endian" }),
    }
}

/// Segments are in ascending order.
fn check_overlaps(segments: &[Segment<'_>]) -> Result<(), ElfDefect> {
    for pair in segments.windows(2) {
        if pair[1].start < pair[0].end {
            return Err(ElfDefect::SegmentsOverlap { first: pair[0].index, second: pair[1].index, at: pair[1].start });
        }
    }
    Ok(())
}
