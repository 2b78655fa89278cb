//! One VM's part of the pool, and the descriptors that are handed out from it.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::device;
use super::error::PoolError;
use super::files::{self, FileKind};
use super::open::{list, remove_file};
use super::reserve::{NewFile, open_extent};
use crate::boot_image;
use crate::console::console_file_bytes;
use crate::control::CONTROL_BYTES;
use crate::disk_image;
use crate::journal::format_journal;
use crate::mem::{Access, Extent, Mapping};
use crate::numbers::{Epoch, Generation, LogPosition, VmSlot, len_u64};
use crate::record_log::{CopiedLog, CopyLogError, LogRange, LogReader, copy_log, format_log, log_file_bytes};
use crate::vm_directory::{VmGeometry, VmName};

/// One VM's part of the pool. Every extent it hands out has a descriptor of its own, with just the access asked for.
#[derive(Debug, Clone)]
pub struct VmPartition {
    path: PathBuf,
    slot: VmSlot,
    name: VmName,
    geometry: VmGeometry,
    inspection: bool,
}

impl VmPartition {
    pub(super) fn new(path: PathBuf, slot: VmSlot, name: VmName, geometry: VmGeometry, inspection: bool) -> Self {
        Self { path, slot, name, geometry, inspection }
    }

    /// The VM's slot in the directory.
    #[must_use]
    pub fn slot(&self) -> VmSlot {
        self.slot
    }

    /// The VM's name.
    #[must_use]
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// The shape of the partition.
    #[must_use]
    pub fn geometry(&self) -> &VmGeometry {
        &self.geometry
    }

    fn check_writable(&self) -> Result<(), PoolError> {
        if self.inspection { Err(PoolError::Inspection) } else { Ok(()) }
    }

    fn open(&self, path: &Path, access: Access, expected: Option<u64>) -> Result<Extent, PoolError> {
        if access == Access::ReadWrite {
            self.check_writable()?;
        }
        open_extent(path, access, expected)
    }

    /// The stable image.
    ///
    /// # Errors
    /// When the file cannot be opened; so for all that follow.
    pub fn image(&self, access: Access) -> Result<Extent, PoolError> {
        self.open(&self.path.join(files::IMAGE), access, Some(self.geometry.memory_bytes))
    }

    /// The machine state.
    ///
    /// # Errors
    /// As for [`image`](Self::image).
    pub fn state(&self, access: Access) -> Result<Extent, PoolError> {
        let expected = self.geometry.state_slot_bytes * 2;
        self.open(&self.path.join(files::STATE), access, Some(expected))
    }

    /// The control block.
    ///
    /// # Errors
    /// As for [`image`](Self::image).
    pub fn control(&self, access: Access) -> Result<Extent, PoolError> {
        self.open(&self.path.join(files::CONTROL), access, Some(CONTROL_BYTES))
    }

    /// The console.
    ///
    /// # Errors
    /// As for [`image`](Self::image).
    pub fn console(&self, access: Access) -> Result<Extent, PoolError> {
        let expected = console_file_bytes(self.geometry.console_bytes);
        self.open(&self.path.join(files::CONSOLE), access, Some(expected))
    }

    /// The disk image.
    ///
    /// # Errors
    /// When the VM has no disk; else as for [`image`](Self::image).
    pub fn disk(&self, access: Access) -> Result<Extent, PoolError> {
        if self.geometry.disk_bytes == 0 {
            return Err(PoolError::NoDisk);
        }
        self.open(&self.path.join(files::DISK), access, Some(self.geometry.disk_bytes))
    }

    /// Fills the disk of a VM that nobody runs yet from a regular file, from its beginning on; what lies beyond the file
    /// is left as it was made, all zero.
    ///
    /// # Errors
    /// When the VM has no disk, the file is none or larger than the disk, or one of them refuses.
    pub fn fill_disk(&self, from: impl AsFd) -> Result<(), PoolError> {
        self.check_writable()?;
        let disk = self.disk(Access::ReadWrite)?;
        Ok(disk_image::fill(&Mapping::read_write(&disk)?, from)?)
    }

    /// What the VM is booted from; see [`boot_image::load`].
    ///
    /// # Errors
    /// When it was not stored; else as for [`image`](Self::image).
    pub fn boot(&self, access: Access) -> Result<Extent, PoolError> {
        self.open(&self.path.join(files::BOOT), access, None)
    }

