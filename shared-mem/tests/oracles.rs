//! Each structure against a small oracle, under random sequences of operations; parsers under random bytes.

use std::num::NonZeroU32;

use proptest::collection::vec;
use proptest::prelude::*;
use shared_mem::blob_store::{self, BlobStore};
use shared_mem::console::console_file_bytes;
use shared_mem::journal::{AllReserved, JournalError, format_journal};
use shared_mem::record_log::{AppendError, format_log, log_file_bytes};
use shared_mem::superblock::Superblock;
use shared_mem::vm_directory::VmEntry;
use shared_mem::{
    ConsolePosition, ConsoleRing, Epoch, Generation, JournalGeometry, JournalReader, JournalWriter, LogEntry,
    LogPosition, LogReader, LogWriter, LossyCache, LossyMemory, Offset, PAGE_BYTES, PAGE_SIZE, PageIndex, PoolRead,
    PoolWrite, Record, RecordLimits, heartbeat,
};

const GENERATION: Generation = Generation::new(1);
const GEOMETRY: JournalGeometry =
    JournalGeometry { slots: 2, slot_bytes: 16 * PAGE_SIZE, reserved_bytes: 16 * PAGE_SIZE };
const LIMITS: RecordLimits = RecordLimits { image_pages: 16, disk_blocks: 0, meta_bytes_max: 8192 };

fn memory(len: u64) -> LossyMemory {
    LossyMemory::new(len, &LossyCache::new())
}

/// Puts the right CRC at the end of what may be a header of `length` bytes, so that more than the CRC check is tried.
fn reseal(bytes: &mut [u8], length: usize) {
    if let Some(header) = bytes.get_mut(..length) {
        let crc = crc32fast::hash(&header[..length - 4]).to_le_bytes();
        header[length - 4..].copy_from_slice(&crc);
    }
}

