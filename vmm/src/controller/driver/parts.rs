//! The VMs' parts of the pool, and the space that the pool keeps for them.

use super::{Driver, Failure};
use crate::controller::applier::{DrainJob, Job};
use crate::controller::damage::damage_of;
use crate::controller::partition::{LogLoss, Partition};
use crate::controller::recording::PoolRecording;
use crate::failpoint;
use ft_protocol::controller::{ApplyOutcome, DrainOutcome, Input};
use ft_protocol::timeline::{Shortage, Wanted};
use ft_protocol::{Epoch, Generation, VmId};
use shared_mem::{PoolError, VmSlot};
use std::sync::{Arc, Mutex};

impl Driver {
    /// Whether a device has places for all journals and logs to come, of a new VM and of those there are. One generation more,
    /// of the largest: files that come and go need some play, since none begins where another one has begun.
    pub(super) fn check_places(&self, new: &Partition) -> Result<(), Failure> {
        let living = self.partitions.iter().filter(|(vm, _)| !self.core.is_over(**vm)).map(|(_, partition)| partition);
        let mut files = Vec::new();
        let mut play = [0, 0];
        for partition in living.chain([new]) {
            files.extend(partition.files_to_come()?);
            play = play.max(partition.generation_files());
        }
        files.extend(play);
        files.sort_unstable_by_key(|len| std::cmp::Reverse(*len));
        Ok(self.pool.check_room("room for all journals to come", &files)?)
    }

    /// A log of the VM was read to its end.
    pub(in crate::controller) fn log_drained(&self, vm: VmId) {
        if let Some(partition) = self.partitions.get(&vm) {
            partition.drained();
        }
    }

    pub(super) fn open_generation(&mut self, vm: VmId, generation: Generation, base: Epoch) {
        // It is made now: what is reserved is laid out anew.
        self.unreserved.remove(&vm);
        let result = match self.partitions.get_mut(&vm) {
            Some(partition) => partition.open_generation(generation, base, &self.space).map(|opened| {
                if let Some(part) = opened.mended {
                    self.inputs.push_back(Input::PoolMended { what: format!("{part} of {vm}") });
                }
                if let Some(LogLoss { generation, report }) = opened.lost {
                    self.inputs.push_back(Input::LogLost { vm, generation, report });
                }
            }),
            None => Err("it has no place in the pool".into()),
        };
        failpoint::pass("controller.takeover.opened");
        if let Some(reason) = result.as_ref().err().and_then(|error| damage_of(&**error)) {
            return self.inputs.push_back(Input::PartitionDamaged { vm, reason });
        }
        let result = result.map_err(|error: Failure| {
            if let Some(PoolError::NoSpace { needed, available, .. }) = error.downcast_ref() {
                let (needed, available) = (*needed, *available);
                let shortage = Shortage { wanted: Wanted::Journal, needed, available };
                self.inputs.push_back(Input::NoSpace { vm, generation, shortage });
            }
            crate::chain(&*error)
        });
        self.inputs.push_back(Input::GenerationOpened { vm, generation, result });
    }

    pub(super) fn seal(&mut self, vm: VmId, generation: Generation) {
        let partition = self.partitions.get_mut(&vm).ok_or_else(|| "it has no place in the pool".into());
        let sealed = partition.and_then(|partition| partition.seal(generation));
        failpoint::pass("controller.takeover.sealed");
        self.inputs.push_back(match sealed {
            Ok(final_epoch) => Input::Sealed { vm, generation, final_epoch },
            // Closed it is all the same, as far as there is anything to be closed; where it ended nobody can say.
            Err(error) => Input::PartitionDamaged { vm, reason: crate::chain(&*error) },
        });
    }

    pub(super) fn apply(&mut self, vm: VmId, generation: Generation, epoch: Epoch, console_floor: Option<u64>) {
        let recording = self.recording(vm);
        let partition = self.partitions.get(&vm).expect("the core applies only to VMs that exist");
        if let Some(journal) = partition.journal(generation) {
            return partition.apply(Job { generation, journal, epoch, console_floor, recording });
        }
        // It was lost with its host, and the copy that an earlier controller left cannot be applied.
        let reason = format!("the journal of {generation} is lost before {epoch} is applied");
        let outcome = ApplyOutcome::Damaged { reason };
        self.inputs.push_back(Input::Applied { vm, generation, outcome });
    }

    pub(super) fn drain_log(&mut self, vm: VmId, generation: Generation, console_floor: Option<u64>) {
        let partition = self.partitions.get(&vm).expect("the core drains only logs of VMs that exist");
        if let Some(journal) = partition.journal(generation) {
            return partition.drain(DrainJob { generation, journal, console_floor });
        }
        let outcome = DrainOutcome::Damaged { reason: format!("the record log of {generation} is lost") };
        self.inputs.push_back(Input::LogDrained { vm, generation, outcome });
    }

