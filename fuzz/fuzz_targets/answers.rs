//! Decodes bytes as answers without streaming, in every format.
//! The checks are in `shared/src/testing/fuzz.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outlive::testing::fuzz::run("answers", bytes));
