//! VMs that are being made, and such that are being removed. Their entries in the VM directory are the pool's; what takes as long as a VM
//! is large, its files, needs no pool, so that the controller's thread can leave it to another one.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device;
use super::error::PoolError;
use super::files;
use super::partition::VmPartition;
use super::reserve::NewFile;
use crate::boot_image::boot_file_bytes;
use crate::console::{ConsoleRing, console_file_bytes};
use crate::control::{CONTROL_BYTES, ControlBlock};
use crate::mem::Mapping;
use crate::numbers::{Offset, VmSlot};
use crate::vm_directory::{VmGeometry, VmName};

/// The slots of VMs that are being made or removed, with the names of the former. Only their controller needs to know: what one
/// that dies leaves is in no entry, or in one that says so.
#[derive(Debug, Default, Clone)]
pub(super) struct Claims(Arc<Mutex<BTreeMap<VmSlot, Option<VmName>>>>);

impl Claims {
    fn slots(&self) -> MutexGuard<'_, BTreeMap<VmSlot, Option<VmName>>> {
        // Each change is one of the map's.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: somebody has it.
    pub(super) fn take(&self, slot: VmSlot, name: Option<&VmName>) -> Option<Claim> {
        let mut slots = self.slots();
        if slots.contains_key(&slot) {
            return None;
        }
        slots.insert(slot, name.cloned());
        Some(Claim { claims: self.clone(), slot })
    }

    pub(super) fn has(&self, slot: VmSlot) -> bool {
        self.slots().contains_key(&slot)
    }

    pub(super) fn has_name(&self, name: &VmName) -> bool {
        self.slots().values().flatten().any(|claimed| claimed == name)
    }
}

/// A slot that nobody else is given.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Claims,
    slot: VmSlot,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.slots().remove(&self.slot);
    }
}

/// A VM that is being made: it has a slot, and no entry in the VM directory. Whatever there is of its files when its maker dies is
/// removed when the pool is opened.
#[derive(Debug)]
pub struct NewVm {
    pub(super) path: PathBuf,
    pub(super) parts: VmPartition,
    pub(super) claim: Claim,
}

impl NewVm {
    /// Makes its files, with their space. On failure nothing is left of them.
    ///
    /// # Errors
    /// When the pool is full or refuses.
    pub fn make(&self) -> Result<(), PoolError> {
        let made = make_vm_dir(&self.path).and_then(|()| fill_new_vm(&self.path, self.parts.geometry()));
        // The first error is the one to tell; a leftover is removed when the pool is opened.
        made.inspect_err(|_| _ = remove_vm_dir(&self.path))
    }

    /// Its part of the pool, as far as it is there.
    #[must_use]
    pub fn parts(&self) -> &VmPartition {
        &self.parts
    }

    /// What [`make`](Self::make) and the boot image take of a pool with pages of a size.
    #[must_use]
    pub fn space_bytes(&self, boot_bytes: u64, page_bytes: u64) -> u64 {
        let geometry = self.parts.geometry();
        let large = if geometry.sparse { 0 } else { geometry.memory_bytes.saturating_add(geometry.disk_bytes) };
        let others = [
            geometry.state_slot_bytes.saturating_mul(2),
            geometry.journal.reserved_bytes,
            CONTROL_BYTES,
            console_file_bytes(geometry.console_bytes),
            boot_file_bytes(boot_bytes),
        ];
        let in_pages = |bytes: u64| bytes.checked_next_multiple_of(page_bytes).unwrap_or(u64::MAX);
        others.into_iter().map(in_pages).fold(in_pages(large), u64::saturating_add)
    }

    /// Removes what there is of it, and gives the slot back.
    pub fn give_up(self) {
        // What cannot be removed is when the pool is opened, or when the slot is taken again.
        let _ = remove_vm_dir(&self.path);
        drop(self.claim);
    }
}

/// A VM that is being deleted.
#[derive(Debug)]
pub struct LeavingVm {
    pub(super) path: PathBuf,
    pub(super) slot: VmSlot,
    pub(super) entry: LeavingEntry,
    /// Without its control block nothing tells that the slot of a lost entry is somebody's.
    pub(super) _claim: Claim,
}

/// What the VM directory says of one that is being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeavingEntry {
    /// That it is.
    Marked,
    /// Nothing that can be read.
    Damaged,
    /// That the slot is free.
    Lost,
}

impl LeavingVm {
    /// Removes its files, which gives their space back. Hosts that still hold descriptors keep the memory behind them.
    ///
    /// # Errors
    /// When files cannot be removed; the deletion is completed at the next opening then.
    pub fn remove_files(&self) -> Result<(), PoolError> {
        remove_vm_dir(&self.path)
    }
}

pub(super) fn make_redo(vm: &Path, geometry: &VmGeometry, reserved_bytes: u64) -> Result<(), PoolError> {
    let path = vm.join(files::REDO);
    let mut file = NewFile::sparse(&path, "the copy of a commit record", geometry.journal.slot_bytes);
    file.reserved = vec![(Offset::ZERO, reserved_bytes)];
    file.create(|_| Ok(()))
}

fn make_vm_dir(path: &Path) -> Result<(), PoolError> {
    if let Some(place) = device::place(path) {
        // There are only names; what a failed creation left under them is nobody's.
        return place.remove_all();
    }
    let make = || DirBuilder::new().mode(0o700).create(path);
    match make() {
        // Left by a creation that failed and could not clean up: the slot is free, so it is nobody's.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove_vm_dir(path)?;
            make().map_err(|error| PoolError::file("create", path, error))
        }
        other => other.map_err(|error| PoolError::file("create", path, error)),
    }
}

pub(super) fn remove_vm_dir(path: &Path) -> Result<(), PoolError> {
    if let Some(place) = device::place(path) {
        return place.remove_all();
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PoolError::file("remove", path, error)),
        _ => Ok(()),
    }
}

fn fill_new_vm(vm: &Path, geometry: &VmGeometry) -> Result<(), PoolError> {
    let large = |path, what, len| {
        if geometry.sparse { NewFile::sparse(path, what, len) } else { NewFile::whole(path, what, len) }
    };
    let path = vm.join(files::IMAGE);
    large(&path, "the stable image", geometry.memory_bytes).create(|_| Ok(()))?;
    if geometry.disk_bytes > 0 {
        let path = vm.join(files::DISK);
        large(&path, "the disk image", geometry.disk_bytes).create(|_| Ok(()))?;
    }
    let path = vm.join(files::STATE);
    NewFile::whole(&path, "the machine state", geometry.state_slot_bytes * 2).create(|_| Ok(()))?;
    make_redo(vm, geometry, geometry.journal.reserved_bytes)?;
    let path = vm.join(files::CONTROL);
    NewFile::whole(&path, "the control block", CONTROL_BYTES).create(|extent| {
        ControlBlock::format(Mapping::read_write(extent)?)?;
        Ok(())
    })?;
    let path = vm.join(files::CONSOLE);
    NewFile::whole(&path, "the console", console_file_bytes(geometry.console_bytes)).create(|extent| {
        ConsoleRing::format(Mapping::read_write(extent)?, geometry.console_bytes)?;
        Ok(())
    })
}
