//! The interrupt chips and timers that KVM keeps for a Linux guest, and the lines from the devices to them.
//!
//! A virtio device's line is level-triggered: it is up while the device's interrupt status says so. So nothing is lost
//! that is pending when the machine is saved: the chips' own state tells what they have taken, the devices' what is still
//! to be taken. The serial port's interrupt is an edge, which a chip keeps.

use super::super::device::{Bus, DeviceId, Interrupt};
use super::super::error::{KvmCall, MachineError};
use super::{FIRST_VIRTIO_GSI, SERIAL_GSI, VcpuCount, board};
use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_SPEAKER_DUMMY, kvm_ioapic_state,
    kvm_irqchip, kvm_pic_state, kvm_pit_config, kvm_pit_state2,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use std::fmt;
use std::mem::offset_of;
use zerocopy::IntoBytes;

/// PIC master, PIC slave, I/O APIC.
pub(in super::super) const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

const SERIAL: DeviceId = DeviceId(1);
const FIRST_VIRTIO: u32 = 16;
/// Where a PIC's edge/level register is, and the I/O APIC's redirection table.
const PIC_LEVELS_AT: usize = offset_of!(kvm_irqchip, chip) + offset_of!(kvm_pic_state, elcr);
const IO_APIC_ENTRIES_AT: usize = offset_of!(kvm_irqchip, chip) + offset_of!(kvm_ioapic_state, redirtbl);
/// The trigger mode in the second byte of such an entry (Intel, 82093AA, 3.2.4).
const IO_APIC_LEVEL: u8 = 1 << 7;
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
        let wants = Wants::of(buses);
        self.apply(vm, &wants)
    }

    fn apply(&mut self, vm: &VmFd, wants: &Wants) -> Result<(), MachineError> {
        for gsi in gsis(wants.edges) {
            set_line(vm, gsi, true)?;
            set_line(vm, gsi, false)?;
        }
        for gsi in gsis(self.up ^ wants.up()) {
            set_line(vm, gsi, wants.up() & bit(gsi) != 0)?;
            self.up ^= bit(gsi);
        }
        Ok(())
    }

    /// After a restore of these chips: KVM's new lines are all down, whatever the chips remember.
    pub(in super::super) fn settle_lines(
        &mut self,
        vm: &VmFd,
        chips: &ChipState,
        buses: [&mut Bus; 2],
    ) -> Result<(), MachineError> {
        let wants = Wants::of(buses);
        // The chips have had the edge with which such a line went up, or keep it: another one would be one too many.
        self.up = wants.held & !wants.raised & !chips.level_triggered();
        // A chip remembers a line as up that has gone down since: it is told of every line.
        for gsi in (FIRST_VIRTIO_GSI..GSIS).filter(|gsi| self.up & bit(*gsi) == 0) {
            set_line(vm, gsi, false)?;
        }
        self.apply(vm, &wants)
    }
}

/// What all devices together want of the lines, a bit for each. Several may share one: it is up while any of them wants that.
#[derive(Debug, Default, PartialEq)]
struct Wants {
    /// Short edges.
    edges: u32,
    /// Up by devices that want to be served.
    raised: u32,
    /// Up by the guest's own hand.
    held: u32,
}

impl Wants {
    fn of(buses: [&mut Bus; 2]) -> Self {
        Self::add_up(buses.into_iter().flat_map(Bus::interrupts))
    }

    fn add_up(interrupts: impl Iterator<Item = (DeviceId, Interrupt)>) -> Self {
        let mut all = Self::default();
        for (device, wants) in interrupts {
            let line = board::line_of(device);
            let Some(gsi) = line.or_else(|| gsi_of(device)) else { continue };
            match wants {
                Interrupt::None | Interrupt::Level(false) => {}
                Interrupt::Edge => all.edges |= bit(gsi),
                Interrupt::Level(true) if line.is_some() => all.held |= bit(gsi),
                Interrupt::Level(true) => all.raised |= bit(gsi),
            }
        }
        all
    }

    fn up(&self) -> u32 {
        self.raised | self.held
    }
}

fn bit(gsi: u32) -> u32 {
    1 << gsi
}

fn gsis(bits: u32) -> impl Iterator<Item = u32> {
    (0..GSIS).filter(move |gsi| bits & bit(*gsi) != 0)
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

    /// The lines that either chip has been told to take as levels, a bit for each.
    fn level_triggered(&self) -> u32 {
        let [master, slave, io_apic] = self.chips.each_ref().map(IntoBytes::as_bytes);
        let pics = u32::from(master[PIC_LEVELS_AT]) | u32::from(slave[PIC_LEVELS_AT]) << 8;
        let entries = io_apic[IO_APIC_ENTRIES_AT..].chunks_exact(size_of::<u64>());
        let is_level = |entry: &[u8]| entry[1] & IO_APIC_LEVEL != 0;
        gsis(u32::MAX)
            .zip(entries)
            .filter(|(_, entry)| is_level(entry))
            .fold(pics, |levels, (gsi, _)| levels | bit(gsi))
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

/// The interrupt of a device that is no line of the board's, if it has one.
fn gsi_of(device: DeviceId) -> Option<u32> {
    match device {
        SERIAL => Some(SERIAL_GSI),
        DeviceId(id) => {
            let slot = id.checked_sub(FIRST_VIRTIO)?;
            Some(FIRST_VIRTIO_GSI + slot).filter(|gsi| *gsi < GSIS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::kvm_ioapic_state__bindgen_ty_1;

    /// Line 19 of the board, and the device whose line is the same.
    const LINE: DeviceId = DeviceId(64 + 19);
    const DEVICE: DeviceId = DeviceId(FIRST_VIRTIO + 3);

    #[test]
    fn a_shared_line_is_up_while_anyone_wants_it() {
        let wants = |line, device| {
            let levels = [(LINE, Interrupt::Level(line)), (DEVICE, Interrupt::Level(device))];
            let forth = Wants::add_up(levels.into_iter());
            assert_eq!(forth, Wants::add_up(levels.into_iter().rev()), "the order says nothing");
            forth
        };
        assert_eq!(wants(false, false).up(), 0);
        assert_eq!(wants(true, false), Wants { held: bit(19), ..Wants::default() });
        assert_eq!(wants(false, true), Wants { raised: bit(19), ..Wants::default() });
        assert_eq!(wants(true, true).up(), bit(19));
        let edge = Wants::add_up([(SERIAL, Interrupt::Edge), (DeviceId(2), Interrupt::Edge)].into_iter());
        assert_eq!(edge, Wants { edges: bit(SERIAL_GSI), ..Wants::default() });
    }

    #[test]
    fn the_chips_say_which_lines_are_levels() {
        let mut chips = ChipState {
            chips: CHIPS.map(|chip_id| kvm_irqchip { chip_id, ..Default::default() }),
            pit: kvm_pit_state2::default(),
        };
        assert_eq!(chips.level_triggered(), 0);
        chips.chips[1].chip.pic = kvm_pic_state { elcr: 0b10, ..Default::default() };
        let entry = |gsi| kvm_ioapic_state__bindgen_ty_1 { bits: if gsi == 19 { 0x8032 } else { 0x32 } };
        let entries = std::array::from_fn(entry);
        chips.chips[2].chip.ioapic = kvm_ioapic_state { redirtbl: entries, ..Default::default() };
        assert_eq!(chips.level_triggered(), bit(9) | bit(19));
    }
}
