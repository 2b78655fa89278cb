//! Writes a recording while its guest runs: what it holds is bounded, and the disk's work is done by another thread.
//!
//! A recording that cannot be written ends at its last whole chunk. The guest goes on: it is worth more than its recording.

use super::chunk::{CommitHead, PAGE_BYTES, RecordedEnd, RecordedMachine, commit_content, end_content, push_entry};
use super::envelope::{self, ChunkKind};
use crossbeam_channel::{Receiver, Sender};
use std::fs::File;
use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

/// Content at which a chunk is closed.
const CLOSE_BYTES: usize = 1 << 20;
/// Entries are handed on in smaller parts: what is lost when everything dies, or the file is cut off, is at most this.
const CLOSE_ENTRIES_BYTES: usize = 4 << 10;
/// Content that waits for the disk; a guest that is faster waits too. By bytes: most chunks are small, and it is not their number that
/// takes memory.
const WAITING_BYTES_MAX: usize = 16 * CLOSE_BYTES;
const _: () = assert!(CLOSE_BYTES + ft_protocol::record::PAYLOAD_BYTES_MAX + 16 <= envelope::PLAIN_BYTES_MAX);
const _: () = assert!(CLOSE_BYTES + PAGE_BYTES + 8 <= envelope::PLAIN_BYTES_MAX);

