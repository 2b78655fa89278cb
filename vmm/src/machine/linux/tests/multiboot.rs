use crate::machine::layout::{GuestMemory, anonymous_memory};
use crate::machine::linux::{BootEntry, LinuxGuest, LinuxGuestError, MultibootError, VcpuCount, load};
use vm_memory::{Bytes as _, GuestAddress};

const MEMORY: u64 = 16 << 20;
const START: u32 = 4 << 20;
const MAGIC: u32 = 0x1bad_b002;

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn header(flags: u32) -> [u32; 3] {
    [MAGIC, flags, 0u32.wrapping_sub(MAGIC.wrapping_add(flags))]
}

/// A 32-bit ELF file with one segment, which begins with the header.
fn elf(start: u32, flags: u32) -> Vec<u8> {
    let code = [words(&header(flags)), vec![0xf4; 4]].concat();
    let length = u32::try_from(code.len()).expect("short");
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2u16, 3].iter().flat_map(|half| half.to_le_bytes()));
    file.extend(words(&[1, start + 12, 52, 0, 0]));
    file.extend([52u16, 32, 1, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    file.extend(words(&[1, 84, start, start, length, length + 0x2000, 7, 4]));
    file.extend(code);
    file
}

fn loaded(kernel: &[u8], initrd: &[u8]) -> Result<(GuestMemory, BootEntry), LinuxGuestError> {
    let memory = anonymous_memory(MEMORY).expect("memory");
    let guest = LinuxGuest { kernel, initrd, command_line: "one two", vcpus: VcpuCount::ONE };
    load(&memory, &guest, std::iter::empty()).map(|entry| (memory, entry))
}

fn word(memory: &GuestMemory, at: u64) -> u32 {
    memory.read_obj(GuestAddress(at)).expect("RAM")
}

fn text(memory: &GuestMemory, at: u32) -> String {
    let bytes = (u64::from(at)..).map(|at| memory.read_obj::<u8>(GuestAddress(at)).expect("RAM"));
    bytes.take_while(|byte| *byte != 0).map(char::from).collect()
}

#[test]
fn an_elf_file_is_told_of_memory_module_and_words() {
    let (memory, entry) = loaded(&elf(START, 3), b"module").expect("loaded");
    let (rip, information) = (GuestAddress(u64::from(START) + 12), GuestAddress(0x9000));
    assert_eq!(entry, BootEntry::Multiboot { rip, information });
    assert_eq!(word(&memory, START.into()), MAGIC);
    let field = |offset: u64| word(&memory, 0x9000 + offset);
    assert_eq!((field(4), field(8)), (639, 15 << 10), "KiB below 640 KiB, and from 1 MiB on");
    assert_eq!(text(&memory, field(16)), "kernel one two");
    assert_eq!(field(20), 1);
    let module = u64::from(field(24));
    let (start, end) = (word(&memory, module), word(&memory, module + 4));
    assert_eq!((start, end), (START + 0x3000, START + 0x3006), "behind the kernel's zeros");
    assert_eq!(text(&memory, start), "module");
    let (length, map) = (field(44), u64::from(field(48)));
    assert_eq!(length, 3 * 24);
    assert_eq!([0, 4, 12, 20].map(|at| word(&memory, map + at)), [20, 0, 0x9_fc00, 1]);
    assert_eq!([0, 4, 12, 20].map(|at| word(&memory, map + 48 + at)), [20, 1 << 20, 15 << 20, 1]);
    assert_eq!(text(&memory, field(64)), "ftvm");
}

#[test]
fn a_kernel_where_the_information_would_be_has_it_behind_itself() {
    let (memory, entry) = loaded(&elf(0x8000, 0), b"").expect("loaded");
    let BootEntry::Multiboot { information, .. } = entry else { panic!("{entry:?}") };
    assert!(information.0 >= 1 << 20, "{information:?}");
    assert_eq!(word(&memory, information.0 + 20), 0, "no module");
    assert_eq!(word(&memory, 0x8000), MAGIC);
}

#[test]
fn a_file_that_is_no_elf_file_says_where_it_goes() {
    let places = |end: u32, bss: u32| [START + 8, START + 4, end, bss, START + 40];
    let file = |end, bss| {
        let mut file = vec![0xee; 8];
        file.extend([1, 2, 3, 4]);
        file.extend(words(&header(1 << 16)));
        file.extend(words(&places(end, bss)));
        file.extend(words(&[0x1234_5678]));
        file
    };
    let (memory, entry) = loaded(&file(START + 36, START + 0x5000), b"x").expect("loaded");
    assert!(matches!(entry, BootEntry::Multiboot { rip, .. } if rip.0 == u64::from(START) + 40), "{entry:?}");
    assert_eq!(word(&memory, u64::from(START) + 8), MAGIC, "the header is where it says");
    assert_eq!(word(&memory, u64::from(START) + 4), 0x0403_0201);
    let module = u64::from(word(&memory, 0x9000 + 24));
    assert_eq!(word(&memory, module), START + 0x5000, "the module is behind the zeros");
    assert!(loaded(&file(0, 0), b"").is_ok(), "to the end of the file");
    let defect = |end, bss| match loaded(&file(end, bss), b"") {
        Err(LinuxGuestError::Multiboot(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(defect(START + 4096, 0).contains("does not have"));
    assert!(defect(START, 0).contains("does not have"));
}

#[test]
fn what_cannot_be_loaded_is_named() {
    let refused = |kernel: &[u8], initrd: &[u8]| match loaded(kernel, initrd) {
        Err(LinuxGuestError::Multiboot(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused(&elf(START, 1 << 2), b""), MultibootError::Flags { flags: 4 }), "a screen");
    assert!(matches!(refused(&elf(0xa_0000, 0), b""), MultibootError::Place { .. }), "where ROMs are");
    assert!(matches!(refused(&elf(0xffff_f000, 0), b""), MultibootError::Place { .. }), "behind the memory");
    assert!(matches!(refused(&elf(START, 0), &vec![1; 12 << 20]), MultibootError::Room { .. }));
    let whole = elf(START, 0);
    assert!(matches!(refused(&whole[..whole.len() - 1], b""), MultibootError::Segment { .. } | MultibootError::Elf(_)));
    for length in 0..whole.len() {
        assert!(loaded(&whole[..length], b"").is_err(), "{length} bytes");
    }
    let mut other = elf(START, 0);
    other[18] = 40;
    assert!(matches!(refused(&other, b""), MultibootError::NotX86 { machine: 40 }));
    let mut plain = elf(START, 0);
    plain[84] ^= 1;
    assert!(matches!(loaded(&plain, b""), Err(LinuxGuestError::NoKernel)), "no header at all");
}
