//! The clock ports: guest time in nanoseconds, in two 32-bit reads.

use super::{Context, Device, DeviceId, DeviceStateError, decode, encode};
use crate::machine::inputs::InputError;
use std::ops::Range;

/// Low word, high word.
pub(crate) const CLOCK_PORTS: Range<u64> = 0x600..0x608;

const ID: DeviceId = DeviceId(3);
const LOW: u64 = 0;
const HIGH: u64 = 4;

/// Reading the low word latches the high word of the same reading.
#[derive(Debug, Default)]
pub(crate) struct ClockDevice {
    high: u32,
}

impl Device for ClockDevice {
    fn id(&self) -> DeviceId {
        ID
    }

    fn read(&mut self, offset: u64, data: &mut [u8], context: &mut Context<'_>) -> Result<(), InputError> {
        let Ok(word) = <&mut [u8; 4]>::try_from(data) else { return Ok(()) };
        match offset {
            LOW => {
                let [l0, l1, l2, l3, h0, h1, h2, h3] = context.inputs.clock(context.exit)?.0.to_le_bytes();
                self.high = u32::from_le_bytes([h0, h1, h2, h3]);
                *word = [l0, l1, l2, l3];
            }
            HIGH => *word = self.high.to_le_bytes(),
            _ => {}
        }
        Ok(())
    }

    fn write(&mut self, _offset: u64, _data: &[u8], _context: &mut Context<'_>) -> Result<(), InputError> {
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        encode(&self.high)
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), DeviceStateError> {
        self.high = decode(ID, saved)?;
        Ok(())
    }
}
