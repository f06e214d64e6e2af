//! The law of `laws::journal`, for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| laws::journal::hold(input));
