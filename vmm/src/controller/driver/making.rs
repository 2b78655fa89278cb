//! VMs' parts of the pool come and go, one after the other: whoever has his turn finds the space that there is, nobody else being
//! about to take or to give any. What takes long is done by the [`Maker`](crate::controller::maker::Maker).

use super::peers::Uploads;
use super::{Driver, Failure};
use crate::controller::ControllerError;
use crate::controller::disk_filling;
use crate::controller::maker::{Maker, Removed};
use crate::controller::partition::{Partition, new_part, upload_bytes};
use crate::machine::is_unfit_guest;
use ft_protocol::VmId;
use ft_protocol::controller::Input;
use ft_protocol::spec::VmSpec;
use shared_mem::{Extent, LeavingVm, NewVm, PoolError};
use std::collections::VecDeque;

/// What is to be made or removed, in this order.
pub(super) struct Makings {
    waiting: VecDeque<Turn>,
    /// What the thread is at.
    now: Option<Now>,
    maker: Maker,
}

enum Turn {
    Make { vm: VmId, spec: Box<VmSpec>, uploads: Option<Uploads> },
    Remove { vm: VmId, what: Leaving, then: Box<Input> },
}

/// Whose part of the pool is to be removed.
enum Leaving {
    Part(Box<Partition>),
    /// One that could not be opened, by its name.
    Unusable(String),
    Nobody,
}

enum Now {
    Making { spec: Box<VmSpec>, disk: Option<Extent> },
    Removing { then: Box<Input> },
}

impl Makings {
    pub(super) fn new(maker: Maker) -> Self {
        Self { waiting: VecDeque::new(), now: None, maker }
    }
}

impl Driver {
    /// Has a VM's part of the pool made. The core is told when it is complete, or why it was not made.
    pub(super) fn create_partition(&mut self, vm: VmId, spec: VmSpec, uploads: Option<Uploads>) {
        self.makings.waiting.push_back(Turn::Make { vm, spec: Box::new(spec), uploads });
        self.next_turn();
    }

    /// Has a VM's part of the pool removed, and tells the core then.
    pub(super) fn delete_partition(&mut self, vm: VmId, then: Input) {
        let then = Box::new(then);
        let what = match (self.partitions.remove(&vm), self.unusable.remove(&vm)) {
            (Some(partition), _) => Leaving::Part(Box::new(partition)),
            (None, Some(name)) => Leaving::Unusable(name),
            (None, None) => Leaving::Nobody,
        };
        self.want_space();
        self.makings.waiting.push_back(Turn::Remove { vm, what, then });
        self.next_turn();
    }

    /// Begins what waits, unless something is being made or removed.
    fn next_turn(&mut self) {
        while self.makings.now.is_none()
            && let Some(turn) = self.makings.waiting.pop_front()
        {
            match turn {
                Turn::Make { vm, spec, uploads } => {
                    if let Err(error) = self.begin_making(vm, spec, uploads) {
                        self.not_made(vm, &*error);
                    }
                }
                Turn::Remove { vm, what, then } => match self.begin_removing(what) {
                    Ok((partition, leaving)) => {
                        self.makings.now = Some(Now::Removing { then });
                        self.makings.maker.remove(vm, partition, leaving);
                    }
                    Err(error) => {
                        tracing::error!("{vm} cannot be deleted: {}", crate::chain(&*error));
                        self.inputs.push_back(*then);
                    }
                },
            }
        }
    }

    fn begin_making(&mut self, vm: VmId, spec: Box<VmSpec>, uploads: Option<Uploads>) -> Result<(), Failure> {
        let Uploads { boot, disk } = uploads.ok_or("no guest file came with the request")?;
        if disk.is_some() && spec.disk_bytes == 0 {
            return Err("a disk's content came with the request, but the VM has no disk".into());
        }
        let new = new_part(&self.pool, &spec)?;
        let page_bytes = self.pool.page_bytes()?;
        // Asked beforehand, too: what others of the pool need meanwhile must not be taken for a VM that does not fit.
        let taken = new.space_bytes(upload_bytes(&boot)?, page_bytes);
        let (wanted, unopened) = Partition::space_of(new.parts().geometry(), page_bytes);
        self.space.check_behind(
            taken,
            self.wanted_space().max(wanted),
            self.space_unopened().saturating_add(unopened),
        )?;
        self.makings.maker.make(vm, new, (*spec).clone(), boot);
        self.makings.now = Some(Now::Making { spec, disk });
        Ok(())
    }

    /// A VM's files are made, or cannot be. A client that is gone by now leaves the VM, as one that goes right behind this does.
    pub(in crate::controller) fn part_made(
        &mut self,
        vm: VmId,
        result: Result<NewVm, Failure>,
    ) -> Result<(), ControllerError> {
        if let Some(Now::Making { spec, disk }) = self.makings.now.take() {
            match result.and_then(|new| self.enter(vm, &spec, new, disk)) {
                Ok(true) => self.inputs.push_back(Input::PartitionCreated { vm, result: Ok(()) }),
                // Its disk is being filled, or what there was of it is being removed: the word comes when that is done.
                Ok(false) => {}
                Err(error) => self.not_made(vm, &*error),
            }
        }
        self.next_turn();
        self.settle()
    }

