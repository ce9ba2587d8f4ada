//! Decodes bytes as a stream of Anthropic's Messages API and writes the result in every format.
//! The checks are in `shared/src/testing/fuzz.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outlive::testing::fuzz::run("messages", bytes));
