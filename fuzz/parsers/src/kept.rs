//! What only the controller writes into the pool, and hosts and later controllers read: damaged memory may hold anything there.

use crate::checksum::{put_crc, raw_and_sealed};
use crate::pool::{GENERATION, JOURNAL, LIMITS, content, fill, look_at, memory, record_seeds};
use shared_mem::console::console_file_bytes;
use shared_mem::journal::AllReserved;
use shared_mem::{
    ConsolePosition, ConsoleRing, ControlBlock, Epoch, LossyMemory, Offset, PAGE_BYTES, PAGE_SIZE, PoolWrite as _,
    RedoArea, StateArea, boot_image, guarded_word,
};
use std::sync::atomic::Ordering;

/// The headers of these parts are as long as this.
const HEADER_BYTES: usize = 64;
const RING_BYTES: u64 = PAGE_SIZE;
/// Longer than anything that fits the slots here.
const STATE_BYTES: u64 = 4 * PAGE_SIZE;

/// Guards the words of the input that lie at these places, so that mutations of their values get past their check bits.
fn guarded(memory: &LossyMemory, words: &[u64]) {
    use shared_mem::PoolRead as _;
    for at in words.iter().copied().map(Offset::new) {
        let raw = memory.load_u64(at, Ordering::Relaxed).expect("the memory is long enough");
        let word = guarded_word::encode(raw & guarded_word::VALUE_MAX);
        memory.write(at, &word.to_le_bytes()).expect("the memory is long enough");
    }
}

const CONTROL_WORDS: [u64; 6] = [64, 128, 192, 2048 + 64, 2048 + 128, 2048 + 192];

pub(crate) fn control_block(data: &[u8]) {
    raw_and_sealed(data, HEADER_BYTES, |bytes| {
        for words in [&[][..], &CONTROL_WORDS, &CONTROL_WORDS[..3]] {
            let block = memory(PAGE_SIZE);
            fill(&block, Offset::ZERO, bytes);
            guarded(&block, words);
            let Ok(control) = ControlBlock::open(block) else { continue };
            let said = (control.applied().ok(), control.generation().ok());
            if control.mend().is_ok() {
                // What is freed follows from what is applied: nobody needs it to be whole.
                assert!(control.damage().is_none() || control.freed().is_err(), "what is mended is whole");
                assert_eq!(said, (control.applied().ok(), control.generation().ok()), "and says what it said");
            }
        }
    });
}

pub(crate) fn control_block_seeds() -> Vec<Vec<u8>> {
    let block = memory(PAGE_SIZE);
    ControlBlock::format(block.clone()).expect("it has the room");
    vec![content(&block, Offset::ZERO, PAGE_BYTES)]
}

const CONSOLE_WORDS: [u64; 2] = [64, 128];

pub(crate) fn console(data: &[u8]) {
    raw_and_sealed(data, HEADER_BYTES, |bytes| {
        for words in [&[][..], &CONSOLE_WORDS] {
            let file = memory(console_file_bytes(RING_BYTES));
            fill(&file, Offset::ZERO, bytes);
            guarded(&file, words);
            let by_header = ConsoleRing::open(file.clone());
            let by_size = ConsoleRing::of_size(file, RING_BYTES);
            for ring in by_header.into_iter().chain(by_size) {
                assert!(ring.ring_bytes() <= RING_BYTES, "it fits its memory");
                let _ = ring.check();
                let tail = ring.tail().unwrap_or(ConsolePosition::new(guarded_word::VALUE_MAX));
                let mut into = [0; 100];
                for back in [0, 1, 99, RING_BYTES, RING_BYTES + 1, u64::MAX] {
                    let from = ConsolePosition::new(tail.get().saturating_sub(back));
                    assert!(ring.read(from, &mut into).unwrap_or(0) <= into.len());
                    assert!(ring.free_space(from).unwrap_or(0) <= RING_BYTES);
                }
                let _ = ring.read(ConsolePosition::new(u64::MAX), &mut into);
                let _ = ring.check_append(tail, &into);
            }
        }
    });
}

