//! Runs many seeds and reports them, or shows the trace of one. The library simulates.

use std::{collections::BTreeMap, num::NonZero, process::ExitCode, thread, time::Instant};

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
        None => run_many(cli.from, cli.seeds),
    }
}

/// The events that many runs must have counted: an invariant whose events never happen is not tested.
const REQUIRED_EVENTS: [&str; 32] = [
    "appends that failed after they persisted",
    "appends that failed and persisted later",
    "approved calls that ran",
    "cancelled turns",
    "connections cut by a crash",
    "crashes after a note",
    "crashes",
    "decisions sent after a crash",
    "denied calls",
    "effects reported as completed",
    "exclusive calls of unknown outcome, with an effect",
    "exclusive calls of unknown outcome, without an effect",
    "failed turns",
    "failovers",
    "fires resumed after a crash",
    "fires that ran",
    "fires that were skipped",
    "folds recomputed from the log",
    "keyed calls of unknown outcome",
    "keyed calls without a second effect",
    "model calls with results of tools",
    "probes through a breaker that was not closed",
    "refused second decisions on an approval",
    "requests refused by the budget",
    "requests to a model that thinks",
    "rescued answers",
    "resumed streams of turns with tools",
    "runs of a turn after its first",
    "stored notes",
    "streams that ended with an error event",
    "tool answers after the node stopped waiting",
    "tool calls reported as failed",
];

/// How many seeds it takes until each of these events has happened.
const REQUIRED_FROM_SEEDS: u64 = 300;

/// Prints the plan, the trace and the counts of one seed.
fn show(seed: u64) -> ExitCode {
    let report = run(seed);
    print!("seed {seed}\n{}", report.plan);
    report.trace.iter().for_each(|line| println!("{line}"));
    println!("{:?}\ntrace {:016x}", report.counts, report.digest);
    let failed = check(&report);
    println!("{} passed, {} failed", usize::from(!failed), usize::from(failed));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs seeds on all cores, and prints what failed and what was counted.
fn run_many(from: u64, count: u64) -> ExitCode {
    let started = Instant::now();
    let (mut failed, mut counts) = (0_u64, BTreeMap::<&str, u64>::new());
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    // A run uses one thread, so the number of threads does not change any run.
    let run_share = |first: u64| {
        let mut reports = Vec::new();
        for seed in (from + first..from + count).step_by(threads) {
            let report = run(seed);
            reports.push((check(&report), report.counts));
        }
        reports
    };
    let reports: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> =
            (0..threads as u64).map(|first| scope.spawn(move || run_share(first))).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    });
    if reports.len() as u64 != count {
        println!("only {} of {count} runs ended", reports.len());
        failed += count - reports.len() as u64;
    }
    for (is_bad, event) in reports {
        failed += u64::from(is_bad);
        event.into_iter().for_each(|(event, times)| *counts.entry(event).or_default() += times);
    }
    for (event, times) in &counts {
        println!("counted {times:>8} {event}");
    }
    for event in
        REQUIRED_EVENTS.iter().filter(|event| count >= REQUIRED_FROM_SEEDS && !counts.contains_key(*event))
    {
        println!("never counted: {event}");
        failed += 1;
    }
    println!("{count} seeds, each twice, in {:.1} s", started.elapsed().as_secs_f64());
    println!("{} passed, {failed} failed", count.saturating_sub(failed));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether a run failed: it violated an invariant, or a second run of the seed has another trace.
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
