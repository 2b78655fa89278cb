//! States that do not belong to a machine are refused with the reason.

use super::support::{MIB, bare, booted, kvm, run_to_end};
use crate::machine::device::{DeviceId, DeviceStateError};
use crate::machine::layout::{MemoryError, anonymous_memory, ram_regions};
use crate::machine::{GuestMemory, KvmCall, Machine, MachineConfig, MachineError, Stop};
use vm_memory::GuestAddress;

#[test]
fn states_of_other_machines_are_refused() {
    let Some(kvm) = kvm() else { return };
    let mut machine = booted(&kvm, 4 * MIB, "counter", &["--lines", "1"]);
    let good = machine.save().expect("saved");
    let mut refuse = |change: &dyn Fn(&mut crate::machine::MachineState)| {
        let mut state = good.clone();
        change(&mut state);
        machine.restore(&state).expect_err("another machine's")
    };
    assert!(matches!(refuse(&|state| state.cpuid_digest ^= 1), MachineError::OtherProcessor { .. }));
    assert!(matches!(
        refuse(&|state| state.devices.push((DeviceId(99), Vec::new()))),
        MachineError::Device(DeviceStateError::Unmatched { device: DeviceId(99) })
    ));
    assert!(matches!(
        refuse(&|state| drop(state.devices.remove(0))),
        MachineError::Device(DeviceStateError::Unmatched { device: DeviceId(1) })
    ));
    assert!(matches!(
        refuse(&|state| state.devices[0].1.clear()),
        MachineError::Device(DeviceStateError::Unreadable { device: DeviceId(1), .. })
    ));
    let unknown = refuse(&|state| state.cpu.msrs.push((0x1234_5678, 1)));
    assert!(matches!(unknown, MachineError::Msr { call: KvmCall::SetMsrs, index: 0x1234_5678 }), "{unknown}");
    assert!(matches!(
        refuse(&|state| state.cpu.sregs.cr4 = u64::MAX),
        MachineError::Kvm { call: KvmCall::SetSregs, .. }
    ));
    machine.restore(&good).expect("its own state");
    assert_eq!(run_to_end(&mut machine).0, Stop::Exited(0));
}

#[test]
fn an_ended_guest_stays_ended_in_another_machine() {
    let Some(kvm) = kvm() else { return };
    let mut machine = booted(&kvm, 4 * MIB, "counter", &["--nonsense", "1"]);
    assert_eq!(run_to_end(&mut machine).0, Stop::Exited(2), "the exit code for wrong arguments");
    let state = machine.save().expect("saved");
    assert_eq!(state.exit_code(), Some(2));
    let mut other = bare(&kvm, 4 * MIB);
    other.restore(&state).expect("restored");
    assert_eq!(other.run().expect("runs"), Stop::Exited(2));
    assert_eq!((other.console_position(), other.exits()), (machine.console_position(), machine.exits()));
}

#[test]
fn memory_has_to_be_laid_out_as_ram() {
    let Some(kvm) = kvm() else { return };
    let ranges = [(GuestAddress(0x1000), 4 << 20)];
    let memory = GuestMemory::from_ranges(&ranges).expect("memory");
    let error = Machine::prepare(&kvm, memory, MachineConfig::live()).map(|_| ()).expect_err("not at zero");
    assert!(matches!(error, MachineError::Memory(MemoryError::Layout { index: 0, got: 0x1000, .. })));
}

#[test]
fn memory_sizes_are_checked() {
    assert!(matches!(anonymous_memory(0), Err(MemoryError::TooSmall { bytes: 0 })));
    assert!(matches!(anonymous_memory(MIB), Err(MemoryError::TooSmall { .. })));
    assert!(matches!(anonymous_memory(4 * MIB + 1), Err(MemoryError::Unaligned { .. })));
    assert!(matches!(anonymous_memory((64 << 30) + 4096), Err(MemoryError::TooLarge { .. })));
    assert_eq!(ram_regions(3 << 30).expect("fits").len(), 1);
    let both = ram_regions(4 << 30).expect("fits");
    assert_eq!((both[1].guest, both[1].image_offset, both[1].length), (GuestAddress(4 << 30), 3 << 30, 1 << 30));
}
