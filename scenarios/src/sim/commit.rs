//! A primary's commit: writes the record, checksums it, publishes it, lets the output go, each a step of its own.

use super::check::Written;
use super::controller::{pool_epoch, protocol_epoch};
use super::drive::{AGAIN_US, At};
use super::fault::Point;
use super::machine::{PrimaryMachine, Recording};
use super::planted::{PlantedBug, planted};
use super::queue::MachineStep;
use super::world::World;
use ft_protocol::commit_meta::{CommitMeta, GuestEnd};
use ft_protocol::ids::Epoch;
use ft_protocol::primary::Input;
use shared_mem::commit_word::{CommitWord, CommitWordError, PublishError};
use shared_mem::control::ControlError;
use shared_mem::journal::JournalError;
use shared_mem::mem::PoolWrite;

impl World {
    /// Copies what changed since the last cut into the slot.
    pub(crate) fn write_record(&mut self, at: At) {
        let Some(primary) = self.primary(at) else { return };
        let Some((epoch, ended)) = primary.writing.take() else { return };
        if !self.note_commit(at, epoch) {
            return;
        }
        let Some(primary) = self.primary(at) else { return };
        match write_into_slot(primary, epoch, ended.as_ref()) {
            Ok(()) => {}
            Err(JournalError::Access(_)) => {
                primary.writing = Some((epoch, ended));
                return self.machine_after(at, AGAIN_US, MachineStep::Write);
            }
            Err(error) => return self.machine_failed(at, &error.to_string()),
        }
        let (generation, registers) = (primary.order.generation, primary.registers);
        if let Some(log) = &mut primary.log {
            log.mark(epoch);
        }
        let history = primary.trace.as_slice().into();
        self.checker.written(at.vm, generation, epoch, Written { registers, history });
        self.core_input(at, Input::Written(epoch));
        self.reached(Point::RecordWritten);
    }

    pub(crate) fn checksum(&mut self, at: At) {
        let step_us = self.plan.weather.step_us;
        let Some(primary) = self.primary(at) else { return };
        let Some(recording) = &mut primary.recording else { return };
        recording.checked = planted(PlantedBug::CheckThenStore).then(|| primary.word.peek_word().ok()).flatten();
        match primary.journal.checksum(&recording.written) {
            Ok(finished) => {
                recording.finished = Some(finished);
                self.machine_after(at, step_us, MachineStep::Publish);
                self.reached(Point::RecordChecksummed);
            }
            Err(JournalError::Access(_)) => self.machine_after(at, AGAIN_US, MachineStep::Checksum),
            Err(error) => self.machine_failed(at, &error.to_string()),
        }
    }

    pub(crate) fn publish(&mut self, at: At) {
        let Some(primary) = self.primary(at) else { return };
        let Some(mut recording) = primary.recording.take() else { return };
        let epoch = recording.epoch;
        let result = match recording.finished.take() {
            Some(_) if recording.checked.is_some_and(|word| !word.sealed) => store_word(primary, epoch),
            Some(finished) if !recording.unsure => primary.journal.publish(finished).map(|_| ()),
            _ => match look_again(primary, epoch) {
                Ok(true) => Ok(()),
                Ok(false) => {
                    recording.unsure = false;
                    primary.recording = Some(recording);
                    return self.machine_after(at, AGAIN_US, MachineStep::Checksum);
                }
                Err(error) => Err(error),
            },
        };
        match result {
            Ok(()) => {
                if planted(PlantedBug::ClearDirtyLate) {
                    primary.working.clear_dirty();
                }
                self.check_published(at, epoch);
                self.core_input(at, Input::Published(epoch));
                self.reached(Point::RecordPublished);
            }
            Err(PublishError::Sealed { .. }) if planted(PlantedBug::IgnoreRefusal) => {
                self.check_published(at, epoch);
                self.core_input(at, Input::Published(epoch));
            }
            Err(PublishError::Sealed { final_epoch }) => {
                let final_epoch = protocol_epoch(final_epoch);
                self.core_input(at, Input::Sealed { final_epoch });
            }
            Err(PublishError::Access(_)) => {
                recording.unsure = true;
                primary.recording = Some(recording);
                self.machine_after(at, AGAIN_US, MachineStep::Publish);
            }
            Err(error) => self.machine_failed(at, &error.to_string()),
        }
    }

