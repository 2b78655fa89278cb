//! What older layouts did differently, made good when a controller opens such a pool.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::error::PoolError;
use super::files::{self, FileKind};
use super::open::list;
use super::reserve::open_extent;
use crate::control::{CONTROL_BYTES, ControlBlock, ControlError};
use crate::guarded_word::{self, SEALED};
use crate::journal::{SpillError, SpillSpace, WORD_AT};
use crate::mem::{Access, AccessError, Mapping, PoolWrite};
use crate::numbers::{Offset, PAGE_SIZE};
use crate::planted::{self, PlantedBug};
use crate::record_log::TAIL_AT;
use crate::vm_directory::VmGeometry;

/// Gives the machine state the space that it took as it was written. A pool that is too full for it opens nevertheless.
pub(super) fn reserve_state(vm: &Path, geometry: &VmGeometry) -> Result<(), PoolError> {
    let path = vm.join(files::STATE);
    let bytes = geometry.state_slot_bytes * 2;
    match open_extent(&path, Access::ReadWrite, Some(bytes))?.reserve(Offset::ZERO, bytes) {
        Ok(()) | Err(SpillError::NoSpace { .. }) => Ok(()),
        Err(SpillError::Refused(error)) => Err(PoolError::file("reserve space for", &path, error)),
    }
}

/// Makes the second copy of the control block. A damaged first one is found out by those who use it.
pub(super) fn double_control(vm: &Path) -> Result<(), PoolError> {
    let path = vm.join(files::CONTROL);
    let memory = Mapping::read_write(&open_extent(&path, Access::ReadWrite, Some(CONTROL_BYTES))?)?;
    match ControlBlock::open(memory).and_then(|control| control.mend()) {
        Err(ControlError::Access(error)) => Err(PoolError::file("write", &path, std::io::Error::other(error))),
        Ok(_) | Err(ControlError::Header(_) | ControlError::Word(_)) => Ok(()),
    }
}

/// Makes old seals, of one bit, what seals are now. A journal or log that its host has cut off is found out by those who
/// use it.
pub(super) fn seal_anew(vm: &Path) -> Result<(), PoolError> {
    for (name, path) in list(vm)? {
        let at = match FileKind::of_vm_file(&name) {
            FileKind::Journal(_) => WORD_AT,
            FileKind::Log(_) => TAIL_AT,
            _ => continue,
        };
        let Ok(extent) = open_extent(&path, Access::ReadWrite, Some(PAGE_SIZE)) else { continue };
        let memory = Mapping::read_write(&extent)?;
        seal_word_anew(&memory, at)
            .map_err(|error| PoolError::file("seal anew", &path, std::io::Error::other(error)))?;
    }
    Ok(())
}

/// The same for one word, durably. Any other is left alone.
pub(crate) fn seal_word_anew<M: PoolWrite>(memory: &M, at: Offset) -> Result<(), AccessError> {
    if guarded_word::is_sealed_the_old_way(memory.load_u64(at, Ordering::Acquire)?) {
        memory.fetch_or_u64(at, SEALED)?;
        planted::flush(memory, at, 8, PlantedBug::OldSealFlush)?;
        planted::fence(memory, PlantedBug::OldSealFence)?;
    }
    Ok(())
}
