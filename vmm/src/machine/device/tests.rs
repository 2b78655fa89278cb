use super::{
    Bus, BusError, CLOCK_PORTS, ClockDevice, Context, Device, DeviceId, DeviceStateError, ENTROPY_PORTS, EXIT_PORTS,
    Effects, EntropyDevice, ExitDevice, Interrupt, SERIAL_PORTS, SerialDevice, WAIT_PORTS, WaitDevice,
};
use crate::machine::inputs::{ExitNumber, InputError, InputSource, NicIndex, ResumePoint};
use crate::machine::layout::{GuestMemory, anonymous_memory};
use crate::machine::time::GuestTime;
use proptest::prelude::*;

const LSR: u64 = 0x3fd;
const THR: u64 = 0x3f8;
const MCR: u64 = 0x3fc;
const IIR: u64 = 0x3fa;
const IER: u64 = 0x3f9;
const LCR: u64 = 0x3fb;

/// Inputs that are known beforehand.
#[derive(Default)]
struct Script {
    clock: u64,
    console: Vec<u8>,
}

impl InputSource for Script {
    fn clock(&mut self, _at: ExitNumber) -> Result<GuestTime, InputError> {
        Ok(GuestTime(self.clock))
    }
    fn entropy(&mut self, at: ExitNumber, bytes: &mut [u8]) -> Result<(), InputError> {
        bytes.copy_from_slice(&u32::try_from(at.0).expect("few exits").to_le_bytes());
        Ok(())
    }
    fn packet(&mut self, _at: ExitNumber, _nic: NicIndex) -> Result<Option<Vec<u8>>, InputError> {
        Ok(None)
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
        !self.console.is_empty()
    }
    fn now(&self) -> GuestTime {
        GuestTime(self.clock)
    }
    fn waiting_console(&self) -> Vec<u8> {
        self.console.clone()
    }
    fn resume(&mut self, _from: &ResumePoint<'_>) {}
}

struct Rig {
    bus: Bus,
    inputs: Script,
    effects: Effects,
    memory: GuestMemory,
    exits: u64,
}

impl Rig {
    fn new() -> Self {
        let mut bus = Bus::default();
        bus.insert(SERIAL_PORTS, Box::new(SerialDevice::default())).expect("free");
        bus.insert(EXIT_PORTS, Box::new(ExitDevice)).expect("free");
        bus.insert(CLOCK_PORTS, Box::new(ClockDevice::default())).expect("free");
        bus.insert(ENTROPY_PORTS, Box::new(EntropyDevice)).expect("free");
        bus.insert(WAIT_PORTS, Box::new(WaitDevice)).expect("free");
        let memory = anonymous_memory(2 << 20).expect("memory");
        Self { bus, inputs: Script::default(), effects: Effects::default(), memory, exits: 0 }
    }

    fn access(&mut self, address: u64, data: &mut [u8], is_write: bool) {
        self.exits += 1;
        let mut context = Context {
            exit: ExitNumber(self.exits),
            inputs: &mut self.inputs,
            memory: &self.memory,
            effects: &mut self.effects,
        };
        let result = match is_write {
            true => self.bus.write(address, data, &mut context),
            false => self.bus.read(address, data, &mut context),
        };
        result.expect("the script has every input");
    }

    fn poll(&mut self) {
        let exit = ExitNumber(self.exits);
        let mut context = Context { exit, inputs: &mut self.inputs, memory: &self.memory, effects: &mut self.effects };
        self.bus.poll(&mut context).expect("the script has every input");
    }

    /// Edges on interrupt lines since the last call.
    fn edges(&mut self) -> usize {
        self.bus.interrupts().filter(|(_, wants)| *wants == Interrupt::Edge).count()
    }

    fn read8(&mut self, address: u64) -> u8 {
        let mut data = [0];
        self.access(address, &mut data, false);
        data[0]
    }

    fn read32(&mut self, address: u64) -> u32 {
        let mut data = [0; 4];
        self.access(address, &mut data, false);
        u32::from_le_bytes(data)
    }

    fn write8(&mut self, address: u64, value: u8) {
        self.access(address, &mut [value], true);
    }

