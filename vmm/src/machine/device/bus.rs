//! A bus: which device answers at which address. The same for ports and for MMIO.

use super::{Context, Device, DeviceId, DeviceStateError, Interrupt};
use crate::machine::inputs::InputError;
use std::ops::Range;

/// Why a device cannot be put on a bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// The range is empty.
    #[error("device {device:?} has an empty range at {start:#x}")]
    Empty {
        /// The new device.
        device: DeviceId,
        /// Where it was to be.
        start: u64,
    },
    /// Another device is there.
    #[error("device {device:?} at {start:#x} overlaps device {other:?}")]
    Overlap {
        /// The new device.
        device: DeviceId,
        /// Where it was to be.
        start: u64,
        /// Who is there.
        other: DeviceId,
    },
    /// Two devices of one name could not be told apart in a saved state.
    #[error("device {device:?} is on the bus already")]
    Duplicate {
        /// The name.
        device: DeviceId,
    },
}

struct Place {
    range: Range<u64>,
    device: Box<dyn Device>,
}

/// Devices by address. Reads of addresses without a device give all ones, writes to them do nothing; an access that
/// reaches beyond its device's range counts as one without a device.
#[derive(Default)]
pub struct Bus {
    places: Vec<Place>,
}

impl Bus {
    /// Puts a device on the bus.
    ///
    /// # Errors
    /// A range that is empty or taken, or a name that is taken.
    pub fn insert(&mut self, range: Range<u64>, device: Box<dyn Device>) -> Result<(), BusError> {
        let id = device.id();
        if range.is_empty() {
            return Err(BusError::Empty { device: id, start: range.start });
        }
        for place in &self.places {
            let other = place.device.id();
            if other == id {
                return Err(BusError::Duplicate { device: id });
            }
            if range.start < place.range.end && place.range.start < range.end {
                return Err(BusError::Overlap { device: id, start: range.start, other });
            }
        }
        self.places.push(Place { range, device });
        Ok(())
    }

    /// Serves a read.
    ///
    /// # Errors
    /// An input that could not be had.
    pub fn read(&mut self, address: u64, data: &mut [u8], context: &mut Context<'_>) -> Result<(), InputError> {
        data.fill(0xff);
        match self.find(address, data.len()) {
            Some(place) => place.device.read(address - place.range.start, data, context),
            None => Ok(()),
        }
    }

    /// Serves a write.
    ///
    /// # Errors
    /// An input that could not be had.
    pub fn write(&mut self, address: u64, data: &[u8], context: &mut Context<'_>) -> Result<(), InputError> {
        match self.find(address, data.len()) {
            Some(place) => place.device.write(address - place.range.start, data, context),
            None => Ok(()),
        }
    }

    /// Lets every device take the inputs that came for it.
    ///
    /// # Errors
    /// An input that could not be had.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Result<(), InputError> {
        self.places.iter_mut().try_for_each(|place| place.device.poll(context))
    }

    /// Gives every device an interrupt line.
    pub fn connect_interrupts(&mut self) {
        self.places.iter_mut().for_each(|place| place.device.connect_interrupt());
    }

    /// What every device wants of its line since it was last asked.
    pub fn interrupts(&mut self) -> impl Iterator<Item = (DeviceId, Interrupt)> {
        self.places.iter_mut().map(|place| (place.device.id(), place.device.interrupt()))
    }

    /// The saved states of all devices.
    #[must_use]
    pub fn save(&self) -> Vec<(DeviceId, Vec<u8>)> {
        self.places.iter().map(|place| (place.device.id(), place.device.save())).collect()
    }

    /// Names of the devices on the bus.
    pub fn ids(&self) -> impl Iterator<Item = DeviceId> {
        self.places.iter().map(|place| place.device.id())
    }

    /// Gives a device its saved state back; false if it is not on this bus.
    ///
    /// # Errors
    /// Bytes that are no state of this device.
    pub fn restore(&mut self, device: DeviceId, saved: &[u8]) -> Result<bool, DeviceStateError> {
        match self.places.iter_mut().find(|place| place.device.id() == device) {
            Some(place) => place.device.restore(saved).map(|()| true),
            None => Ok(false),
        }
    }

    fn find(&mut self, address: u64, length: usize) -> Option<&mut Place> {
        let end = address.checked_add(length as u64)?;
        self.places.iter_mut().find(|place| place.range.start <= address && end <= place.range.end)
    }
}
