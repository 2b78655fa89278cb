//! What a host says of itself, so that no guest comes to it that it could not go on with: its processor, the model-specific
//! registers that its KVM takes, and the rate of its time-stamp counter.

use super::cpu_state::savable_msrs;
use super::error::{KvmCall, MachineError};
use super::kick::without_signals;
use super::linux::chips::Platform;
use super::linux::{self, VcpuCount};
use super::machine_checks;
use super::prepare::{cpu_profile, offered_cpuid};
use ft_protocol::cpu::CpuProfile;
use kvm_ioctls::{Cap, Kvm, VcpuFd};

/// Rates that differ by less than one part in so many are one: hosts measure theirs when they boot, and not all alike. Linux goes
/// by KVM's own clock, which is right whatever the counter's rate.
const TSC_PARTS: u32 = 50;

/// What this host offers to guests that may move to another host, and what it takes of theirs.
///
/// # Errors
/// KVM does not say.
pub fn host_profile(kvm: &Kvm) -> Result<CpuProfile, MachineError> {
    let cpu = cpu_profile(kvm)?;
    let trial = |with_chips| without_signals(|| try_out(kvm, with_chips));
    let (mut msrs, khz) = trial(false)?;
    // A KVM without chips runs flat guests.
    if let Ok((more, _)) = trial(true) {
        msrs.extend(more);
    }
    let cpu = cpu.with_msrs(msrs);
    Ok(match khz {
        Some(khz) => cpu.with_tsc(khz, scales_tsc(kvm)),
        None => cpu,
    })
}

/// The registers that a vCPU's state has here, and the rate of its counter, if KVM knows one.
fn try_out(kvm: &Kvm, with_chips: bool) -> Result<(Vec<u32>, Option<u32>), MachineError> {
    let vm = kvm.create_vm().map_err(KvmCall::CreateVm.failed())?;
    let mut cpuid = offered_cpuid(kvm)?;
    if with_chips {
        Platform::create(kvm, &vm, VcpuCount::ONE)?;
        cpuid = linux::for_vcpu(&cpuid, 0, VcpuCount::ONE);
    }
    let vcpu = vm.create_vcpu(0).map_err(KvmCall::CreateVcpu.failed())?;
    vcpu.set_cpuid2(&cpuid).map_err(KvmCall::SetCpuid.failed())?;
    if with_chips {
        machine_checks::set_up(&vcpu)?;
    }
    let msrs = savable_msrs(kvm, &vcpu, with_chips)?;
    // Without a rate KVM runs no Linux guests either.
    let khz = vcpu.get_tsc_khz().ok();
    Ok((msrs.as_slice().iter().map(|msr| msr.index).collect(), khz))
}

/// Gives a vCPU a counter of this rate.
///
/// # Errors
/// This host's is another, and KVM cannot change it.
pub(super) fn give_tsc(kvm: &Kvm, vcpu: &VcpuFd, shown: u32) -> Result<(), MachineError> {
    let here = vcpu.get_tsc_khz().map_err(KvmCall::GetTscKhz.failed())?;
    if here != shown && scales_tsc(kvm) {
        return vcpu.set_tsc_khz(shown).map_err(|_| MachineError::TscRate { shown, here });
    }
    match is_near(here, shown) {
        true => Ok(()),
        false => Err(MachineError::TscRate { shown, here }),
    }
}

fn is_near(here: u32, shown: u32) -> bool {
    here.abs_diff(shown) <= shown / TSC_PARTS
}

fn scales_tsc(kvm: &Kvm) -> bool {
    kvm.check_extension(Cap::TscControl)
}

#[cfg(test)]
mod tests {
    use super::is_near;

    #[test]
    fn rates_that_are_measured_differently_are_one() {
        assert!(is_near(2_699_976, 2_700_123) && is_near(2_700_123, 2_699_976));
        assert!(is_near(2_646_001, 2_700_000) && !is_near(2_645_999, 2_700_000));
        assert!(!is_near(0, 2_700_000));
    }
}