pub(crate) fn console_seeds() -> Vec<Vec<u8>> {
    let file = memory(console_file_bytes(RING_BYTES));
    let ring = ConsoleRing::format(file.clone(), RING_BYTES).expect("it has the room");
    ring.append(ConsolePosition::ZERO, b"hello\n").expect("there is room");
    vec![content(&file, Offset::ZERO, PAGE_BYTES + 64)]
}

pub(crate) fn state_area(data: &[u8]) {
    let mut data = data.to_vec();
    put_body_crc(&mut data, 24, 32);
    raw_and_sealed(&data, HEADER_BYTES, |bytes| {
        let area = memory(STATE_BYTES);
        fill(&area, Offset::ZERO, bytes);
        let area = StateArea::new(area);
        for epoch in [0, 1, 2].map(Epoch::new) {
            if let Ok(state) = area.read(epoch) {
                assert!(state.len() as u64 <= area.capacity());
            }
        }
    });
}

pub(crate) fn state_area_seeds() -> Vec<Vec<u8>> {
    let area = memory(STATE_BYTES);
    StateArea::new(area.clone()).write(Epoch::new(2), b"machine state").expect("it fits");
    vec![content(&area, Offset::ZERO, HEADER_BYTES + 13)]
}

pub(crate) fn boot_image(data: &[u8]) {
    let mut data = data.to_vec();
    put_body_crc(&mut data, 16, 24);
    raw_and_sealed(&data, HEADER_BYTES, |bytes| {
        let file = memory(PAGE_SIZE);
        fill(&file, Offset::ZERO, bytes);
        // Goes on where the header is refused.
        let start = boot_image::load_start(&file, 16);
        assert!(start.as_ref().is_ok_and(|start| start.len() <= 16), "{start:?}");
        if let Ok(image) = boot_image::load(&file) {
            assert!(image.len() as u64 <= PAGE_SIZE);
            assert_eq!(start.expect("it is"), image[..image.len().min(16)]);
        }
    });
}

pub(crate) fn boot_image_seeds() -> Vec<Vec<u8>> {
    let file = memory(PAGE_SIZE);
    boot_image::store(&file, b"an image").expect("it fits");
    vec![content(&file, Offset::ZERO, HEADER_BYTES + 8)]
}

/// Puts the CRC of a body right, whose length the header says at `length_at`.
fn put_body_crc(bytes: &mut [u8], length_at: usize, crc_at: usize) {
    let word = bytes.get(length_at..length_at + 8).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes);
    let length = word.and_then(|length| usize::try_from(length).ok());
    if let Some(end) = length.and_then(|length| length.checked_add(HEADER_BYTES)) {
        put_crc(bytes, HEADER_BYTES, end, crc_at);
    }
}

pub(crate) fn redo(data: &[u8]) {
    let mut data = data.to_vec();
    let end = data.len();
    put_crc(&mut data, PAGE_BYTES, end, 36);
    raw_and_sealed(&data, HEADER_BYTES, |bytes| {
        let area = memory(JOURNAL.slot_bytes);
        fill(&area, Offset::ZERO, bytes);
        let area = RedoArea::new(area, AllReserved, JOURNAL.reserved_bytes).expect("it has the room");
        let mut buffer = Vec::new();
        let holds = area.holds(GENERATION, Epoch::new(1), &LIMITS, &mut buffer).expect("memory is in reach");
        let begun = area.is_begun(GENERATION, Epoch::new(1), &LIMITS).expect("memory is in reach");
        assert!(begun || !holds, "a record that is kept was begun");
        if let Ok(record) = area.load(GENERATION, Epoch::new(1), &LIMITS, &mut buffer) {
            look_at(&record);
        }
        let reached = area.reached(GENERATION, Epoch::ZERO, &LIMITS).expect("memory is in reach");
        assert_eq!(reached, Epoch::new(u64::from(begun)));
    });
}

pub(crate) fn redo_seeds() -> Vec<Vec<u8>> {
    // It has the shape of a journal's slot.
    record_seeds()
}
