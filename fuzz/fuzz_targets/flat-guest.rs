//! The target `flat-guest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ftvm_fuzz::run("flat-guest", data));
