//! The state of a machine beside its memory: what a commit record carries, and what a successor goes on from.

mod compare;
mod format;
#[cfg(test)]
mod linux_tests;
mod platform;
mod saved;
mod saved_platform;
#[cfg(test)]
mod tests;

pub use compare::{NamedRegister, StateDifference};
pub use format::{STATE_VERSION, STATE_VERSION_OLDEST, StateError};
pub(super) use platform::PlatformState;

use super::cpu_state::{CpuState, read_clock, write_clock};
use super::device::{DeviceId, DeviceStateError};
use super::error::MachineError;
use super::inputs::{ExitNumber, ResumePoint};
use super::prepare::Machine;
use super::run::Progress;
use super::time::GuestTime;
use super::vcpus::VcpuIndex;
use ft_protocol::Time;
use ft_protocol::record::HistoryDigest;

/// A machine's state between two instructions. [`encode`](MachineState::encode) gives the saved format.
#[derive(Debug, Clone, PartialEq)]
pub struct MachineState {
    pub(super) cpu: CpuState,
    /// Ports first, then MMIO, each in the order of its bus.
    pub(super) devices: Vec<(DeviceId, Vec<u8>)>,
    pub(super) guest_time: GuestTime,
    pub(super) waiting_console: Vec<u8>,
    pub(super) wait_until: Option<GuestTime>,
    pub(super) console_position: u64,
    pub(super) console_taken: u64,
    pub(super) packet_position: u64,
    pub(super) log_position: u64,
    pub(super) exits: ExitNumber,
    pub(super) history: HistoryDigest,
    pub(super) exit_code: Option<u32>,
    pub(super) cpuid_digest: u32,
    /// What only a Linux guest's machine has.
    pub(super) platform: Option<PlatformState>,
}

impl MachineState {
    /// Whether it is that of a Linux guest's machine.
    #[must_use]
    pub fn is_linux(&self) -> bool {
        self.platform.is_some()
    }

    /// Guest time when it was saved.
    #[must_use]
    pub fn guest_time(&self) -> GuestTime {
        self.guest_time
    }

    /// How many console bytes the guest had ever written.
    #[must_use]
    pub fn console_position(&self) -> u64 {
        self.console_position
    }

    /// How many console input bytes the guest's devices had ever taken.
    #[must_use]
    pub fn console_taken(&self) -> u64 {
        self.console_taken
    }

    /// How many packets the guest had ever sent.
    #[must_use]
    pub fn packet_position(&self) -> u64 {
        self.packet_position
    }

    /// Where in the VM's record log the inputs begin that came after this state; zero where nothing was logged.
    #[must_use]
    pub fn log_position(&self) -> u64 {
        self.log_position
    }

    /// The same state, with its place in the record log.
    #[must_use]
    pub fn at_log_position(self, log_position: u64) -> Self {
        Self { log_position, ..self }
    }

    /// How many exits the guest's instructions had caused.
    #[must_use]
    pub fn exits(&self) -> ExitNumber {
        self.exits
    }

    /// The digest of the guest's history up to its last exit.
    #[must_use]
    pub fn history_digest(&self) -> u32 {
        self.history.at_exit()
    }

    /// The exit code, if the guest had ended.
    #[must_use]
    pub fn exit_code(&self) -> Option<u32> {
        self.exit_code
    }

    /// Until when the guest waits, if it does.
    #[must_use]
    pub fn wait_until(&self) -> Option<GuestTime> {
        self.wait_until
    }
}

impl Machine {
    /// Reads the machine's state, after finishing a pending access. Console bytes not taken yet are not part of it,
    /// their number is: take them for the same commit.
    ///
    /// # Errors
    /// KVM or an input source failed.
    pub fn save(&mut self) -> Result<MachineState, MachineError> {
        self.complete_pending()?;
        let platform = self.save_platform()?;
        let mut cpu = self.save_vcpu(VcpuIndex::FIRST)?;
        cpu.clock_ns = read_clock(&self.vm, &self.support)?;
        let mut devices = self.ports.save();
        devices.extend(self.mmio.save());
        Ok(MachineState {
            cpu,
            devices,
            guest_time: self.inputs.now(),
            waiting_console: self.inputs.waiting_console(),
            wait_until: self.progress.wait_until,
            console_position: self.progress.console_position,
            console_taken: self.progress.console_taken,
            packet_position: self.progress.packet_position,
            log_position: 0,
            exits: self.progress.exits,
            history: self.progress.history,
            exit_code: self.progress.exit_code,
            cpuid_digest: self.cpuid_digest,
            platform,
        })
    }

    fn save_vcpu(&mut self, index: VcpuIndex) -> Result<CpuState, MachineError> {
        CpuState::read(self.vcpus.still(index).fd(), &self.support, &mut self.msrs, self.platform.is_some())
    }

    /// Takes over a saved state; the memory must be that of the same moment. Guest time goes on from then.
    ///
    /// # Errors
    /// A state of another processor or of other devices, or one that KVM refuses. The machine is then not to be run.
    pub fn restore(&mut self, state: &MachineState) -> Result<(), MachineError> {
        if state.cpuid_digest != self.cpuid_digest {
            return Err(MachineError::OtherProcessor { saved: state.cpuid_digest, here: self.cpuid_digest });
        }
        self.restore_devices(state)?;
        match &state.platform {
            Some(platform) => self.restore_platform(&state.cpu, platform)?,
            None if self.platform.is_some() => return Err(MachineError::OtherKind),
            None => {
                write_clock(&self.vm, state.cpu.clock_ns, &self.support)?;
                state.cpu.write(self.vcpus.still(VcpuIndex::FIRST).fd(), &self.support)?;
            }
        }
        self.inputs.resume(&ResumePoint {
            now: state.guest_time,
            waiting_console: &state.waiting_console,
            exits: state.exits,
            digest: state.history.at_exit(),
            console_position: state.console_position,
            packet_position: state.packet_position,
        });
        self.progress = Progress {
            exits: state.exits,
            exit_at: Time::ZERO,
            is_at_exit: false,
            history: state.history,
            console: Vec::new(),
            console_position: state.console_position,
            console_taken: state.console_taken,
            packets: Vec::new(),
            packet_position: state.packet_position,
            flush: false,
            wait_until: state.wait_until,
            exit_code: state.exit_code,
            crash: None,
        };
        Ok(())
    }

    fn restore_devices(&mut self, state: &MachineState) -> Result<(), DeviceStateError> {
        let missing =
            self.ports.ids().chain(self.mmio.ids()).find(|id| state.devices.iter().all(|(saved, _)| saved != id));
        if let Some(device) = missing {
            return Err(DeviceStateError::Unmatched { device });
        }
        for (device, saved) in &state.devices {
            if !self.ports.restore(*device, saved)? && !self.mmio.restore(*device, saved)? {
                return Err(DeviceStateError::Unmatched { device: *device });
            }
        }
        Ok(())
    }
}
