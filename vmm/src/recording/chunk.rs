//! What is in the chunks.

use super::envelope::ChunkKind;
use crate::machine::layout::PAGE_SIZE;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::cpu::CpuProfile;
use ft_protocol::record::{Entry, EntryError, PAYLOAD_BYTES_MAX};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

/// Bytes of a page.
pub(super) const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES as u64 == PAGE_SIZE);
/// Bytes of an entry in front of its payload.
const ENTRY_HEAD_BYTES: usize = 16;
const COMMIT_HEAD_BYTES: usize = 40;
const END_HEAD_BYTES: usize = 8;

/// What is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedMachine {
    /// The version of ftvm that recorded.
    pub program: String,
    /// The guest's name.
    pub guest: String,
    /// The guest's arguments.
    pub args: Vec<String>,
    /// How it was protected at first; `none`: not at all.
    pub mode: String,
    /// Guest memory.
    pub memory_bytes: u64,
    /// The hardware addresses of its network devices.
    pub macs: Vec<[u8; 6]>,
    /// Its disk; zero: none.
    pub disk_bytes: u64,
    /// The processor that the guest was shown.
    pub cpu: CpuProfile,
}

impl RecordedMachine {
    /// Whether these are the same VM: how it is protected, and by which version of ftvm, may change in its life.
    #[must_use]
    pub fn is_same_vm(&self, other: &Self) -> bool {
        let Self { program: _, guest, args, mode: _, memory_bytes, macs, disk_bytes, cpu } = self;
        (guest, args, memory_bytes) == (&other.guest, &other.args, &other.memory_bytes)
            && (macs, disk_bytes, cpu) == (&other.macs, &other.disk_bytes, &other.cpu)
    }
}

/// How a replay comes through a commit; the numbers stand in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum CommitKind {
    /// The recording begins with this state; its pages precede.
    Start = 1,
    /// At an exit: a replay comes to exactly this state. Hashes of the pages that were written precede.
    Exit = 2,
    /// Behind an exit, where a kick had stopped the guest: a replay that came to the exit takes the state and the pages
    /// that precede.
    Kick = 3,
    /// The entries since the commit before are not recorded: a replay takes the state and the pages that precede.
    Unlogged = 4,
    /// The guest had ended. Hashes of the pages that were written precede.
    End = 5,
}

impl CommitKind {
    const ALL: [Self; 5] = [Self::Start, Self::Exit, Self::Kick, Self::Unlogged, Self::End];

    /// Whether a replay takes state and pages from the recording.
    #[must_use]
    pub fn has_pages(self) -> bool {
        matches!(self, Self::Start | Self::Kick | Self::Unlogged)
    }
}

/// The head of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitHead {
    /// The generation that made it; zero where nothing is protected.
    pub generation: u64,
    /// The epoch that it made.
    pub epoch: u64,
    /// The guest's last exit.
    pub exits: u64,
    /// [`PageHashes::digest`](super::PageHashes::digest) of all memory at the commit.
    pub memory: u64,
    /// What it is to a replay.
    pub kind: CommitKind,
}

/// How a recording ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordedEnd {
    /// With the guest.
    Guest(GuestEnd),
    /// Before the guest: for this reason.
    LeftOff(String),
}

/// A page: its number and its content.
pub type NumberedPage = (u64, Box<[u8; PAGE_BYTES]>);

