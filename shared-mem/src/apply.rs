//! Applying a commit record: the order of steps that a crash at any point cannot spoil.
//!
//! ```text
//!   check all ─▶ pages ─▶ machine state ─▶ console ─▶ applied := E
//!      │          each step durable before the next; a crash anywhere: the record is applied again from the start
//!      └─▶ refused: nothing was written
//! ```
//! Applying twice does what applying once does: pages and state are absolute, the console skips what it has. The
//! stable image is not readable between the steps as any epoch; that is why `applied` comes last, and why a record's
//! slot is freed only after it.

use thiserror::Error;

use crate::console::{ConsoleError, ConsoleRing};
use crate::control::{ControlBlock, ControlError};
use crate::journal::Record;
use crate::mem::{AccessError, PoolWrite, check_bounds};
use crate::numbers::{ConsolePosition, Epoch, PAGE_SIZE, PageIndex};
use crate::planted::{self, PlantedBug, planted};
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
    /// The pages are written but not flushed.
    PagesWritten,
    /// The pages are durable.
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
    /// The stable image cannot be written.
    #[error("cannot write the stable image")]
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
    apply_pages(record, targets.image, step).map_err(ApplyError::Image)?;
    step(ApplyStep::PagesDurable);
    targets.state.write(epoch, parts.machine_state)?;
    step(ApplyStep::StateDurable);
    targets.console.append(parts.console_start, parts.console)?;
    step(ApplyStep::ConsoleDurable);
    targets.control.set_applied(epoch)?;
    step(ApplyStep::Applied);
    Ok(Outcome::Applied)
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
        check_bounds(page.offset(), PAGE_SIZE, targets.image.len())
            .map_err(|source| ApplyError::Page { page, source })?;
    }
    targets.state.check_fits(parts.machine_state)?;
    targets.console.check_append(parts.console_start, parts.console)?;
    Ok(())
}

fn apply_pages<I: PoolWrite>(
    record: &Record<'_>,
    image: &I,
    step: &mut dyn FnMut(ApplyStep),
) -> Result<(), AccessError> {
    for (page, content) in record.pages() {
        image.write(page.offset(), content)?;
        planted::flush(image, page.offset(), PAGE_SIZE, PlantedBug::ApplyPageFlush)?;
    }
    step(ApplyStep::PagesWritten);
    planted::fence(image, PlantedBug::ApplyPageFence)
}
