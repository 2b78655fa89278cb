//! One look through all of a recording, before anything of it is replayed: what it holds, and how far it is good.

use super::chunk::{Chunk, CommitHead, CommitKind, PAGE_BYTES, RecordedEnd, RecordedMachine};
use super::reader::{ReadError, RecordingReader};
use crate::machine::layout;
use crate::machine::{MachineState, STATE_VERSION};
use ft_protocol::spec::NETS_MAX;
use std::io::Read;

/// Largest file that a guest may be booted from.
const BOOT_BYTES_MAX: usize = 1 << 30;

/// A commit of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexedCommit {
    /// What it says of itself.
    pub head: CommitHead,
    /// The guest waited there.
    pub waits: bool,
    /// Where the file goes on behind it.
    pub end: u64,
    /// The number of the chunk behind it.
    pub sequence: u64,
}

/// What a recording holds.
#[derive(Debug)]
pub struct Index {
    /// What was recorded.
    pub machine: RecordedMachine,
    /// What the guest is booted from; `None`: the recording begins with a state.
    pub boot: Option<Vec<u8>>,
    /// The commits, in order.
    pub commits: Vec<IndexedCommit>,
    /// Entries, in all.
    pub entries: u64,
    /// The exit of the last entry.
    pub last_entry: Option<u64>,
    /// How it ends; `None`: it does not say.
    pub end: Option<RecordedEnd>,
    /// Why it is not good to its end.
    pub damage: Option<ReadError>,
    /// How far it is good.
    pub good_bytes: u64,
}

/// What an order of chunks must keep to.
#[derive(Debug, Default)]
struct Order {
    /// Since the last commit there was a chunk of pages or hashes.
    has_pages: bool,
    has_hashes: bool,
    /// The disk's first content has begun.
    has_disk: bool,
    /// The exit of the last entry, or of the last commit.
    reached: u64,
}

