//! What no honest crash produces, but a hostile or broken writer does: every such record, word or entry is refused.

use std::num::NonZeroU32;

use super::world::{Controller, GENERATION, GEOMETRY, Held, LIMITS, Primary, World, hold, violation};
use crate::blob_store::{self, BlobStore};
use crate::journal::{AllReserved, JournalWriter};
use crate::lossy::{LossyCache, LossyMemory};
use crate::mem::{PoolRead, PoolWrite};
use crate::numbers::{BlockIndex, Epoch, LogPosition, Offset, PAGE_BYTES, PAGE_SIZE, PageIndex};
use crate::record_log::{LogReader, LogWriter, format_log, log_file_bytes};
use crate::state_area::StateArea;

const BODY_CRC_AT: u64 = 36;

fn world_with_one_record() -> Held<World> {
    let world = World::new();
    hold(Primary::new(&world).step()?.is_none(), || "no commit".to_owned())?;
    Ok(world)
}

pub(super) fn flip(memory: &LossyMemory, at: Offset, bit: u32) -> Held {
    let mut byte = [0];
    memory.read(at, &mut byte).map_err(violation)?;
    memory.write(at, &[byte[0] ^ (1 << bit)]).map_err(violation)
}

fn refuses(world: &World, epoch: u64, what: &str) -> Held {
    let mut buffer = Vec::new();
    let controller = Controller::new(world);
    let result = controller.journal.load(Epoch::new(epoch), &LIMITS, &mut buffer);
    hold(result.is_err(), || format!("accepted: {what}"))
}

/// Flips in every part of a record.
pub(super) fn flipped_record() -> Held {
    let world = world_with_one_record()?;
    let slot = GEOMETRY.slot_at(Epoch::new(1));
    let body = (0..2 * PAGE_SIZE + 16 + 200).step_by(97).map(|at| PAGE_SIZE + at);
    for at in (0..64).chain(body) {
        for bit in 0..8 {
            let copy = world.fork();
            flip(&copy.journal, slot.plus(at), bit)?;
            refuses(&copy, 1, &format!("byte {at} bit {bit}"))?;
        }
    }
    Ok(())
}

/// A body changed together with its CRC, but not with that of the header.
pub(super) fn forged_body() -> Held {
    let world = world_with_one_record()?;
    let slot = GEOMETRY.slot_at(Epoch::new(1));
    let mut header = [0; 64];
    world.journal.read(slot, &mut header).map_err(violation)?;
    let total = u64::from_le_bytes(header[48..56].try_into().map_err(violation)?);
    flip(&world.journal, slot.plus(PAGE_SIZE + 9), 3)?;
    let mut body = vec![0; usize::try_from(total - PAGE_SIZE).map_err(violation)?];
    world.journal.read(slot.plus(PAGE_SIZE), &mut body).map_err(violation)?;
    let crc = crc32fast::hash(&body).to_le_bytes();
    world.journal.write(slot.plus(BODY_CRC_AT), &crc).map_err(violation)?;
    refuses(&world, 1, "forged body")
}

/// A slot that still holds the record of a round before.
pub(super) fn stale_slot() -> Held {
    let world = world_with_one_record()?;
    refuses(&world, 1 + u64::from(GEOMETRY.slots), "stale slot")
}

/// A record of another generation.
pub(super) fn other_generation() -> Held {
    let world = World::new();
    let other =
        JournalWriter::new(world.journal.clone(), AllReserved, GENERATION.next(), GEOMETRY).map_err(violation)?;
    let record = other.begin(Epoch::new(1), Epoch::ZERO).map_err(violation)?;
    record.finish(b"").map_err(violation)?;
    refuses(&world, 1, "other generation")
}

