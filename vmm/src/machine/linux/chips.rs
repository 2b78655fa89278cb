//! The interrupt chips and timers that KVM keeps for a Linux guest, and the lines from the devices to them.
//!
//! A virtio device's line is level-triggered: it is up while the device's interrupt status says so. So nothing is lost
//! that is pending when the machine is saved: the chips' own state tells what they have taken, the devices' what is still
//! to be taken. The serial port's interrupt is an edge, which a chip keeps.

use super::super::device::{Bus, DeviceId, Interrupt};
use super::super::error::{KvmCall, MachineError};
use super::{FIRST_VIRTIO_GSI, SERIAL_GSI, VcpuCount, board};
use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_SPEAKER_DUMMY, kvm_irqchip,
    kvm_pit_config, kvm_pit_state2,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use std::fmt;
use zerocopy::IntoBytes;

/// PIC master, PIC slave, I/O APIC.
pub(in super::super) const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

const SERIAL: DeviceId = DeviceId(1);
const FIRST_VIRTIO: u32 = 16;
/// Inputs of the I/O APIC.
pub(super) const GSIS: u32 = 24;

/// What only the machine of a Linux guest has.
#[derive(Debug)]
pub(in super::super) struct Platform {
    pub(in super::super) vcpus: VcpuCount,
    /// Lines that are up, as KVM was told last.
    up: u32,
}

/// The chips as KVM hands them out.
#[derive(Clone)]
pub(in super::super) struct ChipState {
    /// In the order of [`CHIPS`].
    pub(in super::super) chips: [kvm_irqchip; CHIPS.len()],
    pub(in super::super) pit: kvm_pit_state2,
}

impl Platform {
    /// Makes the chips. Comes before the first vCPU is made.
    pub(in super::super) fn create(kvm: &Kvm, vm: &VmFd, vcpus: VcpuCount) -> Result<Self, MachineError> {
        let needed = [
            (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
            (Cap::Pit2, "KVM_CAP_PIT2"),
            (Cap::PitState2, "KVM_CAP_PIT_STATE2"),
            (Cap::TscDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER"),
            (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
            (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
        ];
        if let Some((_, name)) = needed.into_iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return Err(MachineError::MissingCapability { name });
        }
        vm.create_irq_chip().map_err(KvmCall::CreateIrqchip.failed())?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        vm.create_pit2(pit).map_err(KvmCall::CreatePit2.failed())?;
        Ok(Self { vcpus, up: 0 })
    }

    /// Tells the chips what the devices on these buses want of their lines.
    pub(in super::super) fn update_lines(&mut self, vm: &VmFd, buses: [&mut Bus; 2]) -> Result<(), MachineError> {
        for bus in buses {
            for (device, wants) in bus.interrupts() {
                let Some(gsi) = gsi_of(device) else { continue };
                match wants {
                    Interrupt::None => {}
                    Interrupt::Edge => {
                        set_line(vm, gsi, true)?;
                        set_line(vm, gsi, false)?;
                    }
                    Interrupt::Level(up) => self.set_level(vm, gsi, up)?,
                }
            }
        }
        Ok(())
    }

    fn set_level(&mut self, vm: &VmFd, gsi: u32, up: bool) -> Result<(), MachineError> {
        let bit = 1 << gsi;
        if (self.up & bit != 0) != up {
            set_line(vm, gsi, up)?;
            self.up ^= bit;
        }
        Ok(())
    }

    /// After a restore: KVM's new lines are all down, whatever the chips remember.
    pub(in super::super) fn settle_lines(&mut self, vm: &VmFd, buses: [&mut Bus; 2]) -> Result<(), MachineError> {
        // A chip remembers a line as up that has gone down since: it is told of every line.
        for gsi in FIRST_VIRTIO_GSI..GSIS {
            set_line(vm, gsi, false)?;
        }
        self.up = 0;
        self.update_lines(vm, buses)
    }
}

impl ChipState {
    pub(in super::super) fn read(vm: &VmFd) -> Result<Self, MachineError> {
        let mut chips = CHIPS.map(|chip_id| kvm_irqchip { chip_id, ..Default::default() });
        for chip in &mut chips {
            vm.get_irqchip(chip).map_err(KvmCall::GetIrqchip.failed())?;
        }
        let pit = vm.get_pit2().map_err(KvmCall::GetPit2.failed())?;
        Ok(Self { chips, pit })
    }

    /// Writes the state. The local APICs must be as saved already: the I/O APIC hands on to them what is pending.
    pub(in super::super) fn write(&self, vm: &VmFd) -> Result<(), MachineError> {
        for chip in &self.chips {
            vm.set_irqchip(chip).map_err(KvmCall::SetIrqchip.failed())?;
        }
        vm.set_pit2(&self.pit).map_err(KvmCall::SetPit2.failed())
    }
}

impl PartialEq for ChipState {
    fn eq(&self, other: &Self) -> bool {
        self.chips.as_bytes() == other.chips.as_bytes() && self.pit.as_bytes() == other.pit.as_bytes()
    }
}

impl fmt::Debug for ChipState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChipState").field("pit", &self.pit).finish_non_exhaustive()
    }
}

fn set_line(vm: &VmFd, gsi: u32, up: bool) -> Result<(), MachineError> {
    vm.set_irq_line(gsi, up).map_err(KvmCall::IrqLine.failed())
}

/// The interrupt of a device, if it has one.
fn gsi_of(device: DeviceId) -> Option<u32> {
    match device {
        SERIAL => Some(SERIAL_GSI),
        line if board::line_of(line).is_some() => board::line_of(line),
        DeviceId(id) => {
            let slot = id.checked_sub(FIRST_VIRTIO)?;
            Some(FIRST_VIRTIO_GSI + slot).filter(|gsi| *gsi < GSIS)
        }
    }
}