    /// Gives back what a VM holds beyond its own: it commits nothing more, or not before others have had it.
    pub(super) fn release_space(&mut self, vm: VmId) {
        let over = self.core.is_over(vm);
        let released = self.partitions.get(&vm).map(|partition| {
            partition.release_all_slots()?;
            if over { partition.release_reserved() } else { Ok(()) }
        });
        if let Some(Err(error)) = released {
            tracing::warn!("{vm} keeps space that others may need: {}", crate::chain(&*error));
        }
        // A guest that has ended commits nothing more.
        self.want_space();
    }

    /// Has reserved what the next generation of a VM will need.
    pub(super) fn reserve(&mut self, vm: VmId, generation: Generation) {
        self.unreserved.remove(&vm);
        let Some(partition) = self.partitions.get(&vm) else { return };
        if let Err(error) = partition.reserve_generation(generation, &self.space, &self.generations) {
            self.reserved(vm, generation, Err(error));
        }
    }

    /// What the next generation of a VM will need is reserved, or cannot be.
    pub(in crate::controller) fn reserved(&mut self, vm: VmId, generation: Generation, result: Result<(), PoolError>) {
        // Of a generation that reigns by now; what is missing may be another one.
        if self.unreserved.get(&vm).is_some_and(|(missing, _)| *missing != generation) {
            return;
        }
        let again = self.unreserved.remove(&vm).is_some();
        let Err(error) = result else { return };
        if !again {
            tracing::warn!("no space is reserved for {vm} {generation}: {}", crate::chain(&error));
        }
        // What fails for another reason has been told; the takeover tries again.
        let awaited = self.partitions.get(&vm).is_some_and(|partition| partition.awaits(generation));
        if awaited && matches!(error, PoolError::NoSpace { .. }) {
            self.unreserved.insert(vm, (generation, false));
        }
    }

    /// Reserves what there was no space for, once there is: a takeover should not spend its time on it.
    pub(super) fn reserve_again(&mut self) {
        let (partitions, space, generations) = (&self.partitions, &self.space, &self.generations);
        let core = &self.core;
        self.unreserved.retain(|vm, (generation, asked)| {
            let Some(partition) = partitions.get(vm).filter(|_| !core.is_over(*vm)) else { return false };
            *asked = *asked || partition.reserve_generation(*generation, space, generations).is_ok();
            true
        });
    }

    /// What the pool must always have left: one record, or one generation, of any of its VMs.
    pub(super) fn wanted_space(&self) -> u64 {
        let commits = self.partitions.iter().filter(|(vm, _)| !self.core.is_over(**vm));
        commits.map(|(_, partition)| partition.space_wanted()).max().unwrap_or(0)
    }

    pub(super) fn want_space(&self) {
        self.space.want(self.wanted_space());
    }

    /// Where a VM is recorded, if it is.
    pub(super) fn recording(&mut self, vm: VmId) -> Option<Arc<Mutex<PoolRecording>>> {
        if let Some(recording) = self.recordings.get(&vm) {
            return Some(Arc::clone(recording));
        }
        let (spec, cpu) = self.core.shown(vm)?;
        let (_, path) = self.options.record.iter().find(|(name, _)| *name == spec.name)?;
        match self.partitions.get(&vm)?.parts().boot(shared_mem::Access::ReadOnly) {
            Ok(boot) => {
                let recording = Arc::new(Mutex::new(PoolRecording::new(path, spec, cpu, boot)));
                self.recordings.insert(vm, Arc::clone(&recording));
                Some(recording)
            }
            Err(error) => {
                tracing::error!("{} is not recorded: {}", spec.name, crate::chain(&error));
                None
            }
        }
    }

    /// The slots whose entries cannot be read and that no open VM has, if each of these VMs has another one: nobody's.
    pub(super) fn nameless<'name>(
        &self,
        mut wanted: impl Iterator<Item = &'name String>,
    ) -> Result<Vec<VmSlot>, PoolError> {
        let found: Vec<_> = self.pool.vms()?.into_iter().map(|(_, entry)| entry.name).collect();
        if !wanted.all(|name| found.iter().any(|found| found.as_str() == name)) {
            return Ok(Vec::new());
        }
        let mut nameless = self.pool.nameless()?;
        nameless.retain(|slot| self.partitions.values().all(|partition| partition.parts().slot() != *slot));
        nameless.iter().for_each(|slot| {
            tracing::warn!("the VM directory's entry of slot {slot} is damaged, and nobody's: it is freed");
        });
        Ok(nameless)
    }
}
