use crate::machine::linux::{VcpuCount, for_vcpu};
use kvm_bindings::{CpuId, kvm_cpuid_entry2};

fn offered() -> CpuId {
    let leaf = |function, index| kvm_cpuid_entry2 {
        function,
        index,
        eax: u32::MAX,
        ebx: u32::MAX,
        ecx: u32::MAX,
        edx: u32::MAX,
        ..Default::default()
    };
    let leaves =
        [leaf(1, 0), leaf(0xb, 0), leaf(0xb, 1), leaf(0x4000_0001, 0), leaf(0x8000_0001, 0), leaf(0x8000_0008, 0)];
    CpuId::from_entries(&leaves).expect("a few")
}

fn leaf(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
    *cpuid.as_slice().iter().find(|leaf| leaf.function == function && leaf.index == index).expect("it is there")
}

#[test]
fn each_processor_has_its_number_and_knows_of_the_others() {
    let count = VcpuCount::new(3).expect("three");
    for index in 0..3 {
        let shown = for_vcpu(&offered(), index, count);
        assert_eq!(leaf(&shown, 1, 0).ebx >> 16, u32::from(index) << 8 | 3);
        assert_eq!(leaf(&shown, 0xb, 0).edx, u32::from(index));
        let cores = leaf(&shown, 0xb, 1);
        assert_eq!((cores.eax, cores.ebx, cores.ecx), (2, 3, 2 << 8 | 1));
        assert_eq!(leaf(&shown, 0x8000_0008, 0).ecx & 0xf0ff, 2 << 12 | 2);
    }
    assert_eq!(leaf(&for_vcpu(&offered(), 0, VcpuCount::ONE), 1, 0).edx >> 28 & 1, 0, "one has no siblings");
}

#[test]
fn what_a_move_would_break_is_not_shown() {
    let shown = for_vcpu(&offered(), 0, VcpuCount::ONE);
    assert_eq!(leaf(&shown, 0x4000_0001, 0).eax, 1 | 2 | 8 | 1 << 24);
    assert_eq!(leaf(&shown, 1, 0).ecx >> 5 & 1, 0, "no VMX");
    assert_eq!(leaf(&shown, 0x8000_0001, 0).ecx >> 2 & 1, 0, "no SVM");
}
