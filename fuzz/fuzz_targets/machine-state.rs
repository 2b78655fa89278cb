//! The target `machine-state`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ftvm_fuzz::run("machine-state", data));