/// Why there is no recording, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be made.
    #[error("cannot record to {path}")]
    Create {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No thread can be had.
    #[error("no thread for the recording")]
    Thread(#[source] io::Error),
    /// The file cannot be written any further.
    #[error("the recording {path} ends early, {good_bytes} bytes of it are good: {why}")]
    EndsEarly {
        /// The file.
        path: PathBuf,
        /// How far it is good.
        good_bytes: u64,
        /// Why.
        why: String,
    },
}

/// Work for the thread that writes.
enum Work {
    Chunk(ChunkKind, Vec<u8>),
    /// All work before this is done when this is dropped.
    Settle(Sender<()>),
}

/// Room for content that waits for the thread that writes.
#[derive(Debug, Default)]
struct Room {
    taken: Mutex<Taken>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Taken {
    bytes: usize,
    /// Nobody gives room back any more.
    closed: bool,
}

impl Room {
    /// Waits for room. What is larger than all of it waits until there is nothing else.
    fn take(&self, bytes: usize) {
        let is_full = |taken: &mut Taken| !taken.closed && taken.bytes > 0 && taken.bytes + bytes > WAITING_BYTES_MAX;
        let waited = self.changed.wait_while(self.lock(), is_full);
        waited.unwrap_or_else(PoisonError::into_inner).bytes += bytes;
    }

    fn give_back(&self, bytes: usize) {
        self.lock().bytes -= bytes;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nobody panics while it is held.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// However the thread that writes ends: nobody waits for it any longer.
struct Closes(Arc<Room>);

impl Drop for Closes {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

/// Writes a recording.
#[derive(Debug)]
pub struct RecordingWriter {
    path: PathBuf,
    room: Arc<Room>,
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<u64>>,
    failure: Arc<OnceLock<String>>,
    entries: Vec<u8>,
    pages: Vec<u8>,
    hashes: Vec<u8>,
    disk: Vec<u8>,
}

impl RecordingWriter {
    /// Begins a recording. A file that is there is replaced.
    ///
    /// # Errors
    /// The file cannot be made or written.
    pub fn create(path: &Path, machine: &RecordedMachine) -> Result<Self, RecordError> {
        let failed = |source| RecordError::Create { path: path.to_owned(), source };
        let mut file = File::create(path).map_err(failed)?;
        let description = postcard::to_allocvec(machine).expect("plain data always encodes into a vector");
        let mut begin = envelope::file_head().to_vec();
        begin.extend(envelope::seal(ChunkKind::Machine, 0, &description));
        file.write_all(&begin).map_err(failed)?;
        Self::start(path, Disk { file, sequence: 1, good_bytes: begin.len() as u64 })
    }

    /// Goes on with a recording behind a chunk; what the file has further on is dropped.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn resume(path: &Path, good_bytes: u64, sequence: u64) -> Result<Self, RecordError> {
        use std::io::{Seek as _, SeekFrom};
        let failed = |source| RecordError::Create { path: path.to_owned(), source };
        let mut file = File::options().write(true).open(path).map_err(failed)?;
        file.set_len(good_bytes).map_err(failed)?;
        file.seek(SeekFrom::Start(good_bytes)).map_err(failed)?;
        Self::start(path, Disk { file, sequence, good_bytes })
    }

    fn start(path: &Path, mut disk: Disk) -> Result<Self, RecordError> {
        let (work, queue) = crossbeam_channel::unbounded();
        let room: Arc<Room> = Arc::default();
        let closes = Closes(Arc::clone(&room));
        let failure: Arc<OnceLock<String>> = Arc::default();
        let (told, name) = (Arc::clone(&failure), path.to_owned());
        let thread = std::thread::Builder::new()
            .name("recording".to_owned())
            .spawn(move || {
                disk.write_all_of(&queue, &closes.0, &told, &name);
                disk.good_bytes
            })
            .map_err(RecordError::Thread)?;
        Ok(Self {
            path: path.to_owned(),
            room,
            work: Some(work),
            thread: Some(thread),
            failure,
            entries: Vec::new(),
            pages: Vec::new(),
            hashes: Vec::new(),
            disk: Vec::new(),
        })
    }

    /// Where the recording goes.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why the recording has ended early, if it has.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Adds the file that the guest is booted from.
    pub fn boot(&mut self, file: &[u8]) {
        for part in file.chunks(CLOSE_BYTES) {
            self.send(ChunkKind::Boot, part.to_vec());
        }
    }

    /// Adds a block of the disk that a guest with a boot file begins with: before everything else.
    pub fn disk_block(&mut self, number: u64, content: &[u8; PAGE_BYTES]) {
        self.disk.extend(number.to_le_bytes());
        self.disk.extend_from_slice(content);
        if self.disk.len() >= CLOSE_BYTES {
            self.close_disk();
        }
    }

    /// The disk is complete.
    pub fn close_disk(&mut self) {
        let content = std::mem::take(&mut self.disk);
        self.send(ChunkKind::Disk, content);
    }

    /// Adds an entry, as a record log stores it.
    pub fn entry(&mut self, tag: NonZeroU32, at_exit: u64, payload: &[u8]) {
        push_entry(&mut self.entries, tag, at_exit, payload);
        if self.entries.len() >= CLOSE_ENTRIES_BYTES {
            self.close_entries();
        }
    }

    /// Adds a page that belongs to the next commit.
    pub fn page(&mut self, number: u64, page: &[u8; PAGE_BYTES]) {
        self.close_entries();
        self.pages.extend(number.to_le_bytes());
        self.pages.extend_from_slice(page);
        if self.pages.len() >= CLOSE_BYTES {
            self.close_pages();
        }
    }

    /// Adds the hash of a page that belongs to the next commit.
    pub fn hash(&mut self, number: u64, hash: u64) {
        self.close_entries();
        self.hashes.extend(number.to_le_bytes());
        self.hashes.extend(hash.to_le_bytes());
        if self.hashes.len() >= CLOSE_BYTES {
            self.close_hashes();
        }
    }

    /// Closes an epoch.
    pub fn commit(&mut self, head: &CommitHead, state: &[u8]) {
        self.close_entries();
        self.close_pages();
        self.close_hashes();
        self.send(ChunkKind::Commit, commit_content(head, state));
    }

    /// Says how the recording ends, and waits until it is safe.
    ///
    /// # Errors
    /// Not all of it could be written.
    pub fn end(mut self, end: &RecordedEnd) -> Result<u64, RecordError> {
        self.close_entries();
        self.send(ChunkKind::End, end_content(end));
        let good_bytes = self.join();
        match self.failure.get() {
            None => Ok(good_bytes),
            Some(why) => Err(RecordError::EndsEarly { path: self.path.clone(), good_bytes, why: why.clone() }),
        }
    }

    /// Waits until all that was added is in the file, or has failed to be.
    pub fn settle(&mut self) {
        self.close_entries();
        let (settled, is_settled) = crossbeam_channel::bounded(0);
        let work = self.work.as_ref().expect("only the end takes the channel");
        if work.send(Work::Settle(settled)).is_ok() {
            // It is never sent to, only dropped: with all work done, or by a thread that ends.
            let _ = is_settled.recv();
        }
    }

    /// Hands on what is there of an unfinished epoch.
    pub fn flush(&mut self) {
        self.close_entries();
    }

    fn close_entries(&mut self) {
        let content = std::mem::take(&mut self.entries);
        self.send(ChunkKind::Entries, content);
    }

    fn close_pages(&mut self) {
        let content = std::mem::take(&mut self.pages);
        self.send(ChunkKind::Pages, content);
    }

    fn close_hashes(&mut self) {
        let content = std::mem::take(&mut self.hashes);
        self.send(ChunkKind::Hashes, content);
    }

    fn send(&mut self, kind: ChunkKind, content: Vec<u8>) {
        if content.is_empty() || self.failure.get().is_some() {
            return;
        }
        let work = self.work.as_ref().expect("only the end takes the channel");
        self.room.take(content.len());
        // A thread that has ended has said why.
        let _ = work.send(Work::Chunk(kind, content));
    }

    fn join(&mut self) -> u64 {
        self.work = None;
        // A panic there has been reported by its hook.
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or(0)
    }
}

impl Drop for RecordingWriter {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.close_entries();
            self.join();
        }
    }
}

/// The file, on the thread that writes it.
struct Disk {
    file: File,
    sequence: u64,
    good_bytes: u64,
}

impl Disk {
    fn write_all_of(&mut self, queue: &Receiver<Work>, room: &Room, failure: &OnceLock<String>, path: &Path) {
        let mut failed = None;
        for work in queue {
            match work {
                Work::Chunk(kind, content) => {
                    let written = self.write(kind, &content);
                    room.give_back(content.len());
                    if let Err(error) = written {
                        failed = Some(error);
                        break;
                    }
                }
                Work::Settle(settled) => drop(settled),
            }
        }
        if let Some(error) = failed.or_else(|| self.file.sync_data().err().filter(|error| !is_no_file(error))) {
            tracing::error!(
                "THE RECORDING {} ENDS HERE, after {} good bytes: {error}; the guest goes on without it",
                path.display(),
                self.good_bytes
            );
            // What is there of the last chunk would be found to be cut off; without it the file is simply shorter.
            let _ = self.file.set_len(self.good_bytes);
            let _said_once = failure.set(error.to_string());
        }
    }

    fn write(&mut self, kind: ChunkKind, content: &[u8]) -> io::Result<()> {
        let chunk = envelope::seal(kind, self.sequence, content);
        self.file.write_all(&chunk)?;
        self.sequence += 1;
        self.good_bytes += chunk.len() as u64;
        Ok(())
    }
}

/// Pipes and the like cannot be made durable.
fn is_no_file(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EROFS))
}
