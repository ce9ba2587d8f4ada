//! Runs every test, the fast ones first, and prints one line with the result at the end. Contains no test itself.
//!
//! `--long` adds tests whose inputs are new in each run.

mod count;
mod fuzz;

use crate::processes::Processes;
use crate::serve::{self, Host};
use crate::worker;
use crate::workspace::{cargo, command, target};
use crate::{dynamodb, portability, tools};
use anyhow::{Context, Error, Result, ensure};
use count::{Count, parse_summary, run_counted};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// Seeds of the simulation: the same ones in each run, so that a new failure comes from a change.
const SEEDS: &str = "1000";
/// Seeds of the long simulation, from a random start.
const LONG_SEEDS: &str = "10000";

/// The largest compressed Worker that passes: 5% above the size at which this was set, so that growth is a decision.
/// Every isolate downloads and compiles it. The platform accepts 3 MiB on every plan.
/// <https://developers.cloudflare.com/workers/platform/limits/>
const WORKER_LIMIT_KIB: f64 = 1210.0;

/// Which tests to run.
#[derive(clap::Args)]
pub(crate) struct TestOptions {
    /// Run the long tests as well: 10,000 new seeds of the simulation, each fuzz target for a minute, the coding agents
    /// with every failure of a provider, and a real model.
    #[arg(long, conflicts_with = "only")]
    long: bool,
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
    /// Part of `--long`: the simulation with 10,000 new seeds.
    Seeds,
    /// Part of `--long`: each fuzz target for a minute.
    Fuzz,
}

/// Runs the selected tests. The last printed line is `N passed, M failed`.
pub(crate) fn run(options: &TestOptions) -> Result<ExitCode> {
    let mut processes = Processes::new()?;
    let mut report = Report::default();
    let selected = |part| options.selects(part);
    // Before the first section, so that an installation's time and failure belong to no test. The sections go from the
    // fast to the slow, so that most failures show early.
    install_tools(selected(Part::Unit))?;
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
    let real_model = if options.long {
        // Not all machines can compile its server, and that is no fault of the code.
        match tools::install(&[tools::Tool::RealModel]) {
            Ok(()) => Some(tools::real_model()),
            Err(error) => {
                ensure!(!processes.stop_requested(), "stopped by a signal");
                report.skip_section("conformance with a real model", &error);
                None
            }
        }
    } else {
        None
    };
    let hosts = Host::ALL.into_iter().filter(|host| options.host.is_none_or(|only| only == *host));
    for host in hosts.filter(|_| selected(Part::Conformance)) {
        let title = format!("conformance, {}", host.name());
        report.run_section(&title, &mut processes, |_| {
            run_conformance_tests(host, options.long, real_model.as_deref())
        })?;
    }
    if selected(Part::Deploy) {
        report.run_section("deployment of the Worker", &mut processes, |_| check_worker_deployment())?;
        report.run_section("deployment of the Lambda function", &mut processes, |_| {
            check_lambda_deployment()
        })?;
    }
    if selected(Part::Seeds) {
        report.run_section("simulation, new seeds", &mut processes, |_| simulate_new_seeds())?;
    }
    if selected(Part::Fuzz) {
        // Not all machines can install these tools, and that is no fault of the code.
        match tools::install(&tools::FUZZ) {
            Ok(()) => report.run_section("fuzzing", &mut processes, |_| fuzz::run())?,
            Err(error) => {
                ensure!(!processes.stop_requested(), "stopped by a signal");
                report.skip_section("fuzzing", &error);
            }
        }
    }
    Ok(report.finish())
}

impl TestOptions {
    fn selects(&self, part: Part) -> bool {
        let is_long = matches!(part, Part::Seeds | Part::Fuzz);
        self.only.map_or(self.long || !is_long, |only| only == part)
    }
}

/// The count of a check that reports no count of its own.
const ONE_PASSED: Count = Count { passed: 1, failed: 0 };

/// The results of the sections so far.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
    total: Count,
    skipped: Vec<String>,
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

    /// Records a section that cannot run here. It counts neither as passed nor as failed.
    fn skip_section(&mut self, title: &str, reason: &Error) {
        println!("\n=== {title} ===\n\nnot run: {reason:#}");
        self.skipped.push(format!("{title}: NOT RUN, and not counted: {reason:#}"));
    }

    /// Prints the result of each section and, as the last line, their sum.
    fn finish(self) -> ExitCode {
        println!("\n=== summary ===\n");
        for line in self.lines.into_iter().chain(self.skipped) {
            println!("{line}");
        }
        let Count { passed, failed } = self.total;
        println!("\n{passed} passed, {failed} failed");
        // A run without a single test must not look like a success.
        if failed > 0 || passed == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// Installs the tools. If the unit tests come next, Cargo compiles them meanwhile: an installation mostly waits for
/// downloads.
fn install_tools(unit_tests: bool) -> Result<()> {
    let mut build = cargo();
    build.args(["test", "--workspace", "--exclude", "outlive-worker", "--no-run", "--quiet"]);
    build.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let compiling = unit_tests.then(|| build.spawn()).transpose()?;
    let installed = tools::install(&tools::ALL);
    if let Some(mut compiling) = compiling {
        // Its errors are those of the unit tests, which print them.
        compiling.wait()?;
    }
    installed
}

fn run_unit_tests(processes: &mut Processes) -> Result<Count> {
    let endpoint = dynamodb::start(processes, None)?.context("stopped by a signal")?;
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--exclude", "outlive-worker"]);
    tests.env("OUTLIVE_PYTHON", tools::python_program("python"));
    run_counted(tests.envs(dynamodb::variables(&endpoint)))
}

fn simulate() -> Result<Count> {
    run_simulation(&["--seeds", SEEDS])
}

/// Runs the simulation with seeds that no earlier run has used, and prints how to repeat it.
fn simulate_new_seeds() -> Result<Count> {
    // The standard library's only source of randomness. 48 bits suffice, and leave room for the seeds after the first.
    let first = (RandomState::new().hash_one(()) >> 16).to_string();
    println!("repeat: cargo xtask sim --seeds {LONG_SEEDS} --from {first}");
    run_simulation(&["--seeds", LONG_SEEDS, "--from", &first])
}

fn run_simulation(options: &[&str]) -> Result<Count> {
    let mut simulation = cargo();
    simulation.args(["run", "--release", "--package", "outlive-simulation", "--"]).args(options);
    run_counted(&mut simulation)
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

/// Runs the conformance tests, which start the node and, from the places given here, the clients that others wrote.
fn run_conformance_tests(host: Host, long: bool, real_model: Option<&Path>) -> Result<Count> {
    let mut tests = cargo();
    tests.args(["run", "--package", "outlive-tests", "--bin", "conformance", "--", "--host", host.name()]);
    tests.args(long.then_some("--long"));
    tests.env("OUTLIVE_PYTHON", tools::python_program("python"));
    tests.env("OUTLIVE_NODE_MODULES", tools::node_modules());
    tests.env("OUTLIVE_CODING_AGENTS", tools::coding_agent_modules());
    tests.envs(real_model.map(|directory| ("OUTLIVE_REAL_MODEL", directory)));
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