    /// Outputs of epochs up to this one leave.
    pub(crate) fn release(&mut self, at: At, epoch: Epoch) {
        let Some(primary) = self.primary(at) else { return };
        let mut packets = Vec::new();
        while primary.gated.front().is_some_and(|(of, _)| *of <= epoch) {
            packets.extend(primary.gated.pop_front().map(|(_, packet)| packet));
        }
        if planted(PlantedBug::ReleaseReversed) {
            packets.reverse();
        }
        self.check_released(at, &packets);
        self.reached(Point::OutputReleased);
    }
}

/// Writes the record of an epoch but for its header. Harvests the dirty set only if that succeeds.
fn write_into_slot(primary: &mut PrimaryMachine, epoch: Epoch, ended: Option<&GuestEnd>) -> Result<(), JournalError> {
    let dirty = primary.working.dirty_processor | primary.working.dirty_device;
    let dirty = if planted(PlantedBug::ForgetDevicePages) { primary.working.dirty_processor } else { dirty };
    let freed = freed(primary).map_err(|_| JournalError::Access(shared_mem::mem::AccessError::Unreachable))?;
    let logged_to = primary.log.as_ref().map_or(0, super::record::Recording::tail);
    let machine_state = primary.recorded_registers().encode(logged_to, primary.version);
    let meta = CommitMeta {
        console_start: primary.console_start,
        console: &primary.console,
        machine_state: &machine_state,
        ended: ended.filter(|_| !planted(PlantedBug::ForgetEnd)).cloned(),
    };
    let mut record = primary.journal.begin(pool_epoch(epoch), freed)?;
    for (page, content) in primary.working.pages(dirty) {
        record.push_page_bytes(page, content)?;
    }
    let written = record.close(&meta.encode())?;
    primary.recording = Some(Recording { epoch, written, finished: None, unsure: false, checked: None });
    if !planted(PlantedBug::ClearDirtyLate) {
        primary.working.clear_dirty();
    }
    primary.console_start += primary.console.len() as u64;
    primary.console.clear();
    primary.gated.extend(primary.packets.drain(..).map(|packet| (epoch, packet)));
    Ok(())
}

/// The last epoch whose slot may be written again.
pub(crate) fn freed(primary: &PrimaryMachine) -> Result<shared_mem::numbers::Epoch, ControlError> {
    let freed = primary.control.freed()?;
    Ok(if planted(PlantedBug::ReuseSlotEarly) { freed.next() } else { freed })
}

/// What a publication must not be: a store that trusts an earlier look at the word.
fn store_word(primary: &PrimaryMachine, epoch: Epoch) -> Result<(), PublishError> {
    let word = CommitWord::open(pool_epoch(epoch)).encode();
    // The word's line is the second of the journal.
    let at = shared_mem::numbers::Offset::new(64);
    primary.journal_memory.store_u64(at, word, std::sync::atomic::Ordering::Release)?;
    primary.journal_memory.flush(at, 8)?;
    Ok(primary.journal_memory.fence()?)
}

/// After a publication that failed half-way, only the word itself can say whether it has moved; the look makes what it
/// finds durable.
fn look_again(primary: &PrimaryMachine, epoch: Epoch) -> Result<bool, PublishError> {
    let word = primary.word.word().map_err(|error| match error {
        CommitWordError::Word(error) => PublishError::Word(error),
        CommitWordError::Access(error) => PublishError::Access(error),
    })?;
    if word.sealed {
        return Err(PublishError::Sealed { final_epoch: word.epoch });
    }
    Ok(protocol_epoch(word.epoch) == epoch)
}
