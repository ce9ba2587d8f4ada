//! Runs every test, the fast ones first, and prints one line with the result at the end. Contains no test itself.

mod count;

use crate::processes::Processes;
use crate::serve::{self, Host};
use crate::worker;
use crate::workspace::{cargo, command, target};
use crate::{dynamodb, portability, tools};
use anyhow::{Context, Result, ensure};
use count::{Count, parse_summary, run_counted};
use std::fs;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Seeds of the simulation: the same ones in each run, so that a failure is the code's.
const SEEDS: &str = "1000";

/// The largest compressed Worker that every plan of the platform accepts.
/// <https://developers.cloudflare.com/workers/platform/limits/>
const WORKER_LIMIT_KIB: f64 = 3.0 * 1024.0;

/// Which tests to run.
#[derive(clap::Args)]
pub(crate) struct TestOptions {
    /// Run one part only.
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// Run the conformance tests on one platform only.
    #[arg(long)]
    host: Option<Host>,
}

/// A part of the tests.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Unit and property tests, and the store suite on memory, SQLite and DynamoDB Local.
    Unit,
    /// The simulation with its fixed seeds.
    Simulation,
    /// The core as WebAssembly: its dependencies, its features, and the same traces as natively.
    Portability,
    /// The store suite in a Durable Object on workerd.
    Suite,
    /// The black-box tests on each platform.
    Conformance,
    /// Build and validate the Worker and the Lambda function with their platforms' own tools.
    Deploy,
}

/// Runs the selected tests. The last printed line is `N passed, M failed`.
pub(crate) fn run(options: &TestOptions) -> Result<ExitCode> {
    let mut processes = Processes::new()?;
    let mut report = Report::default();
    let selected = |part| options.only.is_none_or(|only| only == part);
    // Before the first section, so that an installation's time and failure belong to no test.
    tools::install(&tools::ALL)?;
    if selected(Part::Unit) {
        report.run_section("unit, property and store tests", &mut processes, run_unit_tests)?;
    }
    if selected(Part::Simulation) {
        report.run_section("simulation", &mut processes, |_| simulate())?;
    }
    if selected(Part::Portability) {
        report.run_section("portability", &mut processes, |_| portability::check().map(|()| ONE_PASSED))?;
    }
    if selected(Part::Suite) {
        report.run_section("store suite in a Durable Object", &mut processes, run_store_suite)?;
    }
    let hosts = Host::ALL.into_iter().filter(|host| options.host.is_none_or(|only| only == *host));
    for host in hosts.filter(|_| selected(Part::Conformance)) {
        let title = format!("conformance, {}", host.name());
        report.run_section(&title, &mut processes, |_| run_conformance_tests(host))?;
    }
    if selected(Part::Deploy) {
        report.run_section("deployment of the Worker", &mut processes, |_| check_worker_deployment())?;
        report.run_section("deployment of the Lambda function", &mut processes, |_| {
            check_lambda_deployment()
        })?;
    }
    Ok(report.finish())
}

/// The count of a check that reports no count of its own.
const ONE_PASSED: Count = Count { passed: 1, failed: 0 };

/// The results of the sections so far.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
    total: Count,
}

impl Report {
    /// Runs a section and counts its error as one failed test, so that the other sections still run. Only a stop
    /// signal is an error.
    fn run_section(
        &mut self,
        title: &str,
        processes: &mut Processes,
        section: impl FnOnce(&mut Processes) -> Result<Count>,
    ) -> Result<()> {
        println!("\n=== {title} ===\n");
        let start = Instant::now();
        let result = section(processes);
        processes.stop();
        ensure!(!processes.stop_requested(), "stopped by a signal");
        let count = result.unwrap_or_else(|error| {
            println!("{title}: {error:#}");
            Count { passed: 0, failed: 1 }
        });
        let seconds = start.elapsed().as_secs_f64();
        self.lines
            .push(format!("{title}: {} passed, {} failed ({seconds:.0} s)", count.passed, count.failed));
        self.total += count;
        Ok(())
    }

    /// Prints the result of each section and, as the last line, their sum.
    fn finish(self) -> ExitCode {
        println!("\n=== summary ===\n");
        for line in self.lines {
            println!("{line}");
        }
        let Count { passed, failed } = self.total;
        println!("\n{passed} passed, {failed} failed");
        if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

fn run_unit_tests(processes: &mut Processes) -> Result<Count> {
    let endpoint = dynamodb::start(processes, None)?.context("stopped by a signal")?;
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--exclude", "outlive-worker"]);
    tests.env("OUTLIVE_PYTHON", tools::python_program("python"));
    run_counted(tests.envs(dynamodb::variables(&endpoint)))
}

fn simulate() -> Result<Count> {
    run_counted(cargo().args(["run", "--release", "--package", "outlive-simulation", "--", "--seeds", SEEDS]))
}

fn run_store_suite(processes: &mut Processes) -> Result<Count> {
    let report = serve::run_store_suite(processes)?;
    println!("{report}");
    report
        .lines()
        .next_back()
        .and_then(parse_summary)
        .context("the suite's last line is not `N passed, M failed`")
}

/// Runs the conformance tests, which start the node and, from the places given here, the official clients.
fn run_conformance_tests(host: Host) -> Result<Count> {
    let mut tests = cargo();
    tests.args(["run", "--package", "outlive-tests", "--bin", "conformance", "--", "--host", host.name()]);
    tests.env("OUTLIVE_PYTHON", tools::python_program("python"));
    tests.env("OUTLIVE_NODE_MODULES", tools::node_modules());
    tests.env("OUTLIVE_CHROMIUM", tools::browser_program());
    tests.env("OUTLIVE_ARTIFACTS", target().join("artifacts").join(host.name()));
    run_counted(&mut tests)
}

/// Builds with wrangler what `wrangler deploy` would upload, and checks its size.
fn check_worker_deployment() -> Result<Count> {
    let size = worker::packed_kib()?;
    println!("the Worker is {size} KiB gzip; the limit is {WORKER_LIMIT_KIB} KiB");
    ensure!(size < WORKER_LIMIT_KIB, "the Worker is too large");
    Ok(ONE_PASSED)
}

/// Validates and builds with SAM what `sam deploy` would upload.
fn check_lambda_deployment() -> Result<Count> {
    let directory = target().join("deploy/lambda");
    fs::create_dir_all(&directory)?;
    let sam = |arguments: &[&str]| -> Result<Command> {
        let mut sam = command(tools::python_program("sam"));
        sam.args(arguments).args(["--template", "template.yaml", "--region", "us-east-1"]);
        sam.env("PATH", tools::path()?)
            .env("SAM_CLI_TELEMETRY", "0")
            .env("__SAM_CLI_APP_DIR", directory.join("home"));
        Ok(sam)
    };
    crate::workspace::run(&mut sam(&["validate", "--lint"])?)?;
    crate::workspace::run(sam(&["build"])?.arg("--build-dir").arg(directory.join("build")))?;
    Ok(Count { passed: 2, failed: 0 })
}
