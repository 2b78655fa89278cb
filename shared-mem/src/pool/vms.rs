//! Making, opening and deleting VMs in a pool.

use std::path::Path;

use super::device;
use super::error::PoolError;
use super::files::{self, FileKind};
use super::new_vm::{LeavingEntry, LeavingVm, NewVm, make_redo, remove_vm_dir};
use super::open::{Pool, list, remove_file};
use super::partition::VmPartition;
use super::raise;
use super::reserve::open_extent;
use super::view::PoolView;
use crate::blob_store::BlobError;
use crate::control::{CONTROL_BYTES, ControlBlock};
use crate::mem::{Access, Mapping};
use crate::numbers::VmSlot;
use crate::superblock::TWICE_SINCE;
use crate::vm_directory::{DirectoryError, VmEntry, VmGeometry, VmName, VmState};

type Entries = Vec<(VmSlot, VmEntry)>;

/// Whether a slot that no entry says anything of has a VM whose guest has been given to a host. Making a VM ends with its entry,
/// and deleting one with the removal of that: this one's is lost, and its files are not. A control block comes into being
/// whole, so that one that cannot be read is nothing that the making of a VM has left: it is somebody's.
fn is_inhabited(pool: &Path, slot: VmSlot) -> bool {
    let control = files::vm_dir(pool, slot).join(files::CONTROL);
    let extent = match open_extent(&control, Access::ReadOnly, Some(CONTROL_BYTES)) {
        Ok(extent) => extent,
        Err(error) => return !error.is_not_found(),
    };
    let Ok(memory) = Mapping::read_only(&extent) else { return true };
    ControlBlock::open(memory).and_then(|control| control.generation()).map_or(true, |reigned| reigned.get() > 0)
}

impl PoolView {
    /// Whether a slot without an entry has a VM whose guest has run: its entry is lost.
    #[must_use]
    pub fn is_inhabited(&self, slot: VmSlot) -> bool {
        is_inhabited(&self.path, slot)
    }

    /// All VMs.
    ///
    /// # Errors
    /// When the directory is damaged.
    pub fn vms(&self) -> Result<Vec<(VmSlot, VmEntry)>, PoolError> {
        let mut found = Vec::new();
        for slot in self.directory.slots() {
            if let Some(entry) = self.entry(slot)?.filter(|entry| entry.state == VmState::Used) {
                found.push((slot, entry));
            }
        }
        Ok(found)
    }

    /// A VM's partition; only read-only extents can be had from it.
    ///
    /// # Errors
    /// When there is no such VM.
    pub fn open_vm(&self, slot: VmSlot) -> Result<VmPartition, PoolError> {
        let entry = self.entry(slot)?.ok_or(PoolError::SlotFree(slot))?;
        let path = files::vm_dir(&self.path, slot);
        Ok(VmPartition::new(path, slot, entry.name, entry.geometry, true))
    }
}

impl Pool {
    /// All VMs whose entries can be read; those being deleted are left out. A damaged entry costs its VM, and no other.
    ///
    /// # Errors
    /// When the directory cannot be reached.
    pub fn vms(&self) -> Result<Vec<(VmSlot, VmEntry)>, PoolError> {
        Ok(self.sound_entries()?.0)
    }

    /// All VMs, and what is wrong with the first entry that is damaged.
    fn sound_entries(&self) -> Result<(Entries, Option<DirectoryError>), PoolError> {
        let (mut found, mut damage) = (Vec::new(), None);
        for slot in self.directory.slots() {
            match self.readable(slot)? {
                Ok(Some(entry)) if entry.state == VmState::Used => found.push((slot, entry)),
                Ok(_) => {}
                Err(error) => damage = damage.or(Some(error)),
            }
        }
        Ok((found, damage))
    }

    /// What an entry says, by whichever of its copies is whole.
    fn entry(&self, slot: VmSlot) -> Result<Option<VmEntry>, DirectoryError> {
        match self.superblock.layout {
            TWICE_SINCE.. => self.directory.entry_twin(slot).map(|(entry, _)| entry),
            _ => self.directory.entry(slot),
        }
    }

    /// What an entry says, or what is wrong with it.
    fn readable(&self, slot: VmSlot) -> Result<Result<Option<VmEntry>, DirectoryError>, PoolError> {
        match self.entry(slot) {
            Err(error @ (DirectoryError::Blob { source: BlobError::Access(_), .. } | DirectoryError::Access(_))) => {
                Err(error.into())
            }
            entry => Ok(entry),
        }
    }

