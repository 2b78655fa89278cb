//! What a VM is to be, and the journal that goes with it.

use crate::units::ByteCount;
use ft_protocol::Span;
use ft_protocol::policy::Policy;
use ft_protocol::spec::{JournalShape, LOG_BYTES_DEFAULT, Mode, NetSpec, VmSpec};
use std::str::FromStr;

/// Room in a record for everything that is not a page or its index: header, machine state, console output.
const RECORD_EXTRA_BYTES: u64 = 1 << 20;
const PAGE_BYTES: u64 = 4096;
/// Bytes of a page's index entry.
const INDEX_BYTES: u64 = 8;
/// The record log of a VM whose mode does not record: it may turn to one that does, and commits more often then.
const UNUSED_LOG_BYTES: u64 = 1 << 20;

/// The VM's name in a private cluster, which has no other.
pub const PRIVATE_NAME: &str = "guest";

/// What becomes of console bytes while no reader is attached and the ring is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnreadConsole {
    /// The guest waits for a reader: none of it is ever lost.
    Waits,
    /// The oldest bytes are overwritten: the guest waits for nobody.
    Overwritten,
}

/// Most journal slots of a VM.
pub const JOURNAL_SLOTS_MAX: u32 = 64;

/// What the user decides of a VM's journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalOptions {
    /// Commit records that may wait for the controller, 1 to [`JOURNAL_SLOTS_MAX`].
    pub slots: u32,
    /// Reserved in the pool for each of them; a larger record takes more when it is written.
    pub reserve: JournalReserve,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self { slots: 4, reserve: JournalReserve(2 << 20) }
    }
}

/// Bytes that are reserved for a journal slot: whole pages, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalReserve(u64);

/// A size that no journal slot can have reserved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadJournalReserve {
    /// Not in pages.
    #[error("a journal slot has one page of {PAGE_BYTES} bytes or several reserved: not {0}")]
    Pages(ByteCount),
    /// No size.
    #[error(transparent)]
    Size(#[from] crate::units::ByteCountError),
}

impl TryFrom<ByteCount> for JournalReserve {
    type Error = BadJournalReserve;
    fn try_from(size: ByteCount) -> Result<Self, BadJournalReserve> {
        let whole = size.get() > 0 && size.get().is_multiple_of(PAGE_BYTES);
        if whole { Ok(Self(size.get())) } else { Err(BadJournalReserve::Pages(size)) }
    }
}

impl FromStr for JournalReserve {
    type Err = BadJournalReserve;
    fn from_str(text: &str) -> Result<Self, BadJournalReserve> {
        text.parse::<ByteCount>()?.try_into()
    }
}

/// What the user decides of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmOptions {
    /// Guest memory.
    pub memory: ByteCount,
    /// How it is protected.
    pub mode: Mode,
    /// Arguments for the guest.
    pub args: Vec<String>,
    /// Longest time between two commits; `None`: the default.
    pub epoch_interval: Option<Span>,
    /// Copies of written pages that the primary's host keeps; `None`: all.
    pub working_set: Option<ByteCount>,
    /// Its journal.
    pub journal: JournalOptions,
    /// Where it should run.
    pub policy: Policy,
    /// Bytes of its disk; zero: none.
    pub disk_bytes: u64,
    /// Network devices.
    pub nets: Vec<NetSpec>,
}

impl VmOptions {
    /// The description that the controller is given.
    #[must_use]
    pub fn spec(&self, name: &str, unread: UnreadConsole) -> VmSpec {
        VmSpec {
            name: name.to_owned(),
            memory_bytes: self.memory.get(),
            mode: self.mode,
            epoch_interval: self.epoch_interval.unwrap_or(self.mode.default_epoch_interval()),
            args: self.args.clone(),
            journal: self.journal.shape(self.memory, self.disk_bytes),
            console_lossless: unread == UnreadConsole::Waits,
            policy: self.policy.clone(),
            working_set_bytes_max: self.working_set.map(ByteCount::get),
            nets: self.nets.clone(),
            disk_bytes: self.disk_bytes,
            log_bytes: if self.mode.records() { LOG_BYTES_DEFAULT } else { UNUSED_LOG_BYTES },
        }
    }
}

impl JournalOptions {
    /// A journal whose slots hold even an epoch that dirtied every page and every block.
    fn shape(self, memory: ByteCount, disk_bytes: u64) -> JournalShape {
        let content = memory.get().saturating_add(disk_bytes);
        let pages = content.div_ceil(PAGE_BYTES);
        let largest = content.saturating_add(pages.saturating_mul(INDEX_BYTES)).saturating_add(RECORD_EXTRA_BYTES);
        let slot_bytes = largest.checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX - u64::MAX % PAGE_BYTES);
        JournalShape { slots: self.slots, slot_bytes, reserved_bytes: slot_bytes.min(self.reserve.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_holds_the_whole_memory() {
        for (memory, disk) in [(ByteCount::mib(2), 1 << 30), (ByteCount::mib(64), 0), (ByteCount::new(u64::MAX), 4096)]
        {
            let journal = JournalOptions::default().shape(memory, disk);
            assert!(journal.slot_bytes.is_multiple_of(PAGE_BYTES));
            assert!(journal.reserved_bytes <= journal.slot_bytes);
            assert!(journal.slot_bytes >= memory.get().saturating_add(disk) - u64::MAX % PAGE_BYTES);
        }
    }
}
