//! The law of `laws::line`, for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| laws::line::hold(input));
