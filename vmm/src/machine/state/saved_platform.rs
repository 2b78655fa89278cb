//! The saved types of what only a Linux guest's machine has.

use super::super::linux::VcpuCount;
use super::super::linux::chips::{CHIPS, ChipState};
use super::format::StateError;
use super::saved::{SavedCpu, bytes, structure};
use super::{CpuState, PlatformState};
use serde::{Deserialize, Serialize};
use serde_bytes::Bytes;

#[derive(Serialize, Deserialize)]
pub(super) struct SavedPlatform<'a> {
    /// Local APICs of all vCPUs.
    #[serde(borrow)]
    lapics: Vec<&'a Bytes>,
    /// The vCPUs but the first.
    #[serde(borrow)]
    others: Vec<SavedCpu<'a>>,
    #[serde(borrow)]
    chips: Vec<&'a Bytes>,
    #[serde(borrow)]
    pit: &'a Bytes,
    tsc_khz: u32,
    real_time_ns: u64,
}

impl<'a> SavedPlatform<'a> {
    pub(super) fn of(first: &'a CpuState, platform: &'a PlatformState) -> Self {
        let lapics = std::iter::once(first).chain(&platform.others).filter_map(|cpu| cpu.lapic.as_deref());
        Self {
            lapics: lapics.map(bytes).collect(),
            others: platform.others.iter().map(SavedCpu::of).collect(),
            chips: platform.chips.chips.iter().map(bytes).collect(),
            pit: bytes(&platform.chips.pit),
            tsc_khz: platform.tsc_khz,
            real_time_ns: platform.real_time_ns,
        }
    }

    /// Gives the first vCPU what belongs to it, too.
    pub(super) fn into_platform(self, first: &mut CpuState) -> Result<PlatformState, StateError> {
        let vcpus = self.others.len() + 1;
        if vcpus > usize::from(VcpuCount::MAX.get()) {
            return Err(StateError::Shape { what: "vCPUs", got: vcpus });
        }
        if self.lapics.len() != vcpus {
            return Err(StateError::Shape { what: "local APICs", got: self.lapics.len() });
        }
        if self.chips.len() != CHIPS.len() {
            return Err(StateError::Shape { what: "interrupt chips", got: self.chips.len() });
        }
        let mut others =
            self.others.into_iter().map(SavedCpu::into_cpu).collect::<Result<Vec<CpuState>, StateError>>()?;
        for (cpu, lapic) in std::iter::once(first).chain(&mut others).zip(self.lapics) {
            cpu.lapic = Some(Box::new(structure("lapic", lapic)?));
        }
        let mut chips = CHIPS.map(|chip_id| kvm_bindings::kvm_irqchip { chip_id, ..Default::default() });
        for (chip, saved) in chips.iter_mut().zip(self.chips) {
            let expected = chip.chip_id;
            *chip = structure("interrupt chip", saved)?;
            if chip.chip_id != expected {
                return Err(StateError::Shape { what: "interrupt chips of one kind", got: CHIPS.len() });
            }
        }
        let chips = ChipState { chips, pit: structure("timer", self.pit)? };
        Ok(PlatformState { others, chips, tsc_khz: self.tsc_khz, real_time_ns: self.real_time_ns })
    }
}
