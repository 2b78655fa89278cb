//! The target `control-block`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ftvm_fuzz::run("control-block", data));
