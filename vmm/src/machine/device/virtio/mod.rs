//! The virtio devices of a machine: net, blk, console and rng behind virtio-mmio.
//!
//! Each device has a page of the MMIO window at an address of its own, taken or not:
//!
//! ```text
//! 0xd000_0000  net 0        0xd000_4000  blk
//! 0xd000_1000  net 1        0xd000_5000  console
//! 0xd000_2000  net 2        0xd000_6000  rng
//! 0xd000_3000  net 3
//! ```
//!
//! Everything that a device knows is in its saved state or in guest memory, so a successor goes on in the middle of
//! anything. Everything that comes from the guest is checked: what breaks the rules stops the device until the driver
//! resets it, and one exit's work is bounded by the queues' sizes and the limits of a chain.

mod blk;
mod console;
mod disk;
mod net;
mod registers;
mod ring;
mod rng;
#[cfg(test)]
mod tests;
mod transport;

pub(crate) use console::OUTPUT_BYTES_MAX;
pub use disk::{BLOCK_BYTES, Disk, DiskBase, DiskError};
pub use net::{FRAME_BYTES_MAX, FRAME_BYTES_MIN};

use super::{Device, DeviceId};
use crate::machine::inputs::NicIndex;
use crate::machine::layout::{MMIO_LENGTH, MMIO_START};
use ft_protocol::spec::{NETS_MAX, NetSpec};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use transport::{Backend, Transport};

/// Bytes of the MMIO window that a device has.
pub const DEVICE_MMIO_BYTES: u64 = 0x1000;

const FIRST_NET_SLOT: u32 = 0;
const BLK_SLOT: u32 = 4;
const CONSOLE_SLOT: u32 = 5;
const RNG_SLOT: u32 = 6;
/// The devices' names in saved states start here.
const FIRST_ID: u32 = 16;

const _: () = {
    assert!(NETS_MAX <= (BLK_SLOT - FIRST_NET_SLOT) as usize, "a slot for each network device");
    assert!((RNG_SLOT as u64 + 1) * DEVICE_MMIO_BYTES <= MMIO_LENGTH, "the slots fit the window");
};

/// The virtio devices of a machine with these networks and this disk, with their places. A machine without both has none,
/// one with either has console and rng too. The same on every host.
#[must_use]
pub fn devices(nets: &[NetSpec], disk: Option<Arc<Mutex<Disk>>>) -> Vec<(Range<u64>, Box<dyn Device>)> {
    assert!(nets.len() <= NETS_MAX, "the specification of a VM was checked");
    let mut devices = Vec::new();
    for (index, net) in (0u8..).zip(nets) {
        devices.push(at_slot(FIRST_NET_SLOT + u32::from(index), net::Net::new(NicIndex(index), net.mac)));
    }
    if let Some(disk) = disk {
        devices.push(at_slot(BLK_SLOT, blk::Blk::new(disk)));
    }
    if !devices.is_empty() {
        devices.push(at_slot(CONSOLE_SLOT, console::Console));
        devices.push(at_slot(RNG_SLOT, rng::Rng));
    }
    devices
}

/// The slots of the devices among these, which tell where they are.
pub(in crate::machine) fn slots(devices: impl Iterator<Item = DeviceId>) -> impl Iterator<Item = u8> {
    devices.filter_map(|device| u8::try_from(device.0.checked_sub(FIRST_ID)?).ok())
}

/// Where the device of a slot is.
pub(in crate::machine) fn slot_address(slot: u8) -> u64 {
    MMIO_START + u64::from(slot) * DEVICE_MMIO_BYTES
}

fn at_slot(slot: u32, backend: impl Backend + 'static) -> (Range<u64>, Box<dyn Device>) {
    let start = MMIO_START + u64::from(slot) * DEVICE_MMIO_BYTES;
    (start..start + DEVICE_MMIO_BYTES, Box::new(Transport::new(DeviceId(FIRST_ID + slot), backend)))
}
