//! What the tests on a real KVM share.

use crate::machine::test_elf::program;
use crate::machine::{Machine, MachineConfig, Stop, flat, guests, layout};
use kvm_ioctls::Kvm;

pub(super) const MIB: u64 = 1 << 20;

/// KVM, or nothing and a loud line if tests may do without.
pub(super) fn kvm() -> Option<Kvm> {
    match Kvm::new() {
        Ok(kvm) => Some(kvm),
        Err(error) => {
            let required = std::env::var_os("FTVM_REQUIRE_KVM").is_some_and(|value| value == "1");
            assert!(!required, "FTVM_REQUIRE_KVM=1, but /dev/kvm cannot be opened: {error}");
            eprintln!("SKIPPED: /dev/kvm cannot be opened: {error}");
            None
        }
    }
}

/// A machine without a guest.
pub(super) fn bare(kvm: &Kvm, bytes: u64) -> Machine {
    let memory = layout::anonymous_memory(bytes).expect("memory");
    Machine::prepare(kvm, memory, MachineConfig::live()).expect("a machine")
}

/// A machine at the entry of a bundled guest.
pub(super) fn booted(kvm: &Kvm, bytes: u64, guest: &str, arguments: &[&str]) -> Machine {
    booted_elf(kvm, bytes, guests::bundled(guest).expect("a bundled guest"), arguments)
}

/// A machine at the entry of some guest.
pub(super) fn booted_elf(kvm: &Kvm, bytes: u64, elf: &[u8], arguments: &[&str]) -> Machine {
    let mut machine = bare(kvm, bytes);
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let entry = flat::load(machine.memory(), elf, &arguments).expect("a flat guest");
    machine.enter(&entry).expect("a start");
    machine
}

/// A machine at the first instruction of this code.
pub(super) fn at_code(kvm: &Kvm, code: &[u8]) -> Machine {
    booted_elf(kvm, 4 * MIB, &program(code), &[])
}

/// The exit code of a guest that is only this code.
pub(super) fn exit_code(kvm: &Kvm, code: &[u8]) -> u32 {
    match run_to_end(&mut at_code(kvm, code)) {
        (Stop::Exited(code), _) => code,
        (other, _) => panic!("expected an exit, got {other:?}"),
    }
}

/// The machine code of these instructions. Labels are numbers other than 22 and 33.
macro_rules! guest_code {
    ($($line:literal),+ $(,)?) => {{
        let (start, end): (usize, usize);
        // SAFETY: only takes the addresses of the two ends of the code, which is not run.
        unsafe {
            std::arch::asm!(
                "lea {start}, [rip + 22f]", "lea {end}, [rip + 33f]",
                ".pushsection .rodata", "22:", $($line,)+ "33:", ".popsection",
                start = out(reg) start, end = out(reg) end, options(nomem, nostack, preserves_flags),
            );
        }
        // SAFETY: the range between the labels is constant data of the program.
        unsafe { std::slice::from_raw_parts(start as *const u8, end - start) }
    }};
}
pub(super) use guest_code;

/// Runs to the end, sleeping through waits; gives the last stop and the console.
pub(super) fn run_to_end(machine: &mut Machine) -> (Stop, String) {
    loop {
        match machine.run().expect("the machine runs") {
            Stop::Kicked | Stop::Output => {}
            Stop::Wait { until } => std::thread::sleep(machine.guest_time().until(until)),
            end => {
                let console = machine.take_console();
                return (end, String::from_utf8(console.bytes).expect("guests print UTF-8"));
            }
        }
    }
}
