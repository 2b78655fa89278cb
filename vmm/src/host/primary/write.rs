//! Commit records: what is dirty goes into a journal slot.

use super::{Failure, Reign, lock};
use crate::host::vm_thread::VmEvent;
use crate::machine::MachineError;
use crate::{clock, failpoint};
use ft_protocol::Epoch;
use ft_protocol::commit_meta::{CommitMeta, GuestEnd};
use ft_protocol::primary::Input;
use ft_protocol::record::{CommitPoint, EntryBody};
use ft_protocol::timeline::{Shortage, Wanted};
use shared_mem::control::ControlError;
use shared_mem::journal::{JournalError, PAGE_COST, SpillError, UnchecksummedRecord};

/// Pages of a record after which it says that it goes on.
const BREATH_PAGES: usize = 4096;

impl Reign<'_> {
    /// Writes a commit record into its slot. When the pool has no space for it, it is tried again later: what is dirty
    /// stays noted, and the guest stays stopped.
    pub(super) fn write(&mut self, epoch: Epoch, ended: Option<GuestEnd>) -> Result<(), Failure> {
        if self.recording && self.noted < epoch {
            let point = CommitPoint { generation: self.order.generation, epoch, kicked: !self.machine.is_at_exit() };
            let (exit, digest) = (self.machine.exits(), self.machine.history_digest());
            if let Err(error) = self.log.note(exit, digest, EntryBody::Commit(point)) {
                if self.log.is_sealed() {
                    let final_epoch = self.gate.committed();
                    return self.feed(Input::Sealed { final_epoch });
                }
                return Err(error);
            }
            self.noted = epoch;
        }
        self.times.stopped = clock::monotonic();
        self.machine.harvest(&mut self.dirty)?;
        self.times.harvested = clock::monotonic();
        self.feed(Input::Dirtied { pages: self.dirty.len() as u64 })?;
        failpoint::pass("host.commit.harvested");
        let room = if self.out_of_space { Room::AtOnce } else { Room::AsItGrows };
        let written = match self.try_write(epoch, ended.clone(), room) {
            Err(WriteError::NoSpace(_)) if room == Room::AsItGrows => {
                // What is kept for later records is of more use now, and so is what this one has got so far: others may
                // need just that to get on.
                let freed = self.parts.control.freed()?;
                self.journal.release_free_slots(shared_mem::Epoch::new(epoch.get()), freed)?;
                self.try_write(epoch, ended.clone(), Room::AtOnce)
            }
            written => written,
        };
        match written {
            Ok(record) => {
                self.times.epoch = epoch;
                self.times.closed = clock::monotonic();
                self.timed = true;
                if std::mem::take(&mut self.out_of_space) {
                    self.around.say(VmEvent::Space { generation: self.order.generation, shortage: None });
                }
                // What is freed is applied.
                let applied = self.parts.control.freed()?;
                self.times.applied = Epoch::new(applied.get());
                if let Some(set) = &mut self.working_set {
                    set.trim(&self.memory, &self.dirty, epoch.get(), applied.get())?;
                }
                self.dirty.clear();
                if let Some(disk) = &self.disk {
                    lock(disk).committed(epoch);
                }
                self.machine.take_console();
                self.printed.forget();
                self.outbox.hold(epoch, self.machine.take_packets());
                self.log.mark(epoch);
                self.input.written(epoch, self.machine.console_taken());
                self.record = Some(record);
                self.say_outputs(ended.is_some());
                failpoint::pass("host.commit.closed");
                self.feed(Input::Written(epoch))
            }
            Err(WriteError::NoSpace(shortage)) => {
                if !self.out_of_space {
                    tracing::warn!("{} waits: {shortage}", self.order.vm);
                    let (generation, shortage) = (self.order.generation, Some(shortage));
                    self.around.say(VmEvent::Space { generation, shortage });
                }
                self.out_of_space = true;
                self.unwritten = Some((epoch, ended));
                self.feed(Input::OutOfSpace)
            }
            Err(WriteError::Journal(error)) => Err(error.into()),
            Err(WriteError::Machine(error)) => Err(error.into()),
            Err(WriteError::Control(error)) => Err(error.into()),
        }
    }

    fn try_write(
        &mut self,
        epoch: Epoch,
        ended: Option<GuestEnd>,
        room: Room,
    ) -> Result<UnchecksummedRecord, WriteError> {
        let freed = self.parts.control.freed()?;
        let mut record = self.journal.begin(shared_mem::Epoch::new(epoch.get()), freed)?;
        let pages = self.dirty.len();
        if room == Room::AtOnce {
            let blocks = self.disk.as_ref().map_or(0, |disk| lock(disk).dirty_blocks().count());
            record.take_room((pages + blocks) as u64).map_err(|error| WriteError::of(error, epoch, 0))?;
        }
        for (count, page) in self.dirty.iter().enumerate() {
            if count % BREATH_PAGES == BREATH_PAGES - 1 {
                self.gate.breathe();
            }
            let page = shared_mem::PageIndex::new(page.0);
            let content = self.memory.page(page).expect("only pages of the guest's memory get dirty");
            let missing_bytes = (pages - count) as u64 * PAGE_COST;
            record.push_page(page, &content).map_err(|error| WriteError::of(error, epoch, missing_bytes))?;
        }
        if let Some(disk) = &self.disk {
            for (block, content) in lock(disk).dirty_blocks() {
                record
                    .push_page_bytes(shared_mem::PageIndex::of_block(block), content)
                    .map_err(|error| WriteError::of(error, epoch, 0))?;
            }
        }
        failpoint::pass("host.commit.copied");
        self.times.copied = clock::monotonic();
        self.times.pages = record.page_count();
        let state = self.machine.save().map_err(WriteError::Machine)?;
        let state = state.at_log_position(self.log.tail().get()).encode();
        let pending = self.machine.pending_console();
        let pending_from = self.machine.console_position() - pending.len() as u64;
        let (console_start, console) = self.printed.with(pending_from, pending);
        let meta = CommitMeta { console_start, console: &console, machine_state: &state, ended }.encode();
        record.close(&meta).map_err(|error| WriteError::of(error, epoch, 0))
    }
}

/// How a record takes the space that its slot has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// While it is written: where there is plenty, this is faster.
    AsItGrows,
    /// All of it beforehand, or nothing.
    AtOnce,
}

#[derive(Debug)]
enum WriteError {
    NoSpace(Shortage),
    Journal(JournalError),
    Machine(MachineError),
    Control(ControlError),
}

impl WriteError {
    /// Of a record of which as much is still to be written.
    fn of(error: JournalError, epoch: Epoch, missing_bytes: u64) -> Self {
        match error {
            JournalError::Spill(SpillError::NoSpace { needed, available }) => {
                Self::NoSpace(Shortage { wanted: Wanted::Record(epoch), needed: needed.max(missing_bytes), available })
            }
            error => Self::Journal(error),
        }
    }
}

impl From<ControlError> for WriteError {
    fn from(error: ControlError) -> Self {
        Self::Control(error)
    }
}

impl From<JournalError> for WriteError {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}
