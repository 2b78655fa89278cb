//! A guest that hands its console over as much as its queue takes, in one exit: what devices take, what an entry of the record log
//! holds and what the console's ring holds have to fit each other.

use crate::support::{Place, kvm};

const BASE: u32 = 0x20_0000;
const DESCRIPTORS: u32 = BASE + 0x1000;
const AVAILABLE: u32 = BASE + 0x2000;
const USED: u32 = BASE + 0x3000;
const BUFFER: u32 = BASE + 0x4000;
const QUEUE_SIZE: u16 = 64;
const BUFFER_BYTES: usize = 16 << 10;

/// Machine code and data of a guest, byte by byte: no compiler's idea of a driver is in it.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    /// `mov dword [rdi + register], value`: a register of the console's device, whose address RDI holds.
    fn set(&mut self, register: u32, value: u32) {
        self.0.extend([0xc7, 0x87]);
        self.0.extend(register.to_le_bytes());
        self.0.extend(value.to_le_bytes());
    }

    /// `mov dx, port; mov al, byte; out dx, al`.
    fn out(&mut self, port: u16, byte: u8) {
        self.0.extend([0x66, 0xba]);
        self.0.extend(port.to_le_bytes());
        self.0.extend([0xb0, byte, 0xee]);
    }
}

/// Says `A`, hands all chains of the console's queue over at once, each of so many bytes, says `Z`, and ends with 7.
fn flood(chain_bytes: u32) -> Vec<u8> {
    let mut code = Code::default();
    // `mov edi, 0xd0005000`: slot 5 (docs/flat-guest.md).
    code.0.push(0xbf);
    code.0.extend(0xd000_5000_u32.to_le_bytes());
    code.out(0x3f8, b'A');
    // Virtio 1.2, 3.1 and 4.2.3.2: status, features (VIRTIO_F_VERSION_1), and queue 1, which is for output.
    for status in [0, 1, 3] {
        code.set(0x70, status);
    }
    for (register, value) in [(0x24, 1), (0x20, 1), (0x70, 0xb), (0x30, 1), (0x38, u32::from(QUEUE_SIZE))] {
        code.set(register, value);
    }
    for (register, address) in [(0x80, DESCRIPTORS), (0x90, AVAILABLE), (0xa0, USED)] {
        code.set(register, address);
        code.set(register + 4, 0);
    }
    for (register, value) in [(0x44, 1), (0x70, 0xf), (0x50, 1)] {
        code.set(register, value);
    }
    code.out(0x3f8, b'Z');
    code.out(0xf4, 7);
    let mut image = vec![0; 0x4000 + BUFFER_BYTES];
    image[..code.0.len()].copy_from_slice(&code.0);
    let mut put = |at: u32, bytes: &[u8]| {
        let at = (at - BASE) as usize;
        image[at..at + bytes.len()].copy_from_slice(bytes);
    };
    for index in 0..QUEUE_SIZE {
        let descriptor = DESCRIPTORS + 16 * u32::from(index);
        put(descriptor, &u64::from(BUFFER).to_le_bytes());
        put(descriptor + 8, &chain_bytes.to_le_bytes());
        put(AVAILABLE + 4 + 2 * u32::from(index), &index.to_le_bytes());
    }
    put(AVAILABLE + 2, &QUEUE_SIZE.to_le_bytes());
    put(BUFFER, &[b'x'; BUFFER_BYTES]);
    elf(&image)
}

/// A static ELF file with one segment, which is all it has.
fn elf(image: &[u8]) -> Vec<u8> {
    let bytes = image.len() as u64;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    [u64::from(BASE), 64, 0].into_iter().for_each(|word| file.extend(word.to_le_bytes()));
    file.extend([0; 4]);
    [64_u16, 56, 1, 64, 0, 0].into_iter().for_each(|half| file.extend(half.to_le_bytes()));
    file.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    let base = u64::from(BASE);
    [0x1000, base, base, bytes, bytes, 0x1000].into_iter().for_each(|word| file.extend(word.to_le_bytes()));
    file.resize(0x1000, 0);
    file.extend(image);
    file
}

#[test]
fn all_that_the_queue_takes_at_once_comes_out_in_every_mode() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    for (chain_bytes, taken) in [(12 << 10, true), (16 << 10, false)] {
        let guest = place.write(&format!("flood-{chain_bytes}"), flood(chain_bytes));
        let guest = guest.to_str().unwrap();
        let mut expected = b"A".to_vec();
        if taken {
            expected.extend(vec![b'x'; usize::from(QUEUE_SIZE) * chain_bytes as usize]);
        }
        // The device refuses more, and wants a reset; the guest does not look.
        expected.push(b'Z');
        let recording = place.file("recording");
        let recording = recording.to_str().unwrap();
        let unprotected = ["--mode", "none", "--record", recording];
        for mode in [&unprotected[..], &["--mode", "checkpoint"], &["--mode", "replay"], &["--mode", "lockstep"]] {
            // A machine has virtio devices when it has a disk or a network.
            let disk = format!("{},size=1MiB", place.file(&format!("disk-{}-{chain_bytes}", mode[1])).display());
            let ended = place.run(&[&["run"], mode, &["--memory", "8MiB", "--disk", &disk, guest]].concat());
            assert_eq!(ended.code, Some(7), "{mode:?}, {chain_bytes}: {}", ended.stderr);
            let (found, wanted) = (ended.stdout.len(), expected.len());
            assert!(ended.stdout == expected, "{mode:?}, {chain_bytes}: {found} bytes, not the {wanted} expected");
        }
        let replayed = place.run(&["replay", recording]).ok();
        assert!(String::from_utf8_lossy(&replayed.stdout).contains("exited with 7"));
        std::fs::remove_file(recording).unwrap();
    }
}