/// A chunk, read.
#[derive(Debug)]
pub enum Chunk {
    /// What is recorded.
    Machine(Box<RecordedMachine>),
    /// A part of the file that the guest is booted from.
    Boot(Vec<u8>),
    /// Entries of the record log.
    Entries(Vec<Entry<'static>>),
    /// Blocks of the disk that the guest begins with: number and content.
    Disk(Vec<NumberedPage>),
    /// Pages: number and content.
    Pages(Vec<NumberedPage>),
    /// Hashes of pages: number and hash.
    Hashes(Vec<(u64, u64)>),
    /// A commit: its head, and the machine's saved state.
    Commit(CommitHead, Vec<u8>),
    /// The end.
    End(RecordedEnd),
}

/// Why the content of a chunk makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// The description of the machine cannot be read.
    #[error("the machine's description cannot be read: {0}")]
    Machine(postcard::Error),
    /// An entry is longer than its chunk, or than any entry.
    #[error("entry {number} of its chunk is cut off")]
    EntryLength {
        /// Its number in the chunk.
        number: usize,
    },
    /// An entry has no tag.
    #[error("entry {number} of its chunk has no tag")]
    EntryTag {
        /// Its number in the chunk.
        number: usize,
    },
    /// An entry is none.
    #[error("entry {number} of its chunk is refused")]
    Entry {
        /// Its number in the chunk.
        number: usize,
        /// Why.
        source: EntryError,
    },
    /// A list whose length is not a whole number of items.
    #[error("a list of {got} bytes has no whole number of items of {item} bytes")]
    List {
        /// Bytes there are.
        got: usize,
        /// Bytes of an item.
        item: usize,
    },
    /// Shorter than its head.
    #[error("a head of {expected} bytes has only {got}")]
    Head {
        /// Bytes of the head.
        expected: usize,
        /// Bytes there are.
        got: usize,
    },
    /// A commit of an unknown kind.
    #[error("a commit of unknown kind {got}")]
    CommitKind {
        /// The kind.
        got: u32,
    },
    /// An end of an unknown kind.
    #[error("an end of unknown kind {got}")]
    EndKind {
        /// The kind.
        got: u32,
    },
}

/// Appends an entry to the content of a chunk of entries.
pub(super) fn push_entry(into: &mut Vec<u8>, tag: NonZeroU32, at_exit: u64, payload: &[u8]) {
    into.extend(tag.get().to_le_bytes());
    into.extend(at_exit.to_le_bytes());
    into.extend(u32::try_from(payload.len()).expect("payloads are bounded").to_le_bytes());
    into.extend_from_slice(payload);
}

/// The content of a commit's chunk.
pub(super) fn commit_content(head: &CommitHead, state: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(COMMIT_HEAD_BYTES + state.len());
    content.extend(head.generation.to_le_bytes());
    content.extend(head.epoch.to_le_bytes());
    content.extend(head.exits.to_le_bytes());
    content.extend(head.memory.to_le_bytes());
    content.extend((head.kind as u32).to_le_bytes());
    content.extend([0; 4]);
    content.extend_from_slice(state);
    content
}

const END_EXITED: u32 = 1;
const END_CRASHED: u32 = 2;
const END_LEFT_OFF: u32 = 3;

/// The content of the end's chunk.
pub(super) fn end_content(end: &RecordedEnd) -> Vec<u8> {
    let (kind, code, text) = match end {
        RecordedEnd::Guest(GuestEnd::Exited(code)) => (END_EXITED, *code, ""),
        RecordedEnd::Guest(GuestEnd::Crashed(line)) => (END_CRASHED, 0, line.as_str()),
        RecordedEnd::LeftOff(reason) => (END_LEFT_OFF, 0, reason.as_str()),
    };
    let mut content = Vec::with_capacity(END_HEAD_BYTES + text.len());
    content.extend(kind.to_le_bytes());
    content.extend(code.to_le_bytes());
    content.extend(text.as_bytes());
    content
}

impl Chunk {
    /// Reads the content of a chunk of that kind.
    ///
    /// # Errors
    /// It makes no sense.
    pub(super) fn decode(kind: ChunkKind, content: Vec<u8>) -> Result<Self, ChunkError> {
        Ok(match kind {
            ChunkKind::Machine => Self::Machine(postcard::from_bytes(&content).map_err(ChunkError::Machine)?),
            ChunkKind::Boot => Self::Boot(content),
            ChunkKind::Entries => Self::Entries(entries(&content)?),
            ChunkKind::Pages => Self::Pages(pages(&content)?),
            ChunkKind::Hashes => Self::Hashes(items::<16>(&content)?.iter().map(pair).collect()),
            ChunkKind::Commit => commit(content)?,
            ChunkKind::End => Self::End(end(&content)?),
            ChunkKind::Disk => Self::Disk(pages(&content)?),
        })
    }
}

