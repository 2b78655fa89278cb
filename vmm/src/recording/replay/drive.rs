//! The replay itself, epoch by epoch.

use super::super::chunk::{CommitHead, CommitKind, PAGE_BYTES, RecordedEnd};
use super::super::index::IndexedCommit;
use super::super::live::read_page;
use super::super::page_hash::page_hash;
use super::report::{PAGE_BYTES_TOLD, PAGES_TOLD_MAX};
use super::tape::Between;
use super::{BlockDifference, DivergenceReport, PageDifference, Replay, ReplayError, ReplayReport, StopAt, Stopped};
use crate::machine::{InputError, MachineError, MachineState, PageIndex, StateDifference, Stop};
use ft_protocol::Epoch;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::record::EntryBody;
use shared_mem::DISK_PAGE_BASE;
use std::io::Write;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use vm_memory::{Bytes, GuestAddress};

/// What running to an exit came to.
enum Ran {
    /// The guest stands at the exit.
    There,
    /// The guest has ended.
    Ended(GuestEnd),
    /// It does not do what the recorded one did.
    Diverged(String),
    /// An input is missing that the recorded guest had: the recording ends in the midst of this exit.
    CutOff,
}

impl Replay {
    pub(super) fn drive(&mut self, stop: StopAt, console: &mut dyn Write) -> Result<Stopped, ReplayError> {
        let commits = self.index.commits.clone();
        for commit in commits {
            let head = commit.head;
            if let Some(stopped) = self.epoch(&commit, stop, console)? {
                return Ok(stopped);
            }
            if stop == StopAt::Epoch(head.epoch) || matches!(stop, StopAt::Exit(exit) if head.exits >= exit) {
                return Ok(Stopped::AsAsked);
            }
            if head.kind == CommitKind::End {
                break;
            }
        }
        self.tail(stop, console)
    }

    /// Replays an epoch and passes its commit.
    fn epoch(
        &mut self,
        commit: &IndexedCommit,
        stop: StopAt,
        console: &mut dyn Write,
    ) -> Result<Option<Stopped>, ReplayError> {
        let head = &commit.head;
        let asked = match stop {
            StopAt::Exit(exit) => exit,
            StopAt::End | StopAt::Epoch(_) => u64::MAX,
        };
        if matches!(head.kind, CommitKind::Start | CommitKind::Unlogged) {
            let here = self.machine.exits().0;
            if head.kind == CommitKind::Unlogged && (here..head.exits).contains(&asked) {
                return Ok(Some(Stopped::NotRecorded { from: here, to: head.exits }));
            }
            return self.skip_to(head, console);
        }
        let target = head.exits.min(asked);
        if head.kind == CommitKind::End && asked > head.exits {
            self.tape.run_out();
        }
        match self.run_to(target, head.kind == CommitKind::End, console)? {
            // Behind the exit that was asked for lie a kick, or the guest's end: not there yet.
            Ran::There if asked < head.exits || (asked == head.exits && head.kind != CommitKind::Exit) => {
                return Ok(Some(Stopped::AsAsked));
            }
            Ran::There if head.kind == CommitKind::End => {
                let line = format!("exit {}: expected the guest's end, got past it", self.machine.exits().0);
                return Ok(Some(self.diverged(line)));
            }
            Ran::There => {}
            Ran::Ended(end) if head.kind == CommitKind::End => {
                if let Some(line) = self.other_end(&end) {
                    return Ok(Some(self.diverged(line)));
                }
            }
            Ran::Ended(end) => {
                let exit = self.machine.exits().0;
                let line =
                    format!("exit {exit}: expected to come to exit {}, got the guest's end: {end:?}", head.exits);
                return Ok(Some(self.diverged(line)));
            }
            Ran::Diverged(line) => return Ok(Some(self.diverged(line))),
            Ran::CutOff => {
                let exit = self.machine.exits().0;
                let line = format!("exit {exit}: expected no request for an input that is not recorded, got one");
                return Ok(Some(self.diverged(line)));
            }
        }
        // The wait may have ended at the exit, with what came for the guest, right before the commit.
        if !commit.waits
            && !head.kind.has_pages()
            && let Err(error) = self.machine.end_wait()
            && let Ran::Diverged(line) = self.failed(error)?
        {
            return Ok(Some(self.diverged(line)));
        }
        self.pass(head)
    }

