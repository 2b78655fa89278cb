//! An entry of the VM directory as a damaged pool may hold it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared_mem::vm_directory::VmEntry;

fuzz_target!(|data: &[u8]| {
    if let Ok(Some(entry)) = VmEntry::parse(data) {
        entry.geometry.check().expect("a parsed geometry is possible");
        assert_eq!(VmEntry::parse(&entry.to_bytes()), Ok(Some(entry)));
    }
});
