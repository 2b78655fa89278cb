//! Every input comes through the source, with the number of the exit that asked.

use super::support::{guest_code, kvm};
use crate::machine::layout::anonymous_memory;
use crate::machine::test_elf::program;
use crate::machine::{
    Availability, ExitNumber, GuestTime, InputError, InputKind, InputSource, LiveInputs, Machine, MachineConfig,
    MachineError, NicIndex, ResumePoint, Stop, flat,
};
use std::sync::{Arc, Mutex};

/// Answers by the number of the exit, and notes what was asked.
struct Noting {
    asked: Arc<Mutex<Vec<(ExitNumber, InputKind)>>>,
    ends_at: ExitNumber,
}

impl Noting {
    fn note(&self, at: ExitNumber, asked: InputKind) -> Result<u64, InputError> {
        if at >= self.ends_at {
            return Err(InputError::Mismatch { at, asked, available: Availability::Nothing });
        }
        self.asked.lock().expect("no panic").push((at, asked));
        Ok(at.0)
    }
}

impl InputSource for Noting {
    fn clock(&mut self, at: ExitNumber) -> Result<GuestTime, InputError> {
        self.note(at, InputKind::Clock).map(GuestTime)
    }
    fn entropy(&mut self, at: ExitNumber, bytes: &mut [u8]) -> Result<(), InputError> {
        let value = self.note(at, InputKind::Entropy)?;
        bytes.copy_from_slice(&u32::try_from(value).expect("small").to_le_bytes());
        Ok(())
    }
    fn packet(&mut self, _at: ExitNumber, _nic: NicIndex) -> Result<Option<Vec<u8>>, InputError> {
        Ok(None)
    }
    fn console(&mut self, at: ExitNumber, _room: usize) -> Result<Vec<u8>, InputError> {
        self.note(at, InputKind::Console).map(|value| vec![u8::try_from(value).expect("small")])
    }
    fn offer_console(&mut self, _bytes: &[u8]) -> usize {
        0
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

#[test]
fn the_source_decides_what_the_guest_sees() {
    let Some(kvm) = kvm() else { return };
    // Exits 1 to 4: clock, clock's high word, entropy, console; and the sum of what they gave goes to the exit port.
    let code = guest_code!(
        "mov edx, 0x600",
        "in eax, dx",
        "mov ebx, eax",
        "mov edx, 0x604",
        "in eax, dx",
        "add ebx, eax",
        "mov edx, 0x608",
        "in eax, dx",
        "add ebx, eax",
        "mov edx, 0x3f8",
        "xor eax, eax",
        "in al, dx",
        "add eax, ebx",
        "out 0xf4, eax",
    );
    let asked = Arc::new(Mutex::new(Vec::new()));
    let run = |ends_at| {
        let inputs = Box::new(Noting { asked: asked.clone(), ends_at: ExitNumber(ends_at) });
        let config = MachineConfig { inputs, ..MachineConfig::live() };
        let mut machine =
            Machine::prepare(&kvm, anonymous_memory(4 << 20).expect("memory"), config).expect("a machine");
        let entry = flat::load(machine.memory(), &program(code), &[]).expect("a guest");
        machine.enter(&entry).expect("a start");
        (machine.run(), machine.exits())
    };
    let (stop, exits) = run(100);
    assert_eq!((stop.expect("runs"), exits), (Stop::Exited(1 + 3 + 4), ExitNumber(5)));
    let expected = [(1, InputKind::Clock), (3, InputKind::Entropy), (4, InputKind::Console)];
    assert_eq!(*asked.lock().expect("no panic"), expected.map(|(at, kind)| (ExitNumber(at), kind)));

    let (stop, exits) = run(3);
    let error = stop.expect_err("the source has ended");
    assert!(matches!(
        error,
        MachineError::Input(InputError::Mismatch {
            at: ExitNumber(3),
            asked: InputKind::Entropy,
            available: Availability::Nothing
        })
    ));
    assert_eq!(exits, ExitNumber(3));
}

#[test]
fn a_packet_that_no_device_takes_wakes_once() {
    let (network, packets) = crossbeam_channel::bounded(8);
    let mut inputs = LiveInputs::with_networks(vec![packets]);
    let put = |frame: &[u8]| network.send(frame.to_vec()).expect("there is room");
    let (at, nic) = (ExitNumber(1), NicIndex(0));
    assert!(!inputs.wakes());
    put(b"one");
    put(b"two");
    assert!(inputs.wakes());
    // There is no driver yet: nobody asks.
    inputs.begin_poll();
    assert!(!inputs.wakes());
    put(b"three");
    assert!(inputs.wakes());
    // Room for one only; what comes meanwhile is new.
    inputs.begin_poll();
    assert_eq!(inputs.packet(at, nic).expect("live"), Some(b"one".to_vec()));
    assert!(!inputs.wakes());
    put(b"four");
    assert!(inputs.wakes());
    inputs.begin_poll();
    for expected in [Some(b"two".to_vec()), Some(b"three".to_vec()), Some(b"four".to_vec()), None] {
        assert_eq!(inputs.packet(at, nic).expect("live"), expected);
    }
    put(b"five");
    assert!(inputs.wakes());
}

#[test]
fn console_input_is_news_until_devices_were_asked_and_wakes_until_it_is_taken() {
    let mut inputs = LiveInputs::default();
    assert!(!inputs.has_news() && !inputs.wakes());
    inputs.offer_console(b"typed");
    assert!(inputs.has_news() && inputs.wakes());
    inputs.begin_poll();
    assert!(!inputs.has_news() && inputs.wakes());
    assert_eq!(inputs.console(ExitNumber(1), 2).expect("live"), b"ty");
    assert!(inputs.wakes(), "some is left");
    // A guest that was woken and did not look sleeps on, until more comes or it looks.
    inputs.wait_ends();
    assert!(!inputs.wakes());
    inputs.offer_console(b"!");
    assert!(inputs.wakes());
    inputs.wait_ends();
    assert_eq!(inputs.console(ExitNumber(2), 0).expect("live"), b"");
    assert!(inputs.wakes());
    assert_eq!(inputs.console(ExitNumber(3), 9).expect("live"), b"ped!");
    assert!(!inputs.wakes());
}
