//! Harvesting dirty pages: KVM's log and the devices' bitmap, of guests of several sizes. Says so where there is no KVM.
#![allow(missing_docs, reason = "what the macros make has none")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use vm_memory::{Bytes as _, GuestAddress};
use vmm::machine::layout::anonymous_memory;
use vmm::machine::{DirtyPages, Machine, MachineConfig, open_kvm};

const PAGE_BYTES: u64 = 4096;

fn harvest(c: &mut Criterion) {
    let kvm = match open_kvm() {
        Ok(kvm) => kvm,
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            return;
        }
    };
    let mut group = c.benchmark_group("harvest");
    for (mib, written) in [(64, 0), (64, 1_000), (1024, 0), (1024, 1_000)] {
        let memory = anonymous_memory(mib << 20).expect("there is memory");
        let mut machine = Machine::prepare(&kvm, memory.clone(), MachineConfig::live()).expect("KVM works");
        let mut dirty = DirtyPages::new(mib << 20);
        let name = format!("{written} pages written by devices");
        group.bench_function(BenchmarkId::new(name, format!("{mib} MiB")), |b| {
            b.iter(|| {
                for page in 0..written {
                    memory.write_obj(1u8, GuestAddress(page * PAGE_BYTES)).expect("in the guest's memory");
                }
                dirty.clear();
                machine.harvest(&mut dirty).expect("KVM has a log");
                assert!(dirty.len() as u64 >= written, "every page that was written is found");
                dirty.iter().count()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, harvest);
criterion_main!(benches);
