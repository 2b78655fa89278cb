//! A recording on its way into a replaying machine: entries for the guest, pages and states for whoever drives it.

use super::super::chunk::{Chunk, NumberedPage};
use super::super::reader::{ReadError, RecordingReader};
use super::Progress;
use crate::machine::history::{HistoryError, HistorySource};
use ft_protocol::record::{Entry, EntrySource, Extent};
use std::collections::VecDeque;
use std::fs::File;
use std::io::BufReader;
use std::sync::{Arc, Mutex, MutexGuard};

/// What stands between the entries of two epochs.
#[derive(Debug)]
pub(super) enum Between {
    /// Pages for the next commit.
    Pages(Vec<NumberedPage>),
    /// Hashes of pages of the next commit.
    Hashes(Vec<(u64, u64)>),
    /// A commit, with the machine's state: what follows is of the next epoch.
    Commit(Vec<u8>),
    /// Entries that the guest did not ask for.
    Entries(Vec<Entry<'static>>),
    /// The end of what is good.
    End,
}

/// A handle of the tape: one is the machine's, one the driver's.
#[derive(Debug, Clone)]
pub(super) struct Tape(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    reader: RecordingReader<BufReader<File>>,
    /// Where the recording is good to.
    good_bytes: u64,
    entries: VecDeque<Entry<'static>>,
    /// A chunk that was read and that was no chunk of entries.
    next: Option<Chunk>,
    /// The guest may come to this exit, and then pauses.
    runs_to: u64,
    /// The guest runs to its end.
    runs_out: bool,
    progress: Arc<Progress>,
}

impl Tape {
    pub(super) fn new(reader: RecordingReader<BufReader<File>>, good_bytes: u64, progress: Arc<Progress>) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            reader,
            good_bytes,
            entries: VecDeque::new(),
            next: None,
            runs_to: 0,
            runs_out: false,
            progress,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nothing panics under this lock")
    }

    /// The guest pauses when it has come to this exit.
    pub(super) fn run_to(&self, exit: u64) {
        self.lock().runs_to = exit;
    }

    /// The guest runs to its end, without inputs behind the last entry.
    pub(super) fn run_out(&self) {
        self.lock().runs_out = true;
    }

    /// The next part of the disk that the guest begins with, before everything else is taken.
    pub(super) fn next_of_disk(&self) -> Result<Option<Vec<NumberedPage>>, ReadError> {
        let mut inner = self.lock();
        while inner.entries.is_empty() && inner.next.is_none() {
            match inner.read()? {
                Some(Chunk::Disk(blocks)) => return Ok(Some(blocks)),
                Some(Chunk::Machine(_) | Chunk::Boot(_)) => {}
                Some(Chunk::Entries(entries)) => inner.entries.extend(entries),
                Some(other) => inner.next = Some(other),
                None => break,
            }
        }
        Ok(None)
    }

    /// Whether the next entry, if there is one in this epoch, is of that exit or an earlier one.
    pub(super) fn has_entry_up_to(&self, exit: u64) -> Result<bool, ReadError> {
        let mut inner = self.lock();
        inner.fill()?;
        Ok(inner.entries.front().is_some_and(|entry| entry.at_exit <= exit))
    }

    /// What comes next, entries that are left over included.
    pub(super) fn next(&self) -> Result<Between, ReadError> {
        let mut inner = self.lock();
        if !inner.entries.is_empty() {
            return Ok(Between::Entries(std::mem::take(&mut inner.entries).into()));
        }
        let chunk = match inner.next.take() {
            Some(chunk) => Some(chunk),
            None => inner.read()?,
        };
        Ok(match chunk {
            Some(Chunk::Pages(pages)) => Between::Pages(pages),
            Some(Chunk::Hashes(hashes)) => Between::Hashes(hashes),
            Some(Chunk::Commit(_, state)) => Between::Commit(state),
            Some(Chunk::Entries(entries)) => Between::Entries(entries),
            // They come before everything else, and were taken with the index, or at the beginning.
            Some(Chunk::Machine(_) | Chunk::Boot(_) | Chunk::Disk(_)) => Between::Entries(Vec::new()),
            Some(Chunk::End(_)) | None => Between::End,
        })
    }
}

impl Inner {
    fn read(&mut self) -> Result<Option<Chunk>, ReadError> {
        if self.reader.position() >= self.good_bytes {
            return Ok(None);
        }
        let chunk = self.reader.next_chunk()?;
        self.progress.read_to(self.reader.position());
        Ok(chunk)
    }

    /// Sees to it that the next entry of this epoch is at hand, if there is one.
    fn fill(&mut self) -> Result<(), ReadError> {
        while self.entries.is_empty() && self.next.is_none() {
            match self.read()? {
                Some(Chunk::Entries(entries)) => self.entries.extend(entries),
                Some(Chunk::Machine(_) | Chunk::Boot(_) | Chunk::Disk(_)) => {}
                Some(other) => self.next = Some(other),
                None => return Ok(()),
            }
        }
        Ok(())
    }
}

impl EntrySource for Tape {
    type Error = HistoryError;

    fn next_entry(&mut self) -> Result<Option<Entry<'static>>, HistoryError> {
        let mut inner = self.lock();
        inner.fill()?;
        let entry = inner.entries.pop_front();
        if entry.is_some() {
            inner.progress.entry_taken();
        }
        Ok(entry)
    }

    fn extent(&self) -> Extent {
        let inner = self.lock();
        match inner.runs_out {
            true => Extent::Growing { complete_to: u64::MAX },
            false => Extent::Growing { complete_to: inner.runs_to },
        }
    }

    fn knows_all_of(&self, _exit: u64) -> bool {
        // All of it is on the tape.
        true
    }
}

impl HistorySource for Tape {}
