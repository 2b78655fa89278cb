//! Devices: what answers the guest's port and MMIO accesses.
//!
//! A device is a function of the accesses it served and the inputs it asked for: no threads, no clocks of its own. What
//! it wants of the outside it leaves in [`Effects`], for the machine to hand on once the guest's history allows it.

mod bus;
mod clock;
mod entropy;
mod exit;
mod serial;
#[cfg(test)]
mod tests;
pub mod virtio;
mod wait;

pub use bus::{Bus, BusError};
pub(super) use clock::{CLOCK_PORTS, ClockDevice};
pub(super) use entropy::{ENTROPY_PORTS, EntropyDevice};
pub(super) use exit::{EXIT_PORTS, ExitDevice};
pub(super) use serial::{SERIAL_PORTS, SerialDevice};
pub(super) use wait::{WAIT_PORTS, WaitDevice};

use super::inputs::{ExitNumber, InputError, InputSource, NicIndex};
use super::layout::GuestMemory;
use super::time::GuestTime;

/// Names a device in saved states. Zero is never an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct DeviceId(pub u32);

/// What a device may use while it serves one access.
pub struct Context<'a> {
    /// The exit that is being served.
    pub exit: ExitNumber,
    /// The only source of what is not determined.
    pub inputs: &'a mut dyn InputSource,
    /// Guest memory, whose bitmap notes what devices write.
    pub memory: &'a GuestMemory,
    /// What the device wants of the outside.
    pub effects: &'a mut Effects,
}

impl Context<'_> {
    /// Console bytes that arrived before this exit, at most `room` of them. From here on they are the guest's.
    ///
    /// # Errors
    /// The source has other bytes to give than there is room for.
    pub fn take_console_input(&mut self, room: usize) -> Result<Vec<u8>, InputError> {
        let bytes = self.inputs.console(self.exit, room)?;
        self.effects.console_taken += bytes.len() as u64;
        Ok(bytes)
    }
}

/// What devices want of the outside.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Effects {
    /// Console bytes.
    pub console: Vec<u8>,
    /// How many console input bytes were taken.
    pub console_taken: u64,
    /// The guest has ended, with this code.
    pub exit_code: Option<u32>,
    /// The guest waits until then, or until an input comes.
    pub wait_until: Option<GuestTime>,
    /// Packets that the guest sends, in order.
    pub packets: Vec<SentPacket>,
    /// The guest wants what it wrote to its disk to outlive everything.
    pub flush: bool,
    /// Something that came for the guest was put where it looks for it: no time to wait.
    pub received: bool,
}

/// A packet that the guest sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentPacket {
    /// By which network device.
    pub nic: NicIndex,
    /// The Ethernet frame, without a virtio header.
    pub frame: Vec<u8>,
}

/// Why a saved state does not fit a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceStateError {
    /// The bytes are no state of this kind.
    #[error("device {device:?}: saved state cannot be read")]
    Unreadable {
        /// Which device.
        device: DeviceId,
        /// Why.
        source: postcard::Error,
    },
    /// The device cannot be in that state.
    #[error("device {device:?}: saved state is not one that the device can have")]
    Impossible {
        /// Which device.
        device: DeviceId,
    },
    /// The saved machine has other devices.
    #[error("device {device:?} is on one side only, saved machine or this one")]
    Unmatched {
        /// Which device.
        device: DeviceId,
    },
}

/// What a device wants of its interrupt line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// Nothing new.
    None,
    /// One edge.
    Edge,
    /// The line up, or down.
    Level(bool),
}

/// Something on a bus.
pub trait Device: Send {
    /// Its name in saved states.
    fn id(&self) -> DeviceId;

    /// Serves a read of `data.len()` bytes at `offset` in the device's range. `data` comes filled with ones.
    ///
    /// # Errors
    /// An input that could not be had.
    fn read(&mut self, offset: u64, data: &mut [u8], context: &mut Context<'_>) -> Result<(), InputError>;

    /// Serves a write.
    ///
    /// # Errors
    /// An input that could not be had.
    fn write(&mut self, offset: u64, data: &[u8], context: &mut Context<'_>) -> Result<(), InputError>;

    /// Takes inputs that came for the device: after every exit, when a wait ends, and at the beginning of an epoch that a
    /// kick has begun; never at any other point of the guest's history.
    ///
    /// # Errors
    /// An input that could not be had.
    fn poll(&mut self, _context: &mut Context<'_>) -> Result<(), InputError> {
        Ok(())
    }

    /// Gives the device an interrupt line. Without one, its driver polls.
    fn connect_interrupt(&mut self) {}

    /// What the device wants of its line since it was last asked.
    fn interrupt(&mut self) -> Interrupt {
        Interrupt::None
    }

    /// The device's state in its own saved format; empty for a device without state.
    fn save(&self) -> Vec<u8>;

    /// Takes over a saved state, wholly or not at all.
    ///
    /// # Errors
    /// Bytes that are no state of this device.
    fn restore(&mut self, saved: &[u8]) -> Result<(), DeviceStateError>;
}

pub(super) fn decode<'a, T: serde::Deserialize<'a>>(device: DeviceId, saved: &'a [u8]) -> Result<T, DeviceStateError> {
    postcard::from_bytes(saved).map_err(|source| DeviceStateError::Unreadable { device, source })
}

pub(super) fn encode<T: serde::Serialize>(state: &T) -> Vec<u8> {
    postcard::to_stdvec(state).expect("plain data always encodes into a vector")
}

pub(super) fn restore_nothing(device: DeviceId, saved: &[u8]) -> Result<(), DeviceStateError> {
    if saved.is_empty() { Ok(()) } else { Err(DeviceStateError::Impossible { device }) }
}

/// The little-endian word of an access that is exactly `N` bytes wide.
fn word(data: &[u8]) -> Option<u32> {
    data.try_into().ok().map(u32::from_le_bytes)
}
