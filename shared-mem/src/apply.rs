//! Applying a commit record: the order of steps that a crash at any point cannot spoil.
//!
//! ```text
//!   check all ─▶ own copy ─▶ pages, blocks ─▶ machine state ─▶ console ─▶ applied := E
//!      │          each step durable before the next; a crash anywhere: the record is applied again from the start
//!      └─▶ refused: nothing was written
//! ```
//! Applying twice does what applying once does: pages, blocks of the disk and state are absolute, the console skips what
//! it has. Stable image and disk are not readable between the steps as any epoch; that is why `applied` comes last, and
//! why a record's slot is freed only after it, and why the record is copied first ([`crate::redo`]).

use thiserror::Error;

use crate::console::{ConsoleError, ConsoleRing};
use crate::control::{ControlBlock, ControlError};
use crate::journal::Record;
use crate::mem::{AccessError, PoolWrite, check_bounds};
use crate::numbers::{BlockIndex, ConsolePosition, Epoch, Offset, PAGE_SIZE, PageIndex, PagePlace};
use crate::planted::{self, PlantedBug, planted};
use crate::redo::{KeepRecord, Kept};
use crate::state_area::{StateArea, StateError};

/// What the record's meta bytes say, taken apart by the caller who knows their format.
#[derive(Debug, Clone, Copy)]
pub struct ApplyParts<'a> {
    /// The machine state at the end of the epoch.
    pub machine_state: &'a [u8],
    /// Where the epoch's console output begins.
    pub console_start: ConsolePosition,
    /// The epoch's console output.
    pub console: &'a [u8],
}

/// Where a record is applied to.
#[derive(Debug, Clone, Copy)]
pub struct ApplyTargets<'a, I, S, C, K> {
    /// The stable image.
    pub image: &'a I,
    /// The disk image, if the VM has one.
    pub disk: Option<&'a I>,
    /// Keeps the record for a controller that has to go on.
    pub redo: &'a dyn KeepRecord,
    /// The machine state.
    pub state: &'a StateArea<S>,
    /// The console.
    pub console: &'a ConsoleRing<C>,
    /// The control block.
    pub control: &'a ControlBlock<K>,
}

/// Points between the steps, at which tests let the controller die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ApplyStep {
    /// All was checked, nothing is written.
    Checked,
    /// The controller's own copy of the record is durable.
    Kept,
    /// There was no space for a copy: until the record is applied, its slot is all there is of it.
    NotKept,
    /// Pages and blocks are written but not flushed.
    PagesWritten,
    /// Pages and blocks are durable.
    PagesDurable,
    /// The machine state is durable.
    StateDurable,
    /// The console is durable.
    ConsoleDurable,
    /// The epoch counts as applied.
    Applied,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is applied now.
    Applied,
    /// It had been applied before: nothing was written.
    AlreadyApplied,
}

