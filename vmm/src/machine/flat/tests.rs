use super::boot_info::RegionKind;
use super::elf_file::ElfDefect;
use super::paging::PML4_START;
use super::{ARGUMENTS_END, ARGUMENTS_START, BOOT_INFO_START, Entry, FlatGuestError, STACK_BOTTOM, STACK_TOP, load};
use crate::machine::guests;
use crate::machine::layout::{GuestMemory, HOLE_END, HOLE_START, MMIO_START, anonymous_memory};
use crate::machine::test_elf::{CODE_START, TestSegment, elf, program};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

const MIB: u64 = 1 << 20;
const CODE: [u8; 4] = [0x90; 4];

fn memory() -> GuestMemory {
    anonymous_memory(4 * MIB).expect("memory")
}

fn try_load(file: &[u8]) -> Result<Entry, FlatGuestError> {
    load(&memory(), file, &[])
}

fn defect(file: &[u8]) -> ElfDefect {
    match try_load(file) {
        Err(FlatGuestError::Elf(defect)) => defect,
        other => panic!("expected a defect of the file, got {other:?}"),
    }
}

fn with(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = program(&CODE);
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    file
}

fn word(memory: &GuestMemory, at: u64) -> u64 {
    memory.read_obj(GuestAddress(at)).expect("RAM")
}

fn half(memory: &GuestMemory, at: u64) -> u32 {
    memory.read_obj(GuestAddress(at)).expect("RAM")
}

#[test]
fn every_defect_has_its_own_error() {
    const CLASS: usize = 4;
    const BYTE_ORDER: usize = 5;
    const TYPE: usize = 16;
    const MACHINE: usize = 18;
    const ENTRY: usize = 24;
    const HEADERS_AT: usize = 32;
    const HEADER_COUNT: usize = 56;
    const FIRST_TYPE: usize = 64;
    const FIRST_OFFSET: usize = 64 + 8;
    const FIRST_ADDRESS: usize = 64 + 16;
    const FIRST_FILE_BYTES: usize = 64 + 32;
    const FIRST_MEMORY_BYTES: usize = 64 + 40;
    assert!(matches!(defect(b""), ElfDefect::NotElf));
    assert!(matches!(defect(b"#!/bin/sh\necho this is a script"), ElfDefect::NotElf));
    assert!(matches!(defect(&program(&CODE)[..40]), ElfDefect::Malformed(_)));
    assert!(matches!(defect(&with(CLASS, &[1])), ElfDefect::Not64Bit));
    assert!(matches!(defect(&with(BYTE_ORDER, &[2])), ElfDefect::NotX86 { byte_order: "big-endian", .. }));
    assert!(matches!(defect(&with(MACHINE, &[183, 0])), ElfDefect::NotX86 { machine: 183, .. }));
    assert!(matches!(defect(&with(TYPE, &[3])), ElfDefect::PositionIndependent));
    assert!(matches!(defect(&with(TYPE, &[1])), ElfDefect::NotExecutable { elf_type: 1 }));
    assert!(matches!(defect(&with(FIRST_TYPE, &[3])), ElfDefect::Dynamic));
    assert!(matches!(defect(&with(FIRST_TYPE, &[2])), ElfDefect::Dynamic));
    assert!(matches!(defect(&with(FIRST_TYPE, &[4])), ElfDefect::NoSegments));
    assert!(matches!(defect(&with(HEADER_COUNT, &[0])), ElfDefect::NoSegments));
    assert!(matches!(defect(&with(HEADERS_AT, &u64::MAX.to_le_bytes())), ElfDefect::Malformed(_)));
    assert!(matches!(
        defect(&with(FIRST_OFFSET, &u64::MAX.to_le_bytes())),
        ElfDefect::SegmentOutsideFile { index: 0, .. }
    ));
    assert!(matches!(defect(&with(FIRST_OFFSET, &[122])), ElfDefect::SegmentOutsideFile { index: 0, .. }));
    assert!(matches!(defect(&with(FIRST_FILE_BYTES, &[5])), ElfDefect::SegmentLargerThanMemory { file_bytes: 5, .. }));
    let reserved = 0xf_ffffu64.to_le_bytes();
    assert!(matches!(defect(&with(FIRST_ADDRESS, &reserved)), ElfDefect::SegmentReserved { start: 0xf_ffff, .. }));
    for address in [4 * MIB - 3, 4 * MIB, HOLE_START, MMIO_START, HOLE_END, u64::MAX - 1] {
        let file = with(FIRST_ADDRESS, &address.to_le_bytes());
        assert!(matches!(defect(&file), ElfDefect::SegmentOutsideMemory { start, .. } if start == address));
    }
    let huge = with(FIRST_MEMORY_BYTES, &u64::MAX.to_le_bytes());
    assert!(matches!(defect(&huge), ElfDefect::SegmentOutsideMemory { end: u64::MAX, .. }));
    for entry in [0, CODE_START - 1, CODE_START + 4] {
        assert!(
            matches!(defect(&with(ENTRY, &entry.to_le_bytes())), ElfDefect::EntryOutside { entry: got } if got == entry)
        );
    }
    let twice = |first: u64, second: u64| {
        let segment = |address| TestSegment { address, bytes: &CODE, memory_bytes: 8 };
        elf(CODE_START, &[segment(first), segment(second)])
    };
    let overlap = defect(&twice(CODE_START + 7, CODE_START));
    assert!(matches!(overlap, ElfDefect::SegmentsOverlap { first: 1, second: 0, at } if at == CODE_START + 7));
    assert!(try_load(&twice(CODE_START, CODE_START + 8)).is_ok());
}

