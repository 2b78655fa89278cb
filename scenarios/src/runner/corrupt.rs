//! Bytes of the pool that change by themselves.

use super::RunnerError;
use crate::language::CorruptWhat;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use shared_mem::control::ControlBlock;
use shared_mem::mem::Mapping;
use shared_mem::{CommitWord, Extent, Offset};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Where the slots of a journal begin (docs/pool-layout.md).
const SLOTS_AT: u64 = 4096;
/// Where its commit word lies.
const WORD_AT: u64 = 64;
/// The bits of the word that its check covers: the one above seals it.
const WORD_BITS: u64 = 63;
/// A control block has a page of its own.
const CONTROL_FILE_BYTES: u64 = 4096;
/// Where the entries of a record log begin.
const LOG_AT: u64 = 4096;
/// Where a heartbeat page has its words.
const HEARTBEAT_BYTES: u64 = 64;
/// From a record's begin, bytes that any record has: its header.
const RECORD_BYTES: u64 = 64;

/// What is to be corrupted.
pub(super) struct Corruption {
    /// The pool.
    pub(super) pool: PathBuf,
    /// What.
    pub(super) what: CorruptWhat,
    /// The number of the VM that it belongs to.
    pub(super) vm: u16,
    /// The generation that reigns.
    pub(super) generation: u64,
    /// The heartbeat page, where that is it.
    pub(super) host: u16,
    /// Of the journal.
    pub(super) slots: u32,
    /// Of each.
    pub(super) slot_bytes: u64,
    /// How many.
    pub(super) bits: u32,
}

impl Corruption {
    /// Whether there is something to corrupt at the moment.
    pub(super) fn has_place(&self) -> bool {
        self.file().exists()
    }

    /// The last epoch that the reigning primary has published, and the last one that is applied; `None` where nobody reigns at the moment.
    pub(super) fn published_and_applied(&self) -> Option<(u64, u64)> {
        let mut word = [0; 8];
        File::open(self.file()).ok()?.read_exact_at(&mut word, WORD_AT).ok()?;
        let word = CommitWord::decode(u64::from_le_bytes(word)).ok().filter(|word| !word.sealed)?;
        let control = File::open(self.pool.join(format!("vm-{}/control", self.vm))).ok()?;
        let control = Extent::new(control.into(), Offset::ZERO, CONTROL_FILE_BYTES).ok()?;
        let applied = ControlBlock::open(Mapping::read_only(&control).ok()?).ok()?.applied().ok()?;
        Some((word.epoch.get(), applied.get()))
    }

    /// Flips bits; says where. A file that goes meanwhile has nothing to flip.
    pub(super) fn flip(&self, random: &mut ChaCha8Rng) -> Result<Vec<String>, RunnerError> {
        let path = self.file();
        let flipped = self.flip_in(&path, random);
        match flipped {
            Ok(places) => Ok(places),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
                Ok(Vec::new())
            }
            Err(source) => Err(RunnerError::File { path, source }),
        }
    }

    fn flip_in(&self, path: &Path, random: &mut ChaCha8Rng) -> io::Result<Vec<String>> {
        let file = File::options().read(true).write(true).open(path)?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut places = Vec::new();
        for _ in 0..self.bits {
            for (at, bit) in self.places(&file, random)? {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at)?;
                file.write_all_at(&[byte[0] ^ 1 << bit], at)?;
                places.push(format!("bit {bit} of byte {at} of {name}"));
            }
        }
        Ok(places)
    }

    /// One bit of each thing that could be the one that counts: nobody outside knows which slot is in use.
    fn places(&self, file: &File, random: &mut ChaCha8Rng) -> io::Result<Vec<(u64, u32)>> {
        Ok(match self.what {
            CorruptWhat::Journal => {
                let within = random.random_range(0..RECORD_BYTES);
                let bit = random.random_range(0..8);
                let slots = 0..u64::from(self.slots);
                slots.map(|slot| (SLOTS_AT + slot * self.slot_bytes + within, bit)).collect()
            }
            CorruptWhat::CommitWord => {
                let bit = random.random_range(0..WORD_BITS);
                vec![(WORD_AT + bit / 8, u32::try_from(bit % 8).unwrap_or(0))]
            }
            CorruptWhat::Log => {
                let used = used_bytes(file)?.max(LOG_AT + 1);
                vec![(random.random_range(LOG_AT..used), random.random_range(0..8))]
            }
            CorruptWhat::Heartbeat => {
                vec![(random.random_range(0..HEARTBEAT_BYTES), random.random_range(0..8))]
            }
        })
    }

    fn file(&self) -> PathBuf {
        let of_vm = |kind: &str| self.pool.join(format!("vm-{}/{kind}.{}", self.vm, self.generation));
        match self.what {
            CorruptWhat::Heartbeat => self.pool.join(format!("heartbeat.{}", self.host)),
            CorruptWhat::Journal | CorruptWhat::CommitWord => of_vm("journal"),
            CorruptWhat::Log => of_vm("log"),
        }
    }
}

/// Up to the last byte that is not zero, of what a ring has at its begin.
fn used_bytes(file: &File) -> io::Result<u64> {
    const LOOKED_AT: usize = 1 << 20;
    let mut bytes = vec![0; LOOKED_AT];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(bytes[..filled].iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1))
}
