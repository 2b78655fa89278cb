//! What the guest's processor looks like: what KVM supports, less what would make a guest's history depend on which
//! host, or which of its processors, it runs on.

use super::error::MachineError;
use ft_protocol::cpu::{CpuLeaf, CpuProfile};
use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use zerocopy::IntoBytes;

const LEAF_FEATURES: u32 = 1;
const LEAF_STRUCTURED_FEATURES: u32 = 7;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_XSAVE: u32 = 0xd;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
const LEAF_EXTENDED_FEATURES: u32 = 0x8000_0001;

const FEATURES_EBX_APIC_ID_SHIFT: u32 = 24;
const FEATURES_ECX_TSC_DEADLINE: u32 = 1 << 24;
const FEATURES_ECX_XSAVE: u32 = 1 << 26;
const FEATURES_ECX_RDRAND: u32 = 1 << 30;
const STRUCTURED_EBX_FSGSBASE: u32 = 1 << 0;
const STRUCTURED_EBX_RDSEED: u32 = 1 << 18;
const EXTENDED_EDX_RDTSCP: u32 = 1 << 27;

/// x87, SSE and AVX state: what every x86-64 host of the last ten years can carry over to another.
const XCR0_PORTABLE: u64 = 0b111;

/// Removes and levels what depends on the host. The instructions behind RDRAND, RDSEED and RDTSCP still work (nothing can
/// forbid them); a program that asks before it uses them is told that they are not there.
pub(super) fn level(cpuid: &mut CpuId) {
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            LEAF_FEATURES => {
                // KVM fills in the number of the processor that happened to run the call.
                entry.ebx &= (1 << FEATURES_EBX_APIC_ID_SHIFT) - 1;
                entry.ecx &= !(FEATURES_ECX_RDRAND | FEATURES_ECX_TSC_DEADLINE);
            }
            LEAF_STRUCTURED_FEATURES if entry.index == 0 => entry.ebx &= !STRUCTURED_EBX_RDSEED,
            LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2 => entry.edx = 0,
            LEAF_EXTENDED_FEATURES => entry.edx &= !EXTENDED_EDX_RDTSCP,
            _ => {}
        }
    }
}

/// What a flat guest's control registers are set up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CpuFeatures {
    /// The value for XCR0, if there are extended states.
    pub(super) xcr0: Option<u64>,
    /// Whether user code may have instructions to set FS and GS bases.
    pub(super) fsgsbase: bool,
}

impl CpuFeatures {
    pub(super) fn of(cpuid: &CpuId) -> Self {
        let find = |function, index| cpuid.as_slice().iter().find(|e| e.function == function && e.index == index);
        let has_xsave = find(LEAF_FEATURES, 0).is_some_and(|entry| entry.ecx & FEATURES_ECX_XSAVE != 0);
        let supported = |entry: &kvm_cpuid_entry2| u64::from(entry.eax) | u64::from(entry.edx) << 32;
        Self {
            xcr0: find(LEAF_XSAVE, 0).filter(|_| has_xsave).map(|entry| supported(entry) & XCR0_PORTABLE),
            fsgsbase: find(LEAF_STRUCTURED_FEATURES, 0).is_some_and(|entry| entry.ebx & STRUCTURED_EBX_FSGSBASE != 0),
        }
    }
}

/// The table as hosts compare it.
pub(super) fn profile(cpuid: &CpuId) -> CpuProfile {
    let leaf = |entry: &kvm_cpuid_entry2| CpuLeaf {
        function: entry.function,
        index: entry.index,
        flags: entry.flags,
        registers: [entry.eax, entry.ebx, entry.ecx, entry.edx],
    };
    CpuProfile { leaves: cpuid.as_slice().iter().map(leaf).collect() }
}

/// The table as KVM takes it.
pub(super) fn table(profile: &CpuProfile) -> Result<CpuId, MachineError> {
    let entry = |leaf: &CpuLeaf| {
        let [eax, ebx, ecx, edx] = leaf.registers;
        kvm_cpuid_entry2 {
            function: leaf.function,
            index: leaf.index,
            flags: leaf.flags,
            eax,
            ebx,
            ecx,
            edx,
            ..kvm_cpuid_entry2::default()
        }
    };
    let entries: Vec<_> = profile.leaves.iter().map(entry).collect();
    CpuId::from_entries(&entries).map_err(|_| MachineError::CpuTooLarge { entries: entries.len() })
}

/// Tells processors apart: a machine's state only goes on where this is equal.
pub(super) fn digest(cpuid: &CpuId) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for entry in cpuid.as_slice() {
        hasher.update(entry.as_bytes());
    }
    hasher.finalize()
}