/// A page that is not the guest's.
pub(super) fn page_outside() -> Held {
    let world = World::new();
    let writer = JournalWriter::new(world.journal.clone(), AllReserved, GENERATION, GEOMETRY).map_err(violation)?;
    let mut record = writer.begin(Epoch::new(1), Epoch::ZERO).map_err(violation)?;
    record.push_page_bytes(PageIndex::new(LIMITS.image_pages), &[1; PAGE_BYTES]).map_err(violation)?;
    record.finish(b"").map_err(violation)?;
    refuses(&world, 1, "page outside")
}

/// A block that is not the disk's.
pub(super) fn block_outside() -> Held {
    let world = World::new();
    let writer = JournalWriter::new(world.journal.clone(), AllReserved, GENERATION, GEOMETRY).map_err(violation)?;
    let mut record = writer.begin(Epoch::new(1), Epoch::ZERO).map_err(violation)?;
    let block = PageIndex::of_block(BlockIndex::new(LIMITS.disk_blocks));
    record.push_page_bytes(block, &[1; PAGE_BYTES]).map_err(violation)?;
    record.finish(b"").map_err(violation)?;
    refuses(&world, 1, "block outside")
}

/// A commit word with any bit flipped is refused, or says the same epoch and is merely sealed.
pub(super) fn flipped_word() -> Held {
    let world = world_with_one_record()?;
    for bit in 0..64 {
        let copy = world.fork();
        flip(&copy.journal, Offset::new(64 + bit / 8), u32::try_from(bit % 8).map_err(violation)?)?;
        if let Ok(word) = Controller::new(&copy).journal.word() {
            hold(word.sealed && word.epoch == Epoch::new(1), || format!("bit {bit}: {word:?}"))?;
        }
    }
    Ok(())
}

/// Machine state with a flipped bit.
pub(super) fn flipped_state() -> Held {
    let memory = LossyMemory::new(2 * PAGE_SIZE, &LossyCache::new());
    let state = StateArea::new(&memory);
    state.write(Epoch::new(2), &[5; 100]).map_err(violation)?;
    flip(&memory, Offset::new(64 + 50), 1)?;
    hold(state.read(Epoch::new(2)).is_err(), || "flipped state".to_owned())
}

/// A blob with a flipped bit.
pub(super) fn flipped_blob() -> Held {
    let memory = LossyMemory::new(blob_store::total_bytes(128), &LossyCache::new());
    let store = BlobStore::new(&memory, Offset::ZERO, 128).map_err(violation)?;
    store.format().map_err(violation)?;
    store.store(&[5; 100]).map_err(violation)?;
    flip(&memory, Offset::new(64 + 64 + 128 + 64 + 50), 1)?;
    hold(store.load().is_err(), || "flipped blob".to_owned())
}

/// A log entry with a flipped bit.
pub(super) fn flipped_entry() -> Held {
    let memory = LossyMemory::new(log_file_bytes(PAGE_SIZE), &LossyCache::new());
    format_log(&memory, GENERATION, PAGE_SIZE, LogPosition::ZERO).map_err(violation)?;
    let mut writer = LogWriter::new(memory.clone(), PAGE_SIZE).map_err(violation)?;
    writer.append(NonZeroU32::MIN, 7, b"payload").map_err(violation)?;
    flip(&memory, Offset::new(PAGE_SIZE + 43), 1)?;
    let reader = LogReader::new(memory, PAGE_SIZE).map_err(violation)?;
    let mut buffer = Vec::new();
    let result = reader.read(LogPosition::ZERO, &mut buffer);
    hold(result.is_err(), || "flipped entry".to_owned())
}

/// All of them.
pub(super) fn all() -> Held<usize> {
    let cases = [
        flipped_record,
        forged_body,
        stale_slot,
        other_generation,
        page_outside,
        block_outside,
        flipped_word,
        flipped_state,
        flipped_blob,
        flipped_entry,
    ];
    for case in cases {
        case()?;
    }
    Ok(cases.len())
}

#[test]
fn hostile_content_is_refused() {
    all().unwrap();
}
