//! A machine's devices with a driver made by hand: it writes what it likes into the queues.

use crate::machine::device::virtio::{Disk, DiskBase, devices};
use crate::machine::device::{Bus, Context, DeviceId, Effects};
use crate::machine::inputs::{ExitNumber, InputError, InputSource, NicIndex, ResumePoint};
use crate::machine::layout::{GuestMemory, MMIO_START, anonymous_memory};
use crate::machine::time::GuestTime;
use ft_protocol::spec::{NetBackend, NetSpec};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes, GuestAddress};

pub(super) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
pub(super) const DISK_BYTES: u64 = 64 << 10;
pub(super) const RAM_BYTES: u64 = 4 << 20;

pub(super) const NET: u64 = MMIO_START;
pub(super) const BLK: u64 = MMIO_START + 0x4000;
pub(super) const CONSOLE: u64 = MMIO_START + 0x5000;
pub(super) const RNG: u64 = MMIO_START + 0x6000;

/// Descriptor flags.
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// Where the rings of queue `index` of a device are; buffers are the test's own.
pub(super) const RINGS: u64 = 0x10_0000;
pub(super) const BUFFERS: u64 = 0x20_0000;
pub(super) const SIZE: u16 = 8;

/// Inputs that are known beforehand.
#[derive(Default)]
pub(super) struct Script {
    pub(super) packets: VecDeque<Vec<u8>>,
    pub(super) console: Vec<u8>,
    pub(super) asked_packets: usize,
}

impl InputSource for Script {
    fn clock(&mut self, _at: ExitNumber) -> Result<GuestTime, InputError> {
        Ok(GuestTime(0))
    }
    fn entropy(&mut self, _at: ExitNumber, bytes: &mut [u8]) -> Result<(), InputError> {
        bytes.fill(0x5a);
        Ok(())
    }
    fn packet(&mut self, _at: ExitNumber, nic: NicIndex) -> Result<Option<Vec<u8>>, InputError> {
        assert_eq!(nic, NicIndex(0));
        self.asked_packets += 1;
        Ok(self.packets.pop_front())
    }
    fn console(&mut self, _at: ExitNumber, room: usize) -> Result<Vec<u8>, InputError> {
        let count = room.min(self.console.len());
        Ok(self.console.drain(..count).collect())
    }
    fn offer_console(&mut self, bytes: &[u8]) -> usize {
        self.console.extend(bytes);
        bytes.len()
    }
    fn wakes(&self) -> bool {
        false
    }
    fn now(&self) -> GuestTime {
        GuestTime(0)
    }
    fn waiting_console(&self) -> Vec<u8> {
        Vec::new()
    }
    fn resume(&mut self, _from: &ResumePoint<'_>) {}
}

pub(super) struct Rig {
    pub(super) memory: GuestMemory,
    pub(super) bus: Bus,
    pub(super) inputs: Script,
    pub(super) effects: Effects,
    pub(super) disk: Arc<Mutex<Disk>>,
}

impl Rig {
    pub(super) fn new() -> Self {
        let disk = Arc::new(Mutex::new(Disk::new(DiskBase::Zeroes, DISK_BYTES).expect("whole blocks")));
        let nets = [NetSpec { mac: MAC, backend: NetBackend::Segment(String::new()) }];
        let mut bus = Bus::default();
        for (range, device) in devices(&nets, Some(disk.clone())) {
            bus.insert(range, device).expect("places of their own");
        }
        let memory = anonymous_memory(RAM_BYTES).expect("memory");
        Self { memory, bus, inputs: Script::default(), effects: Effects::default(), disk }
    }