/// A record was not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// Records are applied one after the other.
    #[error("cannot apply epoch {epoch}: the image is at epoch {applied}")]
    OutOfOrder {
        /// Epoch of the record.
        epoch: Epoch,
        /// Epoch of the image.
        applied: Epoch,
    },
    /// A page does not lie in the image.
    #[error("page {page} does not fit the stable image")]
    Page {
        /// The page.
        page: PageIndex,
        /// What the memory says.
        source: AccessError,
    },
    /// A block does not lie in the disk image, or the VM has none.
    #[error("block {block} does not fit the disk image")]
    Block {
        /// The block.
        block: BlockIndex,
        /// What the memory says; `None`: there is no disk.
        source: Option<AccessError>,
    },
    /// The record cannot be copied.
    #[error("cannot keep a copy of the record")]
    Keep(#[source] AccessError),
    /// Stable image or disk cannot be written.
    #[error("cannot write the stable image or the disk")]
    Image(#[source] AccessError),
    /// The machine state cannot be stored.
    #[error("cannot store the machine state")]
    State(#[from] StateError),
    /// The console cannot take the output.
    #[error("cannot append to the console")]
    Console(#[from] ConsoleError),
    /// The control block cannot be used.
    #[error("cannot note the epoch as applied")]
    Control(#[from] ControlError),
}

/// Applies a record that follows the applied epoch; one that is applied already is left alone. `step` is called
/// between the steps, for tests that stop there; others pass [`no_step`].
///
/// The caller frees the slot afterwards ([`ControlBlock::set_freed`]), having released the record's spill space.
///
/// # Errors
/// When the record does not follow, or does not fit: then nothing was written. When the pool refuses: then the record
/// is to be applied again.
pub fn apply_record<I: PoolWrite, S: PoolWrite, C: PoolWrite, K: PoolWrite>(
    record: &Record<'_>,
    parts: &ApplyParts<'_>,
    targets: &ApplyTargets<'_, I, S, C, K>,
    step: &mut dyn FnMut(ApplyStep),
) -> Result<Outcome, ApplyError> {
    let epoch = record.epoch();
    let applied = targets.control.applied()?;
    if epoch <= applied {
        return Ok(Outcome::AlreadyApplied);
    }
    if epoch.previous() != Some(applied) {
        return Err(ApplyError::OutOfOrder { epoch, applied });
    }
    check(record, parts, targets)?;
    step(ApplyStep::Checked);
    if planted(PlantedBug::AppliedFirst) {
        targets.control.set_applied(epoch)?;
    }
    let late = planted(PlantedBug::RedoAfterPages);
    if !late {
        keep(record, targets, step)?;
    }
    apply_pages(record, targets, step)?;
    step(ApplyStep::PagesDurable);
    if late {
        keep(record, targets, step)?;
    }
    targets.state.write(epoch, parts.machine_state)?;
    step(ApplyStep::StateDurable);
    targets.console.append(parts.console_start, parts.console)?;
    step(ApplyStep::ConsoleDurable);
    targets.control.set_applied(epoch)?;
    step(ApplyStep::Applied);
    Ok(Outcome::Applied)
}

fn keep<I, S, C, K>(
    record: &Record<'_>,
    targets: &ApplyTargets<'_, I, S, C, K>,
    step: &mut dyn FnMut(ApplyStep),
) -> Result<(), ApplyError> {
    match targets.redo.keep(record).map_err(ApplyError::Keep)? {
        Kept::Yes => step(ApplyStep::Kept),
        Kept::No => step(ApplyStep::NotKept),
    }
    Ok(())
}

/// The step hook of everybody who is not a test.
pub fn no_step(_: ApplyStep) {}

/// Everything that could be refused is refused before the first store.
fn check<I: PoolWrite, S: PoolWrite, C: PoolWrite, K>(
    record: &Record<'_>,
    parts: &ApplyParts<'_>,
    targets: &ApplyTargets<'_, I, S, C, K>,
) -> Result<(), ApplyError> {
    for page in record.page_indices() {
        let (memory, at) = destination(page, targets)?;
        check_bounds(at, PAGE_SIZE, memory.len()).map_err(|source| match page.place() {
            PagePlace::Image(page) => ApplyError::Page { page, source },
            PagePlace::Disk(block) => ApplyError::Block { block, source: Some(source) },
        })?;
    }
    targets.state.check_fits(parts.machine_state)?;
    targets.console.check_append(parts.console_start, parts.console)?;
    Ok(())
}

/// Where the content of an entry goes.
fn destination<'a, I, S, C, K>(
    page: PageIndex,
    targets: &ApplyTargets<'a, I, S, C, K>,
) -> Result<(&'a I, Offset), ApplyError> {
    match page.place() {
        PagePlace::Image(page) => Ok((targets.image, page.offset())),
        PagePlace::Disk(block) => match targets.disk {
            Some(disk) => Ok((disk, block.offset())),
            None => Err(ApplyError::Block { block, source: None }),
        },
    }
}

fn apply_pages<I: PoolWrite, S, C, K>(
    record: &Record<'_>,
    targets: &ApplyTargets<'_, I, S, C, K>,
    step: &mut dyn FnMut(ApplyStep),
) -> Result<(), ApplyError> {
    for (page, content) in record.pages() {
        let (memory, at) = destination(page, targets)?;
        memory.write(at, content).map_err(ApplyError::Image)?;
        let missing = match page.place() {
            PagePlace::Image(_) => PlantedBug::ApplyPageFlush,
            PagePlace::Disk(_) => PlantedBug::ApplyBlockFlush,
        };
        planted::flush(memory, at, PAGE_SIZE, missing).map_err(ApplyError::Image)?;
    }
    step(ApplyStep::PagesWritten);
    // Image and disk may lie on backings that are fenced differently.
    planted::fence(targets.image, PlantedBug::ApplyPageFence).map_err(ApplyError::Image)?;
    if let Some(disk) = targets.disk {
        planted::fence(disk, PlantedBug::ApplyBlockFence).map_err(ApplyError::Image)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::console_file_bytes;
    use crate::control::CONTROL_BYTES;
    use crate::journal::{AllReserved, JournalGeometry, JournalReader, JournalWriter, RecordLimits, format_journal};
    use crate::lossy::{LossyCache, LossyMemory};
    use crate::mem::PoolRead;
    use crate::numbers::{Generation, PAGE_BYTES};
    use crate::redo::RedoArea;

    #[test]
    fn a_record_is_applied_in_order_and_once() {
        let cache = LossyCache::new();
        let generation = Generation::new(1);
        let geometry = JournalGeometry::for_memory(8 * PAGE_SIZE, 2, 64 << 10);
        let journal = LossyMemory::new(geometry.file_bytes(), &cache);
        format_journal(&journal, generation, &geometry, Epoch::ZERO).unwrap();
        let writer = JournalWriter::new(&journal, AllReserved, generation, geometry).unwrap();
        let reader = JournalReader::new(&journal, generation, geometry).unwrap();
        let image = LossyMemory::new(8 * PAGE_SIZE, &cache);
        let state = StateArea::new(LossyMemory::new(4 * PAGE_SIZE, &cache));
        let console = ConsoleRing::format(LossyMemory::new(console_file_bytes(PAGE_SIZE), &cache), PAGE_SIZE).unwrap();
        let control = ControlBlock::format(LossyMemory::new(CONTROL_BYTES, &cache)).unwrap();
        let redo = LossyMemory::new(geometry.slot_bytes, &cache);
        let redo = RedoArea::new(redo, AllReserved, geometry.reserved_bytes).unwrap();
        let targets = ApplyTargets {
            image: &image,
            disk: None,
            redo: &redo,
            state: &state,
            console: &console,
            control: &control,
        };
        let limits = RecordLimits { image_pages: 8, disk_blocks: 1, meta_bytes_max: 4096 };
        let mut buffer = Vec::new();
        for epoch in 1..=2u8 {
            let number = Epoch::new(epoch.into());
            let mut record = writer.begin(number, Epoch::ZERO).unwrap();
            record.push_page_bytes(PageIndex::new(3), &[epoch; PAGE_BYTES]).unwrap();
            writer.publish(record.finish(b"").unwrap()).unwrap();
        }
        let parts = |epoch: u8| ApplyParts {
            machine_state: if epoch == 1 { b"one" } else { b"two" },
            console_start: ConsolePosition::new(if epoch == 1 { 0 } else { 2 }),
            console: if epoch == 1 { b"ab" } else { b"c" },
        };
        let second = reader.load(Epoch::new(2), &limits, &mut buffer).unwrap();
        assert_eq!(
            apply_record(&second, &parts(2), &targets, &mut no_step),
            Err(ApplyError::OutOfOrder { epoch: Epoch::new(2), applied: Epoch::ZERO })
        );
        for epoch in [1, 2, 2, 1] {
            let mut steps = Vec::new();
            let record = reader.load(Epoch::new(epoch.into()), &limits, &mut buffer).unwrap();
            let applied = control.applied().unwrap();
            let outcome = apply_record(&record, &parts(epoch), &targets, &mut |step| steps.push(step)).unwrap();
            if record.epoch() > applied {
                assert_eq!((outcome, steps.len()), (Outcome::Applied, 7));
            } else {
                assert_eq!((outcome, steps.len()), (Outcome::AlreadyApplied, 0));
            }
        }
        let mut page = [0; 1];
        image.read(PageIndex::new(3).offset(), &mut page).unwrap();
        assert_eq!(page, [2]);
        assert_eq!(state.read(Epoch::new(2)), Ok(b"two".to_vec()));
        assert_eq!(console.tail(), Ok(ConsolePosition::new(3)));
        assert_eq!(control.applied(), Ok(Epoch::new(2)));
        let long_gap = ApplyParts { console_start: ConsolePosition::new(9), ..parts(1) };
        let mut record = writer.begin(Epoch::new(3), Epoch::new(2)).unwrap();
        record.push_page_bytes(PageIndex::new(0), &[9; PAGE_BYTES]).unwrap();
        writer.publish(record.finish(b"").unwrap()).unwrap();
        let third = reader.load(Epoch::new(3), &limits, &mut buffer).unwrap();
        let result = apply_record(&third, &long_gap, &targets, &mut no_step);
        assert!(matches!(result, Err(ApplyError::Console(ConsoleError::Gap { .. }))));
        image.read(Offset::ZERO, &mut page).unwrap();
        assert_eq!(page, [0], "a refused record leaves nothing");
        let block = BlockIndex::new(0);
        let mut record = writer.begin(Epoch::new(3), Epoch::new(2)).unwrap();
        record.push_page_bytes(PageIndex::new(0), &[9; PAGE_BYTES]).unwrap();
        record.push_page_bytes(PageIndex::of_block(block), &[9; PAGE_BYTES]).unwrap();
        record.finish(b"").unwrap();
        let next = ApplyParts { console_start: ConsolePosition::new(3), ..parts(1) };
        let third = reader.load(Epoch::new(3), &limits, &mut buffer).unwrap();
        let result = apply_record(&third, &next, &targets, &mut no_step);
        assert_eq!(result, Err(ApplyError::Block { block, source: None }));
        image.read(Offset::ZERO, &mut page).unwrap();
        assert_eq!(page, [0], "a record for a disk that is not there leaves nothing");
        let disk = LossyMemory::new(PAGE_SIZE, &cache);
        let targets = ApplyTargets { disk: Some(&disk), ..targets };
        assert_eq!(apply_record(&third, &next, &targets, &mut no_step), Ok(Outcome::Applied));
        disk.read(Offset::ZERO, &mut page).unwrap();
        assert_eq!(page, [9]);
    }
}
