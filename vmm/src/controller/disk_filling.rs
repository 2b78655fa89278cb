//! Filling a new VM's disk from the file that its creator passed: on a thread of its own, since a large file takes
//! longer than any heartbeat may.

use super::applier::Event;
use super::partition::Partition;
use crate::slice;
use crate::wake::WakingSender;
use ft_protocol::VmId;
use shared_mem::{Access, Extent, Mapping, disk_image};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Starts a thread that copies a file into a disk image, says so, and ends. Until then the VM runs nowhere.
pub(super) fn start(
    vm: VmId,
    partition: &Partition,
    content: Extent,
    done: WakingSender<Event>,
) -> Result<(), Failure> {
    let disk = Mapping::read_write(&partition.parts().disk(Access::ReadWrite)?)?;
    std::thread::Builder::new().name(format!("fill-{vm}")).spawn(move || {
        slice::run_long();
        let filled = disk_image::fill(&disk, &content);
        done.send(Event::DiskFilled { vm, result: filled.map_err(|error| crate::chain(&error)) });
    })?;
    Ok(())
}
