use super::*;
use crate::commit_word::PublishError;
use crate::lossy::{LossyCache, LossyMemory};
use crate::mem::{AccessError, PoolRead, PoolWrite};
use crate::numbers::{Epoch, Generation, Offset, PAGE_BYTES, PageIndex};
use std::sync::atomic::Ordering;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

const GENERATION: Generation = Generation::new(3);
const LIMITS: RecordLimits = RecordLimits { image_pages: 8, disk_blocks: 0, meta_bytes_max: 4096 };

fn geometry() -> JournalGeometry {
    JournalGeometry { slots: 2, slot_bytes: 16 << 12, reserved_bytes: 4 << 12 }
}

struct Fixture {
    memory: LossyMemory,
    writer: JournalWriter<LossyMemory, AllReserved>,
    reader: JournalReader<LossyMemory>,
}

fn fixture(base: u64) -> Fixture {
    let memory = LossyMemory::new(geometry().file_bytes(), &LossyCache::new());
    format_journal(&memory, GENERATION, &geometry(), Epoch::new(base)).unwrap();
    let writer = JournalWriter::new(memory.clone(), AllReserved, GENERATION, geometry()).unwrap();
    let reader = JournalReader::new(memory.clone(), GENERATION, geometry()).unwrap();
    assert_eq!(reader.check_journal_header(), Ok(Epoch::new(base)));
    Fixture { memory, writer, reader }
}

fn commit(journal: &Fixture, epoch: u64, freed: u64, pages: &[(u64, u8)], meta: &[u8]) {
    let mut record = journal.writer.begin(Epoch::new(epoch), Epoch::new(freed)).unwrap();
    for (page, fill) in pages {
        record.push_page_bytes(PageIndex::new(*page), &[*fill; PAGE_BYTES]).unwrap();
    }
    assert_eq!(record.page_count(), pages.len());
    let finished = record.finish(meta).unwrap();
    assert_eq!(journal.writer.publish(finished), Ok(Epoch::new(epoch)));
}

#[test]
fn a_published_record_is_read_back() {
    let journal = fixture(6);
    commit(&journal, 7, 6, &[(0, 1), (5, 2), (7, 3)], b"meta");
    assert_eq!(journal.reader.word().unwrap().epoch, Epoch::new(7));
    let mut buffer = Vec::new();
    let record = journal.reader.load(Epoch::new(7), &LIMITS, &mut buffer).unwrap();
    assert_eq!((record.epoch(), record.generation(), record.meta()), (Epoch::new(7), GENERATION, &b"meta"[..]));
    let pages: Vec<_> = record.pages().map(|(page, bytes)| (page.get(), bytes[17])).collect();
    assert_eq!(pages, [(0, 1), (5, 2), (7, 3)]);
}

/// A journal whose primary publishes the next record each time that its slot is looked at.
struct Hurrying<'journal> {
    journal: &'journal Fixture,
    next: std::cell::Cell<u64>,
}

impl PoolRead for Hurrying<'_> {
    fn len(&self) -> u64 {
        self.journal.memory.len()
    }

    fn read(&self, at: Offset, into: &mut [u8]) -> Result<(), AccessError> {
        let next = self.next.get();
        if at == geometry().slot_at(Epoch::new(next)) && next <= 10 {
            commit(self.journal, next, next - 1, &[], b"");
            self.next.set(next + 1);
        }
        self.journal.memory.read(at, into)
    }

    fn read_volatile<B: BitmapSlice>(&self, at: Offset, into: &VolatileSlice<'_, B>) -> Result<(), AccessError> {
        self.journal.memory.read_volatile(at, into)
    }

    fn load_u64(&self, at: Offset, order: Ordering) -> Result<u64, AccessError> {
        self.journal.memory.load_u64(at, order)
    }
}

#[test]
fn nobody_is_kept_looking_by_a_writer_that_goes_on() {
    let journal = fixture(0);
    let memory = Hurrying { journal: &journal, next: std::cell::Cell::new(1) };
    let reader = JournalReader::new(memory, GENERATION, geometry()).unwrap();
    assert_eq!(reader.last_whole(Epoch::ZERO, &LIMITS), Ok(Epoch::new(geometry().slots.into())));
}

#[test]
fn empty_records_and_reused_buffers_work() {
    let journal = fixture(0);
    commit(&journal, 1, 0, &[(0, 1), (1, 2)], b"long meta");
    commit(&journal, 2, 0, &[], b"");
    let mut buffer = Vec::new();
    assert_eq!(journal.reader.load(Epoch::new(1), &LIMITS, &mut buffer).unwrap().page_count(), 2);
    let record = journal.reader.load(Epoch::new(2), &LIMITS, &mut buffer).unwrap();
    assert_eq!((record.page_count(), record.meta()), (0, &b""[..]));
}

