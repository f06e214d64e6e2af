//! The law of `laws::socketmap`, for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| laws::socketmap::hold(input));
