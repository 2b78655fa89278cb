//! Making, opening, inspecting and destroying a pool.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::device;
use super::error::PoolError;
use super::files::{self, FileKind};
use super::lock::PoolLock;
use super::new_vm::Claims;
use super::own_files::cluster_file_bytes;
use super::reserve::{NewFile, is_unfinished, open_extent};
use super::view::PoolView;
use crate::blob_store::{BlobError, BlobStore, Mended};
use crate::heartbeat::HEARTBEAT_BYTES;
use crate::mem::{Access, Extent, Mapping, PoolRead, ReadWrite, available_bytes, page_bytes};
use crate::numbers::{HostSlot, Offset, PAGE_BYTES, round_up};
use crate::superblock::{LAYOUT_VERSION, SUPERBLOCK_BYTES, Superblock, SuperblockError, TWICE_SINCE, WrongTwin};
use crate::vm_directory::{VmDirectory, directory_file_bytes};

/// Shape of a new pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// How many VMs it can hold.
    pub vm_slots: u16,
    /// How many hosts it can hold.
    pub host_slots: u16,
    /// Largest cluster state.
    pub cluster_bytes: u64,
}

/// Hosts may look into a pool only through descriptors, so the directory is the controller's alone.
const DIR_MODE: u32 = 0o700;

/// A pool as its controller holds it: nobody else can open it meanwhile.
#[derive(Debug)]
pub struct Pool {
    pub(super) path: PathBuf,
    pub(super) superblock: Superblock,
    pub(super) directory: VmDirectory<Mapping<ReadWrite>>,
    pub(super) cluster: BlobStore<Mapping<ReadWrite>>,
    /// What the VM directory says, as far as its controller has seen it whole.
    pub(super) directory_bytes: Mutex<Vec<u8>>,
    /// Slots of VMs that are being made or removed.
    pub(super) claims: Claims,
    /// What was damaged when it was opened, and is not any more.
    mended: Vec<String>,
    /// What has been mended since, and nobody has been told of.
    pub(super) unsaid: Vec<String>,
    /// Held while it is open.
    pub(super) lock: PoolLock,
}

impl Pool {
    /// Makes a new pool in `dir`, which is created or must be empty, and opens it. On failure nothing is left; what was left
    /// by a creation that was interrupted is removed.
    ///
    /// # Errors
    /// When the path is taken, the numbers are out of range, or there is no space.
    pub fn create(dir: &Path, config: &PoolConfig) -> Result<Self, PoolError> {
        let superblock = new_superblock(config)?;
        let made_dir = make_dir(dir)?;
        let lock = PoolLock::take(dir)?;
        clear(dir)?;
        let result = fill_new_pool(dir, &superblock).and_then(|()| Self::open_locked(dir, lock));
        if result.is_err() {
            remove_contents(dir, made_dir);
        }
        result
    }

    /// Whether there is a pool at `dir`, complete: what is to be opened and not made.
    ///
    /// # Errors
    /// When a device is damaged, so that nobody can tell: nothing must be made over what may be a pool.
    pub fn is_at(dir: &Path) -> Result<bool, PoolError> {
        let superblock = dir.join(files::SUPERBLOCK);
        match device::place(&superblock) {
            Some(place) => place.exists(),
            None => superblock.try_exists().map_err(|error| PoolError::file("look for", &superblock, error)),
        }
    }

    /// Opens the pool in `dir` as its one controller, and removes what a crash has left half made.
    ///
    /// # Errors
    /// When another controller has it, or it is damaged, or there is none.
    pub fn open(dir: &Path) -> Result<Self, PoolError> {
        if !Self::is_at(dir)? {
            return Err(without_superblock(dir));
        }
        let lock = PoolLock::take(dir)?;
        Self::open_locked(dir, lock)
    }

