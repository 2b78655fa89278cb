//! The recording of a protected VM: whatever host runs it, its entries and commits come by here, so that no takeover
//! interrupts it. An epoch is in the recording before it is applied; a controller that died is followed by one that finds
//! the last applied epoch there and goes on.

use super::applier::Job;
use crate::machine::MachineState;
use crate::recording::{
    CommitHead, CommitKind, Index, PageHashes, RecordedEnd, RecordedMachine, RecordingWriter, page_hash,
};
use ft_protocol::commit_meta::CommitMeta;
use ft_protocol::cpu::CpuProfile;
use ft_protocol::record::{CommitPoint, Entry, EntryBody};
use ft_protocol::spec::{Mode, VmSpec};
use shared_mem::{
    DISK_PAGE_BASE, Extent, LogPosition, Mapping, Offset, PAGE_BYTES, PagePlace, PoolRead, ReadWrite, Record,
    boot_image,
};
use std::fs::File;
use std::io::BufReader;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Console output of one entry that stands for output that no log had.
const OUTPUT_BYTES_MAX: usize = 512 << 10;

/// A recording, begun with its first epoch.
pub(super) struct PoolRecording {
    path: PathBuf,
    spec: VmSpec,
    cpu: CpuProfile,
    boot: Extent,
    phase: Phase,
}

enum Phase {
    NotBegun,
    Runs(Box<Running>),
    Over,
}

struct Running {
    writer: RecordingWriter,
    hashes: PageHashes,
    /// Where the log goes on that is not recorded yet.
    position: LogPosition,
    /// Up to where the recording has the console's output.
    console_end: u64,
    payload: Vec<u8>,
}

/// An entry as the log has it.
struct Logged {
    tag: NonZeroU32,
    at_exit: u64,
    payload: Vec<u8>,
}

/// A record that is about to be applied, and what it is applied to.
pub(super) struct Due<'a> {
    pub(super) job: &'a Job,
    pub(super) record: &'a Record<'a>,
    pub(super) meta: &'a CommitMeta<'a>,
    pub(super) state: &'a MachineState,
    pub(super) image: &'a Mapping<ReadWrite>,
    pub(super) disk: Option<&'a Mapping<ReadWrite>>,
    /// The last epoch that is applied, and where the log of the time after it begins.
    pub(super) applied: shared_mem::Epoch,
    pub(super) applied_log: LogPosition,
    /// Up to where the console is, of the guest of that epoch.
    pub(super) applied_console: u64,
}

impl PoolRecording {
    /// A recording of a VM to this file.
    pub(super) fn new(path: &Path, spec: &VmSpec, cpu: &CpuProfile, boot: Extent) -> Self {
        Self { path: path.to_owned(), spec: spec.clone(), cpu: cpu.clone(), boot, phase: Phase::NotBegun }
    }

    /// Records an epoch. Whatever fails here ends the recording, not the VM.
    pub(super) fn record(&mut self, due: &Due<'_>) {
        if let Err(error) = self.try_record(due) {
            let (name, path) = (&self.spec.name, self.path.display());
            tracing::error!("{name} is not recorded to {path} any more: {}", crate::chain(&*error));
            self.phase = Phase::Over;
        }
    }

    fn try_record(&mut self, due: &Due<'_>) -> Result<(), Failure> {
        if matches!(self.phase, Phase::NotBegun) {
            self.phase = self.begin(due)?.map_or(Phase::Over, |running| Phase::Runs(Box::new(running)));
        }
        let Phase::Runs(running) = &mut self.phase else { return Ok(()) };
        running.epoch(due)?;
        if let Some(end) = &due.meta.ended
            && let Phase::Runs(running) = std::mem::replace(&mut self.phase, Phase::Over)
        {
            running.writer.end(&RecordedEnd::Guest(end.clone()))?;
        }
        Ok(())
    }

