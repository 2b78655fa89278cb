//! Bugs that tests plant: each switches off one flush, fence, check or ordering that the pool rests on.
//!
//! The crash enumeration must fail under every one of them, which shows that it would notice their loss. Without the
//! feature `planted-bugs` (and outside this crate's tests) nothing can be planted and the checks vanish.

use crate::mem::{AccessError, PoolWrite};
use crate::numbers::Offset;

/// One protection that can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, unreachable_pub, reason = "each names the protection that is gone")]
pub enum PlantedBug {
    RecordBodyFlush,
    RecordHeaderFlush,
    RecordFence,
    RecordDrain,
    PublishFlush,
    PublishFence,
    PublishUnconditional,
    ObserveFlush,
    ObserveFence,
    SealFlush,
    SealFence,
    RecordEpochCheck,
    RecordGenerationCheck,
    RecordHeaderCrc,
    RecordBodyCrc,
    RecordIndexCheck,
    RecordBlockCheck,
    WordCheck,
    ApplyPageFlush,
    ApplyPageFence,
    ApplyBlockFlush,
    ApplyStateFlush,
    ApplyStateFence,
    ApplyStateInPlace,
    StateCrc,
    ApplyConsoleDataFlush,
    ApplyConsoleDataFence,
    ApplyConsoleTailFlush,
    ApplyConsoleTailFence,
    ApplyConsoleNotIdempotent,
    ConsoleReserveFlush,
    ConsoleReserveFence,
    RedoFlush,
    RedoFence,
    RedoHeaderFlush,
    RedoHeaderFence,
    RedoCrc,
    RedoAfterPages,
    RedoIgnored,
    RedoOtherRecord,
    RedoForgottenAtSeal,
    BegunForgottenAtSeal,
    BegunPastEnd,
    AppliedFirst,
    AppliedFlush,
    AppliedCopyFlush,
    AppliedFence,
    SlotReuseCheck,
    BlobDataFlush,
    BlobDataFence,
    BlobSelectorFlush,
    BlobSelectorFence,
    BlobInPlace,
    BlobCrc,
    FormatFlush,
    FormatFence,
    GenerationFlush,
    GenerationCopyFlush,
    GenerationFence,
    LogEntryFlush,
    LogEntryFence,
    LogTailFlush,
    LogTailFence,
    LogTailFirst,
    LogFullCheck,
    LogCopyClearFlush,
    LogCopyClearFence,
    LogCopyFlush,
    LogCopyFence,
    LogSequenceCheck,
    LogCrc,
}

#[cfg(any(test, feature = "planted-bugs"))]
mod switch {
    use std::cell::Cell;

    use super::PlantedBug;

    thread_local! {
        static PLANTED: Cell<Option<PlantedBug>> = const { Cell::new(None) };
    }

    /// Plants a bug on this thread, or removes it.
    pub fn plant(bug: Option<PlantedBug>) {
        PLANTED.set(bug);
    }

    pub(crate) fn planted(bug: PlantedBug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(any(test, feature = "planted-bugs"))]
pub use switch::plant;
#[cfg(any(test, feature = "planted-bugs"))]
pub(crate) use switch::planted;

#[cfg(not(any(test, feature = "planted-bugs")))]
pub(crate) const fn planted(_: PlantedBug) -> bool {
    false
}

/// Flushes a range, unless that flush is planted as missing.
pub(crate) fn flush<M: PoolWrite>(memory: &M, at: Offset, len: u64, bug: PlantedBug) -> Result<(), AccessError> {
    if planted(bug) { Ok(()) } else { memory.flush(at, len) }
}

/// Orders what was streamed, unless that is planted as missing.
pub(crate) fn drain<M: PoolWrite>(memory: &M, bug: PlantedBug) {
    if !planted(bug) {
        memory.drain();
    }
}

/// Waits for flushed lines, unless that fence is planted as missing.
pub(crate) fn fence<M: PoolWrite>(memory: &M, bug: PlantedBug) -> Result<(), AccessError> {
    if planted(bug) { Ok(()) } else { memory.fence() }
}

/// Makes a structure durable that was just laid out and that nobody else knows of yet.
pub(crate) fn settle<M: PoolWrite>(memory: &M, at: Offset, len: u64) -> Result<(), AccessError> {
    flush(memory, at, len, PlantedBug::FormatFlush)?;
    fence(memory, PlantedBug::FormatFence)
}
