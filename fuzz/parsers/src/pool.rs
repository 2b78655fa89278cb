//! What hosts write into the pool, and what a damaged pool may hold.

use crate::checksum::{put_crc, raw_and_sealed};
use shared_mem::commit_word::CommitWord;
use shared_mem::journal::{AllReserved, JournalGeometry, format_journal};
use shared_mem::pool::device::{FILES_AT, Table};
use shared_mem::record_log::{format_log, log_file_bytes};
use shared_mem::superblock::Superblock;
use shared_mem::vm_directory::{VmEntry, VmState};
use shared_mem::{
    Epoch, Generation, HeartbeatWriter, JournalReader, JournalWriter, LogEntry, LogPosition, LogReader, LogWriter,
    LossyCache, LossyMemory, Offset, PAGE_BYTES, PAGE_SIZE, PageIndex, PagePlace, Pool, PoolConfig, PoolRead,
    PoolWrite, Record, RecordLimits, VmGeometry, blob_store, heartbeat as beats,
};
use std::fs::File;
use std::num::NonZeroU32;

pub(crate) const GENERATION: Generation = Generation::new(1);
pub(crate) const LIMITS: RecordLimits = RecordLimits { image_pages: 64, disk_blocks: 8, meta_bytes_max: 1 << 16 };
pub(crate) const JOURNAL: JournalGeometry =
    JournalGeometry { slots: 1, slot_bytes: 8 * PAGE_SIZE, reserved_bytes: 8 * PAGE_SIZE };
const LOG_BYTES: u64 = PAGE_SIZE;

/// Private memory of a size.
pub(crate) fn memory(bytes: u64) -> LossyMemory {
    LossyMemory::new(bytes, &LossyCache::new())
}

pub(crate) fn content(memory: &LossyMemory, at: Offset, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory.read(at, &mut bytes).expect("the memory is long enough");
    bytes
}

/// Fills a memory with input from `at` on, as far as it goes.
pub(crate) fn fill(memory: &LossyMemory, at: Offset, data: &[u8]) {
    let room = usize::try_from(PoolRead::len(memory) - at.get()).expect("small memories");
    memory.write(at, &data[..data.len().min(room)]).expect("the memory is long enough");
}

pub(crate) fn superblock(data: &[u8]) {
    raw_and_sealed(data, 128, |bytes| {
        if let Ok(superblock) = Superblock::parse(bytes) {
            assert!(superblock.is_in_range());
            assert_eq!(Superblock::parse_twin(bytes).map(|(found, _)| found), Ok(superblock), "the first copy counts");
        }
    });
    if let Ok((superblock, _)) = Superblock::parse_twin(data) {
        assert!(superblock.is_in_range());
    }
}

pub(crate) fn superblock_seeds() -> Vec<Vec<u8>> {
    let of = |layout| {
        Superblock { layout, pool_id: [7; 16], vm_slots: 64, host_slots: 16, cluster_bytes: 1 << 20 }.to_bytes()
    };
    (1..=shared_mem::superblock::LAYOUT_VERSION).map(of).collect()
}

pub(crate) fn vm_entry(data: &[u8]) {
    if let Ok(Some(entry)) = VmEntry::parse(data) {
        entry.geometry.check().expect("a parsed geometry is possible");
        assert_eq!(VmEntry::parse(&entry.to_bytes()), Ok(Some(entry)));
    }
}

pub(crate) fn vm_entry_seeds() -> Vec<Vec<u8>> {
    [VmState::Used, VmState::Deleting]
        .map(|state| VmEntry { state, name: "guest".parse().expect("a good name"), geometry: geometry() }.to_bytes())
        .into()
}

fn geometry() -> VmGeometry {
    VmGeometry {
        memory_bytes: 64 * PAGE_SIZE,
        journal: JOURNAL,
        log_bytes: LOG_BYTES,
        console_bytes: PAGE_SIZE,
        disk_bytes: 8 * PAGE_SIZE,
        state_slot_bytes: PAGE_SIZE,
        sparse: false,
    }
}

const BLOB_HEADER_BYTES: usize = 64;

pub(crate) fn blob(data: &[u8]) {
    let mut data = data.to_vec();
    let end = data.len();
    put_crc(&mut data, BLOB_HEADER_BYTES, end, 32);
    raw_and_sealed(&data, BLOB_HEADER_BYTES, |bytes| {
        if let Ok(blob) = blob_store::parse(bytes, 1, 4096) {
            assert!(blob.len() <= 4096);
        }
    });
    let store = memory(blob_store::total_bytes(4096));
    fill(&store, Offset::ZERO, &data);
    let store = blob_store::BlobStore::new(store, Offset::ZERO, 4096).expect("it has the room");
    if let Ok(Some(blob)) = store.load() {
        assert!(blob.len() <= 4096);
    }
}

pub(crate) fn blob_seeds() -> Vec<Vec<u8>> {
    let bytes = blob_store::total_bytes(4096);
    let place = memory(bytes);
    let store = blob_store::BlobStore::new(place.clone(), Offset::ZERO, 4096).expect("it has the room");
    store.format().and_then(|()| store.store(b"a blob")).expect("it can be stored");
    let whole = content(&place, Offset::ZERO, usize::try_from(bytes).expect("small"));
    vec![whole[64..256].to_vec(), whole]
}