    /// What comes behind the last commit: to the last entry, as far as the recording is good.
    fn tail(&mut self, stop: StopAt, console: &mut dyn Write) -> Result<Stopped, ReplayError> {
        let ended = self.index.commits.last().is_some_and(|commit| commit.head.kind == CommitKind::End);
        if !ended {
            let asked = if let StopAt::Exit(exit) = stop { exit } else { u64::MAX };
            let last = self.index.last_entry.unwrap_or(0);
            if last > self.machine.exits().0 || asked <= last {
                match self.run_to(last.min(asked), false, console)? {
                    Ran::There if asked <= last => return Ok(Stopped::AsAsked),
                    // That the guest ended here is not in the recording any more: it is cut off, however near to its end.
                    Ran::There | Ran::CutOff | Ran::Ended(_) => {}
                    // Of the last exit the recording may have only a part.
                    Ran::Diverged(_) if self.machine.exits().0 == last => {}
                    Ran::Diverged(line) => return Ok(self.diverged(line)),
                }
            }
        }
        if let Some(damage) = &self.index.damage {
            let good_bytes = self.index.good_bytes;
            return Ok(Stopped::Damaged { damage: crate::chain(damage), good_bytes });
        }
        Ok(match &self.index.end {
            Some(RecordedEnd::Guest(end)) => Stopped::of_end(end),
            Some(RecordedEnd::LeftOff(reason)) => Stopped::LeftOff { reason: reason.clone() },
            None => Stopped::Damaged {
                damage: "the file ends without an end: whoever recorded it was killed, or the file was cut off"
                    .to_owned(),
                good_bytes: self.index.good_bytes,
            },
        })
    }

    /// Runs the guest to this exit, or to its end.
    fn run_to(&mut self, exit: u64, to_end: bool, console: &mut dyn Write) -> Result<Ran, ReplayError> {
        self.tape.run_to(exit);
        let here = self.machine.exits().0;
        if self.tape.has_entry_up_to(here)? && self.machine.waits_until().is_none() {
            // A primary has its devices take what has come behind every commit for which it held the guest. A guest that
            // waits gets it when it is run.
            if let Err(error) = self.machine.deliver() {
                return self.failed(error);
            }
        }
        loop {
            if !to_end && self.machine.exits().0 >= exit {
                // Nothing of this exit's own instruction is left to be done; what it writes is part of it.
                let completed = self.machine.complete_pending();
                self.show(console)?;
                return match completed {
                    Ok(()) => Ok(Ran::There),
                    Err(error) => self.failed(error),
                };
            }
            let stop = self.machine.run();
            self.progress.exit.store(self.machine.exits().0, Ordering::Relaxed);
            self.show(console)?;
            match stop {
                Ok(Stop::Exited(code)) => return Ok(Ran::Ended(GuestEnd::Exited(code))),
                Ok(Stop::Crashed(report)) => return Ok(Ran::Ended(GuestEnd::Crashed(report.to_string()))),
                Ok(Stop::SourcePaused) if to_end => return Ok(Ran::There),
                Ok(_) => {}
                Err(error) => return self.failed(error),
            }
        }
    }

    fn show(&mut self, console: &mut dyn Write) -> Result<(), ReplayError> {
        if !self.machine.pending_console().is_empty() {
            let output = self.machine.take_console();
            console.write_all(&output.bytes).and_then(|()| console.flush()).map_err(ReplayError::Console)?;
        }
        self.machine.take_packets();
        Ok(())
    }

    fn failed(&self, error: MachineError) -> Result<Ran, ReplayError> {
        match error {
            MachineError::Input(InputError::Diverged(divergence)) => Ok(Ran::Diverged(divergence.to_string())),
            MachineError::Input(InputError::Mismatch { .. }) => Ok(Ran::CutOff),
            error => Err(error.into()),
        }
    }

    /// Holds the guest against a commit that it has come to, or takes what it cannot come to.
    fn pass(&mut self, head: &CommitHead) -> Result<Option<Stopped>, ReplayError> {
        // Where the recorded guest crashed, its registers tell of the crash; of them only the history counts.
        let compares_state =
            !matches!(self.index.end, Some(RecordedEnd::Guest(GuestEnd::Crashed(_)))) || head.kind != CommitKind::End;
        let before = self.machine.save()?;
        self.machine.harvest(&mut self.dirty)?;
        let expected = MachineState::decode(&self.take_up_to_commit(None)?)?;
        let exit = self.machine.exits().0;
        if head.kind == CommitKind::Kick {
            let (was, is) = ((expected.exits().0, expected.history_digest()), (exit, before.history_digest()));
            if was != is {
                let line = format!("exit {exit}: expected history {:#010x}, got {:#010x}", was.1, is.1);
                return Ok(Some(self.diverged(line)));
            }
        }
        let pages = self.page_differences();
        let blocks = if head.kind.has_pages() { Vec::new() } else { self.block_differences(head)? };
        let registers = match head.kind.has_pages() || !compares_state {
            true => Vec::new(),
            false => expected.differences(&before),
        };
        if pages.1 > 0 || !blocks.is_empty() || !registers.is_empty() || self.hashes.digest() != head.memory {
            return Ok(Some(self.differs(head, registers, pages, blocks)));
        }
        self.blocks_agree(head.epoch);
        if head.kind.has_pages() {
            self.machine.restore(&expected)?;
            self.taken += 1;
        } else {
            self.verified += 1;
        }
        self.agreed = (head.exits, Some(head.epoch));
        Ok(None)
    }

