//! One bit flips under a CRC of the pool: whoever reads it says so.

use super::hostile::flip;
use super::world::{GENERATION, GEOMETRY, Held, LIMITS, Primary, World, hold, violation};
use crate::blob_store::{self, BlobStore};
use crate::boot_image;
use crate::console::{ConsoleRing, console_file_bytes};
use crate::control::{CONTROL_BYTES, ControlBlock};
use crate::guarded_word;
use crate::heartbeat::{HEARTBEAT_BYTES, HeartbeatReader, HeartbeatWriter};
use crate::journal::{AllReserved, JournalReader, format_journal};
use crate::lossy::{LossyCache, LossyMemory};
use crate::mem::{PoolRead, PoolWrite};
use crate::numbers::{Epoch, LogPosition, Offset, PAGE_SIZE};
use crate::pool::{device, raise};
use crate::record_log::{LogReader, format_log, log_file_bytes};
use crate::redo::{KeepRecord, Kept, RedoArea};
use crate::state_area::StateArea;
use crate::superblock::{LAYOUT_VERSION, SUPERBLOCK_BYTES, Superblock};
use crate::vm_directory::{VmDirectory, directory_file_bytes};
use std::sync::atomic::Ordering;

const HEADER_BYTES: u64 = 64;
const WORD_BYTES: u64 = 8;
const BLOB_CAPACITY: u64 = 128;

/// Flips each bit of so many bytes from `at` on, one at a time; `is_noticed` looks at each flip, and must see nothing
/// without one.
fn each(memory: &LossyMemory, at: u64, len: u64, is_noticed: impl Fn() -> bool) -> Held<usize> {
    hold(!is_noticed(), || "noticed without a flip".to_owned())?;
    for byte in at..at + len {
        for bit in 0..8 {
            flip(memory, Offset::new(byte), bit)?;
            hold(is_noticed(), || format!("byte {byte} bit {bit}: not noticed"))?;
            flip(memory, Offset::new(byte), bit)?;
        }
    }
    usize::try_from(len * 8).map_err(violation)
}

fn memory(len: u64) -> LossyMemory {
    LossyMemory::new(len, &LossyCache::new())
}

pub(super) fn journal_header() -> Held<usize> {
    let memory = memory(GEOMETRY.file_bytes());
    format_journal(&memory, GENERATION, &GEOMETRY, Epoch::new(4)).map_err(violation)?;
    let reader = JournalReader::new(&memory, GENERATION, GEOMETRY).map_err(violation)?;
    each(&memory, 0, HEADER_BYTES, || reader.check_journal_header().is_err())
}

/// A seal must not take what is left of a damaged word for the last epoch.
pub(super) fn commit_word() -> Held<usize> {
    const SEAL_BYTES_AT: u64 = 5;
    let fresh = memory(GEOMETRY.file_bytes());
    format_journal(&fresh, GENERATION, &GEOMETRY, Epoch::new(4)).map_err(violation)?;
    let seals = |at: u64, bit: u32| -> Held<bool> {
        let memory = fresh.fork(&LossyCache::new());
        flip(&memory, Offset::new(HEADER_BYTES + at), bit)?;
        let reader = JournalReader::new(&memory, GENERATION, GEOMETRY).map_err(violation)?;
        Ok(reader.seal().is_ok())
    };
    // Beyond them flips may be of the seal itself, which costs nothing.
    for at in 0..SEAL_BYTES_AT {
        for bit in 0..8 {
            hold(!seals(at, bit)?, || format!("byte {at} bit {bit} of the word was not noticed"))?;
        }
    }
    Ok(1)
}

fn a_log() -> Held<(LossyMemory, LogReader<LossyMemory>)> {
    let memory = memory(log_file_bytes(PAGE_SIZE));
    format_log(&memory, GENERATION, PAGE_SIZE, LogPosition::new(800)).map_err(violation)?;
    let reader = LogReader::new(memory.clone(), PAGE_SIZE).map_err(violation)?;
    Ok((memory, reader))
}

pub(super) fn log_header() -> Held<usize> {
    let (memory, reader) = a_log()?;
    each(&memory, 0, HEADER_BYTES, || reader.header().is_err())
}

pub(super) fn log_tail() -> Held<usize> {
    let (memory, reader) = a_log()?;
    each(&memory, HEADER_BYTES, WORD_BYTES, || reader.tail().is_err() && reader.durable_tail().is_err())
}

/// The header of the controller's own copy: by it the next controller knows what was begun.
pub(super) fn redo_header() -> Held<usize> {
    let world = World::new();
    Primary::new(&world).step()?;
    let journal = JournalReader::new(&world.journal, GENERATION, GEOMETRY).map_err(violation)?;
    let (epoch, mut buffer) = (Epoch::new(1), Vec::new());
    let record = journal.load(epoch, &LIMITS, &mut buffer).map_err(violation)?;
    let redo = RedoArea::new(&world.redo, AllReserved, GEOMETRY.reserved_bytes).map_err(violation)?;
    let kept = redo.keep(&record).map_err(violation)?;
    hold(kept == Kept::Yes, || "no copy".to_owned())?;
    let by_epoch = || redo.load_epoch(epoch, &LIMITS, &mut Vec::new()).is_err();
    each(&world.redo, 0, HEADER_BYTES, || redo.is_begun(GENERATION, epoch, &LIMITS) == Ok(false) && by_epoch())
}

pub(super) fn state_header() -> Held<usize> {
    let memory = memory(2 * PAGE_SIZE);
    let state = StateArea::new(&memory);
    state.write(Epoch::new(2), &[5; 100]).map_err(violation)?;
    each(&memory, 0, HEADER_BYTES, || state.read(Epoch::new(2)).is_err())
}

