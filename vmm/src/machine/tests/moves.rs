//! A guest that is stopped at any instruction and goes on in a fresh machine ends as if nothing had happened.

use super::support::{MIB, booted, kvm, run_to_end};
use crate::machine::{
    DirtyPages, Kicker, LiveInputs, Machine, MachineConfig, MachineState, Stop, flat, guests, layout,
};
use kvm_ioctls::Kvm;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use vm_memory::{Bytes, FileOffset};

const MEMORY: u64 = 16 * MIB;
const STEPS: &str = "150000000";
const MOVES: u32 = 1000;
const KICK_DELAY_US_MAX: u64 = 1000;

/// The image of a guest's memory, as a pool would hold it, and what has been committed beside it.
struct Protected {
    image: Arc<File>,
    state: Vec<u8>,
    console: Vec<u8>,
}

impl Protected {
    /// What a commit does: console, state and dirty pages of one moment.
    fn commit(&mut self, machine: &mut Machine) {
        let state = machine.save().expect("saved");
        let output = machine.take_console();
        assert_eq!(output.position, self.console.len() as u64, "no console byte is lost or repeated");
        self.console.extend_from_slice(&output.bytes);
        assert_eq!(state.console_position(), self.console.len() as u64);
        let mut dirty = DirtyPages::new(MEMORY);
        machine.harvest(&mut dirty).expect("harvested");
        let mut page = vec![0; 4096];
        for index in dirty.iter() {
            machine.memory().read_slice(&mut page, index.guest_address()).expect("a page of RAM");
            self.image.write_all_at(&page, index.image_offset()).expect("a page of the image");
        }
        self.state = state.encode();
    }

    /// What a takeover does: a machine that has nothing of the old one but what was committed.
    fn resume(&self, kvm: &Kvm) -> Machine {
        let memory =
            layout::copy_on_write_memory(&FileOffset::from_arc(self.image.clone(), 0), MEMORY).expect("a view");
        let mut machine = Machine::prepare(kvm, memory, MachineConfig::live()).expect("a machine");
        let state = MachineState::decode(&self.state).expect("a state");
        machine.restore(&state).expect("restored");
        machine
    }
}

#[test]
fn a_thousand_moves_change_nothing() {
    let Some(kvm) = kvm() else { return };
    let arguments = ["--steps", STEPS, "--progress", "5000000"];
    let (end, unbroken) = run_to_end(&mut booted(&kvm, MEMORY, "torture", &arguments));
    assert_eq!(end, Stop::Exited(0));

    let (moved_end, moved, moves) =
        std::thread::spawn(move || run_with_moves(&kvm, &arguments)).join().expect("no panic");
    assert_eq!(moves, MOVES, "the guest ran long enough for all moves");
    assert_eq!(moved_end, Stop::Exited(0));
    assert_eq!(moved, unbroken);
}

fn run_with_moves(kvm: &Kvm, arguments: &[&str]) -> (Stop, String, u32) {
    let image = tempfile::tempfile().expect("a file");
    image.set_len(MEMORY).expect("space");
    let mut protected = Protected { image: Arc::new(image), state: Vec::new(), console: Vec::new() };
    let memory =
        layout::copy_on_write_memory(&FileOffset::from_arc(protected.image.clone(), 0), MEMORY).expect("a view");
    let config = MachineConfig { inputs: Box::new(LiveInputs::default()), ..MachineConfig::live() };
    let mut machine = Machine::prepare(kvm, memory, config).expect("a machine");
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let entry =
        flat::load(machine.memory(), guests::bundled("torture").expect("bundled"), &arguments).expect("a guest");
    machine.enter(&entry).expect("a start");
    protected.commit(&mut machine);

    let (kicks, orders) = channel();
    let kicking = std::thread::spawn(move || kick_on_order(&orders));
    let mut random: u64 = 0x0123_4567_89ab_cdef;
    let mut moves = 0;
    let end = loop {
        if moves < MOVES {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let delay = Duration::from_micros((random >> 33) % KICK_DELAY_US_MAX);
            kicks.send((machine.kicker(), delay)).expect("the kicking thread lives");
        }
        let stop = loop {
            match machine.run().expect("the machine runs") {
                Stop::Output => {}
                stop => break stop,
            }
        };
        protected.commit(&mut machine);
        match stop {
            Stop::Kicked => {
                moves += 1;
                drop(machine);
                machine = protected.resume(kvm);
            }
            end => break end,
        }
    };
    drop(kicks);
    kicking.join().expect("no panic");
    (end, String::from_utf8(protected.console).expect("UTF-8"), moves)
}

fn kick_on_order(orders: &Receiver<(Kicker, Duration)>) {
    for (kicker, delay) in orders {
        std::thread::sleep(delay);
        kicker.kick();
    }
}