    /// Takes the state of a commit that comes without entries.
    fn skip_to(&mut self, head: &CommitHead, console: &mut dyn Write) -> Result<Option<Stopped>, ReplayError> {
        let state = MachineState::decode(&self.take_up_to_commit(Some(console))?)?;
        self.machine.restore(&state)?;
        self.machine.harvest(&mut self.dirty)?;
        let pages = self.page_differences();
        if pages.1 > 0 || self.hashes.digest() != head.memory {
            return Ok(Some(self.differs(head, Vec::new(), pages, Vec::new())));
        }
        self.blocks_agree(head.epoch);
        self.taken += 1;
        self.agreed = (head.exits, Some(head.epoch));
        Ok(None)
    }

    /// Reads on to the next commit; pages go into memory, hashes into what is expected. What comes without having been
    /// replayed goes to `console`. Gives the commit's saved state.
    fn take_up_to_commit(&mut self, mut console: Option<&mut dyn Write>) -> Result<Vec<u8>, ReplayError> {
        loop {
            match self.tape.next()? {
                Between::Pages(pages) => {
                    for (number, page) in &pages {
                        self.take_page(*number, page)?;
                    }
                }
                Between::Hashes(hashes) => {
                    for (number, hash) in hashes {
                        if number >= DISK_PAGE_BASE {
                            self.blocks.insert(number - DISK_PAGE_BASE, hash);
                        } else if self.hashes.set(number, hash) {
                            self.dirty.insert(PageIndex(number));
                        }
                    }
                }
                Between::Entries(entries) => {
                    let Some(console) = &mut console else { continue };
                    for entry in entries {
                        if let EntryBody::Output { bytes, .. } = entry.body {
                            console.write_all(&bytes).and_then(|()| console.flush()).map_err(ReplayError::Console)?;
                        }
                    }
                }
                Between::Commit(state) => return Ok(state),
                Between::End => {
                    let what = "the recording has become shorter";
                    return Err(super::ReadError::Place { sequence: 0, what }.into());
                }
            }
        }
    }

    /// The blocks of the disk that are not what the recording says, of those that either guest wrote.
    fn block_differences(&mut self, head: &CommitHead) -> Result<Vec<BlockDifference>, ReplayError> {
        let expected = std::mem::take(&mut self.blocks);
        let Some(disk) = &self.disk else { return Ok(Vec::new()) };
        let disk = disk.lock().unwrap_or_else(PoisonError::into_inner);
        let mut differences = Vec::new();
        // The recording of an unprotected guest has no hashes of blocks.
        let unexpected = disk.dirty_blocks().map(|(block, _)| block.get()).filter(|_| head.generation != 0);
        for block in unexpected.filter(|block| !expected.contains_key(block)) {
            differences.push(BlockDifference { block, expected: None, got: None });
        }
        let mut content = [0; PAGE_BYTES];
        for (block, expected) in expected {
            disk.read(block * PAGE_BYTES as u64, &mut content)?;
            let got = page_hash(DISK_PAGE_BASE + block, &content);
            if got != expected {
                differences.push(BlockDifference { block, expected: Some(expected), got: Some(got) });
            }
        }
        Ok(differences)
    }

    /// The disk is as the recording has it at this epoch.
    pub(super) fn blocks_agree(&mut self, epoch: u64) {
        self.blocks.clear();
        if let Some(disk) = &self.disk {
            disk.lock().unwrap_or_else(PoisonError::into_inner).committed(Epoch::new(epoch));
        }
    }

    pub(super) fn take_page(&mut self, number: u64, page: &[u8; PAGE_BYTES]) -> Result<(), ReplayError> {
        if let (Some(block), Some(disk)) = (number.checked_sub(DISK_PAGE_BASE), &self.disk) {
            let mut disk = disk.lock().unwrap_or_else(PoisonError::into_inner);
            disk.write(block * PAGE_BYTES as u64, page)?;
        } else if self.hashes.set(number, page_hash(number, page)) {
            let index = PageIndex(number);
            self.dirty.insert(index);
            self.machine.memory().write_slice(page, index.guest_address()).expect("the index knows the memory's size");
        }
        Ok(())
    }