    fn open_locked(dir: &Path, lock: PoolLock) -> Result<Self, PoolError> {
        let mended = device::whole(dir).map(|place| place.mend()).transpose()?.unwrap_or_default();
        let (superblock, _) = read_superblock(dir)?;
        let memory = Mapping::read_write(&open_directory(dir, &superblock, Access::ReadWrite)?)?;
        let directory = VmDirectory::open(memory, superblock.vm_slots)?;
        let memory = Mapping::read_write(&open_cluster(dir, &superblock, Access::ReadWrite)?)?;
        let cluster = BlobStore::new(memory, Offset::ZERO, superblock.cluster_bytes)?;
        let path = dir.to_owned();
        let directory_bytes = Mutex::default();
        let (claims, unsaid) = (Claims::default(), Vec::new());
        let mut pool = Self { path, superblock, directory, cluster, directory_bytes, claims, mended, unsaid, lock };
        if superblock.layout >= TWICE_SINCE {
            pool.mend()?;
        }
        pool.remove_leftovers()?;
        if superblock.layout < LAYOUT_VERSION {
            pool.raise_layout()?;
        }
        pool.know_directory()?;
        Ok(pool)
    }

    /// Makes good what is there twice and damaged once.
    fn mend(&mut self) -> Result<(), PoolError> {
        self.mended.extend(self.mend_superblock()?);
        self.mended.extend(self.directory.mend()?);
        match self.cluster.mend() {
            Ok(Mended::Nothing | Mended::Unfinished) => {}
            Ok(Mended::Damage(error)) => self.mended.push(format!("a copy of the cluster state: {error}")),
            Ok(Mended::Torn(error)) => {
                self.mended.push(format!("a copy of the cluster state, damaged or half written: {error}"))
            }
            Err(error @ BlobError::Access(_)) => return Err(error.into()),
            // Told by whoever asks for it.
            Err(_) => {}
        }
        Ok(())
    }

    fn mend_superblock(&self) -> Result<Vec<String>, PoolError> {
        let path = self.path.join(files::SUPERBLOCK);
        let extent = match open_extent(&path, Access::ReadWrite, Some(SUPERBLOCK_BYTES)) {
            Err(error @ PoolError::FileLength { .. }) => {
                store_superblock(&self.path, &self.superblock)?;
                return Ok(vec![format!("the superblock: {error}")]);
            }
            // Whoever opens a pool has read it: somebody has removed it since.
            Err(PoolError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                store_superblock(&self.path, &self.superblock)?;
                return Ok(vec!["the superblock: it was gone".to_owned()]);
            }
            extent => extent?,
        };
        let memory = Mapping::read_write(&extent)?;
        let refused = |error| PoolError::file("write", &path, io::Error::other(error));
        let wrong = self.superblock.mend(&memory).map_err(refused)?;
        Ok(wrong.into_iter().map(|twin| format!("a copy of the superblock: {}", line_of(twin))).collect())
    }

    /// Looks whether the pool's own files are still there and what is there twice is whole, and makes it so: the cluster state
    /// with what was stored last, if this controller knows it. Says what was damaged, a line each.
    ///
    /// # Errors
    /// When the pool refuses.
    pub fn look_after(&mut self, stored: Option<&[u8]>) -> Result<Vec<String>, PoolError> {
        let device = device::whole(&self.path);
        let mut mended = device.as_ref().map(|place| place.mend()).transpose()?.unwrap_or_default();
        mended.extend(self.mend_superblock()?);
        // Before what is in them: what is written to a file that is cut off is lost.
        if device.is_none() {
            mended.extend(self.look_after_files(stored)?);
        }
        mended.extend(self.directory.mend()?);
        if let Some(stored) = stored
            && let Some(error) = self.cluster.damage()?
        {
            self.cluster.store_twice(stored)?;
            mended.push(format!("the cluster state: {error}"));
        }
        Ok(mended)
    }

    /// What was damaged when the pool was opened, and is not any more: a line each.
    #[must_use]
    pub fn mended(&self) -> &[String] {
        &self.mended
    }

    /// Makes a pool of an older layout one of this version.
    fn raise_layout(&mut self) -> Result<(), PoolError> {
        self.raise_vms()?;
        if self.superblock.layout < TWICE_SINCE {
            self.directory.double()?;
            if let Some(state) = self.cluster.load()? {
                self.cluster.store_twice(&state)?;
            }
        }
        self.superblock.layout = LAYOUT_VERSION;
        // Last, and by renaming: a pool that was half raised is raised again.
        store_superblock(&self.path, &self.superblock)
    }

