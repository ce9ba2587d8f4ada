//! Counts the checks and prints the failed ones. Knows no node.

use std::{
    fmt::Debug,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
};

/// The number of checks that passed and failed.
#[derive(Default)]
pub(crate) struct Checks {
    passed: AtomicUsize,
    failed: AtomicUsize,
    /// The topic of the next checks; a failed one is printed with it.
    pub(crate) topic: &'static str,
}

/// How much of a value is printed.
const MAX_CHARS: usize = 600;

impl Checks {
    /// Checks that `actual` equals `expected`. `title` says what is checked.
    pub(crate) fn equal<T: Debug + PartialEq<U>, U: Debug>(&self, title: &str, actual: T, expected: U) {
        let equal = actual == expected;
        self.that(title, equal, &format!("{expected:?}"), actual);
    }

    /// Checks that a condition holds. If not, prints what was `expected` and the `actual` value.
    pub(crate) fn that(&self, title: &str, holds: bool, expected: &str, actual: impl Debug) {
        if holds {
            self.passed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        println!(
            "FAILED {}: {title}: expected {}; got {}",
            self.topic,
            truncate(expected),
            truncate(&format!("{actual:?}"))
        );
    }

    /// Adds the checks of another program.
    pub(crate) fn add(&self, passed: usize, failed: usize) {
        self.passed.fetch_add(passed, Ordering::Relaxed);
        self.failed.fetch_add(failed, Ordering::Relaxed);
    }

    /// Prints the counts. Fails also if there was no check.
    pub(crate) fn end(&self) -> ExitCode {
        let (passed, failed) = (self.passed.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        println!("{passed} passed, {failed} failed");
        if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn truncate(text: &str) -> String {
    if text.chars().count() <= MAX_CHARS {
        return text.to_owned();
    }
    text.chars().take(MAX_CHARS).chain("…".chars()).collect()
}
