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
/// XSAVE and OSXSAVE, and what needs registers that only it carries over: FMA, AVX, F16C.
const FEATURES_ECX_NEEDS_XSAVE: u32 = FEATURES_ECX_XSAVE | 1 << 27 | 1 << 12 | 1 << 28 | 1 << 29;
const FEATURES_ECX_RDRAND: u32 = 1 << 30;
const STRUCTURED_EBX_FSGSBASE: u32 = 1 << 0;
const STRUCTURED_EBX_RDSEED: u32 = 1 << 18;
const EXTENDED_EDX_RDTSCP: u32 = 1 << 27;

/// MPX, AVX2 and all of AVX-512.
const STRUCTURED_EBX_NEEDS_XSAVE: u32 =
    1 << 5 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 21 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 30 | 1 << 31;
/// More of AVX-512, protection keys, shadow stacks, and AVX's forms of AES and carry-less multiplication.
const STRUCTURED_ECX_NEEDS_XSAVE: u32 =
    1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 14;
/// The rest of AVX-512, branch tracking and tiles.
const STRUCTURED_EDX_NEEDS_XSAVE: u32 = 1 << 2 | 1 << 3 | 1 << 8 | 1 << 20 | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 25;
/// XOP, LWP, FMA4.
const EXTENDED_ECX_NEEDS_XSAVE: u32 = 1 << 11 | 1 << 15 | 1 << 16;

/// What QEMU's emulated processors say where a hypervisor says its name (leaf 0x4000_0000; EBX, ECX, EDX).
const EMULATED: &[u8; 12] = b"TCGTCGTCGTCG";
const LEAF_HYPERVISOR: u32 = 0x4000_0000;

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

/// Whether this host's processor is QEMU's emulation of one, which does not tell KVM when a guest sets XCR0: KVM then puts another
/// value there behind the guest's back, and describes another layout of the saved registers. Kernels warn, or fall over it.
#[allow(unsafe_code, unused_unsafe, reason = "the instruction is unsafe to name before Rust 1.94")]
pub(super) fn loses_xcr0() -> bool {
    // SAFETY: every x86-64 processor has CPUID.
    let leaf = unsafe { std::arch::x86_64::__cpuid(LEAF_HYPERVISOR) };
    let name: Vec<u8> = [leaf.ebx, leaf.ecx, leaf.edx].into_iter().flat_map(u32::to_le_bytes).collect();
    name == EMULATED
}

/// Takes XSAVE away, with all that needs it: what is left is carried over by FXSAVE.
pub(super) fn without_xsave(cpuid: &mut CpuId) {
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            LEAF_FEATURES => entry.ecx &= !FEATURES_ECX_NEEDS_XSAVE,
            LEAF_STRUCTURED_FEATURES if entry.index == 0 => {
                entry.ebx &= !STRUCTURED_EBX_NEEDS_XSAVE;
                entry.ecx &= !STRUCTURED_ECX_NEEDS_XSAVE;
                entry.edx &= !STRUCTURED_EDX_NEEDS_XSAVE;
            }
            // More of the same kind.
            LEAF_STRUCTURED_FEATURES => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            LEAF_XSAVE => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            LEAF_EXTENDED_FEATURES => entry.ecx &= !EXTENDED_ECX_NEEDS_XSAVE,
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
    let entries: Vec<_> = profile.of_processor().leaves.iter().map(entry).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_xsave_nothing_is_left_that_needs_it() {
        let all = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..kvm_cpuid_entry2::default()
        };
        let mut cpuid = CpuId::from_entries(&[all(1, 0), all(7, 0), all(0xd, 0), all(0xd, 1)]).expect("a few");
        assert_eq!(CpuFeatures::of(&cpuid).xcr0, Some(XCR0_PORTABLE));
        without_xsave(&mut cpuid);
        let [features, structured, ..] = cpuid.as_slice() else { panic!("all are kept") };
        assert_eq!(CpuFeatures::of(&cpuid), CpuFeatures { xcr0: None, fsgsbase: true });
        assert_eq!(features.ecx >> 28 & 1, 0, "no AVX");
        assert_eq!((structured.ebx >> 5 & 1, structured.ecx >> 3 & 1), (0, 0), "no AVX2, no protection keys");
        assert_eq!(features.ecx >> 25 & 1, 1, "AES stays");
        assert!(cpuid.as_slice()[2..].iter().all(|leaf| (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) == (0, 0, 0, 0)));
    }
}
