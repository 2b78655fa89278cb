//! Kicks stop a vCPU wherever it is.

use super::support::{MIB, bare, booted, kvm};
use crate::machine::Stop;
use crate::machine::vcpus::VcpuIndex;
use std::sync::Barrier;

const FOR_EVER: [&str; 2] = ["--rounds", "1000000000000"];

#[test]
fn a_spinning_guest_is_stopped_and_goes_on() {
    let Some(kvm) = kvm() else { return };
    let mut machine = booted(&kvm, 4 * MIB, "burn", &FOR_EVER);
    let kicker = machine.kicker();
    let barrier = Barrier::new(2);
    let mut last_rip_moved = false;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..200 {
                barrier.wait();
                kicker.kick();
            }
        });
        for _ in 0..200 {
            // The kick comes before, while or after the guest is entered.
            barrier.wait();
            let before = machine.vcpus.still(VcpuIndex::FIRST).fd().get_regs().expect("registers");
            assert_eq!(machine.run().expect("runs"), Stop::Kicked);
            last_rip_moved |= machine.vcpus.still(VcpuIndex::FIRST).fd().get_regs().expect("registers") != before;
        }
    });
    assert!(last_rip_moved, "the guest ran between kicks");
}

#[test]
fn kicks_before_a_run_are_one() {
    let Some(kvm) = kvm() else { return };
    let mut machine = booted(&kvm, 4 * MIB, "counter", &["--lines", "1"]);
    let kicker = machine.kicker();
    (0..3).for_each(|_| kicker.clone().kick());
    assert_eq!(machine.run().expect("runs"), Stop::Kicked);
    assert_eq!(machine.run().expect("runs"), Stop::Output);
    assert_eq!(machine.pending_console(), b"l");
}

#[test]
fn a_kick_does_not_lose_the_access_that_was_served() {
    let Some(kvm) = kvm() else { return };
    let mut machine = booted(&kvm, 4 * MIB, "counter", &["--lines", "20"]);
    let kicker = machine.kicker();
    loop {
        kicker.kick();
        match machine.run().expect("runs") {
            Stop::Kicked => {}
            Stop::Exited(code) => break assert_eq!(code, 0),
            other => panic!("a kick comes first, got {other:?}"),
        }
        machine.complete_pending().expect("completed");
        if let Stop::Exited(_) = machine.run().expect("runs") {
            break;
        }
    }
    let expected: String = (1..=20).map(|line| format!("line {line:06}\n")).collect();
    assert_eq!(String::from_utf8(machine.take_console().bytes).expect("UTF-8"), expected);
}

#[test]
fn completing_leaves_a_kick_for_the_next_run() {
    let Some(kvm) = kvm() else { return };
    let mut machine = booted(&kvm, 4 * MIB, "counter", &["--lines", "1"]);
    assert_eq!(machine.run().expect("runs"), Stop::Output);
    machine.kicker().kick();
    machine.complete_pending().expect("completed");
    machine.save().expect("saved");
    assert_eq!(machine.run().expect("runs"), Stop::Kicked);
    assert_eq!(machine.run().expect("runs"), Stop::Output);
}

#[test]
fn a_machine_that_is_gone_ignores_kicks() {
    let Some(kvm) = kvm() else { return };
    let machine = bare(&kvm, 4 * MIB);
    let kicker = machine.kicker();
    drop(machine);
    kicker.kick();
}

#[test]
fn machines_are_made_while_others_are_kicked() {
    let Some(kvm) = kvm() else { return };
    let mut machine = booted(&kvm, 4 * MIB, "burn", &FOR_EVER);
    let kicker = machine.kicker();
    std::thread::scope(|scope| {
        let running = scope.spawn(move || (0..50).all(|_| machine.run().expect("runs") == Stop::Kicked));
        for _ in 0..50 {
            kicker.kick();
            drop(bare(&kvm, 4 * MIB));
        }
        // A kick that came while another was pending was one with it. A storm of them is harmless, too.
        while !running.is_finished() {
            kicker.kick();
        }
        assert!(running.join().expect("no panic"));
    });
}
