//! One binary for all targets: `FTVM_FUZZ_TARGET` says which.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TARGET: LazyLock<&ftvm_fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("FTVM_FUZZ_TARGET").unwrap_or_default();
    ftvm_fuzz::target(&name).unwrap_or_else(|| panic!("FTVM_FUZZ_TARGET={name}: no such target"))
});

fuzz_target!(|data: &[u8]| (TARGET.run)(data));
