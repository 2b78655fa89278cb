//! The inner pieces of the pool: appends to the record log, commit records, the copies and checksums in them.
#![allow(missing_docs, reason = "what the macros make has none")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shared_mem::journal::{AllReserved, format_journal};
use shared_mem::record_log::{format_log, log_file_bytes};
use shared_mem::{
    Epoch, Extent, Generation, JournalGeometry, JournalReader, JournalWriter, LogPosition, LogReader, LogWriter,
    Mapping, Offset, PAGE_BYTES, PAGE_SIZE, PageIndex, ReadWrite, RecordLimits, WorkingMemory,
};
use std::hint::black_box;
use std::num::NonZeroU32;

const GENERATION: Generation = Generation::new(1);
const RING_BYTES: u64 = 1 << 20;
const TAG: NonZeroU32 = NonZeroU32::new(3).unwrap();
/// Records of so many pages.
const SIZES: [u64; 3] = [1, 64, 1024];

fn extent(bytes: u64) -> Extent {
    let file = tempfile::tempfile_in("/dev/shm").expect("a tmpfs at /dev/shm");
    file.set_len(bytes).expect("the tmpfs has space");
    Extent::new(file.into(), Offset::ZERO, bytes).expect("zero is a multiple of everything")
}

fn shared(bytes: u64) -> Mapping<ReadWrite> {
    Mapping::read_write(&extent(bytes)).expect("the file was made as long")
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("record log");
    for payload in [8, 32, 1500] {
        let memory = shared(log_file_bytes(RING_BYTES));
        format_log(&memory, GENERATION, RING_BYTES, LogPosition::ZERO).expect("the memory is as large");
        let mut writer = LogWriter::new(memory, RING_BYTES).expect("the log was just made");
        let bytes = vec![7; payload];
        group.bench_function(BenchmarkId::new("append", payload), |b| {
            b.iter(|| {
                writer.free_before(writer.tail());
                writer.append(TAG, 1, black_box(&bytes)).expect("all before it is free")
            });
        });
    }
    let memory = extent(log_file_bytes(RING_BYTES));
    let map = || Mapping::read_write(&memory).expect("the file was made as long");
    format_log(&map(), GENERATION, RING_BYTES, LogPosition::ZERO).expect("the memory is as large");
    let mut writer = LogWriter::new(map(), RING_BYTES).expect("the log was just made");
    let start = writer.tail();
    writer.append(TAG, 1, &[7; 32]).expect("the log is empty");
    let reader = LogReader::new(map(), RING_BYTES).expect("the memory is as large");
    let mut buffer = Vec::new();
    group.bench_function("read an entry of 32 bytes", |b| {
        b.iter(|| reader.read(start, &mut buffer).expect("it is sound").map(|entry| entry.sequence));
    });
    group.finish();
}

struct Journal {
    writer: JournalWriter<Mapping<ReadWrite>, AllReserved>,
    reader: JournalReader<Mapping<ReadWrite>>,
    from: WorkingMemory,
}

fn journal(pages: u64) -> Journal {
    let slot_bytes = (pages + 16) * (PAGE_SIZE + 8) / PAGE_SIZE * PAGE_SIZE + (64 << 10);
    let geometry = JournalGeometry { slots: 2, slot_bytes, reserved_bytes: slot_bytes };
    let memory = extent(geometry.file_bytes());
    let map = || Mapping::read_write(&memory).expect("the file was made as long");
    format_journal(&map(), GENERATION, &geometry, Epoch::ZERO).expect("the memory is as large");
    let from = WorkingMemory::over_image(&extent(pages * PAGE_SIZE)).expect("whole pages");
    for page in 0..pages {
        let private = from.page(PageIndex::new(page)).expect("it is that large");
        private.copy_from(&[page.to_le_bytes()[0]; PAGE_BYTES][..]);
    }
    Journal {
        writer: JournalWriter::new(map(), AllReserved, GENERATION, geometry).expect("the memory is as large"),
        reader: JournalReader::new(map(), GENERATION, geometry).expect("the memory is as large"),
        from,
    }
}

fn records(c: &mut Criterion) {
    let mut group = c.benchmark_group("commit record");
    for pages in SIZES {
        let Journal { writer, reader, from } = journal(pages);
        group.throughput(Throughput::Bytes(pages * PAGE_SIZE));
        group.bench_function(BenchmarkId::new("write, without publication", pages), |b| {
            b.iter(|| {
                let mut record = writer.begin(Epoch::new(1), Epoch::ZERO).expect("the slot is free");
                for page in (0..pages).map(PageIndex::new) {
                    record
                        .push_page(page, &from.page(page).expect("it is that large"))
                        .expect("the slot is that large");
                }
                record.finish(b"meta").expect("the slot is that large").epoch()
            });
        });
        let limits = RecordLimits { image_pages: pages, disk_blocks: 0, meta_bytes_max: 4096 };
        let mut buffer = Vec::new();
        group.bench_function(BenchmarkId::new("read and check", pages), |b| {
            b.iter(|| reader.load(Epoch::new(1), &limits, &mut buffer).expect("it is whole").page_count());
        });
    }
    group.finish();
    let Journal { writer, .. } = journal(1);
    let mut epoch = Epoch::ZERO;
    c.bench_function("publish an empty record", |b| {
        b.iter(|| {
            let before = epoch;
            epoch = before.next();
            let record = writer.begin(epoch, before).expect("the slot is free").finish(b"").expect("it is empty");
            writer.publish(record).expect("nobody seals it")
        });
    });
}

fn pieces(c: &mut Criterion) {
    let page = [7; PAGE_BYTES];
    let mut group = c.benchmark_group("a page");
    group.throughput(Throughput::Bytes(PAGE_SIZE));
    group.bench_function("CRC-32", |b| b.iter(|| crc32fast::hash(black_box(&page))));
    let mut copy = [0; PAGE_BYTES];
    group.bench_function("memcpy", |b| b.iter(|| black_box(&mut copy).copy_from_slice(black_box(&page))));
    group.finish();
}

criterion_group!(benches, append, records, pieces);
criterion_main!(benches);
