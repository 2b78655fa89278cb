//! Tries what a KVM can run, for whoever wants to tell its user.

use super::error::{KvmCall, MachineError};
use super::flat::{self, FlatGuestError};
use super::guests;
use super::layout::{MEMORY_MIN, anonymous_memory};
use super::prepare::{Machine, MachineConfig};
use super::run::Stop;
use super::vcpus::VcpuIndex;
use kvm_ioctls::Kvm;
use vm_memory::{Bytes, GuestAddress};

const GUEST_MEMORY: u64 = 2 * MEMORY_MIN;
const KERNEL_CODE_SELECTOR: u16 = 0x08;
const KERNEL_DATA_SELECTOR: u16 = 0x10;
/// `xorps xmm0, xmm0; mov edx, 0xf4; mov al, 42; out dx, al`: an instruction that emulators leave out, then the exit port.
const KERNEL_CODE: [u8; 11] = [0x0f, 0x57, 0xc0, 0xba, 0xf4, 0x00, 0x00, 0x00, 0xb0, KERNEL_CODE_RESULT, 0xee];
const KERNEL_CODE_RESULT: u8 = 42;

/// Why a trial could not even be set up.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The machine.
    #[error("the trial machine failed")]
    Machine(#[from] MachineError),
    /// Its guest.
    #[error("the trial guest does not load")]
    Guest(#[from] FlatGuestError),
}

/// Runs a bundled flat guest; gives how it ended.
///
/// # Errors
/// KVM refuses a machine.
pub fn flat_guest(kvm: &Kvm) -> Result<Stop, ProbeError> {
    run_on(&mut trial_machine(kvm)?)
}

/// Runs a few instructions at privilege level 0, where an operating system's kernel runs. True if they came to their end.
///
/// # Errors
/// KVM refuses a machine.
pub fn kernel_code(kvm: &Kvm) -> Result<bool, ProbeError> {
    let mut machine = trial_machine(kvm)?;
    let still = machine.vcpus.still(VcpuIndex::FIRST);
    let vcpu = still.fd();
    let entry = vcpu.get_regs().map_err(KvmCall::GetRegs.failed())?.rip;
    let mut sregs = vcpu.get_sregs().map_err(KvmCall::GetSregs.failed())?;
    for (segment, selector) in [(&mut sregs.cs, KERNEL_CODE_SELECTOR), (&mut sregs.ss, KERNEL_DATA_SELECTOR)] {
        segment.selector = selector;
        segment.dpl = 0;
    }
    vcpu.set_sregs(&sregs).map_err(KvmCall::SetSregs.failed())?;
    drop(still);
    machine
        .memory()
        .write_slice(&KERNEL_CODE, GuestAddress(entry))
        .map_err(|source| FlatGuestError::Write { at: entry, source })?;
    Ok(run_on(&mut machine)? == Stop::Exited(u32::from(KERNEL_CODE_RESULT)))
}

fn trial_machine(kvm: &Kvm) -> Result<Machine, ProbeError> {
    let memory = anonymous_memory(GUEST_MEMORY).map_err(MachineError::from)?;
    let mut machine = Machine::prepare(kvm, memory, MachineConfig::live())?;
    let elf = guests::bundled("counter").expect("counter is bundled");
    let entry = flat::load(machine.memory(), elf, &["--lines".to_owned(), "1".to_owned()])?;
    machine.enter(&entry)?;
    Ok(machine)
}

fn run_on(machine: &mut Machine) -> Result<Stop, ProbeError> {
    loop {
        match machine.run()? {
            Stop::Output | Stop::Kicked => {}
            stop => return Ok(stop),
        }
    }
}
