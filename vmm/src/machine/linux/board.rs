//! What the machine of a Multiboot guest has beside that of a Linux guest: the devices by which QEMU's users test KVM. Their
//! guests are told there how many processors and how much memory they have, raise interrupt lines, and find memory that takes
//! an exit to reach. Interfaces and addresses are those of QEMU's `fw_cfg` and `pc-testdev`.
//!
//! ```text
//! ports 0x0e0-0x0e3  one 32-bit word, readable and writable by parts     memory 0xff00_0000  64 KiB behind exits
//!       0x0e4-0x0e7  written: drop the host's mapping of a page; nothing has to be done
//!       0x0e8-0x0eb  one byte
//!       0x510, 0x511 which item of the configuration, and its bytes one after the other
//!       0x2000+n     interrupt line n: 1 up, 0 down
//! ```

use super::super::device::{Bus, BusError, Context, Device, DeviceId, DeviceStateError, Interrupt, decode, encode};
use super::super::inputs::InputError;
use super::super::to_usize;
use super::VcpuCount;
use super::chips::GSIS;
use serde::{Deserialize, Serialize};
use std::ops::Range;

const CONFIGURATION: DeviceId = DeviceId(9);
const WORD: DeviceId = DeviceId(10);
const BYTE: DeviceId = DeviceId(11);
const MEMORY: DeviceId = DeviceId(12);
/// The first interrupt line's; the others follow.
const FIRST_LINE: u32 = 64;

const CONFIGURATION_PORTS: Range<u64> = 0x510..0x512;
const WORD_PORTS: Range<u64> = 0xe0..0xe4;
const BYTE_PORTS: Range<u64> = 0xe8..0xec;
const LINE_PORTS: u64 = 0x2000;
const MEMORY_PLACE: Range<u64> = 0xff00_0000..0xff01_0000;

const ITEM_SIGNATURE: u16 = 0;
const ITEM_INTERFACE: u16 = 1;
const ITEM_RAM_BYTES: u16 = 3;
const ITEM_VCPUS: u16 = 5;
const ITEM_VCPUS_MAX: u16 = 15;
/// Only ports, no transfers by the device.
const INTERFACE_PORTS: u32 = 1;

/// Puts the board on a machine's buses.
pub(in super::super) fn insert(
    (ports, mmio): (&mut Bus, &mut Bus),
    vcpus: VcpuCount,
    ram_bytes: u64,
) -> Result<(), BusError> {
    let configuration = Configuration { vcpus, ram_bytes, at: Reading::default() };
    ports.insert(CONFIGURATION_PORTS, Box::new(configuration))?;
    ports.insert(WORD_PORTS, Box::new(Storage::new(WORD, WORD_PORTS)))?;
    ports.insert(BYTE_PORTS, Box::new(Storage::new(BYTE, BYTE_PORTS)))?;
    for line in 0..GSIS {
        let port = LINE_PORTS + u64::from(line);
        ports.insert(port..port + 1, Box::new(Line { line, is_up: false }))?;
    }
    mmio.insert(MEMORY_PLACE, Box::new(Storage::new(MEMORY, MEMORY_PLACE)))
}

/// The interrupt line that a device of the board is.
pub(super) fn line_of(device: DeviceId) -> Option<u32> {
    device.0.checked_sub(FIRST_LINE).filter(|line| *line < GSIS)
}

/// Tells the guest what its machine is like.
struct Configuration {
    vcpus: VcpuCount,
    ram_bytes: u64,
    at: Reading,
}

/// Which item is read, and how far it has been.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Reading {
    item: u16,
    offset: u32,
}

impl Configuration {
    fn item(&self) -> Vec<u8> {
        match self.at.item {
            ITEM_SIGNATURE => b"QEMU".to_vec(),
            ITEM_INTERFACE => INTERFACE_PORTS.to_le_bytes().to_vec(),
            ITEM_RAM_BYTES => self.ram_bytes.to_le_bytes().to_vec(),
            ITEM_VCPUS | ITEM_VCPUS_MAX => u16::from(self.vcpus.get()).to_le_bytes().to_vec(),
            _ => Vec::new(),
        }
    }
}

impl Device for Configuration {
    fn id(&self) -> DeviceId {
        CONFIGURATION
    }

    fn read(&mut self, offset: u64, data: &mut [u8], _context: &mut Context<'_>) -> Result<(), InputError> {
        if offset == 1 {
            let item = self.item();
            for byte in data {
                *byte = item.get(to_usize(self.at.offset.into())).copied().unwrap_or(0);
                self.at.offset = self.at.offset.saturating_add(1);
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], _context: &mut Context<'_>) -> Result<(), InputError> {
        if let (0, [low, high]) = (offset, data) {
            self.at = Reading { item: u16::from_le_bytes([*low, *high]), offset: 0 };
        }
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        encode(&self.at)
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), DeviceStateError> {
        self.at = decode(CONFIGURATION, saved)?;
        Ok(())
    }
}

/// Bytes that are what was written to them last.
struct Storage {
    id: DeviceId,
    bytes: Vec<u8>,
}

impl Storage {
    fn new(id: DeviceId, range: Range<u64>) -> Self {
        Self { id, bytes: vec![0; to_usize(range.end - range.start)] }
    }

    fn place(&mut self, offset: u64, length: usize) -> Option<&mut [u8]> {
        let start = to_usize(offset);
        self.bytes.get_mut(start..start.checked_add(length)?)
    }
}

impl Device for Storage {
    fn id(&self) -> DeviceId {
        self.id
    }

    fn read(&mut self, offset: u64, data: &mut [u8], _context: &mut Context<'_>) -> Result<(), InputError> {
        if let Some(place) = self.place(offset, data.len()) {
            data.copy_from_slice(place);
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], _context: &mut Context<'_>) -> Result<(), InputError> {
        if let Some(place) = self.place(offset, data.len()) {
            place.copy_from_slice(data);
        }
        Ok(())
    }

    /// What lies behind the last byte that is not zero is left out.
    fn save(&self) -> Vec<u8> {
        let length = self.bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        self.bytes[..length].to_vec()
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), DeviceStateError> {
        if saved.len() > self.bytes.len() {
            return Err(DeviceStateError::Impossible { device: self.id });
        }
        self.bytes.fill(0);
        self.bytes[..saved.len()].copy_from_slice(saved);
        Ok(())
    }
}

/// An interrupt line in the guest's own hand.
struct Line {
    line: u32,
    is_up: bool,
}

impl Device for Line {
    fn id(&self) -> DeviceId {
        DeviceId(FIRST_LINE + self.line)
    }

    fn read(&mut self, _offset: u64, _data: &mut [u8], _context: &mut Context<'_>) -> Result<(), InputError> {
        Ok(())
    }

    fn write(&mut self, _offset: u64, data: &[u8], _context: &mut Context<'_>) -> Result<(), InputError> {
        self.is_up = data.first().is_some_and(|byte| *byte != 0);
        Ok(())
    }

    fn interrupt(&mut self) -> Interrupt {
        Interrupt::Level(self.is_up)
    }

    fn save(&self) -> Vec<u8> {
        vec![self.is_up.into()]
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), DeviceStateError> {
        self.is_up = match saved {
            [0] => false,
            [1] => true,
            _ => return Err(DeviceStateError::Impossible { device: self.id() }),
        };
        Ok(())
    }
}
