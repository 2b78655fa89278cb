//! One page of lossy memory: what everybody sees, what is durable, and what lies between for each line.

use std::collections::BTreeMap;

use super::survivors::Kept;
use crate::numbers::PAGE_BYTES;

/// How many undurable contents of one line the model remembers besides the newest.
pub const VERSIONS_MAX: usize = 16;

pub(super) const LINE: usize = 64;
pub(super) const LINES: usize = PAGE_BYTES / LINE;
const WORD: usize = 8;

// One bit per line of a page.
const _: () = assert!(LINES == 64);

type Line = [u8; LINE];

/// Contents of a line between the durable and the newest one.
#[derive(Debug, Clone, Default)]
struct History {
    versions: Vec<Line>,
    /// Version (index into `versions`) that a cache has flushed but not fenced yet.
    flushed: Vec<(u32, usize)>,
}

#[derive(Debug, Clone)]
pub(super) struct Page {
    current: [u8; PAGE_BYTES],
    durable: [u8; PAGE_BYTES],
    /// Lines whose newest content is not known to be durable.
    dirty: u64,
    /// Dirty lines whose newest content has been flushed but not fenced.
    flushing: u64,
    /// Whose cache holds each dirty line.
    owner: [u32; LINES],
    /// Who flushed each flushing line.
    flusher: [u32; LINES],
    /// Only lines that were stored to more than once since they were durable.
    history: BTreeMap<usize, History>,
}

impl Page {
    pub(super) fn new() -> Self {
        Self {
            current: [0; PAGE_BYTES],
            durable: [0; PAGE_BYTES],
            dirty: 0,
            flushing: 0,
            owner: [0; LINES],
            flusher: [0; LINES],
            history: BTreeMap::new(),
        }
    }

    pub(super) fn current(&self) -> &[u8; PAGE_BYTES] {
        &self.current
    }

    pub(super) fn durable(&self) -> &[u8; PAGE_BYTES] {
        &self.durable
    }

    pub(super) fn is_clean(&self) -> bool {
        self.dirty == 0
    }

    /// Prepares the lines `first..=last` for one more store by `cache`.
    pub(super) fn touch(&mut self, first: usize, last: usize, cache: u32) {
        let mask = (u64::MAX << first) & (u64::MAX >> (LINES - 1 - last));
        let mut again = self.dirty & mask;
        while again != 0 {
            let line = again.trailing_zeros() as usize;
            again &= again - 1;
            self.remember(line);
        }
        self.dirty |= mask;
        self.owner[first..=last].fill(cache);
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8; PAGE_BYTES] {
        &mut self.current
    }

    /// Keeps the newest content of a dirty line as a version of its own.
    fn remember(&mut self, line: usize) {
        let content = line_of(&self.current, line);
        let history = self.history.entry(line).or_default();
        if history.versions.len() == VERSIONS_MAX {
            history.forget_one();
        }
        history.versions.push(content);
        if self.flushing & (1 << line) != 0 {
            self.flushing &= !(1 << line);
            history.flushed.push((self.flusher[line], history.versions.len() - 1));
        }
    }

    /// Starts the write-back of dirty lines; returns which ones.
    pub(super) fn flush(&mut self, first: usize, last: usize, cache: u32) -> u64 {
        let mask = (u64::MAX << first) & (u64::MAX >> (LINES - 1 - last)) & self.dirty;
        let mut left = mask;
        while left != 0 {
            let line = left.trailing_zeros() as usize;
            left &= left - 1;
            self.flusher[line] = cache;
        }
        self.flushing |= mask;
        mask
    }

    /// Completes a write-back that `cache` has started for `lines`.
    pub(super) fn fence(&mut self, lines: u64, cache: u32) {
        let mut left = lines & self.dirty;
        if left == u64::MAX && self.flushing == u64::MAX && self.history.is_empty() {
            self.durable = self.current;
            self.dirty = 0;
            self.flushing = 0;
            return;
        }
        while left != 0 {
            let line = left.trailing_zeros() as usize;
            left &= left - 1;
            self.fence_line(line, cache);
        }
    }

    fn fence_line(&mut self, line: usize, cache: u32) {
        let flushed = self.history.get_mut(&line).and_then(|history| history.take_flushed(cache));
        if let Some(content) = flushed {
            set_line(&mut self.durable, line, &content);
        } else if self.flushing & (1 << line) != 0 {
            let content = line_of(&self.current, line);
            self.settle(line, &content);
        }
    }

    /// The line has one content again, durably.
    fn settle(&mut self, line: usize, content: &Line) {
        set_line(&mut self.durable, line, content);
        set_line(&mut self.current, line, content);
        self.dirty &= !(1 << line);
        self.flushing &= !(1 << line);
        self.history.remove(&line);
    }

    /// Decides each dirty line in the cache of a crashed host. `choose` gets the line and its undurable stores.
    pub(super) fn crash(&mut self, cache: u32, choose: &mut dyn FnMut(usize, usize) -> Kept) {
        let mut left = self.dirty;
        while left != 0 {
            let line = left.trailing_zeros() as usize;
            left &= left - 1;
            if self.owner[line] == cache {
                let content = self.survivor(line, choose);
                self.settle(line, &content);
            }
        }
    }

    fn survivor(&self, line: usize, choose: &mut dyn FnMut(usize, usize) -> Kept) -> Line {
        let mut contents = vec![line_of(&self.durable, line)];
        if let Some(history) = self.history.get(&line) {
            contents.extend_from_slice(&history.versions);
        }
        contents.push(line_of(&self.current, line));
        let stores = contents.len() - 1;
        let kept = choose(line, stores);
        let mut content = contents[kept.stores.min(stores)];
        if let Some(next) = contents.get(kept.stores + 1) {
            for word in (0..LINE / WORD).filter(|word| kept.torn_words & (1 << word) != 0) {
                let range = word * WORD..(word + 1) * WORD;
                content[range.clone()].copy_from_slice(&next[range]);
            }
        }
        content
    }
}

impl History {
    /// Makes room by dropping the oldest version that no flush refers to.
    fn forget_one(&mut self) {
        let free = (0..self.versions.len()).find(|index| self.flushed.iter().all(|(_, used)| used != index));
        if let Some(index) = free {
            self.versions.remove(index);
            for (_, used) in &mut self.flushed {
                if *used > index {
                    *used -= 1;
                }
            }
        }
    }

    /// The version whose flush by `cache` completes now; older ones are gone.
    fn take_flushed(&mut self, cache: u32) -> Option<Line> {
        let position = self.flushed.iter().position(|(flusher, _)| *flusher == cache)?;
        let (_, version) = self.flushed.remove(position);
        let content = self.versions[version];
        self.versions.drain(..=version);
        self.flushed.retain(|(_, used)| *used > version);
        for (_, used) in &mut self.flushed {
            *used -= version + 1;
        }
        Some(content)
    }
}

fn line_of(bytes: &[u8; PAGE_BYTES], line: usize) -> Line {
    let mut content = [0; LINE];
    content.copy_from_slice(&bytes[line * LINE..(line + 1) * LINE]);
    content
}

fn set_line(bytes: &mut [u8; PAGE_BYTES], line: usize, content: &Line) {
    bytes[line * LINE..(line + 1) * LINE].copy_from_slice(content);
}
