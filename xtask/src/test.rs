//! Every test there is, from the fast to the slow, and one line at the end that says the result.

mod count;

use crate::processes::Processes;
use crate::serve::{self, Host};
use crate::worker;
use crate::workspace::{cargo, command, target};
use crate::{dynamodb, portability, tools};
use anyhow::{Context, Result, bail, ensure};
use count::{Count, closing_line, run_counted};
use std::fs;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// How many seeds the simulation runs; always the same ones.
const SEEDS: &str = "1000";

/// The largest Worker, compressed, that every plan of the platform takes.
/// <https://developers.cloudflare.com/workers/platform/limits/>
const WORKER_LIMIT_KIB: f64 = 3.0 * 1024.0;

/// Which tests to run; all of them if nothing is said.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run one part only.
    #[arg(long)]
    only: Option<Part>,
    /// Run the conformance tests against one platform only.
    #[arg(long)]
    host: Option<Host>,
}

/// A part of the tests.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Units, properties, and the store suite on memory, SQLite and DynamoDB Local.
    Unit,
    /// The simulation, over its fixed seeds.
    Simulation,
    /// The core as WebAssembly: its dependencies, its features, and the same story as natively.
    Portability,
    /// The store suite in a Durable Object on workerd.
    Suite,
    /// The black-box tests against each platform.
    Conformance,
    /// What the platforms' own tools say of what would be deployed.
    Deploy,
}

/// Runs the tests; the last line that is printed says how many passed and failed.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut processes = Processes::new()?;
    let mut report = Report::default();
    let wanted = |part| options.only.is_none_or(|only| only == part);
    tools::install(&tools::ALL)?;
    if wanted(Part::Unit) {
        report.add("unit, property and store tests", &mut processes, unit)?;
    }
    if wanted(Part::Simulation) {
        report.add("simulation", &mut processes, |_| simulation())?;
    }
    if wanted(Part::Portability) {
        report.add("portability", &mut processes, |_| portability::check().map(|()| ONE))?;
    }
    if wanted(Part::Suite) {
        report.add("store suite in a Durable Object", &mut processes, suite)?;
    }
    let hosts = Host::ALL.into_iter().filter(|host| options.host.is_none_or(|only| only == *host));
    for host in hosts.filter(|_| wanted(Part::Conformance)) {
        report.add(&format!("conformance, {}", host.name()), &mut processes, |_| conformance(host))?;
    }
    if wanted(Part::Deploy) {
        report.add("deployment of the Worker", &mut processes, |_| deploy_worker())?;
        report.add("deployment of the Lambda function", &mut processes, |_| deploy_lambda())?;
    }
    Ok(report.end())
}

/// What a check that is not counted by itself counts for.
const ONE: Count = Count { passed: 1, failed: 0 };

/// What the sections have come to so far.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
    total: Count,
}

impl Report {
    /// Runs a section. Only being told to stop is an error here: the other sections run also when one has failed.
    fn add(
        &mut self,
        title: &str,
        processes: &mut Processes,
        section: impl FnOnce(&mut Processes) -> Result<Count>,
    ) -> Result<()> {
        println!("\n=== {title} ===\n");
        let start = Instant::now();
        let result = section(processes);
        processes.stop();
        if processes.told_to_stop() {
            bail!("told to stop");
        }
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

    /// Says what all sections have come to; the very last line is the sum.
    fn end(self) -> ExitCode {
        println!("\n=== summary ===\n");
        for line in self.lines {
            println!("{line}");
        }
        let Count { passed, failed } = self.total;
        println!("\n{passed} passed, {failed} failed");
        if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

fn unit(processes: &mut Processes) -> Result<Count> {
    let endpoint = dynamodb::start(processes, None)?.context("told to stop")?;
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--exclude", "outlive-worker"]);
    tests.env("OUTLIVE_PYTHON", tools::python_program("python"));
    run_counted(tests.envs(dynamodb::variables(&endpoint)))
}

fn simulation() -> Result<Count> {
    run_counted(cargo().args(["run", "--release", "--package", "outlive-simulation", "--", "--seeds", SEEDS]))
}

fn suite(processes: &mut Processes) -> Result<Count> {
    let report = serve::suite(processes)?;
    println!("{report}");
    report
        .lines()
        .next_back()
        .and_then(closing_line)
        .context("the suite's last line is not `N passed, M failed`")
}

/// The test program starts the node itself, and the official clients with what is named here.
fn conformance(host: Host) -> Result<Count> {
    let mut tests = cargo();
    tests.args(["run", "--package", "outlive-tests", "--bin", "conformance", "--", "--host", host.name()]);
    tests.env("OUTLIVE_PYTHON", tools::python_program("python"));
    tests.env("OUTLIVE_NODE_MODULES", tools::node_modules());
    tests.env("OUTLIVE_CHROMIUM", tools::browser_program());
    tests.env("OUTLIVE_ARTIFACTS", target().join("artifacts").join(host.name()));
    run_counted(&mut tests)
}

/// wrangler's own build of what `wrangler deploy` would upload.
fn deploy_worker() -> Result<Count> {
    let size = worker::packed_kib()?;
    println!("the Worker is {size} KiB gzip; the limit is {WORKER_LIMIT_KIB} KiB");
    ensure!(size < WORKER_LIMIT_KIB, "the Worker is too large");
    Ok(ONE)
}

/// SAM's own reading and build of what `sam deploy` would upload.
fn deploy_lambda() -> Result<Count> {
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
