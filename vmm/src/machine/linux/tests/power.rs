use crate::machine::device::{Context, Device, Effects};
use crate::machine::inputs::{ExitNumber, LiveInputs};
use crate::machine::layout::anonymous_memory;
use crate::machine::linux::power::PowerDevice;

fn wrote(mut device: PowerDevice, port: u64, value: u8) -> Option<u32> {
    let (mut inputs, mut effects) = (LiveInputs::default(), Effects::default());
    let memory = anonymous_memory(2 << 20).expect("memory");
    let mut context = Context { exit: ExitNumber(1), inputs: &mut inputs, memory: &memory, effects: &mut effects };
    device.write(port - device.ports().start, &[value], &mut context).expect("no input is needed");
    effects.exit_code
}

#[test]
fn off_and_restart_end_the_guest_and_nothing_else_does() {
    assert_eq!(wrote(PowerDevice::Sleep, 0xb000, 5 << 2 | 1 << 5), Some(0));
    assert_eq!(wrote(PowerDevice::Sleep, 0xb000, 5 << 2), None, "not enabled");
    assert_eq!(wrote(PowerDevice::Sleep, 0xb000, 3 << 2 | 1 << 5), None, "another state");
    assert_eq!(wrote(PowerDevice::Sleep, 0xb001, 5 << 2 | 1 << 5), None, "the status register");
    assert_eq!(wrote(PowerDevice::Reset, 0xcf9, 6), Some(0));
    assert_eq!(wrote(PowerDevice::Reset, 0xcf9, 2), None, "only prepared");
    assert_eq!(wrote(PowerDevice::Keyboard, 0x64, 0xfe), Some(0));
    assert_eq!(wrote(PowerDevice::Keyboard, 0x64, 0x20), None, "another command");
    assert_eq!(wrote(PowerDevice::Keyboard, 0x60, 0xfe), None, "data");
}
