//! The law of `laws::command`, for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| laws::command::hold(input));
