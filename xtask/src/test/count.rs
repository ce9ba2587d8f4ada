//! Counts passed and failed tests from the output of test programs. Starts them, but chooses none.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::ops::AddAssign;
use std::process::{Command, Stdio};

/// Numbers of tests that passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) passed: u64,
    pub(super) failed: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs a test program, prints its output, and adds up its summary lines. A program that fails for another reason
/// than its tests, or that runs no test, is an error.
pub(super) fn run_counted(command: &mut Command) -> Result<Count> {
    run_printing(command, &mut std::io::stdout())
}

fn run_printing(command: &mut Command, out: &mut impl Write) -> Result<Count> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {program}"))?;
    let mut count = Count::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            writeln!(out, "{line}")?;
            count += parse_summary(&line).unwrap_or_default();
        }
    }
    let status = child.wait()?;
    match count {
        Count { failed: 0, .. } if !status.success() => bail!("{program} ended with {status}"),
        Count { passed: 0, failed: 0 } => bail!("{program} ran no test"),
        count => Ok(count),
    }
}

/// Reads a summary line: `N passed, M failed`, or the one of Cargo's test programs.
pub(super) fn parse_summary(line: &str) -> Option<Count> {
    let line = line.trim();
    let line = ["test result: ok. ", "test result: FAILED. "]
        .iter()
        .find_map(|start| line.strip_prefix(start))
        .unwrap_or(line);
    let mut parts = line.split([',', ';']).map(str::trim);
    let passed = parts.next()?.strip_suffix(" passed")?.parse().ok()?;
    let failed = parts.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some(Count { passed, failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_lines_are_read() {
        let check = |line: &str, expected: Option<(u64, u64)>| {
            assert_eq!(parse_summary(line).map(|count| (count.passed, count.failed)), expected, "{line}");
        };
        check("12 passed, 3 failed", Some((12, 3)));
        check("test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out", Some((7, 0)));
        check("test result: FAILED. 7 passed; 2 failed; 0 ignored; 0 measured", Some((7, 2)));
        check("12 passed", None);
        check("test a::b ... ok", None);
        check("x passed, y failed", None);
    }

    fn shell(script: &str) -> Result<Count> {
        // Not on stdout: the tests of xtask are counted from there.
        run_printing(Command::new("sh").args(["-c", script]), &mut std::io::sink())
    }

    #[test]
    fn a_program_that_ran_no_test_is_an_error() {
        assert_eq!(
            shell("echo 1 passed, 0 failed; echo 2 passed, 0 failed").unwrap(),
            Count { passed: 3, failed: 0 }
        );
        assert_eq!(shell("echo 1 passed, 4 failed; exit 1").unwrap(), Count { passed: 1, failed: 4 });
        assert_eq!(shell("true").unwrap_err().to_string(), "sh ran no test");
        assert_eq!(
            shell("echo 1 passed, 0 failed; exit 7").unwrap_err().to_string(),
            "sh ended with exit status: 7"
        );
    }
}
