//! The law of `laws::data`, for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| laws::data::hold(input));
