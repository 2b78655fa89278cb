use crate::machine::device::DeviceId;
use crate::machine::layout::{GuestMemory, anonymous_memory};
use crate::machine::linux::{BootEntry, LinuxGuest, LinuxGuestError, VcpuCount, load};
use vm_memory::{Bytes as _, GuestAddress};

const MEMORY: u64 = 64 << 20;
const KERNEL_START: u64 = 16 << 20;

/// An ELF file with one segment of code, and one of notes if it is to have a PVH entry.
fn elf(pvh: Option<u32>) -> Vec<u8> {
    let notes = pvh.map_or_else(Vec::new, |entry| {
        let words = [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), entry];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    });
    let headers = 1 + u16::from(pvh.is_some());
    let at = 64 + 56 * u64::from(headers);
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2u16, 62].iter().flat_map(|half| half.to_le_bytes()));
    file.extend(1u32.to_le_bytes());
    file.extend([KERNEL_START, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, headers, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    let mut segment = |kind: u32, offset: u64, start: u64, length: u64| {
        file.extend([kind, 5].iter().flat_map(|word| word.to_le_bytes()));
        file.extend([offset, start, start, length, length, 0x1000].iter().flat_map(|word| word.to_le_bytes()));
    };
    segment(1, at, KERNEL_START, 4);
    if pvh.is_some() {
        segment(4, at + 4, 0, notes.len() as u64);
    }
    file.extend(b"code");
    file.extend(notes);
    file
}

fn bz_image() -> Vec<u8> {
    let mut file = vec![0; 0x400];
    file[0x1f1] = 1;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    file[0x211] = 1;
    file[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
    file[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    file[0x236] = 1;
    file[0x258..0x260].copy_from_slice(&KERNEL_START.to_le_bytes());
    file[0x260..0x264].copy_from_slice(&(8u32 << 20).to_le_bytes());
    file.extend([0x90; 0x300]);
    file
}

fn loaded(kernel: &[u8], initrd: &[u8]) -> Result<(GuestMemory, BootEntry), LinuxGuestError> {
    let memory = anonymous_memory(MEMORY).expect("memory");
    let guest = LinuxGuest { kernel, initrd, command_line: "quiet", vcpus: VcpuCount::ONE };
    load(&memory, &guest, [DeviceId(16)].into_iter()).map(|entry| (memory, entry))
}

fn bytes<const N: usize>(memory: &GuestMemory, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    memory.read_slice(&mut bytes, GuestAddress(at)).expect("RAM");
    bytes
}

fn long(memory: &GuestMemory, at: u64) -> u64 {
    u64::from_le_bytes(bytes(memory, at))
}

#[test]
fn a_kernel_with_a_pvh_entry_is_started_there() {
    let (memory, entry) = loaded(&elf(Some(0x100_0040)), b"initrd").expect("loaded");
    assert_eq!(entry, BootEntry::Pvh { rip: GuestAddress(0x100_0040) });
    assert_eq!(&bytes::<4>(&memory, KERNEL_START), b"code");
    assert_eq!(bytes::<4>(&memory, 0x6000), 0x336e_c578u32.to_le_bytes());
    let initrd = long(&memory, long(&memory, 0x6010));
    assert_eq!((&bytes::<6>(&memory, initrd), initrd), (b"initrd", MEMORY - 4096));
    assert_eq!(&bytes::<6>(&memory, long(&memory, 0x6018)), b"quiet\0");
    assert_eq!(&bytes::<8>(&memory, long(&memory, 0x6020)), b"RSD PTR ");
    // Low RAM, what is reserved below 1 MiB, and the rest.
    assert_eq!(bytes::<4>(&memory, 0x6030), 3u32.to_le_bytes());
    let table = long(&memory, 0x6028);
    assert_eq!((long(&memory, table + 48), long(&memory, table + 56)), (1 << 20, MEMORY - (1 << 20)));
}

#[test]
fn a_kernel_without_one_and_a_bz_image_are_started_by_the_64_bit_protocol() {
    let (memory, entry) = loaded(&elf(None), b"").expect("loaded");
    assert_eq!(entry, BootEntry::Long { rip: GuestAddress(KERNEL_START) });
    assert_eq!(&bytes::<4>(&memory, 0x7202), b"HdrS");
    assert_eq!(bytes::<4>(&memory, 0x7218), [0; 4], "no initrd");
    let (memory, entry) = loaded(&bz_image(), b"initrd").expect("loaded");
    assert_eq!(entry, BootEntry::Long { rip: GuestAddress(0x10_0200) });
    assert_eq!(bytes::<4>(&memory, 0x10_0000), [0x90; 4]);
    assert_eq!(long(&memory, 0x7070), 0xe_0000, "the RSDP");
    assert_eq!(bytes::<1>(&memory, 0x71e8), [3], "entries of the memory map");
    let initrd = u32::from_le_bytes(bytes(&memory, 0x7218));
    assert_eq!(&bytes::<6>(&memory, initrd.into()), b"initrd");
    // The first page tables map the kernel onto itself.
    let directory = long(&memory, 0xa000) & !0xfff;
    assert_eq!(long(&memory, directory + 8 * 8), KERNEL_START | 0x83);
}

#[test]
fn what_is_no_kernel_or_does_not_fit_is_refused() {
    assert!(matches!(loaded(b"#!/bin/sh", b""), Err(LinuxGuestError::NoKernel)));
    assert!(matches!(loaded(&[0; 4096], b""), Err(LinuxGuestError::NoKernel)));
    assert!(matches!(loaded(b"\x7fELF", b""), Err(LinuxGuestError::Kernel { .. })));
    let mut old = bz_image();
    old[0x236] = 0;
    assert!(matches!(loaded(&old, b""), Err(LinuxGuestError::Not64Bit)));
    let large = vec![1; 48 << 20];
    assert!(matches!(loaded(&elf(None), &large), Err(LinuxGuestError::InitrdRoom { .. })));
    let mut far = elf(None);
    far[64 + 24..64 + 32].copy_from_slice(&(1u64 << 40).to_le_bytes());
    assert!(matches!(loaded(&far, b""), Err(LinuxGuestError::Kernel { .. })));
}

#[test]
fn a_jump_to_the_reset_vector_restarts() {
    let (memory, _) = loaded(&elf(None), b"").expect("loaded");
    let code: [u8; 6] = bytes(&memory, 0xf_fff0);
    assert_eq!(code, [0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee], "mov dx, 0xcf9; mov al, 6; out dx, al");
}