    fn write32(&mut self, address: u64, value: u32) {
        self.access(address, &mut value.to_le_bytes(), true);
    }
}

/// Console input reaches a guest with interrupts by an edge, once its driver listens, and none of it before.
#[test]
fn received_bytes_raise_the_line_of_a_serial_port_that_has_one() {
    let mut rig = Rig::new();
    rig.bus.connect_interrupts();
    rig.inputs.offer_console(b"hello");
    rig.poll();
    assert_eq!(rig.read8(LSR) & 1, 0, "a driver that looks which UART this is takes nothing");
    assert_eq!((rig.edges(), rig.inputs.console.len()), (0, 5));
    rig.write8(IER, 1);
    assert_eq!(rig.edges(), 0);
    rig.poll();
    assert_eq!((rig.edges(), rig.inputs.console.len(), rig.effects.console_taken), (1, 0, 5));
    let received: Vec<u8> = std::iter::from_fn(|| (rig.read8(LSR) & 1 != 0).then(|| rig.read8(THR))).collect();
    assert_eq!(received, b"hello");
    rig.edges();
    rig.poll();
    assert_eq!(rig.edges(), 0, "nothing more has come");
    // A machine that goes on from here listens, too.
    let saved = rig.bus.save();
    let mut other = Rig::new();
    other.bus.connect_interrupts();
    for (device, state) in saved {
        assert!(other.bus.restore(device, &state).expect("the same devices"));
    }
    other.inputs.offer_console(b"!");
    other.poll();
    assert_eq!((other.edges(), other.read8(THR)), (1, b'!'));
    // While it masks the interrupt, what comes waits; then it is told.
    other.write8(IER, 0);
    other.inputs.offer_console(b"?");
    other.poll();
    assert_eq!(other.edges(), 0);
    other.write8(IER, 1);
    other.poll();
    assert_eq!((other.edges(), other.read8(THR)), (1, b'?'));
}

/// As Linux does: it tries out the interrupt enable register, then clears the data register when it starts.
#[test]
fn a_driver_that_tries_the_serial_port_out_loses_no_input() {
    let mut rig = Rig::new();
    rig.bus.connect_interrupts();
    rig.inputs.offer_console(b"typed");
    rig.write8(IER, 0x0f);
    rig.poll();
    rig.write8(IER, 0);
    for _ in 0..3 {
        assert_eq!((rig.read8(LSR) & 1, rig.read8(THR)), (0, 0));
    }
    // The divisor is set on the way.
    rig.write8(LCR, 0x83);
    rig.write8(THR, 12);
    assert_eq!(rig.read8(THR), 12);
    rig.write8(LCR, 3);
    rig.edges();
    rig.write8(IER, 5);
    assert_eq!(rig.edges(), 1, "what is there is told");
    let received: Vec<u8> = std::iter::from_fn(|| (rig.read8(LSR) & 1 != 0).then(|| rig.read8(THR))).collect();
    assert_eq!(received, b"typed");
}

/// As Linux does: it asks what there is, reads at most 256 bytes, and asks again until there is nothing.
#[test]
fn a_driver_that_reads_so_many_bytes_at_a_time_is_told_of_the_rest() {
    let mut rig = Rig::new();
    rig.bus.connect_interrupts();
    rig.write8(IER, 1);
    let typed: Vec<u8> = (0..300u16).map(|byte| u8::try_from(byte % 251).unwrap()).collect();
    rig.inputs.offer_console(&typed);
    rig.poll();
    assert_eq!(rig.edges(), 1);
    let mut received = Vec::new();
    while rig.read8(IIR) & 1 == 0 {
        for _ in 0..256 {
            received.push(rig.read8(THR));
            rig.poll();
            if rig.read8(LSR) & 1 == 0 {
                break;
            }
        }
    }
    assert_eq!(received, typed);
}

#[test]
fn a_serial_port_without_a_line_takes_input_when_it_is_looked_at() {
    let mut rig = Rig::new();
    rig.inputs.offer_console(b"typed");
    rig.poll();
    assert_eq!((rig.inputs.console.len(), rig.effects.console_taken), (5, 0));
    assert_eq!(rig.read8(LSR) & 1, 1);
    assert_eq!((rig.inputs.console.len(), rig.effects.console_taken), (0, 5));
}

#[test]
fn devices_cannot_share_addresses_or_names() {
    let mut bus = Bus::default();
    bus.insert(10..20, Box::new(ExitDevice)).expect("free");
    let id = ClockDevice::default().id();
    let other = ExitDevice.id();
    for range in [5..11, 19..30, 12..13, 0..40] {
        let error = bus.insert(range.clone(), Box::new(ClockDevice::default())).expect_err("taken");
        assert_eq!(error, BusError::Overlap { device: id, start: range.start, other });
    }
    assert_eq!(bus.insert(30..30, Box::new(ClockDevice::default())), Err(BusError::Empty { device: id, start: 30 }));
    assert_eq!(bus.insert(30..40, Box::new(ExitDevice)), Err(BusError::Duplicate { device: other }));
    assert_eq!(bus.insert(20..30, Box::new(ClockDevice::default())), Ok(()));
}

#[test]
fn nobody_answers_with_ones() {
    let mut rig = Rig::new();
    assert_eq!(rig.read8(0x80), 0xff);
    assert_eq!(rig.read32(0xcf8), u32::MAX);
    assert_eq!(rig.read32(u64::MAX - 1), u32::MAX, "beyond the end of the address space");
    // Half in the console's range, half behind it.
    assert_eq!(rig.read32(0x3fe), u32::MAX);
    rig.write32(0x80, 1);
    assert_eq!(rig.effects, Effects::default());
}

#[test]
fn other_widths_than_documented_do_nothing() {
    let mut rig = Rig::new();
    assert_eq!(rig.read8(CLOCK_PORTS.start), 0xff);
    assert_eq!(rig.read32(THR), u32::MAX);
    assert_eq!(rig.read32(EXIT_PORTS.start), u32::MAX);
    assert_eq!(rig.read32(WAIT_PORTS.start), u32::MAX);
    rig.write8(WAIT_PORTS.start, 1);
    rig.write8(EXIT_PORTS.start + 1, 1);
    rig.access(EXIT_PORTS.start, &mut [1, 2], true);
    rig.write32(CLOCK_PORTS.start, 1);
    rig.write32(ENTROPY_PORTS.start, 1);
    assert_eq!(rig.effects, Effects::default());
}

#[test]
fn clock_latches_its_high_word() {
    let mut rig = Rig::new();
    rig.inputs.clock = 0x1_ffff_ffff;
    assert_eq!(rig.read32(0x600), 0xffff_ffff);
    rig.inputs.clock += 1;
    assert_eq!(rig.read32(0x604), 1, "of the reading whose low word was read");
    assert_eq!((rig.read32(0x600), rig.read32(0x604)), (0, 2));
}

#[test]
fn entropy_comes_from_the_source_for_this_exit() {
    let mut rig = Rig::new();
    assert_eq!((rig.read32(0x608), rig.read32(0x608)), (1, 2));
}

#[test]
fn exit_takes_a_byte_or_a_word() {
    let mut rig = Rig::new();
    rig.write8(0xf4, 7);
    assert_eq!(rig.effects.exit_code, Some(7));
    rig.write32(0xf4, 0x1_0203);
    assert_eq!(rig.effects.exit_code, Some(0x1_0203));
}

#[test]
fn waits_are_relative_to_now() {
    let mut rig = Rig::new();
    rig.inputs.clock = 1000;
    rig.write32(0x60c, 5);
    assert_eq!(rig.effects.wait_until, Some(GuestTime(6000)));
    rig.write32(0x610, 5);
    assert_eq!(rig.effects.wait_until, Some(GuestTime(1005)));
}

#[test]
fn console_sends_and_receives() {
    let mut rig = Rig::new();
    rig.write8(THR, b'a');
    rig.write8(THR, b'b');
    assert_eq!(rig.effects.console, b"ab");
    assert_eq!(rig.read8(LSR) & 0x61, 0x60, "ready to send, nothing to receive");
    rig.inputs.console = (0..100).collect();
    assert_eq!(rig.read8(LSR) & 1, 1);
    assert_eq!(rig.inputs.console.len(), 36, "the rest waits for room");
    let received: Vec<u8> = (0..100).map(|_| rig.read8(THR)).collect();
    assert_eq!(received, (0..100).collect::<Vec<u8>>());
    assert_eq!(rig.read8(LSR) & 1, 0);
}

#[test]
fn loopback_sends_nothing() {
    let mut rig = Rig::new();
    rig.write8(MCR, 0x10);
    (0..200).for_each(|byte| rig.write8(THR, byte));
    assert_eq!(rig.effects.console, b"");
    assert_eq!(rig.read8(THR), 0);
}

#[test]
fn states_of_other_devices_are_refused() {
    let mut rig = Rig::new();
    assert_eq!(rig.bus.restore(DeviceId(77), &[]).ok(), Some(false));
    for (id, _) in rig.bus.save() {
        assert!(rig.bus.restore(id, &[0xff; 3]).is_err(), "{id:?}");
    }
    let mut serial = SerialDevice::default();
    let mut saved = serial.save();
    // The last field is the length of the receive queue.
    *saved.last_mut().expect("a length") = 65;
    saved.extend([0; 65]);
    assert!(matches!(serial.restore(&saved), Err(DeviceStateError::Impossible { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a guest does, a restored bus answers as the saved one does.
    #[test]
    fn restored_devices_go_on_alike(
        accesses in prop::collection::vec((prop::sample::select(vec![0x3f8u64, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3ff, 0x600, 0x604]),
            prop::option::of(any::<u8>()), any::<bool>(), any::<u32>()), 0..60),
        split in 0usize..60,
    ) {
        let mut whole = Rig::new();
        let mut moved = Rig::new();
        let mut other = None;
        for (index, (address, byte, wide, clock)) in accesses.into_iter().enumerate() {
            if index == split {
                let mut fresh = Rig::new();
                for (id, state) in moved.bus.save() {
                    prop_assert!(fresh.bus.restore(id, &state).expect("a saved state fits"));
                }
                moved.bus = std::mem::take(&mut fresh.bus);
                other = Some(fresh);
            }
            for rig in [&mut whole, &mut moved] {
                rig.inputs.clock = u64::from(clock) << 8;
                rig.inputs.console.push(clock.to_le_bytes()[0]);
            }
            let act = |rig: &mut Rig| match (byte, wide) {
                (Some(byte), false) => { rig.write8(address, byte); 0 }
                (Some(byte), true) => { rig.write32(address, u32::from(byte)); 0 }
                (None, false) => u32::from(rig.read8(address)),
                (None, true) => rig.read32(address),
            };
            prop_assert_eq!(act(&mut whole), act(&mut moved));
        }
        prop_assert_eq!(whole.effects, moved.effects);
        drop(other);
    }

    #[test]
    fn hostile_states_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut rig = Rig::new();
        for (id, _) in rig.bus.save() {
            let _result = rig.bus.restore(id, &bytes);
        }
        rig.write8(THR, 1);
        rig.read8(THR);
    }
}