    /// Stores what the VM is booted from, all of it or nothing.
    ///
    /// # Errors
    /// When the pool is full or refuses.
    pub fn store_boot(&self, image: &[u8]) -> Result<(), PoolError> {
        self.check_writable()?;
        let path = self.path.join(files::BOOT);
        let len = boot_image::boot_file_bytes(len_u64(image.len()));
        NewFile::whole(&path, "the boot image", len)
            .create(|extent| Ok(boot_image::store(&Mapping::read_write(extent)?, image)?))
    }

    /// The controller's own copy of the record that it applies, see [`crate::redo`]; never for hosts.
    ///
    /// # Errors
    /// As for [`image`](Self::image).
    pub fn redo(&self, access: Access) -> Result<Extent, PoolError> {
        self.open(&self.path.join(files::REDO), access, Some(self.geometry.journal.slot_bytes))
    }

    /// Makes the journal of a generation, whose first commit follows epoch `base`. One that is there is replaced.
    ///
    /// # Errors
    /// When the pool is full or refuses.
    pub fn create_journal(&self, generation: Generation, base: Epoch) -> Result<(), PoolError> {
        self.check_writable()?;
        let geometry = self.geometry.journal;
        let path = files::journal(&self.path, generation);
        let mut file = NewFile::sparse(&path, "a journal", geometry.file_bytes());
        file.reserved = geometry.reserved_ranges().collect();
        file.create(|extent| {
            let memory = Mapping::read_write(extent)?;
            Ok(format_journal(&memory, generation, &geometry, base)?)
        })
    }

    /// A generation's journal.
    ///
    /// # Errors
    /// As for [`image`](Self::image).
    pub fn journal(&self, generation: Generation, access: Access) -> Result<Extent, PoolError> {
        let expected = self.geometry.journal.file_bytes();
        self.open(&files::journal(&self.path, generation), access, Some(expected))
    }

