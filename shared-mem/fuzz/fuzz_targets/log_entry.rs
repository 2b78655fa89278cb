//! An entry of the record log as a hostile primary may write it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared_mem::{LogEntry, LogPosition};

const HEADER_BYTES: usize = 40;
const CRC_AT: usize = 36;

fuzz_target!(|data: &[u8]| {
    let position = LogPosition::new(64);
    let _ = LogEntry::parse(data, position);
    // The CRC covers what lies on both sides of it.
    if let Some((header, payload)) = data.split_at_checked(HEADER_BYTES) {
        let crc = crc32fast::hash(&[&header[..CRC_AT], payload].concat()).to_le_bytes();
        let sealed = [&header[..CRC_AT], &crc, payload].concat();
        if let Ok(entry) = LogEntry::parse(&sealed, position) {
            assert!(entry.payload.len() <= payload.len());
        }
    }
});
