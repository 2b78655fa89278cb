//! The shared memory device: a file that every QEMU maps, with the info block that makes Linux offer it as /dev/dax0.0.
//!
//! Layout of the block: `struct nd_pfn_sb` of the kernel's drivers/nvdimm/pfn.h.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Where the block is.
const BLOCK_AT: u64 = 4096;
const BLOCK_BYTES: usize = 4096;
const CHECKSUM_AT: usize = BLOCK_BYTES - 8;
const SIGNATURE: &[u8; 16] = b"NVDIMM_DAX_INFO\0";
/// Where the device's first byte is in the file; its alignment too.
pub(crate) const DATA_AT: u64 = 2 << 20;
/// The kernel keeps its struct pages in ordinary memory.
const MODE_RAM: u32 = 1;
const PAGE_BYTES: u32 = 4096;
const STRUCT_PAGE_BYTES: u16 = 64;

/// Makes the device's file, of so many bytes, all zero but for the block. It takes memory or disk as it is written.
pub(crate) fn make(path: &Path, bytes: u64) -> io::Result<()> {
    assert!(bytes > DATA_AT && bytes.is_multiple_of(DATA_AT), "a device is whole 2 MiB pages: {bytes}");
    let file = File::create_new(path)?;
    file.set_len(bytes)?;
    file.write_all_at(&info_block(bytes), BLOCK_AT)
}

fn info_block(bytes: u64) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut put = |at: usize, field: &[u8]| block[at..at + field.len()].copy_from_slice(field);
    put(0, SIGNATURE);
    // Any identity but zero; the parent has none, as it has no labels.
    put(16, b"ftvm nested pool");
    put(52, &1_u16.to_le_bytes());
    put(54, &4_u16.to_le_bytes());
    put(56, &DATA_AT.to_le_bytes());
    put(64, &((bytes - DATA_AT) / u64::from(PAGE_BYTES)).to_le_bytes());
    put(72, &MODE_RAM.to_le_bytes());
    put(84, &u32::try_from(DATA_AT).expect("2 MiB").to_le_bytes());
    put(88, &PAGE_BYTES.to_le_bytes());
    put(92, &STRUCT_PAGE_BYTES.to_le_bytes());
    let checksum = fletcher64(&block);
    block[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
    block
}

/// The kernel's `nd_fletcher64`.
fn fletcher64(bytes: &[u8]) -> u64 {
    let (mut low, mut high) = (0_u32, 0_u64);
    for word in bytes.chunks_exact(4) {
        low = low.wrapping_add(u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        high = high.wrapping_add(u64::from(low));
    }
    high << 32 | u64::from(low)
}