const DEVICE_BYTES: u64 = 64 << 20;

pub(crate) fn device_table(data: &[u8]) {
    if let Ok(table) = Table::parse(data, FILES_AT, DEVICE_BYTES) {
        assert_eq!(table.to_bytes(), data, "one table, one encoding");
        let usage = table.usage();
        assert!(FILES_AT <= usage.controllers_end && usage.controllers_end <= usage.hosts_begin);
        assert!(usage.hosts_begin <= DEVICE_BYTES);
    }
}

/// The tables of a device on which a pool was made and a VM came and went.
pub(crate) fn device_table_seeds() -> Vec<Vec<u8>> {
    let place = tempfile::tempdir().expect("a temporary directory can be made");
    let device = place.path().join("device");
    File::create(&device).and_then(|file| file.set_len(DEVICE_BYTES)).expect("a sparse file can be made");
    let config = PoolConfig { vm_slots: 2, host_slots: 2, cluster_bytes: 4096 };
    let pool = Pool::create(&device, &config).expect("the device is long enough");
    let table = || {
        let view = Pool::inspect(&device).expect("it was just made");
        view.device_table().expect("it is sound").expect("it lies on a device").to_bytes()
    };
    let mut seeds = vec![table()];
    let vm = pool.create_vm(&"guest".parse().expect("a good name"), &geometry()).expect("there is room");
    for generation in [1, 2].map(Generation::new) {
        vm.create_journal(generation, Epoch::ZERO).expect("there is room");
    }
    vm.delete_journal(GENERATION).expect("it is there");
    seeds.push(table());
    pool.delete_vm(vm.slot()).expect("it is there");
    seeds.push(table());
    seeds
}

pub(crate) fn heartbeat(data: &[u8]) {
    let mut data = data.to_vec();
    put_crc(&mut data, 64, 124, 124);
    raw_and_sealed(&data, 64, |bytes| {
        if let Ok(beat) = beats::parse_page(bytes) {
            assert_eq!(beats::parse_page(bytes).ok(), Some(beat));
        }
    });
    let page = memory(PAGE_SIZE);
    fill(&page, Offset::ZERO, &data);
    let reader = beats::HeartbeatReader::new(page);
    let _ = reader.sample();
    for vm in 0..4 {
        let _ = reader.activity(vm).map(ft_protocol::activity::Activity::decode);
    }
    let _ = reader.activity(u16::MAX);
}

pub(crate) fn heartbeat_seeds() -> Vec<Vec<u8>> {
    let page = memory(PAGE_SIZE);
    let mut writer = HeartbeatWriter::new(page.clone(), 9);
    for at in [1_000, 2_000, 3_000] {
        writer.beat(at).expect("the page is there");
    }
    vec![content(&page, Offset::ZERO, 512)]
}

pub(crate) fn commit_word(data: &[u8]) {
    for raw in data.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().expect("eight bytes"))) {
        if let Ok(word) = CommitWord::decode(raw) {
            assert_eq!(word.encode(), raw, "one word, one encoding");
        }
    }
}

pub(crate) fn commit_word_seeds() -> Vec<Vec<u8>> {
    let words = [0, 1, 77, (1 << 46) - 1].map(|epoch| CommitWord::open(Epoch::new(epoch)));
    let sealed = words.map(|word| CommitWord { sealed: true, ..word });
    vec![words.into_iter().chain(sealed).flat_map(|word| word.encode().to_le_bytes()).collect()]
}

fn in_bounds(place: PagePlace) -> bool {
    match place {
        PagePlace::Image(page) => page.get() < LIMITS.image_pages,
        PagePlace::Disk(block) => block.get() < LIMITS.disk_blocks,
    }
}

pub(crate) fn look_at(record: &Record<'_>) {
    assert!(record.page_indices().all(|page| in_bounds(page.place())));
    assert_eq!(record.pages().len(), record.page_count());
    assert!(record.pages().all(|(_, content)| content.len() == PAGE_BYTES));
    assert!(record.meta().len() as u64 <= LIMITS.meta_bytes_max);
}

pub(crate) fn record(data: &[u8]) {
    let mut data = data.to_vec();
    let end = data.len();
    put_crc(&mut data, PAGE_BYTES, end, 36);
    raw_and_sealed(&data, 64, |bytes| {
        if let Ok(record) = Record::parse(bytes, GENERATION, Epoch::new(1), &LIMITS) {
            look_at(&record);
        }
    });
}