impl Index {
    /// Looks through a file.
    ///
    /// # Errors
    /// It does not begin like a recording. What is damaged further on is [`damage`](Self::damage).
    pub fn read(from: impl Read) -> Result<Self, ReadError> {
        let mut reader = RecordingReader::new(from)?;
        let cut_off = ReadError::CutOff { expected: super::envelope::ENVELOPE_BYTES, got: 0 };
        let machine = match reader.next_chunk()? {
            Some(Chunk::Machine(machine)) => *machine,
            Some(_) => return Err(ReadError::Place { sequence: 0, what: "the machine's description comes first" }),
            None => return Err(cut_off),
        };
        check_machine(&machine)?;
        let mut index = Self {
            machine,
            boot: None,
            commits: Vec::new(),
            entries: 0,
            last_entry: None,
            end: None,
            damage: None,
            good_bytes: reader.position(),
        };
        let mut order = Order::default();
        loop {
            let sequence = reader.sequence();
            let taken = match reader.next_chunk() {
                Ok(Some(chunk)) => index.take(chunk, sequence, &mut order, reader.position()),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            match taken {
                Ok(()) => index.good_bytes = reader.position(),
                Err(error) => {
                    index.damage = Some(error);
                    break;
                }
            }
        }
        Ok(index)
    }

    /// Whether there is something that a replay can begin with.
    #[must_use]
    pub fn has_beginning(&self) -> bool {
        self.boot.is_some() || !self.commits.is_empty()
    }

    /// The exit up to which there is something to be replayed.
    #[must_use]
    pub fn last_exit(&self) -> u64 {
        let committed = self.commits.last().map_or(0, |commit| commit.head.exits);
        committed.max(self.last_entry.unwrap_or(0))
    }

    fn take(&mut self, chunk: Chunk, sequence: u64, order: &mut Order, end: u64) -> Result<(), ReadError> {
        let misplaced = |what| Err(ReadError::Place { sequence, what });
        let begins = self.commits.is_empty() && self.entries == 0;
        if self.end.is_some() {
            return misplaced("there is something behind the end");
        }
        match chunk {
            Chunk::Machine(_) => return misplaced("a second description of the machine"),
            Chunk::Boot(part) => {
                let boot = self.boot.get_or_insert_default();
                let late = order.has_disk || order.has_pages || order.has_hashes;
                if !begins || late || boot.len() + part.len() > BOOT_BYTES_MAX {
                    return misplaced("a part of the boot file that belongs to none");
                }
                boot.extend_from_slice(&part);
            }
            Chunk::Disk(blocks) => {
                if !begins || self.boot.is_none() || order.has_pages || order.has_hashes {
                    return misplaced("a part of the disk that belongs to no beginning");
                }
                if blocks.iter().any(|(number, _)| *number < shared_mem::DISK_PAGE_BASE || !self.has_page(*number)) {
                    return misplaced("a block outside the guest's disk");
                }
                order.has_disk = true;
            }
            Chunk::Entries(entries) => {
                if !self.has_beginning() || order.has_pages || order.has_hashes {
                    return misplaced("entries between pages and their commit");
                }
                for entry in &entries {
                    if entry.at_exit < order.reached {
                        return misplaced("an entry of an exit that is over");
                    }
                    order.reached = entry.at_exit;
                }
                self.entries += entries.len() as u64;
                self.last_entry = Some(order.reached);
            }
            Chunk::Pages(pages) => {
                order.has_pages = true;
                if pages.iter().any(|(number, _)| !self.has_page(*number)) {
                    return misplaced("a page outside the guest's memory and disk");
                }
            }
            Chunk::Hashes(hashes) => {
                order.has_hashes = true;
                if hashes.iter().any(|(number, _)| !self.has_page(*number)) {
                    return misplaced("the hash of a page outside the guest's memory");
                }
            }
            Chunk::Commit(head, state) => {
                let Some(state) = MachineState::decode(&state).ok().filter(|state| state.exits().0 == head.exits)
                else {
                    return misplaced("a commit whose machine state is damaged, or another one's");
                };
                self.check_commit(&head, order).map_or(Ok(()), misplaced)?;
                *order = Order { reached: head.exits, ..Order::default() };
                let waits = state.wait_until().is_some();
                self.commits.push(IndexedCommit { head, waits, end, sequence: sequence + 1 });
            }
            Chunk::End(end) => self.end = Some(end),
        }
        Ok(())
    }

    /// What is wrong with a commit, if anything is.
    fn check_commit(&self, head: &CommitHead, order: &Order) -> Option<&'static str> {
        let last = self.commits.last().map(|commit| commit.head);
        let begins = self.commits.is_empty() && self.boot.is_none();
        if begins != (head.kind == CommitKind::Start) {
            return Some("a recording begins once, with a state or a boot file");
        }
        if if head.kind.has_pages() { order.has_hashes } else { order.has_pages } {
            return Some("pages where a commit has hashes, or the other way round");
        }
        if head.exits < order.reached {
            return Some("a commit before the last entry");
        }
        if last.is_some_and(|last| last.epoch >= head.epoch || last.kind == CommitKind::End) {
            return Some("a commit of an epoch that is over");
        }
        None
    }

    fn has_page(&self, number: u64) -> bool {
        let pages = self.machine.memory_bytes / PAGE_BYTES as u64;
        let blocks = self.machine.disk_bytes / PAGE_BYTES as u64;
        match number.checked_sub(shared_mem::DISK_PAGE_BASE) {
            Some(block) => block < blocks,
            None => number < pages,
        }
    }
}

fn check_machine(machine: &RecordedMachine) -> Result<(), ReadError> {
    let wrong = |what| Err(ReadError::Place { sequence: 0, what });
    if layout::ram_regions(machine.memory_bytes).is_err() {
        return wrong("no guest can have that much memory");
    }
    if machine.macs.len() > NETS_MAX {
        return wrong("no guest can have so many network devices");
    }
    if !machine.disk_bytes.is_multiple_of(PAGE_BYTES as u64) || machine.disk_bytes >= shared_mem::DISK_PAGE_BASE {
        return wrong("no guest can have such a disk");
    }
    if machine.cpu.leaves.len() > ft_protocol::cpu::LEAVES_MAX {
        return wrong("no processor has so much to tell");
    }
    const _: () = assert!(STATE_VERSION >= 2, "states have their history's digest");
    Ok(())
}