    /// Looks into the pool in `dir` without touching it.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn inspect(dir: &Path) -> Result<PoolView, PoolError> {
        let (superblock, superblock_copy) = read_superblock(dir)?;
        let memory = Mapping::read_only(&open_directory(dir, &superblock, Access::ReadOnly)?)?;
        let directory = VmDirectory::open(memory, superblock.vm_slots)?;
        Ok(PoolView { path: dir.to_owned(), superblock, directory, superblock_copy })
    }

    /// Where the pool lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What kind of pool this is.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The cluster's state: opaque bytes, replaced whole.
    #[must_use]
    pub fn cluster(&self) -> &BlobStore<Mapping<ReadWrite>> {
        &self.cluster
    }

    /// The superblock, for hosts.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn superblock_extent(&self) -> Result<Extent, PoolError> {
        open_extent(&self.path.join(files::SUPERBLOCK), Access::ReadOnly, Some(SUPERBLOCK_BYTES))
    }

    /// The VM directory, for hosts.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn directory_extent(&self) -> Result<Extent, PoolError> {
        open_directory(&self.path, &self.superblock, Access::ReadOnly)
    }

    /// The cluster state, for hosts.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn cluster_extent(&self) -> Result<Extent, PoolError> {
        open_cluster(&self.path, &self.superblock, Access::ReadOnly)
    }

    /// The heartbeat page of a host.
    ///
    /// # Errors
    /// When there is no such host slot, or the file cannot be opened.
    pub fn heartbeat(&self, host: HostSlot, access: Access) -> Result<Extent, PoolError> {
        let slots = self.superblock.host_slots;
        if host.get() >= slots {
            return Err(PoolError::NoSuchHost { slot: host, slots });
        }
        open_extent(&files::heartbeat(&self.path, host), access, Some(HEARTBEAT_BYTES))
    }

    /// Makes the heartbeat page of a host anew, after the host has cut it off. Whoever has the old one keeps that.
    ///
    /// # Errors
    /// When there is no space, or the file system refuses.
    pub fn renew_heartbeat(&self, host: HostSlot) -> Result<(), PoolError> {
        let path = files::heartbeat(&self.path, host);
        NewFile::whole(&path, "a heartbeat page", HEARTBEAT_BYTES).create(|_| Ok(()))
    }

    /// Whether a device has places for journals and logs of these lengths, beside what is there. Elsewhere space needs no
    /// places, and is held ([`space_reserve`](Self::space_reserve)).
    ///
    /// # Errors
    /// When it has not, with what is free in all; or the device cannot be read.
    pub fn check_room(&self, what: &'static str, lens: &[u64]) -> Result<(), PoolError> {
        device::whole(&self.path).map_or(Ok(()), |place| place.check_room(what, lens))
    }

    /// What the memory behind the pool has left.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn available_bytes(&self) -> Result<u64, PoolError> {
        match device::whole(&self.path) {
            Some(place) => place.available_bytes(),
            None => available_bytes(self.lock.file()).map_err(|error| PoolError::file("examine", &self.path, error)),
        }
    }

    /// Size of the pages that the pool is made of: those of hugetlbfs, or the processor's.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn page_bytes(&self) -> Result<u64, PoolError> {
        page_bytes(self.lock.file()).map_err(|error| PoolError::file("examine", &self.path, error))
    }

    /// Removes the pool and all VMs in it. Hosts that still hold descriptors keep the memory behind them.
    ///
    /// # Errors
    /// When files cannot be removed.
    pub fn destroy(self) -> Result<(), PoolError> {
        // Without the superblock the rest is no pool any more, should this be interrupted.
        if let Some(place) = device::whole(&self.path) {
            return place.wipe();
        }
        self.begin_removal()?;
        empty(&self.path)?;
        fs::remove_dir_all(&self.path).map_err(|error| PoolError::file("remove", &self.path, error))
    }

    /// From here on it is no pool, and known to be one that was to be removed: whoever makes another one there finishes this.
    pub(super) fn begin_removal(&self) -> Result<(), PoolError> {
        let superblock = self.path.join(files::SUPERBLOCK);
        fs::rename(&superblock, self.path.join(files::REMOVED))
            .map_err(|error| PoolError::file("remove", &superblock, error))
    }

    /// Removes unfinished files and directories of VMs that do not exist, and completes deletions.
    fn remove_leftovers(&self) -> Result<(), PoolError> {
        for (name, path) in list(&self.path)? {
            if is_unfinished(&name) {
                remove_file(&path)?;
            }
        }
        self.finish_half_done_vms()
    }
}

