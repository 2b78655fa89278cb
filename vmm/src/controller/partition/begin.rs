//! A generation that begins: its journal, its log with what goes on from the one before, and its word that it reigns.

use super::{Failure, Partition};
use crate::controller::applier::STATE;
use crate::controller::damage::{Damage, opened};
use crate::controller::generations::{Turn, release_slots_of};
use crate::controller::space_keeper::SpaceKeeper;
use crate::controller::stable_state::restore;
use crate::failpoint;
use ft_protocol::{Epoch, Generation};
use shared_mem::journal::format_journal;
use shared_mem::{Access, LogReader, Mapping, PoolError, StateArea, VmPartition, boot_image};
use std::sync::Arc;

/// A log that is damaged from some entry on.
pub(in crate::controller) struct LogLoss {
    /// The generation whose log it is.
    pub(in crate::controller) generation: Generation,
    /// One line.
    pub(in crate::controller) report: String,
}

/// A generation that was opened.
pub(in crate::controller) struct Opened {
    /// What is damaged of the log that it goes on with.
    pub(in crate::controller) lost: Option<LogLoss>,
    /// What was damaged of the VM's part of the pool, and is whole again.
    pub(in crate::controller) mended: Option<&'static str>,
}

impl Partition {
    /// Makes the journal of a generation and lets it reign. What was reserved for it, or left by an earlier try, is laid
    /// out anew: nobody has it yet.
    /// Says what is damaged of the log that it goes on with, and what was made whole.
    pub(in crate::controller) fn open_generation(
        &mut self,
        generation: Generation,
        base: Epoch,
        space: &SpaceKeeper,
    ) -> Result<Opened, Failure> {
        let raw = shared_mem::Generation::new(generation.get());
        let base = shared_mem::Epoch::new(base.get());
        if base == shared_mem::Epoch::ZERO {
            // Found by its hosts, it would be told of each of them, one generation after the other.
            boot_image::load(&Mapping::read_only(&opened(self.parts.boot(Access::ReadOnly))?)?)
                .map_err(Damage::Boot)?;
        }
        // The same. Nothing is applied now: all that was committed is.
        let writable = || Ok(StateArea::new(Mapping::read_write(&opened(self.parts.state(Access::ReadWrite))?)?));
        let whole = restore(&self.state, writable, base, &self.redo, &self.limits)?;
        let logged_to = whole.logged_to();
        let files = Arc::clone(&self.files);
        let mut turn = files.turn();
        match self.parts.journal(raw, Access::ReadWrite) {
            Ok(reserved) => {
                format_journal(&Mapping::read_write(&reserved)?, raw, &self.geometry, base)?;
            }
            Err(_) => self.create_journal(&turn, raw, base, space)?,
        }
        failpoint::pass("controller.takeover.journal-made");
        let lost = match self.open_log(raw, logged_to) {
            Err(error) if lacks_space(&*error) => {
                space.lend(self.generation_bytes(), || self.open_log(raw, logged_to)).unwrap_or(Err(error))?
            }
            lost => lost?,
        };
        self.open_journal(generation)?;
        failpoint::pass("controller.takeover.laid-out");
        // All is applied before a generation begins. A word that was damaged meanwhile would end one primary after the other.
        if self.control.freed().ok() != Some(base) && self.control.applied()? >= base {
            self.control.set_freed(base)?;
        }
        self.control.set_generation(raw)?;
        turn.reigns = raw;
        Ok(Opened { lost, mended: whole.mended.then_some(STATE) })
    }

    /// Makes a journal. The records of those before are applied: when space is short, what they keep is given back first,
    /// and then what is held for records: the generation before gives as much back.
    fn create_journal(
        &mut self,
        turn: &Turn,
        generation: shared_mem::Generation,
        base: shared_mem::Epoch,
        space: &SpaceKeeper,
    ) -> Result<(), Failure> {
        let create = |parts: &VmPartition| parts.create_journal(generation, base);
        let mut created = create(&self.parts);
        if matches!(created, Err(PoolError::NoSpace { .. })) {
            self.release_all_slots()?;
            created = create(&self.parts);
        }
        if matches!(created, Err(PoolError::NoSpace { .. })) {
            // Those before the last one are given back when a new one lives; it may never have lived.
            let over = self.control.generation()?;
            let read = self.draining.get().map_or(over, |read| shared_mem::Generation::new(read.get()));
            let before = over.min(read);
            self.forget_before(before).iter().try_for_each(|journal| release_slots_of(journal))?;
            self.files.remove(turn, |found| found < before)?;
            created = create(&self.parts);
        }
        if matches!(created, Err(PoolError::NoSpace { .. })) {
            created = space.lend(self.generation_bytes(), || create(&self.parts)).unwrap_or(created);
        }
        Ok(created?)
    }

    /// Lays out the log of a new generation. It begins with the entries that the one before has from `from` on, which is where
    /// those begin that came after its base epoch, at the same positions: what left because of them is covered, whoever dies
    /// next.
    /// Says what of that is damaged, and cannot go on with it.
    fn open_log(
        &self,
        generation: shared_mem::Generation,
        from: shared_mem::LogPosition,
    ) -> Result<Option<LogLoss>, Failure> {
        let reigned = self.control.generation()?;
        let before = self.parts.log(reigned, Access::ReadOnly).ok().filter(|_| reigned < generation);
        let Some(before) = before else {
            self.parts.create_log(generation, from)?;
            return Ok(None);
        };
        let before = LogReader::new(Mapping::read_only(&before)?, self.log_bytes)?;
        let (range, tail_damage) = before.range_after(from);
        let copied = self.parts.continue_log(reigned, range, generation)?;
        // What lies behind cannot be trusted: the guest goes on from there by itself.
        let lost = copied.stopped.map(|error| {
            let report = format!(
                "the record log of generation {reigned} is damaged behind entry {} of its last epoch, at {}: {}; the guest goes on from \
                 there by itself",
                copied.entries,
                copied.end,
                // Where nobody can say how far it goes, its end looks like damage.
                tail_damage.as_ref().map_or_else(|| crate::chain(&error), |tail| crate::chain(tail)),
            );
            tracing::warn!("{report}");
            LogLoss { generation: Generation::new(reigned.get()), report }
        });
        failpoint::pass("controller.takeover.log-copied");
        Ok(lost)
    }
}

fn lacks_space(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(PoolError::NoSpace { .. }))
}
