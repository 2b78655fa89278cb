//! The ACPI tables: processors, the I/O APIC, the serial port, the virtio devices, and the way to switch off.
//!
//! The machine is a hardware-reduced one: no PM registers, no SCI, no legacy timer. All that is left is sleep control
//! and reset.

use super::super::device::virtio::DEVICE_MMIO_BYTES;
use super::memory_map::ACPI_START;
use super::power::{RESET_PORT, RESET_VALUE, RESET_VECTOR, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT, SLEEP_TYPE_OFF};
use super::{SERIAL_GSI, VcpuCount};
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope, Zero,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

const OEM: [u8; 6] = *b"FTVM  ";
const TABLE: [u8; 8] = *b"FTVMLNUX";
const REVISION: u32 = 1;
/// Revision of the DSDT that says: 64-bit integers.
const DSDT_REVISION: u8 = 2;
const TABLE_HEADER_BYTES: u32 = 36;

const LOCAL_APIC: u32 = 0xfee0_0000;
pub(super) const IO_APIC: u32 = 0xfec0_0000;
/// The I/O APIC's own id: none of a processor.
const IO_APIC_ID: u8 = 15;

/// "There is no VGA", "there is no CMOS clock": what a kernel would otherwise look for.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
const BOOT_ARCH_NO_CMOS_CLOCK: u16 = 1 << 5;

/// A virtio device as the tables announce it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VirtioPlace {
    pub(super) slot: u8,
    pub(super) address: u64,
    pub(super) gsi: u32,
}

/// The tables, with the addresses at which they lie; the first is the RSDP.
pub(super) fn tables(vcpus: VcpuCount, devices: &[VirtioPlace]) -> Vec<(u64, Vec<u8>)> {
    let mut next = ACPI_START;
    let mut place = |bytes: Vec<u8>| {
        let at = next;
        next = (next + bytes.len() as u64).next_multiple_of(16);
        assert!(next <= RESET_VECTOR, "a few devices' tables are small");
        (at, bytes)
    };
    // The RSDP comes first, and names what comes behind it.
    let rsdp_at = place(vec![0; Rsdp::len()]).0;
    let dsdt = place(dsdt(devices));
    let fadt = place(fadt(dsdt.0));
    let madt = place(madt(vcpus));
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt.0);
    xsdt.add_entry(madt.0);
    let xsdt = place(bytes_of(&xsdt));
    let rsdp = (rsdp_at, bytes_of(&Rsdp::new(OEM, xsdt.0)));
    vec![rsdp, dsdt, fadt, madt, xsdt]
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let port = |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port));
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    fadt.iapc_boot_arch = (BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_CMOS_CLOCK).into();
    fadt.reset_reg = port(RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port(SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(SLEEP_STATUS_PORT);
    bytes_of(&fadt.finalize())
}

fn madt(vcpus: VcpuCount) -> Vec<u8> {
    let mut madt = MADT::new(OEM, TABLE, REVISION, LocalInterruptController::Address(LOCAL_APIC));
    for id in 0..vcpus.get() {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(IO_APIC_ID, IO_APIC, 0));
    bytes_of(&madt)
}

fn dsdt(devices: &[VirtioPlace]) -> Vec<u8> {
    let mut aml = Vec::new();
    let com1 = Device::new(
        Path::new("COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &Zero {}),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    // ISA: rising edges.
                    &Interrupt::new(true, true, false, false, SERIAL_GSI),
                    &IO::new(0x3f8, 0x3f8, 1, 8),
                ]),
            ),
        ],
    )
    .bytes();
    let virtio = devices.iter().flat_map(|device| virtio(*device));
    let inside: Vec<u8> = com1.into_iter().chain(virtio).collect();
    Scope::new(Path::new("_SB_"), vec![&Raw(inside)]).to_aml_bytes(&mut aml);
    Name::new(Path::new("_S5_"), &Package::new(vec![&SLEEP_TYPE_OFF])).to_aml_bytes(&mut aml);
    let mut table = Sdt::new(*b"DSDT", TABLE_HEADER_BYTES, DSDT_REVISION, OEM, TABLE, REVISION);
    table.append_slice(&aml);
    bytes_of(&table)
}

fn virtio(device: VirtioPlace) -> Vec<u8> {
    let start = u32::try_from(device.address).expect("the window is below 4 GiB");
    let length = u32::try_from(DEVICE_MMIO_BYTES).expect("a page");
    Device::new(
        Path::new(&format!("VR{:02X}", device.slot)),
        vec![
            &Name::new(Path::new("_HID"), &"LNRO0005"),
            &Name::new(Path::new("_UID"), &device.slot),
            &Name::new(Path::new("_CCA"), &1u8),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, start, length),
                    &Interrupt::new(true, false, false, false, device.gsi),
                ]),
            ),
        ],
    )
    .bytes()
}

/// AML that is there already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

trait AmlBytes {
    fn bytes(&self) -> Vec<u8>;
}

impl<T: Aml> AmlBytes for T {
    fn bytes(&self) -> Vec<u8> {
        bytes_of(self)
    }
}
