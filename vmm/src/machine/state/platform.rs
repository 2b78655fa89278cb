//! Saving and restoring what only a Linux guest's machine has: several vCPUs, interrupt chips, and time that goes on by
//! itself.

use super::super::cpu_state::write_clock;
use super::super::error::{KvmCall, MachineError};
use super::super::linux::chips::ChipState;
use super::super::prepare::Machine;
use super::super::vcpus::VcpuIndex;
use super::CpuState;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The part of a machine's state that only Linux guests have. The first vCPU is not in it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::machine) struct PlatformState {
    /// The second vCPU and those behind it.
    pub(super) others: Vec<CpuState>,
    pub(super) chips: ChipState,
    /// Ticks of the time-stamp counter in a millisecond.
    pub(super) tsc_khz: u32,
    /// The host's real time when the machine was saved, in nanoseconds since 1970.
    pub(super) real_time_ns: u64,
}

impl Machine {
    pub(super) fn save_platform(&mut self) -> Result<Option<PlatformState>, MachineError> {
        if self.platform.is_none() {
            return Ok(None);
        }
        let others = (1..self.vcpus.count()).map(|index| self.save_vcpu(VcpuIndex(index))).collect::<Result<_, _>>()?;
        let tsc_khz = self.vcpus.still(VcpuIndex::FIRST).fd().get_tsc_khz().map_err(KvmCall::GetTscKhz.failed())?;
        Ok(Some(PlatformState { others, chips: ChipState::read(&self.vm)?, tsc_khz, real_time_ns: real_time_ns() }))
    }

    /// Puts vCPUs, chips and clocks where they would be by now, had the guest slept since it was saved.
    pub(super) fn restore_platform(&mut self, first: &CpuState, state: &PlatformState) -> Result<(), MachineError> {
        let Some(platform) = &mut self.platform else { return Err(MachineError::OtherKind) };
        if usize::from(platform.vcpus.get()) != state.others.len() + 1 {
            return Err(MachineError::OtherKind);
        }
        // A host whose clock is behind the saver's makes time stand still, never run backwards.
        let passed_ns = match real_time_ns().saturating_sub(state.real_time_ns) {
            passed if passed > SLEEP_MAX.as_nanos().try_into().unwrap_or(u64::MAX) => {
                tracing::warn!(
                    "this host's clock and the last one's are {} days apart: the guest's stand still",
                    passed / DAY_NS
                );
                0
            }
            passed => passed,
        };
        let first = first.later(passed_ns, state.tsc_khz);
        write_clock(&self.vm, first.clock_ns, &self.support)?;
        for (index, cpu) in std::iter::once(&first).chain(&state.others).enumerate() {
            let vcpu = self.vcpus.still(VcpuIndex(index));
            let vcpu = vcpu.fd();
            if vcpu.get_tsc_khz().map_err(KvmCall::GetTscKhz.failed())? != state.tsc_khz {
                // Without scaling there is only the host's own rate. The guest's paravirtual clock is right even so.
                if let Err(error) = vcpu.set_tsc_khz(state.tsc_khz) {
                    tracing::warn!("the guest's time-stamp counter runs at this host's rate from here: {error}");
                }
            }
            if index == 0 {
                cpu.write_other_tsc(vcpu)?;
            }
            let later = (index > 0).then(|| cpu.later(passed_ns, state.tsc_khz));
            later.as_ref().unwrap_or(cpu).write(vcpu, &self.support)?;
            // Tells the guest's watchdogs that it was not its own fault. Refused where the guest has no such clock.
            let _told = vcpu.kvmclock_ctrl();
        }
        state.chips.write(&self.vm)?;
        platform.settle_lines(&self.vm, &state.chips, [&mut self.ports, &mut self.mmio])
    }
}

/// A guest that was saved longer ago than this was saved by a host that did not know the time.
const SLEEP_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
const DAY_NS: u64 = 24 * 3600 * 1_000_000_000;

fn real_time_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
