//! Runs many seeds, or shows one.

use std::{collections::BTreeMap, process::ExitCode, time::Instant};

use clap::Parser;
use outlive_simulation::{Report, run};

/// Simulates the core under faults. Without options: 1,000 seeds.
#[derive(Parser)]
struct Cli {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run this one and show its trace.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the digest of this seed's trace and nothing else.
    #[arg(long)]
    hash: Option<u64>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(seed) = cli.hash {
        println!("{}", run(seed).digest);
        return ExitCode::SUCCESS;
    }
    match cli.seed {
        Some(seed) => show(seed),
        None => many(cli.from, cli.seeds),
    }
}

fn show(seed: u64) -> ExitCode {
    let report = run(seed);
    print!("seed {seed}\n{}", report.schedule);
    report.trace.iter().for_each(|line| println!("{line}"));
    println!("{:?}\ntrace {:016x}", report.seen, report.digest);
    let failed = check(&report);
    println!("{} passed, {} failed", usize::from(!failed), usize::from(failed));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn many(from: u64, count: u64) -> ExitCode {
    let started = Instant::now();
    let (mut failed, mut seen) = (0_u64, BTreeMap::<&str, u64>::new());
    for seed in from..from + count {
        let report = run(seed);
        failed += u64::from(check(&report));
        report.seen.into_iter().for_each(|(what, times)| *seen.entry(what).or_default() += times);
    }
    for (what, times) in seen {
        println!("seen {times:>8} {what}");
    }
    println!("{count} seeds, each twice, in {:.1} s", started.elapsed().as_secs_f64());
    println!("{} passed, {failed} failed", count - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether a run failed: an invariant did not hold, or a second run of the seed went another way.
fn check(report: &Report) -> bool {
    let mut violations = report.violations.clone();
    let again = run(report.seed);
    if again.digest != report.digest {
        let at = report.trace.iter().zip(&again.trace).position(|(a, b)| a != b).unwrap_or_default();
        violations.push(format!("the second run differs from line {at} on"));
    }
    for violation in &violations {
        println!("seed {}: {violation}", report.seed);
    }
    if !violations.is_empty() {
        println!("  replay: cargo xtask sim --seed {}", report.seed);
    }
    !violations.is_empty()
}
