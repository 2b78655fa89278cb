//! The target `greeting`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ftvm_fuzz::run("greeting", data));
