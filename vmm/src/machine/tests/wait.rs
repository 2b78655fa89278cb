//! Waits: the machine reports them, and the guest goes on when they are over.

use super::support::{MIB, at_code, booted, guest_code, kvm, run_to_end};
use crate::machine::{GuestTime, Machine, MachineState, Stop};
use kvm_ioctls::Kvm;

/// Echoes what it reads, ends at a `q`, and waits a thousand seconds when there is nothing to read.
fn echo(kvm: &Kvm) -> Machine {
    at_code(
        kvm,
        guest_code!(
            "4:",
            "mov edx, 0x3fd",
            "in al, dx",
            "test al, 1",
            "jz 5f",
            "mov edx, 0x3f8",
            "in al, dx",
            "out dx, al",
            "cmp al, 0x71",
            "jne 4b",
            "out 0xf4, al",
            "5:",
            "mov edx, 0x60c",
            "mov eax, 1000000000",
            "out dx, eax",
            "jmp 4b",
        ),
    )
}

/// Runs on until the guest waits or ends.
fn settle(machine: &mut Machine) -> Stop {
    loop {
        match machine.run().expect("runs") {
            Stop::Output => {}
            stop => return stop,
        }
    }
}

#[test]
fn input_ends_a_wait() {
    let Some(kvm) = kvm() else { return };
    let mut machine = echo(&kvm);
    let Stop::Wait { until } = settle(&mut machine) else { panic!("it waits") };
    assert!(until > GuestTime(1_000_000_000_000));
    assert_eq!(settle(&mut machine), Stop::Wait { until }, "still the same wait");
    assert_eq!(machine.push_console_input(b"abc"), 3);
    assert!(matches!(settle(&mut machine), Stop::Wait { until: later } if later > until));
    assert_eq!(machine.take_console().bytes, b"abc");
    machine.push_console_input(b"dq");
    assert_eq!(settle(&mut machine), Stop::Exited(u32::from(b'q')));
    let output = machine.take_console();
    assert_eq!((output.position, output.bytes.as_slice()), (3, &b"dq"[..]));
}

/// A key that is typed to a guest that never looks ends one wait, not all of them.
#[test]
fn input_that_a_guest_ignores_ends_one_wait() {
    let Some(kvm) = kvm() else { return };
    let mut machine = booted(&kvm, 4 * MIB, "idle", &["--ticks", "3", "--tick-ms", "1000000"]);
    let wait = settle(&mut machine);
    machine.push_console_input(b"\n");
    // It waits again for what is left of the time.
    let again = settle(&mut machine);
    assert!(matches!((&wait, &again), (Stop::Wait { .. }, Stop::Wait { .. })), "{wait:?} {again:?}");
    let exits = machine.exits();
    assert_eq!(settle(&mut machine), again);
    assert_eq!(machine.exits(), exits, "it sleeps");
    machine.push_console_input(b"\n");
    settle(&mut machine);
    assert!(machine.exits() > exits, "more has come");
}

#[test]
fn long_input_passes_through_the_short_queue() {
    let Some(kvm) = kvm() else { return };
    let mut machine = echo(&kvm);
    let text: Vec<u8> =
        (0..1000u32).map(|index| b'a' + u8::try_from(index % 16).expect("small")).chain([b'q']).collect();
    assert_eq!(machine.push_console_input(&text), text.len());
    assert_eq!(settle(&mut machine), Stop::Exited(u32::from(b'q')));
    assert_eq!(machine.take_console().bytes, text);
}

#[test]
fn console_input_is_bounded() {
    let Some(kvm) = kvm() else { return };
    let mut machine = echo(&kvm);
    assert_eq!(machine.push_console_input(&vec![b'x'; 70_000]), 65_536);
    assert_eq!(machine.push_console_input(b"x"), 0);
}

/// Input is known by its place: what comes twice, or behind a gap, does no harm, on this machine or the next one.
#[test]
fn input_has_a_place_that_a_move_keeps() {
    let Some(kvm) = kvm() else { return };
    let mut machine = echo(&kvm);
    settle(&mut machine);
    assert_eq!(machine.console_input_end(), 0);
    assert_eq!(machine.push_console_input_at(0, b"abc"), 3);
    assert_eq!((machine.console_input_end(), machine.console_taken()), (3, 0));
    assert_eq!(machine.push_console_input_at(1, b"bcd"), 1);
    assert_eq!(machine.push_console_input_at(5, b"f"), 0, "a gap");
    settle(&mut machine);
    assert_eq!(machine.take_console().bytes, b"abcd");
    assert_eq!((machine.console_input_end(), machine.console_taken()), (4, 4));
    machine.push_console_input_at(4, b"ef");
    let state = MachineState::decode(&machine.save().expect("saved").encode()).expect("a state");
    assert_eq!(state.console_taken(), 4);

    let mut other = echo(&kvm);
    other.restore(&state).expect("restored");
    assert_eq!((other.console_input_end(), other.console_taken()), (6, 4));
    assert_eq!(other.push_console_input_at(2, b"cdefq"), 1);
    assert_eq!(settle(&mut other), Stop::Exited(u32::from(b'q')));
    assert_eq!(other.take_console().bytes, b"efq");
    assert_eq!(other.console_taken(), 7);
}

#[test]
fn a_kick_interrupts_a_wait_but_does_not_end_it() {
    let Some(kvm) = kvm() else { return };
    let mut machine = echo(&kvm);
    let wait = settle(&mut machine);
    machine.kicker().kick();
    assert_eq!(settle(&mut machine), Stop::Kicked);
    assert_eq!(settle(&mut machine), wait);
}

#[test]
fn waits_and_waiting_input_survive_a_move() {
    let Some(kvm) = kvm() else { return };
    let mut machine = echo(&kvm);
    let wait = settle(&mut machine);
    let waiting = machine.save().expect("saved");
    assert_eq!(waiting.wait_until().map(|until| Stop::Wait { until }), Some(wait.clone()));
    machine.push_console_input(b"hello");
    let typed = machine.save().expect("saved");

    let mut other = echo(&kvm);
    other.restore(&waiting).expect("restored");
    assert_eq!(settle(&mut other), wait);
    other.restore(&typed).expect("restored");
    assert!(matches!(settle(&mut other), Stop::Wait { .. }));
    assert_eq!(other.take_console().bytes, b"hello");
}

#[test]
fn guest_time_goes_on_from_the_saved_moment() {
    let Some(kvm) = kvm() else { return };
    let mut machine = echo(&kvm);
    settle(&mut machine);
    let state = machine.save().expect("saved");
    let mut other = echo(&kvm);
    other.restore(&state).expect("restored");
    assert!(other.guest_time() >= state.guest_time());
    assert!(machine.guest_time() >= state.guest_time());
}

#[test]
fn idle_ticks_through() {
    let Some(kvm) = kvm() else { return };
    let (end, console) = run_to_end(&mut booted(&kvm, 4 * MIB, "idle", &["--ticks", "3", "--tick-ms", "2"]));
    assert_eq!((end, console.as_str()), (Stop::Exited(0), "tick 000001\ntick 000002\ntick 000003\n"));
}