#[test]
fn a_slot_in_use_is_not_begun() {
    let journal = fixture(0);
    commit(&journal, 1, 0, &[], b"");
    commit(&journal, 2, 0, &[], b"");
    assert!(matches!(journal.writer.begin(Epoch::new(3), Epoch::ZERO), Err(JournalError::SlotBusy { .. })));
    assert!(journal.writer.begin(Epoch::new(3), Epoch::new(1)).is_ok());
}

#[test]
fn sealing_fences_the_writer() {
    let journal = fixture(0);
    commit(&journal, 1, 0, &[], b"");
    let finished = journal.writer.begin(Epoch::new(2), Epoch::ZERO).unwrap().finish(b"").unwrap();
    assert_eq!(journal.reader.seal(), Ok(Epoch::new(1)));
    assert_eq!(journal.writer.publish(finished), Err(PublishError::Sealed { final_epoch: Epoch::new(1) }));
}

#[test]
fn a_record_that_does_not_fit_is_refused_and_spill_is_asked_for() {
    struct Full;
    impl SpillSpace for Full {
        fn reserve(&self, at: Offset, len: u64) -> Result<(), SpillError> {
            assert_eq!((at, len), (Offset::new((1 + 16 + 4) << 12), 12 << 12));
            Err(SpillError::NoSpace { needed: len, available: 0 })
        }
        fn release(&self, _: Offset, _: u64) -> Result<(), SpillError> {
            Ok(())
        }
    }
    let journal = fixture(0);
    let full = JournalWriter::new(journal.memory.clone(), Full, GENERATION, geometry()).unwrap();
    let mut record = full.begin(Epoch::new(1), Epoch::ZERO).unwrap();
    let page = [0; PAGE_BYTES];
    record.push_page_bytes(PageIndex::new(0), &page).unwrap();
    record.push_page_bytes(PageIndex::new(1), &page).unwrap();
    assert!(matches!(
        record.push_page_bytes(PageIndex::new(2), &page),
        Err(JournalError::Spill(SpillError::NoSpace { .. }))
    ));
    let mut record = journal.writer.begin(Epoch::new(1), Epoch::ZERO).unwrap();
    for index in 0..14 {
        record.push_page_bytes(PageIndex::new(index), &page).unwrap();
    }
    assert!(matches!(record.push_page_bytes(PageIndex::new(14), &page), Err(JournalError::RecordTooLarge { .. })));
    assert!(matches!(record.close(&[0; 8192]), Err(JournalError::RecordTooLarge { .. })));
}

/// A pool that counts what is asked of it.
#[derive(Default)]
struct Counting {
    reserved: std::cell::RefCell<Vec<(Offset, u64)>>,
    spare: u64,
}

impl SpillSpace for Counting {
    fn reserve(&self, at: Offset, len: u64) -> Result<(), SpillError> {
        self.reserved.borrow_mut().push((at, len));
        Ok(())
    }
    fn reserve_spare(&self, at: Offset, len: u64, spare: u64) -> Result<(), SpillError> {
        if self.spare < spare {
            return Err(SpillError::NoSpace { needed: len, available: self.spare });
        }
        self.reserve(at, len)
    }
    fn release(&self, _: Offset, _: u64) -> Result<(), SpillError> {
        Ok(())
    }
}

#[test]
fn a_slot_that_was_made_ready_asks_for_no_space_again() {
    let journal = fixture(0);
    let page = [3; PAGE_BYTES];
    let write = |writer: &JournalWriter<LossyMemory, &Counting>, epoch| {
        let mut record = writer.begin(Epoch::new(epoch), Epoch::ZERO).unwrap();
        (0..6).for_each(|index| record.push_page_bytes(PageIndex::new(index), &page).unwrap());
        record.finish(b"meta").unwrap();
    };
    let pool = Counting { spare: u64::MAX, ..Counting::default() };
    let writer = JournalWriter::new(journal.memory.clone(), &pool, GENERATION, geometry()).unwrap();
    write(&writer, 1);
    let asked = pool.reserved.borrow().clone();
    assert!(!asked.is_empty(), "a record of six pages is larger than what is reserved");
    assert!(writer.prepare(Epoch::new(2), Epoch::ZERO, 16 << 12, || true));
    let asked = pool.reserved.borrow().len();
    write(&writer, 2);
    assert_eq!(pool.reserved.borrow().len(), asked, "the slot had its space");
    // What was made ready for one epoch says nothing of another one in the same slot.
    let mut record = writer.begin(Epoch::new(4), Epoch::new(2)).unwrap();
    (0..6).for_each(|index| record.push_page_bytes(PageIndex::new(index), &page).unwrap());
    assert!(pool.reserved.borrow().len() > asked);
}

