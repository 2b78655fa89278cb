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
    OldSealFlush,
    OldSealFence,
    OldSealCrc,
    RecordEpochCheck,
    RecordGenerationCheck,
    RecordHeaderCrc,
    RecordBodyCrc,
    RecordIndexCheck,
    RecordBlockCheck,
    CommitWordCrc,
    JournalHeaderCrc,
    ApplyPageFlush,
    ApplyPageFence,
    ApplyBlockFlush,
    ApplyBlockFence,
    ApplyStateFlush,
    ApplyStateFence,
    ApplyStateInPlace,
    StateCrc,
    StateHeaderCrc,
    ApplyConsoleDataFlush,
    ApplyConsoleDataFence,
    ApplyConsoleTailFlush,
    ApplyConsoleTailFence,
    ApplyConsoleTailFirst,
    ApplyConsoleNotIdempotent,
    ConsoleReserveFlush,
    ConsoleReserveFence,
    ConsoleHeaderCrc,
    ConsoleWordCrc,
    RedoFlush,
    RedoFence,
    RedoHeaderFlush,
    RedoHeaderFence,
    RedoCrc,
    RedoHeaderCrc,
    RedoHeaderFirst,
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
    ControlHeaderCrc,
    ControlWordCrc,
    SlotReuseCheck,
    BlobDataFlush,
    BlobDataFence,
    BlobSelectorFlush,
    BlobSelectorFence,
    BlobInPlace,
    BlobCrc,
    BlobHeaderCrc,
    BlobSelectorCrc,
    BlobSelectorFirst,
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
    LogObserveFlush,
    LogObserveFence,
    LogSealFlush,
    LogSealFence,
    LogCopyClearFlush,
    LogCopyClearFence,
    LogCopyTailFirst,
    LogCopyEntryFlush,
    LogCopyHeaderFlush,
    LogCopyFence,
    LogSequenceCheck,
    LogHeaderCrc,
    LogTailCrc,
    LogCrc,
    BootHeaderCrc,
    BootCrc,
    DirectoryHeaderCrc,
    SuperblockCrc,
    DeviceHeadCrc,
    HeartbeatCrc,
}

/// What is laid out in one piece and then made durable: the flush and the fence of each can be switched off by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, unreachable_pub, reason = "each names what is laid out")]
pub enum Laid {
    BootImage,
    DiskImage,
    Journal,
    RecordLog,
    LogCopyTail,
    Console,
    ControlBlock,
    ControlMend,
    Blob,
    DirectoryHeaders,
    Superblock,
    SuperblockMend,
    DeviceHead,
    DeviceWipe,
    CopiedFile,
    ZeroedSpace,
}

#[cfg(any(test, feature = "planted-bugs"))]
mod switch {
    use std::cell::Cell;

    use super::{Laid, PlantedBug};

    thread_local! {
        static PLANTED: Cell<Option<PlantedBug>> = const { Cell::new(None) };
        /// Where only, of the bugs of what is laid out.
        static PLACE: Cell<Option<Laid>> = const { Cell::new(None) };
    }

    /// Plants a bug of what is laid out in one place only.
    #[cfg(test)]
    pub(crate) fn plant_at(bug: PlantedBug, place: Laid) {
        plant(Some(bug));
        PLACE.set(Some(place));
    }

    pub(crate) fn is_place(laid: Laid) -> bool {
        PLACE.get().is_none_or(|place| place == laid)
    }

    /// Plants a bug on this thread, or removes it.
    pub fn plant(bug: Option<PlantedBug>) {
        PLANTED.set(bug);
        PLACE.set(None);
    }

    pub(crate) fn planted(bug: PlantedBug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(any(test, feature = "planted-bugs"))]
pub use switch::plant;
#[cfg(test)]
pub(crate) use switch::plant_at;
#[cfg(any(test, feature = "planted-bugs"))]
pub(crate) use switch::{is_place, planted};

#[cfg(not(any(test, feature = "planted-bugs")))]
pub(crate) const fn planted(_: PlantedBug) -> bool {
    false
}

#[cfg(not(any(test, feature = "planted-bugs")))]
const fn is_place(_: Laid) -> bool {
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
pub(crate) fn settle<M: PoolWrite>(memory: &M, at: Offset, len: u64, laid: Laid) -> Result<(), AccessError> {
    let is_missing = |bug| planted(bug) && is_place(laid);
    if !is_missing(PlantedBug::FormatFlush) {
        memory.flush(at, len)?;
    }
    if is_missing(PlantedBug::FormatFence) { Ok(()) } else { memory.fence() }
}
