//! A driver that does what the input says: a small program of register accesses, descriptors and rings over guest memory.

use ft_protocol::spec::{NetBackend, NetSpec};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes, GuestAddress};
use vmm::machine::device::virtio::{Disk, DiskBase, devices};
use vmm::machine::device::{Bus, Context, Effects};
use vmm::machine::layout::{MMIO_START, anonymous_memory};
use vmm::machine::{ExitNumber, GuestMemory, GuestTime, InputError, InputSource, NicIndex, ResumePoint};

const RAM_BYTES: u64 = 4 << 20;
const DISK_BYTES: u64 = 64 << 10;
/// Most steps of a program.
const STEPS_MAX: usize = 400;
/// Places of devices on the bus, with how many queues a driver sets up.
const DEVICES: [(u64, u32); 4] = [(0, 2), (4, 1), (5, 2), (6, 1)];
const RINGS: u64 = 0x10_0000;
const BUFFERS: u64 = 0x20_0000;
const QUEUE_SIZE: u16 = 8;

/// Inputs that are there or not.
#[derive(Default)]
struct Script {
    packets: VecDeque<Vec<u8>>,
    console: Vec<u8>,
}

impl InputSource for Script {
    fn clock(&mut self, _at: ExitNumber) -> Result<GuestTime, InputError> {
        Ok(GuestTime(0))
    }
    fn entropy(&mut self, _at: ExitNumber, bytes: &mut [u8]) -> Result<(), InputError> {
        bytes.fill(0x5a);
        Ok(())
    }
    fn packet(&mut self, _at: ExitNumber, _nic: NicIndex) -> Result<Option<Vec<u8>>, InputError> {
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

struct Rig {
    memory: GuestMemory,
    bus: Bus,
    inputs: Script,
    effects: Effects,
}

fn bus() -> Bus {
    let disk = Arc::new(Mutex::new(Disk::new(DiskBase::Zeroes, DISK_BYTES).expect("whole blocks")));
    let nets = [NetSpec { mac: [2, 0, 0, 0, 0, 7], backend: NetBackend::Segment(String::new()) }];
    let mut bus = Bus::default();
    for (range, device) in devices(&nets, Some(disk)) {
        bus.insert(range, device).expect("places of their own");
    }
    bus
}

impl Rig {
    fn new() -> Self {
        let memory = anonymous_memory(RAM_BYTES).expect("there is memory");
        Self { memory, bus: bus(), inputs: Script::default(), effects: Effects::default() }
    }

    fn with<T>(&mut self, access: impl FnOnce(&mut Bus, &mut Context<'_>) -> T) -> T {
        let mut context =
            Context { exit: ExitNumber(1), inputs: &mut self.inputs, memory: &self.memory, effects: &mut self.effects };
        access(&mut self.bus, &mut context)
    }

    fn write(&mut self, address: u64, data: &[u8]) {
        self.with(|bus, context| bus.write(address, data, context)).expect("no input is missing");
    }

    fn poll(&mut self) {
        self.with(Bus::poll).expect("no input is missing");
    }

    /// Brings a device up to life as a driver should.
    fn start(&mut self, slot: u64, queues: u32) {
        let device = MMIO_START + slot * 0x1000;
        let mut set = |register: u64, value: u32| self.write(device + register, &value.to_le_bytes());
        set(0x70, 0);
        set(0x70, 3);
        set(0x24, 1);
        set(0x20, 1);
        set(0x70, 3 | 8);
        for queue in 0..queues {
            set(0x30, queue);
            set(0x38, QUEUE_SIZE.into());
            for (part, register) in [0x80, 0x90, 0xa0].into_iter().enumerate() {
                let address = rings(slot, queue) + part as u64 * 0x1000;
                set(register, u32::try_from(address).expect("low memory"));
                set(register + 4, 0);
            }
            set(0x44, 1);
        }
        set(0x70, 3 | 8 | 4);
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        // Beside RAM there is nothing to write to.
        let _ = self.memory.write_slice(bytes, GuestAddress(address));
    }
}

const fn rings(slot: u64, queue: u32) -> u64 {
    RINGS + slot * 0x1_0000 + queue as u64 * 0x4000
}

/// The program's bytes, zeroes after their end.
struct Program<'a>(&'a [u8]);

impl Program<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let count = N.min(self.0.len());
        let mut bytes = [0; N];
        bytes[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        bytes
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.bytes();
        byte
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    fn number(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// A device's slot and one of its queues.
    fn queue(&mut self) -> (u64, u32) {
        let byte = self.byte();
        let (slot, queues) = DEVICES[usize::from(byte % 4)];
        (slot, u32::from(byte >> 2) % (queues + 1))
    }

    /// Where a buffer lies: mostly where it should.
    fn address(&mut self) -> u64 {
        let [kind, low, high] = self.bytes();
        let offset = u64::from(u16::from_le_bytes([low, high]));
        match kind % 8 {
            0 => RAM_BYTES - offset % 64,
            1 => MMIO_START + offset,
            2 => u64::MAX - offset,
            3 => RINGS + offset,
            _ => BUFFERS + offset,
        }
    }
}

fn step(rig: &mut Rig, program: &mut Program<'_>) {
    match program.byte() % 10 {
        0 => {
            let (slot, _) = program.queue();
            let at = MMIO_START + slot * 0x1000 + u64::from(program.word() % 0x120);
            let value = program.number().to_le_bytes();
            let width = [1, 2, 4, 8][usize::from(program.byte() % 4)].min(value.len());
            rig.write(at, &value[..width]);
        }
        1 => {
            let at = MMIO_START + u64::from(program.word()) % 0x8000;
            let mut data = [0xff; 8];
            let width = [1, 2, 4, 8][usize::from(program.byte() % 4)];
            rig.with(|bus, context| bus.read(at, &mut data[..width], context)).expect("no input is missing");
        }
        2 | 3 => {
            let (slot, queue) = program.queue();
            let index = u64::from(program.byte() % 9);
            let address = program.address().to_le_bytes();
            let length = (program.number() >> (program.byte() % 32)).to_le_bytes();
            let (flags, next) = (program.word().to_le_bytes(), u16::from(program.byte() % 9).to_le_bytes());
            let descriptor = [&address[..], &length, &flags, &next].concat();
            rig.put(rings(slot, queue) + index * 16, &descriptor);
        }
        4 | 5 => {
            let (slot, queue) = program.queue();
            let available = rings(slot, queue) + 0x1000;
            let index: u16 = rig.memory.read_obj(GuestAddress(available + 2)).expect("RAM");
            let head = u16::from(program.byte() % 9);
            rig.put(available + 4 + u64::from(index % QUEUE_SIZE) * 2, &head.to_le_bytes());
            rig.put(available + 2, &index.wrapping_add(1).to_le_bytes());
            rig.write(MMIO_START + slot * 0x1000 + 0x50, &queue.to_le_bytes());
        }
        6 => {
            let address = program.address();
            rig.put(address, &program.bytes::<16>());
        }
        7 => {
            let length = usize::from(program.word() % 1600);
            rig.inputs.packets.push_back(vec![program.byte(); length]);
        }
        8 => {
            let bytes = program.bytes::<8>();
            rig.inputs.offer_console(&bytes);
        }
        _ => {
            let (slot, queues) = DEVICES[usize::from(program.byte() % 4)];
            rig.start(slot, queues);
        }
    }
    rig.poll();
}

pub(crate) fn chains(data: &[u8]) {
    let mut rig = Rig::new();
    for (slot, queues) in DEVICES {
        rig.start(slot, queues);
    }
    let mut program = Program(data);
    for _ in 0..STEPS_MAX {
        if program.0.is_empty() {
            break;
        }
        step(&mut rig, &mut program);
    }
    // Whatever state that led to can be saved, and a successor goes on from it.
    let saved = rig.bus.save();
    let mut successor = bus();
    for (device, state) in &saved {
        assert!(successor.restore(*device, state).expect("a saved state is one that the device can have"));
    }
    assert_eq!(successor.save(), saved);
    // Saved states come out of commit records, which are hostile.
    for (device, _) in &saved {
        let _ = successor.restore(*device, data);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // Descriptors as `step` takes them: kind, queue, index, buffer, length, shift, flags, next; then an offer of the chain.
    let descriptor = |queue: u8, index: u8, at: u16, length: u32, flags: u16, next: u8| {
        let at = at.to_le_bytes();
        let mut bytes = vec![2, queue, index, 7, at[0], at[1]];
        bytes.extend(length.to_le_bytes());
        bytes.push(0);
        bytes.extend(flags.to_le_bytes());
        bytes.push(next);
        bytes
    };
    let offer = |queue: u8, head: u8| vec![4, queue, head];
    let send = [descriptor(4, 0, 0, 72, 0, 0), offer(4, 0)].concat();
    let receive = [descriptor(0, 0, 0x100, 1526, 2, 0), offer(0, 0), vec![7, 60, 0, 9]].concat();
    let block = [
        descriptor(1, 0, 0, 16, 1, 1),
        descriptor(1, 1, 0x1000, 512, 3, 2),
        descriptor(1, 2, 0x3000, 1, 2, 0),
        offer(1, 0),
    ];
    let typed = [descriptor(2, 0, 0x200, 64, 2, 0), offer(2, 0), vec![8, 1, 2, 3, 4, 5, 6, 7, 8]].concat();
    let said = [descriptor(6, 0, 0x200, 64, 0, 0), offer(6, 0)].concat();
    let entropy = [descriptor(3, 0, 0x200, 64, 2, 0), offer(3, 0)].concat();
    let all = [&send[..], &receive, &block.concat(), &typed, &said, &entropy].concat();
    vec![send, receive, block.concat(), typed, said, entropy, all]
}