    /// The slot of a VM.
    ///
    /// # Errors
    /// When there is no VM of that name; or an entry is damaged, which may be that VM's.
    pub fn find_vm(&self, name: &VmName) -> Result<VmSlot, PoolError> {
        let (vms, damage) = self.sound_entries()?;
        match (vms.iter().find(|(_, entry)| entry.name == *name), damage) {
            (Some((slot, _)), _) => Ok(*slot),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Err(PoolError::NoSuchVm(name.clone())),
        }
    }

    /// Makes a VM with all the space that its geometry reserves. On failure nothing is left of it.
    ///
    /// # Errors
    /// When the name is taken, the geometry impossible, or the pool full.
    pub fn create_vm(&self, name: &VmName, geometry: &VmGeometry) -> Result<VmPartition, PoolError> {
        let new = self.claim_vm(name, geometry)?;
        new.make()?;
        self.enter_vm(new)
    }

    /// Takes a slot for a new VM, which nobody else is given from here on, and makes nothing yet.
    ///
    /// # Errors
    /// When the name is taken, the geometry impossible, or no slot free.
    pub fn claim_vm(&self, name: &VmName, geometry: &VmGeometry) -> Result<NewVm, PoolError> {
        geometry.check()?;
        self.check_pages(geometry)?;
        let slot = self.free_slot(name)?;
        let claim =
            self.claims.take(slot, Some(name)).ok_or(PoolError::NoFreeSlot { slots: self.superblock.vm_slots })?;
        let path = files::vm_dir(&self.path, slot);
        Ok(NewVm { parts: VmPartition::new(path.clone(), slot, name.clone(), *geometry, false), path, claim })
    }

    /// Enters a VM whose files are all there into the directory: from here on there is one. On failure nothing is left of it.
    ///
    /// # Errors
    /// When the directory refuses.
    pub fn enter_vm(&self, new: NewVm) -> Result<VmPartition, PoolError> {
        let (name, geometry) = (new.parts.name().clone(), *new.parts.geometry());
        let entry = VmEntry { state: VmState::Used, name, geometry };
        match self.set_entry(new.parts.slot(), Some(&entry)) {
            Ok(()) => Ok(new.parts.clone()),
            Err(error) => {
                new.give_up();
                Err(error)
            }
        }
    }

    /// Hosts map the stable image, and so a whole number of the pages that the pool is made of.
    fn check_pages(&self, geometry: &VmGeometry) -> Result<(), PoolError> {
        let page_bytes = self.page_bytes()?;
        if geometry.memory_bytes.is_multiple_of(page_bytes) {
            Ok(())
        } else {
            Err(PoolError::PartOfPage { memory_bytes: geometry.memory_bytes, page_bytes })
        }
    }

    /// The first free slot, provided that no VM has the name.
    fn free_slot(&self, name: &VmName) -> Result<VmSlot, PoolError> {
        if self.claims.has_name(name) {
            return Err(PoolError::NameTaken(name.clone()));
        }
        let mut free = None;
        for slot in self.directory.slots() {
            match self.readable(slot)? {
                Ok(None) if free.is_some() || self.claims.has(slot) => {}
                Ok(None) if !is_inhabited(&self.path, slot) => free = free.or(Some(slot)),
                Ok(None) => {}
                Ok(Some(entry)) if entry.name == *name => return Err(PoolError::NameTaken(entry.name)),
                // A damaged entry is somebody's.
                Ok(Some(_)) | Err(_) => {}
            }
        }
        free.ok_or(PoolError::NoFreeSlot { slots: self.superblock.vm_slots })
    }

    /// Opens a VM's partition.
    ///
    /// # Errors
    /// When there is no such VM.
    pub fn open_vm(&self, slot: VmSlot) -> Result<VmPartition, PoolError> {
        let entry = self.entry(slot)?;
        let entry = entry.filter(|entry| entry.state == VmState::Used);
        let entry = entry.ok_or(PoolError::SlotFree(slot))?;
        let path = files::vm_dir(&self.path, slot);
        Ok(VmPartition::new(path, slot, entry.name, entry.geometry, false))
    }

    /// Deletes a VM and gives its space back, even if its entry is damaged: the caller knows whose the slot is. Hosts that still hold descriptors keep the memory behind them.
    ///
    /// # Errors
    /// When there is no such VM, or files cannot be removed; the deletion is completed at the next opening then.
    pub fn delete_vm(&self, slot: VmSlot) -> Result<(), PoolError> {
        let leaving = self.begin_delete(slot)?;
        leaving.remove_files()?;
        self.end_delete(leaving)
    }

