use std::{
    fmt::Debug,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Counts the cases and tells of those that fail.
#[derive(Default)]
pub(crate) struct Checks {
    passed: AtomicUsize,
    failed: AtomicUsize,
}

/// What is shown of a value at most.
const SHOWN_CHARS: usize = 600;

impl Checks {
    /// The case `case` saw what it must see.
    pub(crate) fn equal<T: Debug + PartialEq<U>, U: Debug>(&self, case: &str, saw: T, expected: U) {
        let equal = saw == expected;
        self.that(case, equal, &format!("{expected:?}"), saw);
    }

    /// The case `case` went as `expected` says.
    pub(crate) fn that(&self, case: &str, went_well: bool, expected: &str, saw: impl Debug) {
        if went_well {
            self.passed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        println!("FAILED {case}: expected {}; saw {}", short(expected), short(&format!("{saw:?}")));
    }

    /// Adds the cases of another program.
    pub(crate) fn add(&self, passed: usize, failed: usize) {
        self.passed.fetch_add(passed, Ordering::Relaxed);
        self.failed.fetch_add(failed, Ordering::Relaxed);
    }

    /// Prints the result. Nothing tested is not a success.
    pub(crate) fn end(&self) -> ExitCode {
        let (passed, failed) = (self.passed.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        println!("{passed} passed, {failed} failed");
        if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn short(text: &str) -> String {
    if text.chars().count() <= SHOWN_CHARS {
        return text.to_owned();
    }
    text.chars().take(SHOWN_CHARS).chain("…".chars()).collect()
}
