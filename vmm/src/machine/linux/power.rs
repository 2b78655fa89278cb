//! The ways in which a kernel ends its machine: ACPI's sleep control (off), ACPI's reset register, the keyboard controller's
//! reset line and the BIOS's entry (restart). A guest that switches itself off has ended with code 0; so has one that restarts,
//! since its machine does not come back by itself.

use super::super::device::{Context, Device, DeviceId, DeviceStateError, restore_nothing};
use super::super::inputs::InputError;
use std::ops::Range;

/// The PC's reset control register, and what restarts the machine.
pub(super) const RESET_PORT: u16 = 0xcf9;
pub(super) const RESET_VALUE: u8 = 0x06;
const RESET_BIT: u8 = 1 << 2;

/// Where a processor begins after a reset, in real mode, and where kernels jump to that find no other way to restart: on machines
/// with hardware-reduced ACPI Linux looks for EFI first, and then takes this one.
pub(super) const RESET_VECTOR: u64 = 0xf_fff0;
/// `mov dx, 0xcf9; mov al, 6; out dx, al; hlt; jmp` back to `hlt`.
pub(super) const RESET_CODE: [u8; 9] =
    [0xba, RESET_PORT.to_le_bytes()[0], RESET_PORT.to_le_bytes()[1], 0xb0, RESET_VALUE, 0xee, 0xf4, 0xeb, 0xfd];

/// ACPI's sleep control and sleep status registers.
pub(super) const SLEEP_CONTROL_PORT: u16 = 0xb000;
pub(super) const SLEEP_STATUS_PORT: u16 = 0xb001;
/// The sleep type that is "off", `_S5_` in the tables.
pub(super) const SLEEP_TYPE_OFF: u8 = 5;
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 7;

/// The keyboard controller's command that pulls the processor's reset line.
const KEYBOARD_RESET: u8 = 0xfe;
const KEYBOARD_COMMAND: u64 = 4;

/// Exit code of a guest that switches off or restarts.
const ENDED: u32 = 0;

/// One of the three, told apart by their ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum PowerDevice {
    /// The keyboard controller: all it can do is reset.
    Keyboard,
    /// The reset control register.
    Reset,
    /// Sleep control and status.
    Sleep,
}

impl PowerDevice {
    /// All of them.
    pub(in super::super) const ALL: [Self; 3] = [Self::Keyboard, Self::Reset, Self::Sleep];

    /// Where it is.
    pub(in super::super) fn ports(self) -> Range<u64> {
        match self {
            Self::Keyboard => 0x60..0x65,
            Self::Reset => u64::from(RESET_PORT)..u64::from(RESET_PORT) + 1,
            Self::Sleep => u64::from(SLEEP_CONTROL_PORT)..u64::from(SLEEP_STATUS_PORT) + 1,
        }
    }

    fn ends(self, offset: u64, value: u8) -> bool {
        match self {
            Self::Keyboard => offset == KEYBOARD_COMMAND && value == KEYBOARD_RESET,
            Self::Reset => value & RESET_BIT != 0,
            Self::Sleep => {
                let kind = value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK;
                offset == 0 && value & SLEEP_ENABLE != 0 && kind == SLEEP_TYPE_OFF
            }
        }
    }
}

impl Device for PowerDevice {
    fn id(&self) -> DeviceId {
        DeviceId(match self {
            Self::Keyboard => 6,
            Self::Reset => 7,
            Self::Sleep => 8,
        })
    }

    fn read(&mut self, _offset: u64, data: &mut [u8], _context: &mut Context<'_>) -> Result<(), InputError> {
        // No key, nothing that keeps a command waiting; no reset and no sleep under way.
        data.fill(0);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], context: &mut Context<'_>) -> Result<(), InputError> {
        if let [value] = data
            && self.ends(offset, *value)
        {
            context.effects.exit_code = Some(ENDED);
        }
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), DeviceStateError> {
        restore_nothing(self.id(), saved)
    }
}
