//! A Linux guest's processors: what all hosts show, with numbers of their own, and without what a move would break.

use super::VcpuCount;
use kvm_bindings::CpuId;

const LEAF_FEATURES: u32 = 1;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
const LEAF_KVM_FEATURES: u32 = 0x4000_0001;
const LEAF_EXTENDED_FEATURES: u32 = 0x8000_0001;
const LEAF_AMD_SIZES: u32 = 0x8000_0008;
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;

const EBX_APIC_ID_SHIFT: u32 = 24;
const EBX_COUNT_SHIFT: u32 = 16;
const EBX_TOPOLOGY_MASK: u32 = 0xffff << EBX_COUNT_SHIFT;
const ECX_VMX: u32 = 1 << 5;
const ECX_X2APIC: u32 = 1 << 21;
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;
const EXTENDED_ECX_SVM: u32 = 1 << 2;
const EXTENDED_ECX_LEGACY_CORES: u32 = 1 << 1;
const AMD_CORES_MASK: u32 = 0xf0ff;
const AMD_ID_BITS_SHIFT: u32 = 12;

/// KVM's clock, delays without ports, the newer clock, and that the clock is the same on all processors. Not the rest:
/// pages that come later, flags that KVM keeps in guest memory while a guest sleeps.
const KVM_FEATURES: u32 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 24;

/// Bits that number the processors of a machine.
const fn id_bits(count: VcpuCount) -> u32 {
    match count.get() {
        1 => 0,
        2 => 1,
        _ => 2,
    }
}

/// The table of the processor with this number.
pub(in super::super) fn for_vcpu(offered: &CpuId, index: u8, count: VcpuCount) -> CpuId {
    let mut cpuid = offered.clone();
    let (id, number, bits) = (u32::from(index), u32::from(count.get()), id_bits(count));
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            LEAF_FEATURES => {
                entry.ebx = entry.ebx & !EBX_TOPOLOGY_MASK | id << EBX_APIC_ID_SHIFT | number << EBX_COUNT_SHIFT;
                entry.ecx = entry.ecx & !ECX_VMX | ECX_X2APIC | ECX_TSC_DEADLINE | ECX_HYPERVISOR;
                entry.edx = if number > 1 { entry.edx | EDX_HTT } else { entry.edx & !EDX_HTT };
            }
            LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2 => {
                let level = match entry.index {
                    // One thread in a core, all cores in a package.
                    0 => Some((0, 1, 1)),
                    1 => Some((bits, number, 2)),
                    _ => None,
                };
                let (shift, below, kind) = level.unwrap_or((0, 0, 0));
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (shift, below, kind << 8 | entry.index, id);
            }
            LEAF_KVM_FEATURES => entry.eax &= KVM_FEATURES,
            LEAF_EXTENDED_FEATURES => {
                entry.ecx &= !(EXTENDED_ECX_SVM | EXTENDED_ECX_LEGACY_CORES);
                if number > 1 {
                    entry.ecx |= EXTENDED_ECX_LEGACY_CORES;
                }
            }
            LEAF_AMD_SIZES => entry.ecx = entry.ecx & !AMD_CORES_MASK | (number - 1) | bits << AMD_ID_BITS_SHIFT,
            LEAF_AMD_TOPOLOGY => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
            _ => {}
        }
    }
    cpuid
}