    fn not_made(&mut self, vm: VmId, error: &(dyn std::error::Error + 'static)) {
        let reason = crate::chain(error);
        self.inputs.push_back(match is_unfit_guest(error) {
            true => Input::GuestUnfit { vm, reason },
            false => Input::PartitionCreated { vm, result: Err(reason) },
        });
    }

    /// Takes a VM whose files are there into the pool. Says whether it is complete.
    fn enter(&mut self, vm: VmId, spec: &VmSpec, new: NewVm, disk: Option<Extent>) -> Result<bool, Failure> {
        let parts = self.pool.enter_vm(new)?;
        let slot = parts.slot();
        let partition = match Partition::open_new(vm, parts, &self.wake) {
            Ok(partition) => partition,
            Err(error) => {
                // The first error is the one to report.
                let _ = self.pool.delete_vm(slot);
                return Err(error);
            }
        };
        debug_assert_eq!(spec.disk_bytes, partition.parts().geometry().disk_bytes, "it is made as it is asked for");
        let is_complete = disk.is_none();
        if let Err(error) = self.admit(vm, &partition, disk) {
            let then = Input::PartitionCreated { vm, result: Err(crate::chain(&*error)) };
            // Before whoever waits: he is to find the space.
            let then = Box::new(then);
            self.makings.waiting.push_front(Turn::Remove { vm, what: Leaving::Part(Box::new(partition)), then });
            return Ok(false);
        }
        self.partitions.insert(vm, partition);
        self.want_space();
        Ok(is_complete)
    }

    /// Whether the pool still has what the VM and all others need beside what it has by now; then its disk begins to be filled.
    fn admit(&self, vm: VmId, partition: &Partition, disk: Option<Extent>) -> Result<(), Failure> {
        let wanted = self.wanted_space().max(partition.space_wanted());
        self.space.check(wanted, self.space_unopened().saturating_add(partition.space_unopened()))?;
        self.check_places(partition)?;
        disk.map_or(Ok(()), |content| disk_filling::start(vm, partition, content, self.wake.clone()))
    }

    /// What the first generations of VMs are still to take: others may be waiting for their disks, and have no journal yet.
    fn space_unopened(&self) -> u64 {
        self.partitions.values().map(Partition::space_unopened).sum()
    }

    fn begin_removing(&mut self, what: Leaving) -> Result<(Option<Box<Partition>>, Vec<LeavingVm>), Failure> {
        match what {
            Leaving::Part(partition) => {
                let leaving = self.pool.begin_delete(partition.parts().slot())?;
                Ok((Some(partition), vec![leaving]))
            }
            Leaving::Unusable(name) => Ok((None, self.begin_removing_unusable(&name)?)),
            Leaving::Nobody => Ok((None, Vec::new())),
        }
    }

    fn begin_removing_unusable(&self, name: &str) -> Result<Vec<LeavingVm>, Failure> {
        match self.pool.find_vm(&name.parse()?) {
            Ok(slot) => Ok(vec![self.pool.begin_delete(slot)?]),
            // Its entry may be among the damaged ones, as that of another VM may.
            Err(_) => {
                let nameless = self.nameless(self.unusable.values())?;
                Ok(nameless.into_iter().map(|slot| self.pool.begin_delete(slot)).collect::<Result<_, _>>()?)
            }
        }
    }

    /// A VM's files are removed, or cannot be.
    pub(in crate::controller) fn part_removed(&mut self, vm: VmId, removed: Removed) -> Result<(), ControllerError> {
        let ended = removed.and_then(|leaving| leaving.into_iter().try_for_each(|one| self.pool.end_delete(one)));
        self.deletion_ended(vm, ended);
        if let Some(Now::Removing { then }) = self.makings.now.take() {
            self.inputs.push_back(*then);
        }
        self.want_space();
        self.next_turn();
        self.settle()
    }

    fn deletion_ended(&self, vm: VmId, ended: Result<(), PoolError>) {
        if let Err(error) = ended {
            // It is completed when the pool is opened.
            tracing::error!("{vm} cannot be deleted: {}", crate::chain(&error));
        }
    }

    /// A new VM's disk has its first content, or cannot have it.
    pub(in crate::controller) fn disk_filled(
        &mut self,
        vm: VmId,
        result: Result<(), String>,
    ) -> Result<(), ControllerError> {
        let then = Input::PartitionCreated { vm, result };
        match &then {
            Input::PartitionCreated { result: Err(_), .. } => self.delete_partition(vm, then),
            _ => self.inputs.push_back(then),
        }
        self.settle()
    }
}
