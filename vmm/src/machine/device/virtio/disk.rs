//! The disk as the guest sees it: a base that only the controller writes, and over it the blocks that the guest wrote.
//!
//! A block's life: written by the guest ([`dirty_blocks`](Disk::dirty_blocks)), carried by a commit record
//! ([`committed`](Disk::committed)), applied to the base by the controller ([`applied`](Disk::applied)), dropped here. Reads
//! see the newest of them. What is kept is what was written since the last applied epoch, so the disk's size bounds it.

use ft_protocol::Epoch;
use shared_mem::{BlockIndex, Mapping, Offset, PAGE_BYTES, PoolRead, ReadOnly};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes of a block: what commit records carry.
pub const BLOCK_BYTES: usize = PAGE_BYTES;

/// What lies below the blocks that the guest wrote.
#[derive(Debug)]
pub enum DiskBase {
    /// Zeroes: a disk of nobody's.
    Zeroes,
    /// A file, with zeroes behind its end.
    File(File),
    /// The VM's disk image in the pool.
    Pool(Mapping<ReadOnly>),
}

/// Why a disk cannot be had or read.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Not a whole number of blocks, or none.
    #[error("a disk of {bytes} bytes is not a positive multiple of {BLOCK_BYTES}")]
    Size {
        /// What was asked for.
        bytes: u64,
    },
    /// The file failed.
    #[error("the disk's file cannot be read")]
    File(#[source] std::io::Error),
    /// The pool failed.
    #[error("the disk image in the pool cannot be read")]
    Pool(#[source] shared_mem::AccessError),
}

#[derive(Debug)]
struct Written {
    content: Box<[u8; BLOCK_BYTES]>,
    /// The epoch that carries it; none yet: no record does.
    epoch: Option<Epoch>,
}

/// A disk.
#[derive(Debug)]
pub struct Disk {
    base: DiskBase,
    bytes: u64,
    written: BTreeMap<BlockIndex, Written>,
}

impl Disk {
    /// A disk of so many bytes, as its base has it.
    ///
    /// # Errors
    /// Sizes that are not whole blocks.
    pub fn new(base: DiskBase, bytes: u64) -> Result<Self, DiskError> {
        if bytes == 0 || !bytes.is_multiple_of(BLOCK_BYTES as u64) {
            return Err(DiskError::Size { bytes });
        }
        Ok(Self { base, bytes, written: BTreeMap::new() })
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The blocks that were written since the last commit, in ascending order, with all that they hold now.
    pub fn dirty_blocks(&self) -> impl Iterator<Item = (BlockIndex, &[u8; BLOCK_BYTES])> {
        self.written
            .iter()
            .filter(|(_, written)| written.epoch.is_none())
            .map(|(block, written)| (*block, &*written.content))
    }

    /// A commit record with all dirty blocks makes this epoch.
    pub fn committed(&mut self, epoch: Epoch) {
        for written in self.written.values_mut() {
            written.epoch.get_or_insert(epoch);
        }
    }

    /// The base has all epochs up to this one.
    pub fn applied(&mut self, epoch: Epoch) {
        self.written.retain(|_, written| written.epoch.is_none_or(|carried| carried > epoch));
    }

    /// The base has everything that was ever written.
    pub fn forget(&mut self) {
        self.written.clear();
    }

    /// How many blocks are kept over the base.
    #[must_use]
    pub fn kept_blocks(&self) -> usize {
        self.written.len()
    }

    /// Reads what the guest would read at `at`. The caller has checked that it is inside.
    pub(crate) fn read(&self, at: u64, out: &mut [u8]) -> Result<(), DiskError> {
        for (block, inside, part) in parts(at, out.len()) {
            let out = &mut out[part];
            match self.written.get(&block) {
                Some(written) => out.copy_from_slice(&written.content[inside..inside + out.len()]),
                None => self.read_base(block.offset().get() + inside as u64, out)?,
            }
        }
        Ok(())
    }

    /// Writes what the guest writes at `at`. The caller has checked that it is inside.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        for (block, inside, part) in parts(at, bytes.len()) {
            let bytes = &bytes[part];
            let mut content = match self.written.remove(&block) {
                Some(written) => written.content,
                None => {
                    let mut content = Box::new([0; BLOCK_BYTES]);
                    if bytes.len() < BLOCK_BYTES {
                        self.read_base(block.offset().get(), &mut content[..])?;
                    }
                    content
                }
            };
            content[inside..inside + bytes.len()].copy_from_slice(bytes);
            self.written.insert(block, Written { content, epoch: None });
        }
        Ok(())
    }

    fn read_base(&self, at: u64, out: &mut [u8]) -> Result<(), DiskError> {
        match &self.base {
            DiskBase::Zeroes => out.fill(0),
            DiskBase::File(file) => read_file(file, at, out).map_err(DiskError::File)?,
            DiskBase::Pool(image) => image.read(Offset::new(at), out).map_err(DiskError::Pool)?,
        }
        Ok(())
    }
}

fn read_file(file: &File, at: u64, out: &mut [u8]) -> std::io::Result<()> {
    let mut done = 0;
    while done < out.len() {
        match file.read_at(&mut out[done..], at + done as u64) {
            Ok(0) => {
                out[done..].fill(0);
                return Ok(());
            }
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The parts of `at..at + length` by block: block, offset in the block, and range of the buffer.
fn parts(at: u64, length: usize) -> impl Iterator<Item = (BlockIndex, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        (done < length).then(|| {
            let here = at + done as u64;
            let inside = usize::try_from(here % BLOCK_BYTES as u64).expect("less than a block");
            let take = (BLOCK_BYTES - inside).min(length - done);
            let part = done..done + take;
            done += take;
            (BlockIndex::new(here / BLOCK_BYTES as u64), inside, part)
        })
    })
}