#[test]
fn a_slot_is_made_ready_only_while_it_is_free_and_the_pool_has_plenty() {
    let journal = fixture(0);
    let pool = Counting { spare: 1 << 20, ..Counting::default() };
    let writer = JournalWriter::new(journal.memory.clone(), &pool, GENERATION, geometry()).unwrap();
    assert!(!writer.prepare(Epoch::new(3), Epoch::ZERO, 4096, || true), "the slot holds epoch 1");
    assert!(!writer.prepare(Epoch::new(1), Epoch::ZERO, 17 << 12, || true), "no record is that large");
    assert!(!writer.prepare(Epoch::new(1), Epoch::ZERO, 8 << 12, || false), "there is something better to do");
    assert!(pool.reserved.borrow().is_empty());
    assert!(writer.prepare(Epoch::new(1), Epoch::ZERO, 4 << 12, || true), "a little is there for the taking");
    let short = Counting { spare: 1, ..Counting::default() };
    let writer = JournalWriter::new(journal.memory.clone(), &short, GENERATION, geometry()).unwrap();
    assert!(!writer.prepare(Epoch::new(1), Epoch::ZERO, 8 << 12, || true), "others need it more");
    assert!(short.reserved.borrow().is_empty());
}

/// From the first page's copy to the publication the record lies in memory that faults, or a mad neighbour, can change.
/// A CRC computed from there would only confirm what it finds.
#[test]
fn what_changes_in_the_slot_before_the_checksum_is_noticed() {
    let page_at = 4096 + 4096;
    let [content, index, meta] = [page_at + 70, page_at + 4096, page_at + 4096 + 8 + 1];
    for at in [content, index, meta] {
        let journal = fixture(0);
        let mut record = journal.writer.begin(Epoch::new(2), Epoch::ZERO).unwrap();
        record.push_page_bytes(PageIndex::new(1), &[7; PAGE_BYTES]).unwrap();
        let closed = record.close(b"meta").unwrap();
        let mut byte = [0];
        journal.memory.read(Offset::new(at), &mut byte).unwrap();
        journal.memory.write(Offset::new(at), &[byte[0] ^ 1]).unwrap();
        journal.writer.checksum(&closed).unwrap();
        let mut buffer = Vec::new();
        let refused = journal.reader.load(Epoch::new(2), &LIMITS, &mut buffer);
        assert!(
            matches!(refused, Err(LoadError::Record { source: RecordError::BodyCrc { .. }, .. })),
            "changed at {at}: {refused:?}"
        );
    }
}

#[test]
fn every_flipped_bit_of_a_record_is_refused() {
    let journal = fixture(0);
    commit(&journal, 1, 0, &[(0, 1), (3, 2)], b"meta");
    let mut buffer = Vec::new();
    journal.reader.load(Epoch::new(1), &LIMITS, &mut buffer).unwrap();
    let total = 4096 + 2 * 4104 + 4;
    for byte in (0..64).chain(4096..total) {
        let bits = if (64..total - 20).contains(&byte) { 0..1 } else { 0..8 };
        for bit in bits {
            let mut copy = buffer[..total].to_vec();
            copy[byte] ^= 1 << bit;
            let result = Record::parse(&copy, GENERATION, Epoch::new(1), &LIMITS);
            assert!(result.is_err(), "byte {byte} bit {bit} went unnoticed");
        }
    }
    for short in [0, 63, 64, 4095, 4096, total - 1] {
        assert!(Record::parse(&buffer[..short], GENERATION, Epoch::new(1), &LIMITS).is_err());
    }
}

#[test]
fn a_record_with_right_crcs_but_wrong_content_is_refused() {
    let outside = fixture(0);
    commit(&outside, 1, 0, &[(8, 1)], b"");
    let mut buffer = Vec::new();
    let error = outside.reader.load(Epoch::new(1), &LIMITS, &mut buffer).unwrap_err();
    assert!(matches!(error, LoadError::Record { source: RecordError::PageOutside { .. }, .. }));
    let stale = fixture(0);
    commit(&stale, 1, 0, &[], b"");
    let error = stale.reader.load(Epoch::new(3), &LIMITS, &mut buffer).unwrap_err();
    assert!(matches!(error, LoadError::Record { source: RecordError::Epoch { .. }, .. }));
    stale.memory.write(Offset::ZERO, b"X").unwrap();
    assert!(stale.reader.check_journal_header().is_err());
}