fn entries(mut rest: &[u8]) -> Result<Vec<Entry<'static>>, ChunkError> {
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let number = entries.len();
        let cut_off = ChunkError::EntryLength { number };
        let Some((head, behind)) = rest.split_first_chunk::<ENTRY_HEAD_BYTES>() else { return Err(cut_off) };
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let length = usize::try_from(word(12)).expect("usize has 64 bits");
        let Some((payload, behind)) = behind.split_at_checked(length).filter(|_| length <= PAYLOAD_BYTES_MAX) else {
            return Err(cut_off);
        };
        let tag = NonZeroU32::new(word(0)).ok_or(ChunkError::EntryTag { number })?;
        let at_exit = u64::from_le_bytes(head[4..12].try_into().expect("eight bytes"));
        let entry = Entry::decode(tag, at_exit, payload).map_err(|source| ChunkError::Entry { number, source })?;
        entries.push(entry.into_owned());
        rest = behind;
    }
    Ok(entries)
}

fn pages(content: &[u8]) -> Result<Vec<NumberedPage>, ChunkError> {
    let items = items::<{ 8 + PAGE_BYTES }>(content)?;
    Ok(items
        .iter()
        .map(|item| {
            let (number, page) = item.split_first_chunk::<8>().expect("an item begins with its number");
            let page: &[u8; PAGE_BYTES] = page.try_into().expect("the rest of an item is a page");
            (u64::from_le_bytes(*number), Box::new(*page))
        })
        .collect())
}

fn pair(item: &[u8; 16]) -> (u64, u64) {
    let (first, second) = item.split_at(8);
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    (number(first), number(second))
}

fn items<const N: usize>(content: &[u8]) -> Result<&[[u8; N]], ChunkError> {
    match content.as_chunks::<N>() {
        (items, []) => Ok(items),
        _ => Err(ChunkError::List { got: content.len(), item: N }),
    }
}

fn commit(mut content: Vec<u8>) -> Result<Chunk, ChunkError> {
    let short = ChunkError::Head { expected: COMMIT_HEAD_BYTES, got: content.len() };
    let Some((head, _)) = content.split_first_chunk::<COMMIT_HEAD_BYTES>() else { return Err(short) };
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let got = u32::from_le_bytes(head[32..36].try_into().expect("four bytes"));
    let kind = CommitKind::ALL.into_iter().find(|kind| *kind as u32 == got).ok_or(ChunkError::CommitKind { got })?;
    let head = CommitHead { generation: number(0), epoch: number(8), exits: number(16), memory: number(24), kind };
    content.drain(..COMMIT_HEAD_BYTES);
    Ok(Chunk::Commit(head, content))
}

fn end(content: &[u8]) -> Result<RecordedEnd, ChunkError> {
    let short = ChunkError::Head { expected: END_HEAD_BYTES, got: content.len() };
    let Some((head, text)) = content.split_first_chunk::<END_HEAD_BYTES>() else { return Err(short) };
    let text = String::from_utf8_lossy(text).into_owned();
    match pair_of_words(head) {
        (END_EXITED, code) => Ok(RecordedEnd::Guest(GuestEnd::Exited(code))),
        (END_CRASHED, _) => Ok(RecordedEnd::Guest(GuestEnd::Crashed(text))),
        (END_LEFT_OFF, _) => Ok(RecordedEnd::LeftOff(text)),
        (got, _) => Err(ChunkError::EndKind { got }),
    }
}

fn pair_of_words(head: &[u8; END_HEAD_BYTES]) -> (u32, u32) {
    let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    (word(0), word(4))
}