fn new_superblock(config: &PoolConfig) -> Result<Superblock, PoolError> {
    let superblock = Superblock {
        layout: LAYOUT_VERSION,
        pool_id: random_id(),
        vm_slots: config.vm_slots,
        host_slots: config.host_slots,
        cluster_bytes: round_up(config.cluster_bytes, crate::numbers::PAGE_SIZE),
    };
    Superblock::parse(&superblock.to_bytes()).map_err(PoolError::Config)
}

/// Bytes that no two pools share. Nothing rests on their quality.
fn random_id() -> [u8; 16] {
    use std::hash::{BuildHasher, RandomState};
    let half = |salt: u64| RandomState::new().hash_one(salt).to_le_bytes();
    let mut id = [0; 16];
    id[..8].copy_from_slice(&half(1));
    id[8..].copy_from_slice(&half(2));
    id
}

/// Makes the directory, or finds nothing in it but what an interrupted creation may have left, whose superblock comes last, or an
/// interrupted removal, whose VMs are nobody's any more. Returns whether it was made.
fn make_dir(dir: &Path) -> Result<bool, PoolError> {
    if device::whole(dir).is_some() {
        return if Pool::is_at(dir)? { Err(PoolError::NotEmpty(dir.to_owned())) } else { Ok(false) };
    }
    match DirBuilder::new().mode(DIR_MODE).create(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = list(dir)?;
            let was_removed = found.iter().any(|(name, _)| name == files::REMOVED);
            let is_left = |(name, _): &(String, PathBuf)| match FileKind::of_pool_file(name) {
                FileKind::Fixed => name != files::SUPERBLOCK,
                FileKind::Heartbeat(_) | FileKind::Unfinished => true,
                FileKind::Vm(_) => was_removed,
                _ => false,
            };
            if found.iter().all(is_left) {
                return Ok(false);
            }
            match without_superblock(dir) {
                error @ PoolError::SuperblockMissing { .. } => Err(error),
                _ => Err(PoolError::NotEmpty(dir.to_owned())),
            }
        }
        Err(error) => Err(PoolError::file("create", dir, error)),
    }
}

/// Makes room for a new pool. Called with the lock: whoever has it may just have made one.
fn clear(dir: &Path) -> Result<(), PoolError> {
    if Pool::is_at(dir)? {
        return Err(PoolError::NotEmpty(dir.to_owned()));
    }
    match device::whole(dir) {
        Some(place) => place.format(),
        None => empty(dir),
    }
}

/// Removes everything but the lock; what tells of a removal goes last.
fn empty(dir: &Path) -> Result<(), PoolError> {
    let (last, rest): (Vec<_>, Vec<_>) =
        list(dir)?.into_iter().filter(|(name, _)| name != files::LOCK).partition(|(name, _)| name == files::REMOVED);
    rest.iter().chain(&last).try_for_each(|(_, path)| match path.is_dir() {
        true => fs::remove_dir_all(path).map_err(|error| PoolError::file("remove", path, error)),
        false => remove_file(path),
    })
}

fn remove_contents(dir: &Path, and_dir: bool) {
    for (_, path) in list(dir).unwrap_or_default() {
        let _ = remove_file(&path);
    }
    if and_dir {
        let _ = fs::remove_dir(dir);
    }
}

fn fill_new_pool(dir: &Path, superblock: &Superblock) -> Result<(), PoolError> {
    let path = dir.join(files::VM_DIRECTORY);
    NewFile::whole(&path, "the VM directory", directory_file_bytes(superblock.vm_slots)).create(|extent| {
        VmDirectory::format(Mapping::read_write(extent)?, superblock.vm_slots)?;
        Ok(())
    })?;
    let path = dir.join(files::CLUSTER);
    let len = cluster_file_bytes(superblock.cluster_bytes);
    NewFile::whole(&path, "the cluster state", len).create(|extent| {
        let memory = Mapping::read_write(extent)?;
        Ok(BlobStore::new(memory, Offset::ZERO, superblock.cluster_bytes)?.format()?)
    })?;
    for host in (0..superblock.host_slots).map(HostSlot::new) {
        let path = files::heartbeat(dir, host);
        NewFile::whole(&path, "a heartbeat page", HEARTBEAT_BYTES).create(|_| Ok(()))?;
    }
    store_superblock(dir, superblock)
}