#[test]
fn errors_are_one_line() {
    for file in [&b"x"[..], &with(4, &[1]), &with(16, &[3]), &program(&CODE)[..70]] {
        let text = defect(file).to_string();
        assert!(!text.is_empty() && !text.contains('\n'), "{text}");
    }
}

#[test]
fn bundled_guests_load() {
    assert_eq!(
        guests::names().collect::<Vec<_>>(),
        ["burn", "counter", "disk", "echo", "idle", "kv", "netecho", "rebel", "torture"]
    );
    for name in guests::names() {
        let entry = try_load(guests::bundled(name).expect("bundled")).expect("a flat guest");
        assert!(entry.rip.0 >= CODE_START && entry.rip.0 < 4 * MIB);
        assert_eq!((entry.rsp.0, entry.boot_info.0), (STACK_TOP - 8, BOOT_INFO_START));
    }
    assert_eq!(guests::bundled("linux"), None);
}

#[test]
fn segments_land_at_their_addresses_with_zeros_behind() {
    let memory = memory();
    let file = elf(CODE_START, &[TestSegment { address: CODE_START, bytes: b"12345678", memory_bytes: 0x1000 }]);
    load(&memory, &file, &[]).expect("a flat guest");
    assert_eq!(word(&memory, CODE_START), u64::from_le_bytes(*b"12345678"));
    assert_eq!(word(&memory, CODE_START + 8), 0);
}

#[test]
fn boot_info_is_as_documented() {
    let memory = memory();
    load(&memory, &program(&CODE), &["one".to_owned(), "zwei drei".to_owned()]).expect("a flat guest");
    let at = |offset| word(&memory, BOOT_INFO_START + offset);
    let half_at = |offset| half(&memory, BOOT_INFO_START + offset);
    assert_eq!(at(0), u64::from_le_bytes(*b"FTVMBOOT"));
    assert_eq!((half_at(8), half_at(12)), (1, 0x60));
    assert_eq!((at(0x10), at(0x18), half_at(0x20)), (4 * MIB, ARGUMENTS_START, 2));
    let rest: Vec<u64> = (0x30..0x60).step_by(8).map(at).collect();
    assert_eq!(rest, [CODE_START, CODE_START + 4, STACK_BOTTOM, STACK_TOP, MMIO_START, 2 * MIB]);

    let regions = regions(&memory);
    let (free, image, mmio) = (RegionKind::Free as u32, RegionKind::Image as u32, RegionKind::Mmio as u32);
    let expected = [
        (0, MIB, RegionKind::Reserved as u32),
        (MIB, MIB, free),
        (CODE_START, 0x1000, image),
        (CODE_START + 0x1000, 2 * MIB - 0x1000, free),
        (MMIO_START, 2 * MIB, mmio),
    ];
    assert_eq!(regions, expected);

    let text = |pointer: u64, length: usize| {
        let mut bytes = vec![0; length];
        memory.read_slice(&mut bytes, GuestAddress(pointer)).expect("RAM");
        String::from_utf8(bytes).expect("UTF-8")
    };
    assert_eq!(text(word(&memory, ARGUMENTS_START), 4), "one\0");
    assert_eq!(text(word(&memory, ARGUMENTS_START + 8), 10), "zwei drei\0");
    assert_eq!(word(&memory, ARGUMENTS_START + 16), 0);
}

/// Start, length and kind of each region in a loaded guest's boot info.
fn regions(memory: &GuestMemory) -> Vec<(u64, u64, u32)> {
    let table = word(memory, BOOT_INFO_START + 0x28);
    (0..u64::from(half(memory, BOOT_INFO_START + 0x24)))
        .map(|index| table + index * 24)
        .map(|at| (word(memory, at), word(memory, at + 8), half(memory, at + 16)))
        .collect()
}

