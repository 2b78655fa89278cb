//! The entropy port: each 32-bit read gives a fresh random word.

use super::{Context, Device, DeviceId, DeviceStateError, restore_nothing};
use crate::machine::inputs::InputError;
use std::ops::Range;

/// Where it is.
pub(crate) const ENTROPY_PORTS: Range<u64> = 0x608..0x60c;

const ID: DeviceId = DeviceId(4);
const WORD_BYTES: usize = 4;

/// Words of entropy.
#[derive(Debug, Default)]
pub(crate) struct EntropyDevice;

impl Device for EntropyDevice {
    fn id(&self) -> DeviceId {
        ID
    }

    fn read(&mut self, offset: u64, data: &mut [u8], context: &mut Context<'_>) -> Result<(), InputError> {
        if offset != 0 || data.len() != WORD_BYTES {
            return Ok(());
        }
        context.inputs.entropy(context.exit, data)
    }

    fn write(&mut self, _offset: u64, _data: &[u8], _context: &mut Context<'_>) -> Result<(), InputError> {
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), DeviceStateError> {
        restore_nothing(ID, saved)
    }
}
