//! The devices in the MMIO window.

use crate::hal::FlatHal;
use core::ptr::NonNull;
use flat_rt::{BootInfo, RegionKind};
use virtio_drivers::device::blk::{SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};

const DEVICE_BYTES: usize = 0x1000;
const BLK_SLOT: usize = 4;

/// Bytes of a sector of the disk.
pub const SECTOR_BYTES: usize = SECTOR_SIZE;

/// The driver of the disk.
pub type Disk = VirtIOBlk<FlatHal, MmioTransport<'static>>;

/// The device in a slot of the window, if there is one.
pub(crate) fn device(boot: &BootInfo, slot: usize) -> Option<MmioTransport<'static>> {
    let window = boot.regions().iter().find(|region| region.kind() == RegionKind::Mmio)?;
    let at = usize::try_from(window.start).expect("64-bit") + slot * DEVICE_BYTES;
    let header = NonNull::new(at as *mut VirtIOHeader).expect("the window is not at zero");
    // SAFETY: each slot has a page of the window, which is mapped for ever; reads of a slot without device give ones.
    unsafe { MmioTransport::new(header, DEVICE_BYTES) }.ok()
}

/// The disk, if there is one.
#[must_use]
pub fn disk(boot: &BootInfo) -> Option<Disk> {
    let disk = VirtIOBlk::<FlatHal, _>::new(device(boot, BLK_SLOT)?);
    Some(disk.expect("the disk can be driven"))
}