#[test]
fn memory_behind_the_hole_is_in_the_map_and_in_the_tables() {
    // Only pages that are written cost anything.
    let memory = anonymous_memory(HOLE_START + 2 * MIB).expect("memory");
    load(&memory, &program(&CODE), &[]).expect("a flat guest");
    let kinds: Vec<_> = regions(&memory).iter().map(|(start, _, kind)| (*start, *kind)).collect();
    assert_eq!(&kinds[3..], [(CODE_START + 0x1000, 1), (MMIO_START, 4), (HOLE_END, 1)]);
    for address in [HOLE_START - 1, HOLE_END, HOLE_END + 2 * MIB - 1] {
        assert_eq!(translate(&memory, address), Some((address, true)));
    }
    assert_eq!(translate(&memory, HOLE_END + 2 * MIB), None);
    assert_eq!(translate(&memory, HOLE_START), None);
}

#[test]
fn arguments_are_checked() {
    let nul = load(&memory(), &program(&CODE), &["fine".to_owned(), "a\0b".to_owned()]);
    assert!(matches!(nul, Err(FlatGuestError::ArgumentNul { index: 1 })));
    // Two pointers, and the NUL byte.
    let fits = usize::try_from(ARGUMENTS_END - ARGUMENTS_START).expect("small") - 17;
    assert!(load(&memory(), &program(&CODE), &["x".repeat(fits)]).is_ok());
    let long = load(&memory(), &program(&CODE), &["x".repeat(fits + 1)]);
    assert!(matches!(long, Err(FlatGuestError::ArgumentsTooLong { needed, available }) if needed == available + 1));
}

/// Walks the page tables as the processor does; says where an address leads, and whether user code may go there.
fn translate(memory: &GuestMemory, address: u64) -> Option<(u64, bool)> {
    const PRESENT: u64 = 1;
    const USER: u64 = 4;
    const LARGE: u64 = 1 << 7;
    let (mut table, mut user) = (PML4_START, true);
    for shift in [39, 30, 21, 12] {
        let entry = word(memory, table + (address >> shift) % 512 * 8);
        if entry & PRESENT == 0 {
            return None;
        }
        user &= entry & USER != 0;
        if shift == 12 || entry & LARGE != 0 {
            let page = (1 << shift) - 1;
            assert_eq!(entry & 0x20, 0x20, "accessed bits are set beforehand");
            assert_eq!(entry & 0x40, 0x40, "dirty bits are set beforehand");
            return Some((entry & !page & !0xfff | address & page, user));
        }
        table = entry & !0xfff;
    }
    unreachable!("the last level returns")
}

#[test]
fn memory_is_mapped_to_itself_but_for_guards_and_tables() {
    let memory = memory();
    load(&memory, &program(&CODE), &[]).expect("a flat guest");
    for address in
        [BOOT_INFO_START, ARGUMENTS_END - 1, STACK_BOTTOM, STACK_TOP - 1, MIB, CODE_START, 4 * MIB - 1, MMIO_START]
    {
        assert_eq!(translate(&memory, address), Some((address, true)), "{address:#x}");
    }
    for address in [PML4_START, 0x4000, 0x5000, 0x1_0000, BOOT_INFO_START - 1] {
        assert_eq!(translate(&memory, address), Some((address, false)), "{address:#x}");
    }
    for address in
        [0, 0xfff, STACK_BOTTOM - 1, STACK_BOTTOM - 0x1000, 4 * MIB, HOLE_START, MMIO_START - 1, MMIO_START + 2 * MIB]
    {
        assert_eq!(translate(&memory, address), None, "{address:#x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn bytes_that_claim_to_be_an_elf_never_panic(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.extend(tail);
        let _result = try_load(&file);
    }

    #[test]
    fn damaged_programs_never_panic_and_stay_inside(
        changes in prop::collection::vec((0usize..0x180, any::<u8>()), 1..8), cut in 0usize..20000,
    ) {
        let mut file = guests::bundled("counter").expect("bundled").to_vec();
        for (offset, byte) in changes {
            file[offset] = byte;
        }
        file.truncate(cut.max(0x180));
        if let Ok(entry) = try_load(&file) {
            prop_assert!((MIB..4 * MIB).contains(&entry.rip.0));
        }
    }

    #[test]
    fn segments_anywhere_never_panic(
        address in any::<u64>(), memory_bytes in any::<u64>(), near in 0u64..8 * MIB, entry in any::<u64>(),
    ) {
        for (address, memory_bytes) in [(address, memory_bytes), (near, memory_bytes), (near, near), (near, 4)] {
            let file = elf(entry, &[TestSegment { address, bytes: &CODE, memory_bytes }]);
            let _result = try_load(&file);
        }
    }
}
