//! A heartbeat page as a hostile host may write it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared_mem::heartbeat;
use shared_mem_fuzz::{put_crc, raw_and_sealed};

fuzz_target!(|data: &[u8]| {
    let mut data = data.to_vec();
    put_crc(&mut data, 64, 124, 124);
    raw_and_sealed(&data, 64, |bytes| {
        let _ = heartbeat::parse_page(bytes);
    });
});