    /// Begins, or goes on behind the last applied epoch. `None`: there is nothing more to be recorded.
    fn begin(&self, due: &Due<'_>) -> Result<Option<Running>, Failure> {
        let pages = usize::try_from(self.spec.memory_bytes)? / PAGE_BYTES;
        let hashes = PageHashes::new(pages);
        let payload = Vec::new();
        if due.applied == shared_mem::Epoch::ZERO {
            let mut writer = RecordingWriter::create(&self.path, &self.described())?;
            writer.boot(&boot_image::load(&Mapping::read_only(&self.boot)?)?);
            if let Some(disk) = due.disk {
                record_disk(&mut writer, disk)?;
            }
            return Ok(Some(Running { writer, hashes, position: LogPosition::ZERO, console_end: 0, payload }));
        }
        let index = Index::read(BufReader::new(File::open(&self.path)?))?;
        if !index.machine.is_same_vm(&self.described()) {
            return Err("the file holds the recording of another VM".into());
        }
        let last = index.commits.iter().find(|commit| commit.head.epoch == due.applied.get());
        let Some(last) = last else {
            return Err(format!("the recording has no epoch {}, with which the VM goes on", due.applied.get()).into());
        };
        let writer = RecordingWriter::resume(&self.path, last.end, last.sequence)?;
        let hashes = hashes_of(due.image, hashes)?;
        Ok(Some(Running { writer, hashes, position: due.applied_log, console_end: due.applied_console, payload }))
    }

    fn described(&self) -> RecordedMachine {
        let spec = &self.spec;
        RecordedMachine {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            guest: spec.name.clone(),
            args: spec.args.clone(),
            mode: match spec.mode {
                Mode::Checkpoint => "checkpoint",
                Mode::Replay => "replay",
                Mode::Lockstep => "lockstep",
            }
            .to_owned(),
            memory_bytes: spec.memory_bytes,
            macs: spec.nets.iter().map(|net| net.mac).collect(),
            disk_bytes: spec.disk_bytes,
            cpu: self.cpu.clone(),
        }
    }
}

impl Running {
    fn epoch(&mut self, due: &Due<'_>) -> Result<(), Failure> {
        let (entries, point) = self.entries(due)?;
        let kind = match point {
            None => CommitKind::Unlogged,
            Some(_) if due.meta.ended.is_some() => CommitKind::End,
            Some(point) if point.kicked => CommitKind::Kick,
            Some(_) => CommitKind::Exit,
        };
        if kind == CommitKind::Unlogged {
            // Where a takeover diverged, the log goes on to exits that the guest that went on has not come to.
            self.unlogged(due, &entries)?;
        } else {
            for Logged { tag, at_exit, payload } in &entries {
                self.writer.entry(*tag, *at_exit, payload);
                if let EntryBody::Output { position, bytes } = Entry::decode(*tag, *at_exit, payload)?.body {
                    self.console_end = self.console_end.max(position.saturating_add(bytes.len() as u64));
                }
            }
        }
        for (page, content) in due.record.pages() {
            let content: &[u8; PAGE_BYTES] = content.try_into()?;
            let hash = page_hash(page.get(), content);
            // The record was checked: what is no page of memory is a block of the disk.
            let is_block = matches!(page.place(), PagePlace::Disk(_));
            if is_block || self.hashes.set(page.get(), hash) {
                match kind.has_pages() {
                    true => self.writer.page(page.get(), content),
                    false => self.writer.hash(page.get(), hash),
                }
            }
        }
        let head = CommitHead {
            generation: due.job.generation.get(),
            epoch: due.job.epoch.get(),
            exits: due.state.exits().0,
            memory: self.hashes.digest(),
            kind,
        };
        self.writer.commit(&head, due.meta.machine_state);
        self.writer.settle();
        match self.writer.failure() {
            Some(why) => Err(why.to_owned().into()),
            None => Ok(()),
        }
    }

