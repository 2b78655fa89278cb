//! Turns grants into descriptors. Which grants exist is decided by the core; that a descriptor can do no more than its
//! grant is enforced by the kernel, through the mode that it is opened with.

use super::partition::Partition;
use ft_protocol::VmId;
use ft_protocol::wire::{Access, Grant, Part};
use shared_mem::{Extent, HostSlot, Pool};
use std::collections::BTreeMap;

pub(super) fn extent(
    pool: &Pool,
    partitions: &BTreeMap<VmId, Partition>,
    grant: Grant,
) -> Result<Extent, Box<dyn std::error::Error + Send + Sync>> {
    let access = match grant.access {
        Access::ReadOnly => shared_mem::Access::ReadOnly,
        Access::ReadWrite => shared_mem::Access::ReadWrite,
    };
    let of = |vm: VmId| partitions.get(&vm).map(Partition::parts).ok_or_else(|| format!("{vm} is not in the pool"));
    Ok(match grant.part {
        Part::Heartbeat(host) => pool.heartbeat(HostSlot::new(host.get()), access)?,
        Part::Image(vm) => of(vm)?.image(access)?,
        Part::State(vm) => of(vm)?.state(access)?,
        Part::Control(vm) => of(vm)?.control(access)?,
        Part::Boot(vm) => of(vm)?.boot(access)?,
        Part::Console(vm) => of(vm)?.console(access)?,
        Part::Journal(vm, generation) => of(vm)?.journal(shared_mem::Generation::new(generation.get()), access)?,
        Part::Log(vm, generation) => of(vm)?.log(shared_mem::Generation::new(generation.get()), access)?,
        Part::Disk(vm) => of(vm)?.disk(access)?,
        Part::Upload | Part::UploadedDisk => return Err("an upload is not part of the pool".into()),
    })
}
