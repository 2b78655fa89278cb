//! A superblock as a damaged pool may hold it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared_mem::superblock::Superblock;
use shared_mem_fuzz::raw_and_sealed;

fuzz_target!(|data: &[u8]| {
    raw_and_sealed(data, 128, |bytes| {
        if let Ok(superblock) = Superblock::parse(bytes) {
            assert!(superblock.is_in_range());
        }
    });
});
