//! A copy of a blob as a damaged pool may hold it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared_mem::blob_store;
use shared_mem_fuzz::{put_crc, raw_and_sealed};

const HEADER_BYTES: usize = 64;
const BODY_CRC_AT: usize = 32;

fuzz_target!(|data: &[u8]| {
    let mut data = data.to_vec();
    let end = data.len();
    put_crc(&mut data, HEADER_BYTES, end, BODY_CRC_AT);
    raw_and_sealed(&data, HEADER_BYTES, |bytes| {
        if let Ok(blob) = blob_store::parse(bytes, 1, 4096) {
            assert!(blob.len() <= 4096);
        }
    });
});
