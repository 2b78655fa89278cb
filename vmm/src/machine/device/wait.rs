//! The wait ports: the guest sleeps until a time has passed or an input has come.

use super::{Context, Device, DeviceId, DeviceStateError, restore_nothing, word};
use crate::machine::inputs::InputError;
use std::ops::Range;

/// Microseconds, nanoseconds.
pub(crate) const WAIT_PORTS: Range<u64> = 0x60c..0x614;

const ID: DeviceId = DeviceId(5);
const MICROSECONDS: u64 = 0;
const NANOSECONDS: u64 = 4;
const NS_PER_US: u64 = 1000;

/// Asks the machine to wait; never blocks itself. When the wait ends is no input: the guest sees the end only by what it
/// reads afterwards, and that is.
#[derive(Debug, Default)]
pub(crate) struct WaitDevice;

impl Device for WaitDevice {
    fn id(&self) -> DeviceId {
        ID
    }

    fn read(&mut self, _offset: u64, _data: &mut [u8], _context: &mut Context<'_>) -> Result<(), InputError> {
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], context: &mut Context<'_>) -> Result<(), InputError> {
        let ns = match (offset, word(data)) {
            (MICROSECONDS, Some(us)) => u64::from(us) * NS_PER_US,
            (NANOSECONDS, Some(ns)) => u64::from(ns),
            _ => return Ok(()),
        };
        context.effects.wait_until = Some(context.inputs.now().plus_ns(ns));
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), DeviceStateError> {
        restore_nothing(ID, saved)
    }
}
