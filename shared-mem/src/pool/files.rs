//! Names of the pool's files.

use std::path::{Path, PathBuf};

use crate::numbers::{Generation, HostSlot, VmSlot};

/// What a file of the pool holds, read from its name; for listings and checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A generation's journal.
    Journal(Generation),
    /// A generation's record log.
    Log(Generation),
    /// The directory of a VM.
    Vm(VmSlot),
    /// A host's heartbeat page.
    Heartbeat(HostSlot),
    /// One of the files that every pool, or every VM, has.
    Fixed,
    /// A file that was being made when its maker died.
    Unfinished,
    /// Nothing of this version's layout.
    Unknown,
}

pub(super) const SUPERBLOCK: &str = "superblock";
/// The superblock of a pool that is being removed.
pub(super) const REMOVED: &str = "superblock.removed";
pub(super) const LOCK: &str = "lock";
pub(super) const VM_DIRECTORY: &str = "vm-directory";
pub(super) const CLUSTER: &str = "cluster";
pub(super) const RESERVE: &str = "reserve";
pub(super) const IMAGE: &str = "image";
pub(super) const STATE: &str = "state";
pub(super) const CONTROL: &str = "control";
pub(super) const CONSOLE: &str = "console";
pub(super) const DISK: &str = "disk";
pub(super) const BOOT: &str = "boot";
pub(super) const REDO: &str = "redo";
const JOURNAL: &str = "journal.";
const LOG: &str = "log.";
const VM: &str = "vm-";

const HEARTBEAT: &str = "heartbeat.";

const FIXED_OF_VM: [&str; 7] = [IMAGE, STATE, CONTROL, CONSOLE, DISK, BOOT, REDO];
const FIXED_OF_POOL: [&str; 6] = [SUPERBLOCK, REMOVED, LOCK, VM_DIRECTORY, CLUSTER, RESERVE];

impl FileKind {
    /// What a file in the pool's own directory is.
    #[must_use]
    pub fn of_pool_file(name: &str) -> Self {
        let host = |text: &str| text.parse().ok().map(HostSlot::new);
        if super::reserve::is_unfinished(name) {
            Self::Unfinished
        } else if let Some(slot) = slot_of_vm_dir(name) {
            Self::Vm(slot)
        } else if let Some(host) = name.strip_prefix(HEARTBEAT).and_then(host) {
            Self::Heartbeat(host)
        } else if FIXED_OF_POOL.contains(&name) {
            Self::Fixed
        } else {
            Self::Unknown
        }
    }

    /// What a file in a VM's directory is.
    #[must_use]
    pub fn of_vm_file(name: &str) -> Self {
        let generation = |text: &str| text.parse().ok().map(Generation::new);
        if super::reserve::is_unfinished(name) {
            Self::Unfinished
        } else if let Some(generation) = name.strip_prefix(JOURNAL).and_then(generation) {
            Self::Journal(generation)
        } else if let Some(generation) = name.strip_prefix(LOG).and_then(generation) {
            Self::Log(generation)
        } else if FIXED_OF_VM.contains(&name) {
            Self::Fixed
        } else {
            Self::Unknown
        }
    }
}

pub(super) fn heartbeat(pool: &Path, host: HostSlot) -> PathBuf {
    pool.join(format!("{HEARTBEAT}{host}"))
}

pub(super) fn vm_dir(pool: &Path, slot: VmSlot) -> PathBuf {
    pool.join(format!("{VM}{slot}"))
}

/// The slot whose directory this is, if the name is that of one.
pub(super) fn slot_of_vm_dir(name: &str) -> Option<VmSlot> {
    name.strip_prefix(VM)?.parse().ok().map(VmSlot::new)
}

pub(super) fn journal(vm: &Path, generation: Generation) -> PathBuf {
    vm.join(format!("{JOURNAL}{generation}"))
}

pub(super) fn log(vm: &Path, generation: Generation) -> PathBuf {
    vm.join(format!("{LOG}{generation}"))
}