    /// The entries up to this commit, of which there are no more than the ring has room for; and the commit's own, if the
    /// log has it.
    fn entries(&mut self, due: &Due<'_>) -> Result<(Vec<Logged>, Option<CommitPoint>), Failure> {
        let to = LogPosition::new(due.state.log_position());
        let (mut entries, mut own) = (Vec::new(), None);
        while self.position < to {
            let entry = match due.job.journal.log.read(self.position, &mut self.payload) {
                Ok(Some(entry)) => entry,
                // What it lacks, nobody can replay; the record says where the guest was then.
                Ok(None) | Err(_) => {
                    self.position = to;
                    return Ok((entries, None));
                }
            };
            let next = self.position.plus(entry.stored_bytes());
            let Ok(decoded) = Entry::decode(entry.tag, entry.exit_counter, entry.payload) else {
                self.position = to;
                return Ok((entries, None));
            };
            entries.push(Logged { tag: entry.tag, at_exit: entry.exit_counter, payload: entry.payload.to_vec() });
            if let EntryBody::Commit(point) = decoded.body {
                let is_own = point.generation == due.job.generation && point.epoch == due.job.epoch;
                own = is_own.then_some(point).or(own);
            }
            self.position = next;
        }
        Ok((entries, own))
    }

    /// Records the console output of an epoch that no replay runs through: what left by the log, and what the commit brings.
    fn unlogged(&mut self, due: &Due<'_>, entries: &[Logged]) -> Result<(), Failure> {
        for Logged { tag, at_exit, payload } in entries {
            if let EntryBody::Output { position, bytes } = Entry::decode(*tag, *at_exit, payload)?.body {
                self.output(due, position, &bytes);
            }
        }
        self.output(due, due.meta.console_start, due.meta.console);
        Ok(())
    }

    /// A guest that did not replay its log to its end writes again what has left, before it comes to something new.
    fn output(&mut self, due: &Due<'_>, position: u64, bytes: &[u8]) {
        let known = self.console_end.saturating_sub(position);
        let bytes = usize::try_from(known).ok().and_then(|known| bytes.get(known..)).unwrap_or_default();
        let mut position = position.saturating_add(known);
        self.console_end = self.console_end.max(position.saturating_add(bytes.len() as u64));
        for bytes in bytes.chunks(OUTPUT_BYTES_MAX) {
            let body = EntryBody::Output { position, bytes: bytes.into() };
            let entry = Entry { at_exit: due.state.exits().0, digest: due.state.history_digest(), body };
            self.payload.clear();
            entry.encode_payload(&mut self.payload);
            self.writer.entry(entry.tag(), entry.at_exit, &self.payload);
            position = position.saturating_add(bytes.len() as u64);
        }
    }
}

/// The disk as the guest finds it.
fn record_disk(writer: &mut RecordingWriter, disk: &Mapping<ReadWrite>) -> Result<(), Failure> {
    let mut content = [0; PAGE_BYTES];
    for block in 0..PoolRead::len(disk) / PAGE_BYTES as u64 {
        disk.read(Offset::new(block * PAGE_BYTES as u64), &mut content)?;
        if content.iter().any(|byte| *byte != 0) {
            writer.disk_block(DISK_PAGE_BASE + block, &content);
        }
    }
    writer.close_disk();
    Ok(())
}

fn hashes_of(image: &Mapping<ReadWrite>, mut hashes: PageHashes) -> Result<PageHashes, Failure> {
    let mut content = [0; PAGE_BYTES];
    for number in 0..PoolRead::len(image) / PAGE_BYTES as u64 {
        image.read(Offset::new(number * PAGE_BYTES as u64), &mut content)?;
        hashes.set(number, page_hash(number, &content));
    }
    Ok(hashes)
}

impl Drop for PoolRecording {
    fn drop(&mut self) {
        if let Phase::Runs(running) = std::mem::replace(&mut self.phase, Phase::Over) {
            let end = RecordedEnd::LeftOff("its controller ended before the guest did".to_owned());
            if let Err(error) = running.writer.end(&end) {
                tracing::error!("{}", crate::chain(&error));
            }
        }
    }
}
