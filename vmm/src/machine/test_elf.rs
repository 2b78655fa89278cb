//! Small ELF files for tests.

/// A loadable segment: address, bytes in the file, bytes in memory.
pub(super) struct TestSegment<'a> {
    pub(super) address: u64,
    pub(super) bytes: &'a [u8],
    pub(super) memory_bytes: u64,
}

/// Where [`program`] puts its code.
pub(super) const CODE_START: u64 = 0x20_0000;
const HEADER_LENGTH: u64 = 64;
const PROGRAM_HEADER_LENGTH: u64 = 56;
const PT_LOAD: u32 = 1;
const FLAGS_RWX: u32 = 7;

/// An executable with these segments.
pub(super) fn elf(entry: u64, segments: &[TestSegment<'_>]) -> Vec<u8> {
    let count = u16::try_from(segments.len()).expect("few segments");
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(2u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(entry.to_le_bytes());
    file.extend(HEADER_LENGTH.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, count, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = HEADER_LENGTH + PROGRAM_HEADER_LENGTH * u64::from(count);
    for segment in segments {
        file.extend(PT_LOAD.to_le_bytes());
        file.extend(FLAGS_RWX.to_le_bytes());
        let length = segment.bytes.len() as u64;
        for word in [offset, segment.address, segment.address, length, segment.memory_bytes, 1] {
            file.extend(word.to_le_bytes());
        }
        offset += length;
    }
    for segment in segments {
        file.extend(segment.bytes);
    }
    file
}

/// An executable of nothing but this code.
pub(crate) fn program(code: &[u8]) -> Vec<u8> {
    elf(CODE_START, &[TestSegment { address: CODE_START, bytes: code, memory_bytes: code.len() as u64 }])
}
