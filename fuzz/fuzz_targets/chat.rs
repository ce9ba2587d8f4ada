#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outlive::testing::fuzz::run("chat", bytes));
