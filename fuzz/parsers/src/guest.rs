//! What guests are booted from, as a client hands it over: the controller and every host load it.

use crate::checksum::put_crc;
use vmm::machine::check_guest;
use vmm::machine::linux::{HEADER_BYTES, LinuxGuest, VcpuCount};

const MEMORY_BYTES: u64 = 32 << 20;
const MAGIC: &[u8; 8] = b"FTVMLNUX";
const KERNEL_START: u64 = 16 << 20;

/// A Linux guest: the bundle as it is, and with its lengths and its CRC put right; then its kernel, by whichever protocol.
pub(crate) fn linux(data: &[u8]) {
    linux_guest(data);
    if let Some(fitted) = fitted(data) {
        linux_guest(&fitted);
    }
}

fn linux_guest(bytes: &[u8]) {
    if !LinuxGuest::is_meant(bytes) {
        return;
    }
    match LinuxGuest::decode(bytes) {
        Ok(guest) => {
            let machine = LinuxGuest::machine_of(bytes).expect("the header is that of a sound guest");
            assert_eq!(machine.vcpus, guest.vcpus);
            let again = guest.encode().expect("what was decoded can be encoded");
            assert_eq!(LinuxGuest::decode(&again).expect("and decoded again"), guest);
            // Whether it starts is the kernel's part.
            is_loaded(bytes, &[]);
        }
        Err(_) => assert!(!is_loaded(bytes, &[]), "a damaged bundle is loaded"),
    }
}

/// Whether a guest is loaded. Where it is not, no host is to blame.
fn is_loaded(bytes: &[u8], arguments: &[String]) -> bool {
    match check_guest(bytes, MEMORY_BYTES, arguments) {
        Ok(()) => true,
        Err(error) => {
            assert!(error.is_of_guest(), "{error:?}");
            false
        }
    }
}

/// The input as a bundle whose parts are as long as its header says.
fn fitted(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = data.to_vec();
    let parts = u64::try_from(bytes.len().checked_sub(HEADER_BYTES)?).ok()?;
    let long = |at: usize| Some(u64::from_le_bytes(data.get(at..at + 8)?.try_into().ok()?));
    let line = (long(32)? & 0xffff_ffff).min(parts);
    let initrd = long(24)? % (parts - line + 1);
    let kernel = parts - line - initrd;
    bytes[..8].copy_from_slice(MAGIC);
    bytes[16..24].copy_from_slice(&kernel.to_le_bytes());
    bytes[24..32].copy_from_slice(&initrd.to_le_bytes());
    bytes[32..36].copy_from_slice(&u32::try_from(line).ok()?.to_le_bytes());
    put_crc(&mut bytes, 0, 36, 36);
    Some(bytes)
}

pub(crate) fn linux_seeds() -> Vec<Vec<u8>> {
    let (plain, pvh) = (elf(None), elf(Some(0x10_0000)));
    let kernels = [plain, pvh, bz_image(), multiboot_elf(), multiboot_file()];
    let guest = |kernel: &Vec<u8>| {
        let guest = LinuxGuest { kernel, initrd: b"initrd", command_line: "quiet x=1", vcpus: VcpuCount::MAX };
        guest.encode().expect("a short command line")
    };
    kernels.iter().map(guest).collect()
}

/// A flat guest, with an argument.
pub(crate) fn flat(data: &[u8]) {
    if !LinuxGuest::is_meant(data) {
        is_loaded(data, &["steps=7".to_owned()]);
    }
}

pub(crate) fn flat_seeds() -> Vec<Vec<u8>> {
    vec![elf(None)]
}

fn halves(halves: &[u16]) -> Vec<u8> {
    halves.iter().flat_map(|half| half.to_le_bytes()).collect()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_le_bytes()).collect()
}

/// A 64-bit ELF file with one segment of code, and one of notes if it has a PVH entry.
fn elf(pvh: Option<u32>) -> Vec<u8> {
    let notes = pvh.map_or_else(Vec::new, |entry| words(&[4, 4, 18, u32::from_le_bytes(*b"Xen\0"), entry]));
    let segments = 1 + u16::from(pvh.is_some());
    let code_at = 64 + 56 * u64::from(segments);
    let segment = |kind: u32, offset: u64, start: u64, length: u64| {
        [words(&[kind, 5]), longs(&[offset, start, start, length, length, 0x1000])].concat()
    };
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([halves(&[2, 62]), words(&[1]), longs(&[KERNEL_START, 64, 0]), words(&[0])].concat());
    file.extend(halves(&[64, 56, segments, 0, 0, 0]));
    file.extend(segment(1, code_at, KERNEL_START, 4));
    if pvh.is_some() {
        file.extend(segment(4, code_at + 4, 0, 20));
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

const MULTIBOOT_START: u32 = 4 << 20;

fn multiboot_header(flags: u32) -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    words(&[MAGIC, flags, 0u32.wrapping_sub(MAGIC.wrapping_add(flags))])
}

/// A 32-bit ELF file that begins with a Multiboot header.
fn multiboot_elf() -> Vec<u8> {
    let code = [multiboot_header(3), vec![0xf4; 4]].concat();
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([halves(&[2, 3]), words(&[1, MULTIBOOT_START + 12, 52, 0, 0])].concat());
    file.extend(halves(&[52, 32, 1, 0, 0, 0]));
    file.extend(words(&[1, 84, MULTIBOOT_START, MULTIBOOT_START, 16, 16 + 0x2000, 7, 4]));
    file.extend(code);
    file
}

/// A file whose Multiboot header says where it goes.
fn multiboot_file() -> Vec<u8> {
    let start = MULTIBOOT_START;
    let places = words(&[start + 8, start + 4, start + 36, start + 0x5000, start + 40]);
    [vec![0xee; 8], vec![1, 2, 3, 4], multiboot_header(1 << 16), places, words(&[0x1234_5678])].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations of what nobody loads would show little.
    #[test]
    fn what_guests_are_begun_with_is_loaded() {
        for seed in linux_seeds().into_iter().chain(flat_seeds()) {
            check_guest(&seed, MEMORY_BYTES, &[]).unwrap();
            let as_it_is = if LinuxGuest::is_meant(&seed) { fitted(&seed) } else { None };
            assert!(as_it_is.is_none_or(|fitted| fitted == seed));
        }
    }
}