    pub(super) fn with<T>(&mut self, access: impl FnOnce(&mut Bus, &mut Context<'_>) -> T) -> T {
        let mut context =
            Context { exit: ExitNumber(1), inputs: &mut self.inputs, memory: &self.memory, effects: &mut self.effects };
        access(&mut self.bus, &mut context)
    }

    pub(super) fn read(&mut self, address: u64) -> u32 {
        let mut data = [0; 4];
        self.with(|bus, context| bus.read(address, &mut data, context)).expect("inputs are there");
        u32::from_le_bytes(data)
    }

    pub(super) fn write(&mut self, address: u64, value: u32) {
        self.with(|bus, context| bus.write(address, &value.to_le_bytes(), context)).expect("inputs are there");
        self.poll();
    }

    pub(super) fn poll(&mut self) {
        self.with(Bus::poll).expect("inputs are there");
    }

    /// Brings a device up to life, with so many queues.
    pub(super) fn start(&mut self, device: u64, queues: u32) {
        self.write(device + 0x70, 0);
        self.write(device + 0x70, 3);
        for half in 0..2 {
            self.write(device + 0x14, half);
            let offered = self.read(device + 0x10);
            self.write(device + 0x24, half);
            self.write(device + 0x20, offered);
        }
        self.write(device + 0x70, 3 | 8);
        assert_eq!(self.read(device + 0x70), 3 | 8, "the features are accepted");
        for queue in 0..queues {
            self.set_queue(device, queue, SIZE.into(), [rings(queue), rings(queue) + 0x1000, rings(queue) + 0x2000]);
        }
        self.write(device + 0x70, 3 | 8 | 4);
        assert_eq!(self.status(device), 3 | 8 | 4);
    }

    pub(super) fn set_queue(&mut self, device: u64, queue: u32, size: u32, addresses: [u64; 3]) {
        self.write(device + 0x30, queue);
        self.write(device + 0x38, size);
        for (register, address) in [0x80, 0x90, 0xa0].into_iter().zip(addresses) {
            self.write(device + register, u32::try_from(address & 0xffff_ffff).expect("half"));
            self.write(device + register + 4, u32::try_from(address >> 32).expect("half"));
        }
        self.write(device + 0x44, 1);
    }

    pub(super) fn status(&mut self, device: u64) -> u32 {
        self.read(device + 0x70)
    }

    pub(super) fn needs_reset(&mut self, device: u64) -> bool {
        self.status(device) & 64 != 0
    }

    pub(super) fn notify(&mut self, device: u64, queue: u32) {
        self.write(device + 0x50, queue);
    }

    pub(super) fn put<T: vm_memory::ByteValued>(&self, address: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(address)).expect("RAM");
    }

    pub(super) fn get<T: vm_memory::ByteValued>(&self, address: u64) -> T {
        self.memory.read_obj(GuestAddress(address)).expect("RAM")
    }

    pub(super) fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).expect("RAM");
        bytes
    }

    pub(super) fn put_bytes(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).expect("RAM");
    }

    /// Writes a descriptor.
    pub(super) fn descriptor(&self, queue: u32, index: u16, (address, length): (u64, u32), flags: u16, next: u16) {
        let at = rings(queue) + u64::from(index) * 16;
        self.put(at, address);
        self.put(at + 8, length);
        self.put(at + 12, flags);
        self.put(at + 14, next);
    }

    /// Writes a chain from descriptor `first` on: address, length, whether the device writes.
    pub(super) fn chain(&self, queue: u32, first: u16, buffers: &[(u64, u32, bool)]) {
        for (index, (address, length, is_written)) in (first..).zip(buffers) {
            let last = usize::from(index - first) + 1 == buffers.len();
            let flags = if last { 0 } else { NEXT } | if *is_written { WRITE } else { 0 };
            self.descriptor(queue, index, (*address, *length), flags, index + 1);
        }
    }

    /// Offers a chain to the device.
    pub(super) fn offer(&self, queue: u32, head: u16) {
        let available = rings(queue) + 0x1000;
        let index: u16 = self.get(available + 2);
        self.put(available + 4 + u64::from(index % SIZE) * 2, head);
        self.put(available + 2, index.wrapping_add(1));
    }

    /// How many chains came back, and the last one: head and length.
    pub(super) fn used(&self, queue: u32) -> (u16, u32, u32) {
        let used = rings(queue) + 0x2000;
        let index: u16 = self.get(used + 2);
        let last = used + 4 + u64::from(index.wrapping_sub(1) % SIZE) * 8;
        (index, self.get(last), self.get(last + 4))
    }

    pub(super) fn saved(&self, device: DeviceId) -> Vec<u8> {
        self.bus.save().into_iter().find(|(id, _)| *id == device).expect("on the bus").1
    }
}

pub(super) fn rings(queue: u32) -> u64 {
    RINGS + u64::from(queue) * 0x4000
}
