//! A commit record as a hostile primary may leave it in its slot.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared_mem::{Epoch, Generation, PagePlace, Record, RecordLimits};
use shared_mem_fuzz::{put_crc, raw_and_sealed};

const LIMITS: RecordLimits = RecordLimits { image_pages: 64, disk_blocks: 8, meta_bytes_max: 1 << 16 };
const BODY_AT: usize = 4096;
const BODY_CRC_AT: usize = 36;

fn in_bounds(place: PagePlace) -> bool {
    match place {
        PagePlace::Image(page) => page.get() < LIMITS.image_pages,
        PagePlace::Disk(block) => block.get() < LIMITS.disk_blocks,
    }
}

fuzz_target!(|data: &[u8]| {
    let mut data = data.to_vec();
    let end = data.len();
    put_crc(&mut data, BODY_AT, end, BODY_CRC_AT);
    raw_and_sealed(&data, 64, |bytes| {
        if let Ok(record) = Record::parse(bytes, Generation::new(1), Epoch::new(1), &LIMITS) {
            assert!(record.page_indices().all(|page| in_bounds(page.place())));
            assert_eq!(record.pages().len(), record.page_count());
        }
    });
});
