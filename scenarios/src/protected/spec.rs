//! What a VM is to be, and the journal that goes with it.

use crate::units::ByteCount;
use ft_protocol::Span;
use ft_protocol::policy::Policy;
use ft_protocol::spec::{JournalShape, LOG_BYTES_DEFAULT, Mode, NetSpec, VmSpec};

/// Commit records that may wait for the controller.
const JOURNAL_SLOTS: u32 = 4;
/// Reserved in the pool for each of them; a larger record takes space when it is written.
const RESERVED_BYTES_MAX: u64 = 2 << 20;
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
            journal: journal_for(self.memory, self.disk_bytes),
            console_lossless: unread == UnreadConsole::Waits,
            policy: self.policy.clone(),
            working_set_bytes_max: self.working_set.map(ByteCount::get),
            nets: self.nets.clone(),
            disk_bytes: self.disk_bytes,
            log_bytes: if self.mode.records() { LOG_BYTES_DEFAULT } else { UNUSED_LOG_BYTES },
        }
    }
}

/// A journal whose slots hold even an epoch that dirtied every page and every block.
fn journal_for(memory: ByteCount, disk_bytes: u64) -> JournalShape {
    let content = memory.get().saturating_add(disk_bytes);
    let pages = content.div_ceil(PAGE_BYTES);
    let largest = content.saturating_add(pages.saturating_mul(INDEX_BYTES)).saturating_add(RECORD_EXTRA_BYTES);
    let slot_bytes = largest.checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX - u64::MAX % PAGE_BYTES);
    JournalShape { slots: JOURNAL_SLOTS, slot_bytes, reserved_bytes: slot_bytes.min(RESERVED_BYTES_MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_holds_the_whole_memory() {
        for (memory, disk) in [(ByteCount::mib(2), 1 << 30), (ByteCount::mib(64), 0), (ByteCount::new(u64::MAX), 4096)]
        {
            let journal = journal_for(memory, disk);
            assert!(journal.slot_bytes.is_multiple_of(PAGE_BYTES));
            assert!(journal.reserved_bytes <= journal.slot_bytes);
            assert!(journal.slot_bytes >= memory.get().saturating_add(disk) - u64::MAX % PAGE_BYTES);
        }
    }
}
