//! The exit port: a write ends the guest.

use super::{Context, Device, DeviceId, DeviceStateError, restore_nothing, word};
use crate::machine::inputs::InputError;
use std::ops::Range;

/// Where it is.
pub(crate) const EXIT_PORTS: Range<u64> = 0xf4..0xf8;

const ID: DeviceId = DeviceId(2);

/// Takes the exit code as one byte or as one 32-bit word.
#[derive(Debug, Default)]
pub(crate) struct ExitDevice;

impl Device for ExitDevice {
    fn id(&self) -> DeviceId {
        ID
    }

    fn read(&mut self, _offset: u64, _data: &mut [u8], _context: &mut Context<'_>) -> Result<(), InputError> {
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], context: &mut Context<'_>) -> Result<(), InputError> {
        let code = match (offset, data) {
            (0, [byte]) => Some(u32::from(*byte)),
            (0, data) => word(data),
            _ => None,
        };
        context.effects.exit_code = code.or(context.effects.exit_code);
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), DeviceStateError> {
        restore_nothing(ID, saved)
    }
}