    /// Removes a generation's journal.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn delete_journal(&self, generation: Generation) -> Result<(), PoolError> {
        self.remove(&files::journal(&self.path, generation))
    }

    /// Makes the record log of a generation, whose first entry will be at `base`. One that is there is replaced.
    ///
    /// # Errors
    /// When the pool is full or refuses.
    pub fn create_log(&self, generation: Generation, base: LogPosition) -> Result<(), PoolError> {
        self.check_writable()?;
        let ring_bytes = self.geometry.log_bytes;
        let path = files::log(&self.path, generation);
        NewFile::whole(&path, "a record log", log_file_bytes(ring_bytes)).create(|extent| {
            let memory = Mapping::read_write(extent)?;
            Ok(format_log(&memory, generation, ring_bytes, base)?)
        })
    }

    /// Makes the record log of a generation to come, with its space, but without laying it out: it has no tail, and
    /// nobody can use it before [`create_log`](Self::create_log) or [`continue_log`](Self::continue_log). One that is
    /// there is replaced.
    ///
    /// # Errors
    /// When the pool is full or refuses.
    pub fn reserve_log(&self, generation: Generation) -> Result<(), PoolError> {
        self.check_writable()?;
        let path = files::log(&self.path, generation);
        NewFile::whole(&path, "a record log", log_file_bytes(self.geometry.log_bytes)).create(|_| Ok(()))
    }

    /// Lays out the record log of `generation`, beginning with the entries of the log of generation `from` in `range`: in
    /// the file that was reserved for it or that an earlier try has left, or in a new one. It counts when this is done;
    /// after a crash it is done again.
    ///
    /// # Errors
    /// When there is no log of `from`, the range makes no sense, or the pool is full or refuses.
    pub fn continue_log(
        &self,
        from: Generation,
        range: LogRange,
        generation: Generation,
    ) -> Result<CopiedLog, PoolError> {
        assert!(from < generation, "a log goes on in a later generation");
        self.check_writable()?;
        let from = Mapping::read_only(&self.log(from, Access::ReadOnly)?)?;
        let from = LogReader::new(from, self.geometry.log_bytes).map_err(CopyLogError::Access)?;
        if self.log(generation, Access::ReadWrite).is_err() {
            self.reserve_log(generation)?;
        }
        let to = Mapping::read_write(&self.log(generation, Access::ReadWrite)?)?;
        Ok(copy_log(&from, range, &to, generation)?)
    }

    /// A generation's record log.
    ///
    /// # Errors
    /// As for [`image`](Self::image).
    pub fn log(&self, generation: Generation, access: Access) -> Result<Extent, PoolError> {
        let expected = log_file_bytes(self.geometry.log_bytes);
        self.open(&files::log(&self.path, generation), access, Some(expected))
    }

    /// Removes a generation's record log.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn delete_log(&self, generation: Generation) -> Result<(), PoolError> {
        self.remove(&files::log(&self.path, generation))
    }

    fn remove(&self, path: &Path) -> Result<(), PoolError> {
        self.check_writable()?;
        remove_file(path)
    }

    /// Which of the VM's files somebody has removed. Who has them open goes on with them.
    #[must_use]
    pub fn gone(&self) -> Vec<&'static str> {
        let gone = self.lost().into_iter().filter(|(_, found)| found.is_none());
        gone.map(|(name, _)| name).collect()
    }

    /// Which of the VM's files somebody has cut off: what was behind their end is lost to everybody.
    #[must_use]
    pub fn cut_off(&self) -> Vec<&'static str> {
        let cut_off = self.lost().into_iter().filter(|(_, found)| found.is_some());
        cut_off.map(|(name, _)| name).collect()
    }

    /// Files that are not there, or, with what is left of them, shorter than they must be. (Nobody does that on a device.)
    fn lost(&self) -> Vec<(&'static str, Option<u64>)> {
        if device::place(&self.path).is_some() {
            return Vec::new();
        }
        let disk = (self.geometry.disk_bytes > 0).then_some((files::DISK, self.geometry.disk_bytes));
        let fixed = [
            (files::IMAGE, self.geometry.memory_bytes),
            (files::STATE, self.geometry.state_slot_bytes * 2),
            (files::CONTROL, CONTROL_BYTES),
            (files::CONSOLE, console_file_bytes(self.geometry.console_bytes)),
            (files::BOOT, 1),
            (files::REDO, self.geometry.journal.slot_bytes),
        ];
        let left = |name: &str| {
            let found = fs::symlink_metadata(self.path.join(name)).ok()?;
            found.is_file().then_some(found.len())
        };
        let found = fixed.into_iter().chain(disk).map(|(name, bytes)| (name, bytes, left(name)));
        let lost = found.filter(|(_, bytes, left)| left.is_none_or(|left| left < *bytes));
        lost.map(|(name, _, left)| (name, left)).collect()
    }

    /// All files of the VM, by what their names say, with the space that each takes.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn files(&self) -> Result<Vec<(String, FileKind, u64)>, PoolError> {
        use std::os::unix::fs::MetadataExt;
        if let Some(place) = device::place(&self.path) {
            let files = place.list()?.into_iter();
            return Ok(files.map(|(name, bytes)| (name.clone(), FileKind::of_vm_file(&name), bytes)).collect());
        }
        let mut found = Vec::new();
        for (name, path) in list(&self.path)? {
            let metadata = fs::symlink_metadata(&path).map_err(|error| PoolError::file("examine", &path, error))?;
            let kind = FileKind::of_vm_file(&name);
            found.push((name, kind, metadata.blocks() * 512));
        }
        Ok(found)
    }

    /// The generations that have a journal, ascending.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn journal_generations(&self) -> Result<Vec<Generation>, PoolError> {
        self.generations(|kind| match kind {
            FileKind::Journal(generation) => Some(generation),
            _ => None,
        })
    }

    /// The generations that have a record log, ascending.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn log_generations(&self) -> Result<Vec<Generation>, PoolError> {
        self.generations(|kind| match kind {
            FileKind::Log(generation) => Some(generation),
            _ => None,
        })
    }

    fn generations(&self, wanted: impl Fn(FileKind) -> Option<Generation>) -> Result<Vec<Generation>, PoolError> {
        let mut found: Vec<_> = self.files()?.iter().filter_map(|(_, kind, _)| wanted(*kind)).collect();
        found.sort_unstable();
        Ok(found)
    }
}