    /// The pages that are not what the recording says, of those that either side wrote: the first of them, and how many.
    fn page_differences(&mut self) -> (Vec<PageDifference>, u64) {
        let (mut first, mut count) = (Vec::new(), 0);
        let mut content = [0; PAGE_BYTES];
        for page in self.dirty.iter() {
            read_page(&self.machine, page, &mut content);
            let got = page_hash(page.0, &content);
            let expected = self.hashes.get(page.0).expect("only pages of the guest's memory get dirty");
            if got != expected {
                count += 1;
                if first.len() < PAGES_TOLD_MAX {
                    let address = page.guest_address().0;
                    first.push(PageDifference { address, expected, got, got_bytes: excerpt(&content) });
                }
            }
        }
        self.dirty.clear();
        (first, count)
    }

    fn differs(
        &self,
        head: &CommitHead,
        registers: Vec<StateDifference>,
        (pages, pages_in_all): (Vec<PageDifference>, u64),
        mut blocks: Vec<BlockDifference>,
    ) -> Stopped {
        let exit = self.machine.exits().0;
        let counted = [
            (registers.len() as u64, "other registers"),
            (pages_in_all, "other pages"),
            (blocks.len() as u64, "other blocks on its disk"),
        ];
        let counted = counted.iter().filter(|(count, _)| *count > 0);
        let counted: Vec<String> = counted.map(|(count, what)| format!("{count} {what}")).collect();
        let what = match counted.is_empty() {
            true => "got another digest of all memory".to_owned(),
            false => format!("got {}", counted.join(" and ")),
        };
        blocks.truncate(PAGES_TOLD_MAX);
        let line = format!("exit {exit}: expected the state and memory of epoch {}, {what}", head.epoch);
        Stopped::Diverged(DivergenceReport { registers, pages, pages_in_all, blocks, ..self.report_of(line) })
    }

    /// The difference, if the recorded guest ended in another way. Lines about crashes are for readers: that both crashed is
    /// enough. Where the end was not recorded any more, any will do.
    fn other_end(&self, got: &GuestEnd) -> Option<String> {
        let Some(RecordedEnd::Guest(expected)) = &self.index.end else { return None };
        if expected == got || matches!((expected, got), (GuestEnd::Crashed(_), GuestEnd::Crashed(_))) {
            return None;
        }
        let exit = self.machine.exits().0;
        Some(format!("exit {exit}: expected the guest's end {expected:?}, got {got:?}"))
    }

    fn diverged(&self, line: String) -> Stopped {
        Stopped::Diverged(self.report_of(line))
    }

    fn report_of(&self, line: String) -> DivergenceReport {
        DivergenceReport {
            exit: self.machine.exits().0,
            line,
            agreed_at_exit: self.agreed.0,
            agreed_at_epoch: self.agreed.1,
            registers: Vec::new(),
            pages: Vec::new(),
            pages_in_all: 0,
            blocks: Vec::new(),
        }
    }

    pub(super) fn report(&mut self, stopped: Stopped) -> Result<ReplayReport, ReplayError> {
        let state = self.machine.save()?;
        let registers = state.registers();
        let rip = registers.iter().find(|register| register.name == "rip").map_or(0, |register| register.value);
        let mut code = [0; 16];
        let code = match self.machine.memory().read_slice(&mut code, GuestAddress(rip)) {
            Ok(()) => hex(&code),
            Err(_) => "not in memory".to_owned(),
        };
        Ok(ReplayReport {
            stopped,
            exit: state.exits().0,
            epoch: self.agreed.1,
            console_bytes: state.console_position(),
            entries: self.progress.entries(),
            commits_verified: self.verified,
            commits_taken: self.taken,
            memory_digest: self.memory_digest(),
            state_digest: state.digest(),
            registers,
            code,
        })
    }

    /// All of the memory, read anew.
    fn memory_digest(&self) -> u64 {
        let pages = self.machine.ram_bytes() / PAGE_BYTES as u64;
        let mut content = [0; PAGE_BYTES];
        (0..pages).fold(0, |digest: u64, number| {
            read_page(&self.machine, PageIndex(number), &mut content);
            digest.wrapping_add(page_hash(number, &content))
        })
    }
}

fn excerpt(page: &[u8; PAGE_BYTES]) -> String {
    let at = page.iter().position(|byte| *byte != 0);
    let Some(at) = at else { return "only zeroes".to_owned() };
    format!("at {at}: {}", hex(&page[at..page.len().min(at + PAGE_BYTES_TOLD)]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
