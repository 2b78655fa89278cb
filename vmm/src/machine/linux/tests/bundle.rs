use crate::machine::linux::{BundleError, COMMAND_LINE_BYTES_MAX, HEADER_BYTES, LinuxGuest, LinuxMachine, VcpuCount};
use proptest::prelude::*;

fn guest<'a>(kernel: &'a [u8], initrd: &'a [u8], command_line: &'a str) -> LinuxGuest<'a> {
    LinuxGuest { kernel, initrd, command_line, vcpus: VcpuCount::MAX }
}

#[test]
fn a_guest_comes_back_as_it_was() {
    for guest in [guest(b"kernel", b"initrd", "console=ttyS0"), guest(b"", b"", "")] {
        let bytes = guest.encode().expect("a good guest");
        assert!(LinuxGuest::is_meant(&bytes));
        assert_eq!(LinuxGuest::decode(&bytes), Ok(guest));
        let machine = LinuxMachine { vcpus: VcpuCount::MAX, has_board: false };
        assert_eq!(LinuxGuest::machine_of(&bytes[..HEADER_BYTES]), Ok(machine));
    }
    assert!(!LinuxGuest::is_meant(b"\x7fELF"));
}

#[test]
fn a_multiboot_guest_says_so_in_its_header() {
    let header = [0x1bad_b002u32, 0, 0u32.wrapping_sub(0x1bad_b002)];
    let kernel: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    let guest = guest(&kernel, b"", "");
    let bytes = guest.encode().expect("a good guest");
    assert_eq!(LinuxGuest::decode(&bytes), Ok(guest));
    let machine = LinuxMachine { vcpus: VcpuCount::MAX, has_board: true };
    assert_eq!(LinuxGuest::machine_of(&bytes[..HEADER_BYTES]), Ok(machine));
}

#[test]
fn command_lines_that_no_kernel_takes_are_refused() {
    let long = "x".repeat(COMMAND_LINE_BYTES_MAX);
    assert!(guest(b"", b"", &long).encode().is_ok());
    for line in [long + "x", "a\0b".to_owned()] {
        assert_eq!(guest(b"", b"", &line).encode(), Err(BundleError::CommandLine { got: line.len() }));
    }
}

#[test]
fn what_is_damaged_is_named() {
    let bytes = guest(b"kernel", b"initrd", "words").encode().expect("a good guest");
    assert_eq!(LinuxGuest::decode(&bytes[..39]), Err(BundleError::Truncated { got: 39 }));
    let got = bytes.len() - HEADER_BYTES - 1;
    assert_eq!(LinuxGuest::decode(&bytes[..bytes.len() - 1]), Err(BundleError::Length { expected: 17, got }));
    for at in 0..HEADER_BYTES {
        let mut other = bytes.clone();
        other[at] ^= 1;
        assert!(matches!(LinuxGuest::decode(&other), Err(BundleError::HeaderCrc { .. })), "byte {at}");
    }
    let resealed = |at: usize, value: u32| {
        let mut other = bytes.clone();
        other[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let crc = crc32fast::hash(&other[..36]);
        other[36..40].copy_from_slice(&crc.to_le_bytes());
        LinuxGuest::decode(&other).map(|_| ()).expect_err("damaged")
    };
    assert_eq!(resealed(8, 9), BundleError::Version { got: 9 });
    assert_eq!(resealed(12, 0), BundleError::Vcpus { got: 0 });
    assert_eq!(resealed(12, 5), BundleError::Vcpus { got: 5 });
    assert!(matches!(resealed(20, u32::MAX), BundleError::Length { .. }), "no sum overflows");
    let mut not_text = bytes.clone();
    *not_text.last_mut().expect("not empty") = 0xff;
    assert_eq!(LinuxGuest::decode(&not_text), Err(BundleError::CommandLine { got: 5 }));
}

#[test]
fn counts_of_vcpus_are_read() {
    assert_eq!("4".parse(), Ok(VcpuCount::MAX));
    for bad in ["0", "5", "-1", "one", ""] {
        let error = bad.parse::<VcpuCount>().expect_err("no count");
        assert!(error.to_string().contains("1 to 4"), "{error}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = LinuxGuest::decode(&bytes);
        let mut sealed = bytes;
        if sealed.len() >= HEADER_BYTES {
            sealed[..8].copy_from_slice(b"FTVMLNUX");
            let crc = crc32fast::hash(&sealed[..36]);
            sealed[36..40].copy_from_slice(&crc.to_le_bytes());
            let _ = LinuxGuest::decode(&sealed);
        }
    }
}