/// The same bytes where they are read from: in the slot of a journal, whose word they may say, too.
pub(crate) fn journal(data: &[u8]) {
    let file = memory(JOURNAL.file_bytes());
    format_journal(&file, GENERATION, &JOURNAL, Epoch::ZERO).expect("it has the room");
    let mut data = data.to_vec();
    let end = data.len();
    put_crc(&mut data, PAGE_BYTES, end, 36);
    put_crc(&mut data, 0, 60, 60);
    fill(&file, JOURNAL.slot_at(Epoch::new(1)), &data);
    let mut buffer = Vec::new();
    let reader = JournalReader::new(file.clone(), GENERATION, JOURNAL).expect("it has the room");
    if let Ok(record) = reader.load(Epoch::new(1), &LIMITS, &mut buffer) {
        look_at(&record);
    }
    let last = reader.last_whole(Epoch::ZERO, &LIMITS).expect("memory is in reach");
    assert!(last <= Epoch::new(1), "one slot holds one record");
    fill(&file, Offset::ZERO, &data);
    let _ = (reader.check_journal_header(), reader.peek_word(), reader.seal());
}

pub(crate) fn record_seeds() -> Vec<Vec<u8>> {
    let file = memory(JOURNAL.file_bytes());
    format_journal(&file, GENERATION, &JOURNAL, Epoch::ZERO).expect("it has the room");
    let writer = JournalWriter::new(file.clone(), AllReserved, GENERATION, JOURNAL).expect("it has the room");
    let mut record = writer.begin(Epoch::new(1), Epoch::ZERO).expect("the slot is free");
    record.push_page_bytes(PageIndex::new(3), &[3; PAGE_BYTES]).expect("there is room");
    let block = PageIndex::of_block(shared_mem::BlockIndex::new(2));
    record.push_page_bytes(block, &[4; PAGE_BYTES]).expect("there is room");
    record.finish(&protocol_meta()).expect("there is room");
    let length = 4 * PAGE_BYTES;
    vec![content(&file, JOURNAL.slot_at(Epoch::new(1)), length), content(&file, Offset::ZERO, 256)]
}

fn protocol_meta() -> Vec<u8> {
    crate::protocol::commit_meta_seeds().remove(0)
}

const ENTRY_HEADER_BYTES: usize = 40;
const ENTRY_CRC_AT: usize = 36;

pub(crate) fn log_entry(data: &[u8]) {
    let position = LogPosition::new(64);
    let _ = LogEntry::parse(data, position);
    if let Ok(entry) = LogEntry::parse(&with_crc(data), position) {
        assert!(entry.payload.len() <= data.len());
        assert!(entry.sequence > 0);
    }
}

/// The CRC covers what lies on both sides of it.
fn with_crc(data: &[u8]) -> Vec<u8> {
    let Some((header, payload)) = data.split_at_checked(ENTRY_HEADER_BYTES) else { return data.to_vec() };
    let length = u32::from_le_bytes(header[4..8].try_into().expect("four bytes"));
    let covered = payload.get(..usize::try_from(length).unwrap_or(usize::MAX)).unwrap_or(payload);
    let crc = crc32fast::hash(&[&header[..ENTRY_CRC_AT], covered].concat()).to_le_bytes();
    [&header[..ENTRY_CRC_AT], &crc, payload].concat()
}

pub(crate) fn log_entry_seeds() -> Vec<Vec<u8>> {
    let log = a_log(&[b"an input"], LogPosition::new(64));
    vec![content(&log, Offset::new(4096 + 64), 48)]
}

fn a_log(payloads: &[&[u8]], base: LogPosition) -> LossyMemory {
    let file = memory(log_file_bytes(LOG_BYTES));
    format_log(&file, GENERATION, LOG_BYTES, base).expect("it has the room");
    let mut writer = LogWriter::new(file.clone(), LOG_BYTES).expect("it was just made");
    for payload in payloads {
        writer.append(NonZeroU32::new(0x1_0001).expect("not zero"), 5, payload).expect("there is room");
    }
    file
}

/// A whole log: header, tail and ring are the input's.
pub(crate) fn log(data: &[u8]) {
    let file = memory(log_file_bytes(LOG_BYTES));
    let (front, ring) = data.split_at(data.len().min(128));
    let mut front = front.to_vec();
    put_crc(&mut front, 0, 60, 60);
    fill(&file, Offset::ZERO, &front);
    fill(&file, Offset::new(4096), &with_crc(ring));
    let reader = LogReader::new(file, LOG_BYTES).expect("it has the room");
    let header = reader.header();
    let _ = reader.tail();
    let from = header.map_or(LogPosition::ZERO, |(_, base)| base);
    if let Ok(mut entries) = reader.entries(from) {
        // No entry is shorter than its header, so the ring bounds how many there are.
        let mut count = 0;
        while let Ok(Some(entry)) = entries.next_entry() {
            assert!(entry.payload.len() as u64 <= LOG_BYTES);
            let _ = ft_protocol::record::Entry::decode(entry.tag, entry.exit_counter, entry.payload);
            count += 1;
            assert!(count <= LOG_BYTES / 40, "more entries than the ring has room for");
        }
    }
    let _ = reader.seal();
}

pub(crate) fn log_seeds() -> Vec<Vec<u8>> {
    [LogPosition::ZERO, LogPosition::new(4000)]
        .map(|base| {
            let log = a_log(&[b"first", &[7; 100], b"third"], base);
            let ring = content(&log, Offset::new(4096), PAGE_BYTES);
            [content(&log, Offset::ZERO, 128), ring].concat()
        })
        .into()
}
