//! Decodes bytes as server-sent events.
//! The checks are in `shared/src/testing/fuzz.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outlive::testing::fuzz::run("sse", bytes));
