//! What must be true of every input.
//!
//! Each module has one function, `hold`, that takes any bytes, makes of them what its parser reads, and panics where
//! a law is broken. The fuzz targets call it with what libFuzzer invents, and `tests/fuzz_corpus.rs` of the main
//! package with the corpora, on a stable compiler.
#![forbid(unsafe_code)]

pub mod command;
pub mod data;
pub mod input;
pub mod journal;
pub mod line;
pub mod seeds;
pub mod socketmap;
pub mod source;
pub mod table;
