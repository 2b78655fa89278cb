//! Space of deleted VMs comes back, all of it.

use std::path::Path;

use shared_mem::{Epoch, Generation, JournalGeometry, LogPosition, Pool, PoolConfig, VmGeometry};

const CONFIG: PoolConfig = PoolConfig { vm_slots: 2, host_slots: 2, cluster_bytes: 4096 };

const GEOMETRY: VmGeometry = VmGeometry {
    memory_bytes: 16 << 12,
    journal: JournalGeometry { slots: 2, slot_bytes: 4 << 12, reserved_bytes: 1 << 12 },
    log_bytes: 4096,
    console_bytes: 4096,
    disk_bytes: 4096,
    state_slot_bytes: 4096,
    sparse: true,
};

/// Files below a directory, and the bytes they take.
fn usage(dir: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let mut total = (0, 0);
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let below = if metadata.is_dir() { usage(&entry.path()) } else { (1, metadata.blocks() * 512) };
        total = (total.0 + below.0, total.1 + below.1);
    }
    total
}

#[test]
fn ten_thousand_vms_leave_nothing_behind() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("pool");
    let pool = Pool::create(&path, &CONFIG).unwrap();
    // The first round writes directory slots that stay written.
    let mut fresh = None;
    for round in 0..10_000u32 {
        let vm = pool.create_vm(&format!("vm-{round}").parse().unwrap(), &GEOMETRY).unwrap();
        if round % 10 == 0 {
            vm.create_journal(Generation::new(1), Epoch::ZERO).unwrap();
            vm.create_log(Generation::new(1), LogPosition::ZERO).unwrap();
            vm.store_boot(&[1; 5000]).unwrap();
        }
        pool.delete_vm(vm.slot()).unwrap();
        let now = usage(&path);
        assert_eq!(*fresh.get_or_insert(now), now, "round {round}");
    }
    let open_descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open_descriptors < 50, "{open_descriptors} descriptors are open");
    drop(pool);
    assert!(Pool::open(&path).unwrap().vms().unwrap().is_empty());
}
