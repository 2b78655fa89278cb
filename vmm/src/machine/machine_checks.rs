//! Banks of machine checks: as many on every host, so that a guest finds those that it has set up wherever it goes on.
#![allow(unsafe_code, reason = "kvm-ioctls does not have this call")]

use super::error::{KvmCall, MachineError};
use kvm_bindings::KVMIO;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

/// How many a vCPU has: as many as QEMU gives it.
pub(super) const BANKS: u32 = 10;
/// There is a register for all banks, and errors can be told that software recovers from: every KVM of the last ten years has both.
const ABILITIES: u64 = 1 << 8 | 1 << 24;

ioctl_iow_nr!(KVM_X86_SETUP_MCE, KVMIO, 0x9c, u64);

/// Gives a vCPU its banks.
pub(super) fn set_up(vcpu: &VcpuFd) -> Result<(), MachineError> {
    let capabilities = ABILITIES | u64::from(BANKS);
    // SAFETY: the call reads one 64-bit word, and `capabilities` is one.
    match unsafe { ioctl_with_ref(vcpu, KVM_X86_SETUP_MCE(), &capabilities) } {
        0 => Ok(()),
        _ => Err(KvmCall::SetupMce.failed()(kvm_ioctls::Error::last())),
    }
}
