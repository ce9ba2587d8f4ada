//! Decodes bytes as a Chat Completions stream and writes the result in every format.
//! The checks are in `shared/src/testing/fuzz.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outlive::testing::fuzz::run("chat", bytes));