/// Where the first blob lies that is stored.
const FIRST_BLOB_AT: u64 = 64 + HEADER_BYTES + BLOB_CAPACITY;

fn blob(at: u64, len: u64) -> Held<usize> {
    let memory = memory(blob_store::total_bytes(BLOB_CAPACITY));
    let store = BlobStore::new(&memory, Offset::ZERO, BLOB_CAPACITY).map_err(violation)?;
    store.format().and_then(|()| store.store(&[5; 100])).map_err(violation)?;
    each(&memory, at, len, || store.load().is_err())
}

pub(super) fn blob_selector() -> Held<usize> {
    blob(0, WORD_BYTES)
}

pub(super) fn blob_header() -> Held<usize> {
    blob(FIRST_BLOB_AT, HEADER_BYTES)
}

fn boot(at: u64, len: u64) -> Held<usize> {
    let memory = memory(PAGE_SIZE);
    boot_image::store(&memory, &[7; 300]).map_err(violation)?;
    each(&memory, at, len, || boot_image::load(&memory).is_err())
}

pub(super) fn boot_header() -> Held<usize> {
    boot(0, HEADER_BYTES)
}

pub(super) fn boot_body() -> Held<usize> {
    boot(HEADER_BYTES, 300)
}

fn console(places: &[(u64, u64)]) -> Held<usize> {
    let memory = memory(console_file_bytes(PAGE_SIZE));
    ConsoleRing::format(&memory, PAGE_SIZE).map_err(violation)?;
    let ring = ConsoleRing::of_size(&memory, PAGE_SIZE).map_err(violation)?;
    places.iter().map(|(at, len)| each(&memory, *at, *len, || ring.check().is_err())).sum()
}

pub(super) fn console_header() -> Held<usize> {
    console(&[(0, HEADER_BYTES)])
}

pub(super) fn console_words() -> Held<usize> {
    console(&[(64, WORD_BYTES), (128, WORD_BYTES)])
}

/// Where the second copies in a control block lie.
const CONTROL_COPY_AT: u64 = PAGE_SIZE / 2;

fn control(places: &[(u64, u64)]) -> Held<usize> {
    let memory = memory(CONTROL_BYTES);
    let control = ControlBlock::format(&memory).map_err(violation)?;
    control.set_applied(Epoch::new(70_000)).map_err(violation)?;
    let flips = |at: u64, len| each(&memory, at, len, || control.damage().is_some());
    places.iter().flat_map(|(at, len)| [flips(*at, *len), flips(CONTROL_COPY_AT + at, *len)]).sum()
}

pub(super) fn control_header() -> Held<usize> {
    control(&[(0, HEADER_BYTES)])
}

pub(super) fn control_words() -> Held<usize> {
    control(&[(64, WORD_BYTES), (128, WORD_BYTES), (192, WORD_BYTES)])
}

pub(super) fn directory_header() -> Held<usize> {
    let memory = memory(directory_file_bytes(2));
    let directory = VmDirectory::format(&memory, 2).map_err(violation)?;
    each(&memory, 0, HEADER_BYTES, || directory.check_copies().is_ok_and(|wrong| !wrong.is_empty()))
}

pub(super) fn superblock() -> Held<usize> {
    const BYTES: usize = 128;
    let superblock =
        Superblock { layout: LAYOUT_VERSION, pool_id: [1; 16], vm_slots: 1, host_slots: 1, cluster_bytes: PAGE_SIZE };
    let memory = memory(SUPERBLOCK_BYTES);
    superblock.store(&memory).map_err(violation)?;
    each(&memory, 0, 128, || {
        let mut bytes = [0; BYTES];
        memory.read(Offset::ZERO, &mut bytes).is_ok() && Superblock::parse(&bytes).is_err()
    })
}

pub(super) fn device_head() -> Held<usize> {
    let memory = memory(device::FILES_AT);
    device::write_heads(&memory, 1 << 30).map_err(violation)?;
    each(&memory, 0, HEADER_BYTES, || device::wrong_heads(&memory).is_ok_and(|wrong| wrong.len() == 1))
}

pub(super) fn heartbeat() -> Held<usize> {
    let memory = memory(HEARTBEAT_BYTES);
    HeartbeatWriter::new(&memory, 3).beat(1_000_000).map_err(violation)?;
    let reader = HeartbeatReader::new(&memory);
    each(&memory, 0, HEADER_BYTES, || reader.sample().is_err())
}

/// A word with the seal of an older layout is sealed anew only if it is whole: else it would look like one that is.
pub(super) fn old_seal() -> Held<usize> {
    let memory = memory(PAGE_SIZE);
    let sealed_before = guarded_word::encode(9) | 1 << 63;
    // All of its bits but that of the seal.
    for bit in 0..63 {
        let damaged = sealed_before ^ 1 << bit;
        memory.store_u64(Offset::ZERO, damaged, Ordering::Relaxed).map_err(violation)?;
        raise::seal_word_anew(&memory, Offset::ZERO).map_err(violation)?;
        let now = memory.load_u64(Offset::ZERO, Ordering::Acquire).map_err(violation)?;
        hold(now == damaged, || format!("{damaged:#x} was made {now:#x}"))?;
    }
    Ok(63)
}

#[test]
fn each_flip_under_a_crc_is_noticed() {
    let all = [
        journal_header,
        commit_word,
        log_header,
        log_tail,
        redo_header,
        state_header,
        blob_selector,
        blob_header,
        boot_header,
        boot_body,
        console_header,
        console_words,
        control_header,
        control_words,
        directory_header,
        superblock,
        device_head,
        heartbeat,
        old_seal,
    ];
    for structure in all {
        structure().unwrap();
    }
}