proptest! {
    #[test]
    fn lossy_memory_reads_what_was_written(
        writes in vec((0u64..20_000, vec(any::<u8>(), 0..5000), any::<bool>()), 1..20),
    ) {
        let memory = memory(25_000);
        let mut oracle = vec![0; 25_000];
        let mut durable = vec![0; 25_000];
        for (at, bytes, persist) in writes {
            memory.write(Offset::new(at), &bytes).unwrap();
            let start = usize::try_from(at).unwrap();
            oracle[start..start + bytes.len()].copy_from_slice(&bytes);
            if persist {
                memory.flush(Offset::ZERO, 25_000).unwrap();
                memory.fence().unwrap();
                durable.clone_from(&oracle);
            }
        }
        let mut found = vec![0; 25_000];
        memory.read(Offset::ZERO, &mut found).unwrap();
        prop_assert!(found == oracle);
        memory.read_durable(Offset::ZERO, &mut found).unwrap();
        prop_assert!(found == durable);
        memory.cache().crash(&mut shared_mem::lossy::KeepNone);
        memory.through(&LossyCache::new()).read(Offset::ZERO, &mut found).unwrap();
        prop_assert!(found == durable);
    }

    #[test]
    fn the_console_is_a_byte_sequence(
        appends in vec((0u64..40, vec(any::<u8>(), 0..1500)), 1..30),
    ) {
        let ring = ConsoleRing::format(memory(console_file_bytes(PAGE_SIZE)), PAGE_SIZE).unwrap();
        let mut oracle: Vec<u8> = Vec::new();
        for (back, bytes) in appends {
            // Repeats what the console has already, as after a crash, and goes on from there.
            let back = usize::try_from(back).unwrap().min(oracle.len());
            let start = oracle.len() - back;
            let appended = [&oracle[start..], &bytes].concat();
            ring.append(ConsolePosition::new(start as u64), &appended).unwrap();
            oracle.extend_from_slice(&bytes);
            prop_assert_eq!(ring.tail().unwrap().get(), oracle.len() as u64);
            let oldest = oracle.len().saturating_sub(PAGE_BYTES);
            let mut copy = vec![0; 2 * PAGE_BYTES];
            let count = ring.read(ConsolePosition::new(oldest as u64), &mut copy).unwrap();
            prop_assert!(copy[..count] == oracle[oldest..]);
        }
    }

    #[test]
    fn the_log_is_a_queue(steps in vec((0usize..5, vec(any::<u8>(), 0..900)), 1..60)) {
        let memory = memory(log_file_bytes(PAGE_SIZE));
        format_log(&memory, GENERATION, PAGE_SIZE, LogPosition::new(64)).unwrap();
        let mut writer = LogWriter::new(memory.clone(), PAGE_SIZE).unwrap();
        let reader = LogReader::new(memory, PAGE_SIZE).unwrap();
        let mut oracle: std::collections::VecDeque<(LogPosition, Vec<u8>)> = Default::default();
        for (freed, payload) in steps {
            for _ in 0..freed {
                oracle.pop_front();
            }
            let base = oracle.front().map_or(writer.tail(), |entry| entry.0);
            writer.free_before(base);
            let at = writer.tail();
            match writer.append(NonZeroU32::MIN, 3, &payload) {
                Ok(_) => oracle.push_back((at, payload)),
                Err(AppendError::Full { needed, free }) => prop_assert!(needed > free),
                Err(error) => prop_assert!(false, "{error:?}"),
            }
            let mut entries = reader.entries(base).unwrap();
            for (position, payload) in &oracle {
                let entry = entries.next_entry().unwrap().unwrap();
                prop_assert_eq!((entry.position, entry.payload), (*position, &payload[..]));
            }
            prop_assert!(entries.next_entry().unwrap().is_none());
        }
    }

    #[test]
    fn a_record_comes_back_as_it_went_in(
        pages in proptest::collection::btree_map(0u64..16, any::<u8>(), 0..12),
        meta in vec(any::<u8>(), 0..3000),
        epoch in 1u64..1_000_000,
    ) {
        let memory = memory(GEOMETRY.file_bytes());
        let epoch = Epoch::new(epoch);
        let before = epoch.previous().unwrap();
        format_journal(&memory, GENERATION, &GEOMETRY, before).unwrap();
        let writer = JournalWriter::new(&memory, AllReserved, GENERATION, GEOMETRY).unwrap();
        let mut record = writer.begin(epoch, before).unwrap();
        for (page, fill) in &pages {
            record.push_page_bytes(PageIndex::new(*page), &[*fill; PAGE_BYTES]).unwrap();
        }
        match record.finish(&meta) {
            Ok(finished) => prop_assert_eq!(writer.publish(finished), Ok(epoch)),
            Err(JournalError::RecordTooLarge { needed, slot_bytes }) => {
                prop_assert!(needed > slot_bytes);
                return Ok(());
            }
            Err(error) => prop_assert!(false, "{error:?}"),
        }
        let reader = JournalReader::new(&memory, GENERATION, GEOMETRY).unwrap();
        let mut buffer = Vec::new();
        let record = reader.load(epoch, &LIMITS, &mut buffer).unwrap();
        prop_assert_eq!(record.meta(), &meta[..]);
        let found: Vec<_> = record.pages().map(|(page, content)| (page.get(), content[99])).collect();
        prop_assert_eq!(found, pages.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_blob_store_holds_the_last_blob(blobs in vec(vec(any::<u8>(), 0..300), 0..10)) {
        let memory = memory(4096);
        let store = BlobStore::new(&memory, Offset::ZERO, 256).unwrap();
        store.format().unwrap();
        let mut oracle = None;
        for blob in blobs {
            if store.store(&blob).is_ok() {
                oracle = Some(blob);
            } else {
                prop_assert!(blob.len() > 256);
            }
            prop_assert_eq!(store.load().unwrap(), oracle.clone());
        }
    }

    #[test]
    fn parsers_never_panic(mut bytes in vec(any::<u8>(), 0..400), length in 0usize..400, kind in 0usize..7) {
        const MAGICS: [(&[u8; 8], u32); 4] =
            [(b"FTVMRECD", 64), (b"FTVMBEAT", 64), (b"FTVMPOOL", 128), (b"FTVMBLOB", 64)];
        if let (Some((magic, size)), Some(front)) = (MAGICS.get(kind), bytes.get_mut(..16)) {
            front[..8].copy_from_slice(*magic);
            front[8..12].copy_from_slice(&1u32.to_le_bytes());
            front[12..].copy_from_slice(&size.to_le_bytes());
            reseal(&mut bytes, usize::try_from(*size).unwrap());
        }
        let number = u64::try_from(length).unwrap();
        let _ = Record::parse(&bytes, GENERATION, Epoch::new(number), &LIMITS);
        let _ = LogEntry::parse(&bytes, LogPosition::new(number));
        let _ = heartbeat::parse_page(&bytes);
        let _ = Superblock::parse(&bytes);
        let _ = blob_store::parse(&bytes, number, 256);
        bytes.resize(256, 0);
        let _ = VmEntry::parse(&bytes);
    }
}