    /// Marks a VM as one that is being deleted. What follows is to remove its files, and then to end the deletion.
    ///
    /// # Errors
    /// When there is no such VM, it is being deleted, or the directory refuses.
    pub fn begin_delete(&self, slot: VmSlot) -> Result<LeavingVm, PoolError> {
        let claim = self.claims.take(slot, None).ok_or(PoolError::SlotFree(slot))?;
        let path = files::vm_dir(&self.path, slot);
        let entry = match self.readable(slot)? {
            Ok(None) if is_inhabited(&self.path, slot) => LeavingEntry::Lost,
            Ok(entry) => {
                let mut entry = entry.ok_or(PoolError::SlotFree(slot))?;
                entry.state = VmState::Deleting;
                self.set_entry(slot, Some(&entry))?;
                LeavingEntry::Marked
            }
            // While the entry is damaged, nobody takes the slot.
            Err(_) => LeavingEntry::Damaged,
        };
        Ok(LeavingVm { path, slot, entry, _claim: claim })
    }

    /// Frees the slot of a VM whose files are removed.
    ///
    /// # Errors
    /// When the directory refuses; the deletion is completed at the next opening then.
    pub fn end_delete(&self, leaving: LeavingVm) -> Result<(), PoolError> {
        match leaving.entry {
            LeavingEntry::Marked => self.set_entry(leaving.slot, None),
            LeavingEntry::Damaged => {
                self.directory.free_damaged(leaving.slot)?;
                self.know_directory()
            }
            LeavingEntry::Lost => Ok(()),
        }
    }

    /// The slots whose entries cannot be read, or are lost: which VMs have them, nobody can tell.
    ///
    /// # Errors
    /// When the directory cannot be reached.
    pub fn nameless(&self) -> Result<Vec<VmSlot>, PoolError> {
        let damaged = |slot: &VmSlot| {
            Ok::<_, PoolError>(match self.readable(*slot)? {
                Ok(entry) => entry.is_none() && is_inhabited(&self.path, *slot),
                Err(_) => true,
            })
        };
        // What is being made or removed is somebody's.
        let settled = self.directory.slots().filter(|slot| !self.claims.has(*slot));
        settled.filter_map(|slot| damaged(&slot).map(|is| is.then_some(slot)).transpose()).collect()
    }

    /// Gives VMs of an older layout what they lack. A pool that is too full for it opens nevertheless: the space is asked for
    /// again each time that it is needed.
    pub(super) fn raise_vms(&self) -> Result<(), PoolError> {
        for (slot, entry) in self.vms()? {
            let path = files::vm_dir(&self.path, slot);
            let geometry = &entry.geometry;
            let redo = path.join(files::REDO);
            if !device::place(&redo).map_or_else(|| Ok(redo.exists()), |place| place.exists())? {
                make_redo(&path, geometry, geometry.journal.reserved_bytes).or_else(|error| match error {
                    PoolError::NoSpace { .. } => make_redo(&path, geometry, 0),
                    error => Err(error),
                })?;
            }
            raise::reserve_state(&path, geometry)?;
            raise::seal_anew(&path)?;
            raise::double_control(&path)?;
        }
        Ok(())
    }

    /// Completes deletions, and removes directories of VMs that were never completed.
    pub(super) fn finish_half_done_vms(&self) -> Result<(), PoolError> {
        for (name, path) in list(&self.path)? {
            let Some(slot) = files::slot_of_vm_dir(&name) else {
                continue;
            };
            let nobodys =
                || Ok::<_, PoolError>(matches!(self.readable(slot)?, Ok(None)) && !is_inhabited(&self.path, slot));
            if slot.get() >= self.superblock.vm_slots || nobodys()? {
                remove_vm_dir(&path)?;
            } else {
                remove_unfinished_files(&path)?;
            }
        }
        for slot in self.directory.slots() {
            let entry = self.readable(slot)?.ok().flatten();
            if entry.is_some_and(|entry| entry.state == VmState::Deleting) {
                self.delete_vm(slot)?;
            }
        }
        Ok(())
    }
}

fn remove_unfinished_files(dir: &Path) -> Result<(), PoolError> {
    for (name, path) in list(dir)? {
        if FileKind::of_vm_file(&name) == FileKind::Unfinished {
            remove_file(&path)?;
        }
    }
    Ok(())
}