/// The VM directory, as long as a directory of so many slots is.
fn open_directory(dir: &Path, superblock: &Superblock, access: Access) -> Result<Extent, PoolError> {
    open_extent(&dir.join(files::VM_DIRECTORY), access, Some(directory_file_bytes(superblock.vm_slots)))
}

/// The cluster state's store, as long as one of its capacity is.
pub(super) fn open_cluster(dir: &Path, superblock: &Superblock, access: Access) -> Result<Extent, PoolError> {
    open_extent(&dir.join(files::CLUSTER), access, Some(cluster_file_bytes(superblock.cluster_bytes)))
}

fn store_superblock(dir: &Path, superblock: &Superblock) -> Result<(), PoolError> {
    let path = dir.join(files::SUPERBLOCK);
    NewFile::whole(&path, "the superblock", SUPERBLOCK_BYTES).create(|extent| {
        let memory = Mapping::read_write(extent)?;
        let refused = |error| PoolError::file("write", &path, io::Error::other(error));
        superblock.store(&memory).map_err(refused)
    })
}

/// What is at a path without a superblock: no pool, or one that has lost it. That has VMs, which come after the superblock,
/// and nothing tells of a removal, which takes the superblock first.
fn without_superblock(dir: &Path) -> PoolError {
    let names: Vec<_> = list(dir).unwrap_or_default().into_iter().map(|(name, _)| name).collect();
    let has = |name: &str| names.iter().any(|found| found == name);
    let vms = names.iter().filter(|name| files::slot_of_vm_dir(name).is_some()).count();
    let is_whole = !has(files::SUPERBLOCK) && !has(files::REMOVED) && (has(files::VM_DIRECTORY) || has(files::CLUSTER));
    if is_whole && vms > 0 {
        PoolError::SuperblockMissing { path: dir.to_owned(), vms }
    } else {
        PoolError::NotAPool(dir.to_owned())
    }
}

/// The superblock, and what is wrong with one of its copies.
fn read_superblock(dir: &Path) -> Result<(Superblock, Option<String>), PoolError> {
    let path = dir.join(files::SUPERBLOCK);
    let read = match device::place(&path) {
        Some(_) => read_extent(&path),
        None => fs::read(&path).map_err(|error| PoolError::file("read", &path, error)),
    };
    let bytes = read.map_err(|error| match error {
        PoolError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => without_superblock(dir),
        error => error,
    })?;
    let (superblock, wrong) = Superblock::parse_twin(&bytes)
        .map_err(|source: SuperblockError| PoolError::Superblock { path: dir.to_owned(), source })?;
    Ok((superblock, wrong.map(line_of)))
}

fn line_of((copy, error): WrongTwin) -> String {
    match std::error::Error::source(&error) {
        Some(source) => format!("the {copy}: {error}: {source}"),
        None => format!("the {copy}: {error}"),
    }
}

fn read_extent(path: &Path) -> Result<Vec<u8>, PoolError> {
    let memory = Mapping::read_only(&open_extent(path, Access::ReadOnly, Some(SUPERBLOCK_BYTES))?)?;
    let mut bytes = vec![0; PAGE_BYTES];
    let refused = |error| PoolError::file("read", path, io::Error::other(error));
    memory.read(Offset::ZERO, &mut bytes).map_err(refused)?;
    Ok(bytes)
}

/// Removes a file of the pool.
pub(super) fn remove_file(path: &Path) -> Result<(), PoolError> {
    match device::place(path) {
        Some(place) => place.remove(),
        None => fs::remove_file(path).map_err(|error| PoolError::file("remove", path, error)),
    }
}

/// Names and paths in a directory, sorted.
pub(super) fn list(dir: &Path) -> Result<Vec<(String, PathBuf)>, PoolError> {
    if let Some(place) = device::whole(dir).or_else(|| device::place(dir)) {
        return Ok(place.list()?.into_iter().map(|(name, _)| (name.clone(), dir.join(name))).collect());
    }
    let failed = |error| PoolError::file("list", dir, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        names.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    names.sort();
    Ok(names)
}
