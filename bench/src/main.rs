//! What the native node adds to a request: the same load against a constant upstream, with and without the node.

use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde_json::json;

use crate::child::Server;
use crate::load::Slice;

mod child;
mod cores;
mod load;
mod streams;
mod upstream;
mod wire;

const ROUNDS: usize = 5;

/// Measures what the native node adds to a request.
#[derive(Parser)]
struct Arguments {
    /// Also writes the figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// How long the load runs altogether.
    #[arg(long, default_value_t = 40.0)]
    seconds: f64,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// The constant upstream, which the bench starts by itself.
    #[command(hide = true)]
    Upstream,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        if arguments.part.is_some() {
            return upstream::serve().await;
        }
        tokio::select! {
            done = bench(&arguments) => done,
            stopped = stopped() => stopped,
        }
    })
}

/// Waits for a signal to end, so that the children are ended too.
async fn stopped() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        done = tokio::signal::ctrl_c() => done?,
    }
    Err(Error::other("interrupted"))
}

/// One kind of load and its slices, upstream and node in turn.
struct Case {
    name: &'static str,
    connections: usize,
    streamed: bool,
    upstream: Vec<Slice>,
    node: Vec<Slice>,
}

/// A directory that goes with its value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory left behind is no reason to fail a measurement.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn bench(arguments: &Arguments) -> Result<()> {
    if !(arguments.seconds.is_finite() && arguments.seconds > 0.0) {
        return Err(Error::other("--seconds must be above zero"));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let program = build(&root)?;
    let scratch = Scratch(std::env::temp_dir().join(format!("outlive-bench-{}", std::process::id())));
    std::fs::create_dir_all(&scratch.0)?;
    cores::pin(cores::LOAD)?;
    let upstream = Server::start(Command::new(std::env::current_exe()?).arg("upstream"))?;
    let config = scratch.0.join("agent.toml");
    let text = format!(
        "[agent]\nname = \"bench\"\nmodel = \"bench\"\n\n[[provider]]\nname = \"constant\"\nkind = \"compatible\"\nbase_url = \"http://{}/v1\"\n\n\
         [[model]]\nname = \"bench\"\ncandidates = [\"constant/constant\"]\n\n\
         [[model]]\nname = \"slow\"\ncandidates = [\"constant/slow\"]\n",
        upstream.address
    );
    std::fs::write(&config, text)?;
    let node = cores::on(cores::MEASURED, || {
        Server::start(
            Command::new(program)
                .args(["serve", "--listen", "127.0.0.1:0", "--config"])
                .arg(&config)
                .arg("--data")
                .arg(scratch.0.join("data")),
        )
    })?;

    let case =
        |name, connections, streamed| Case { name, connections, streamed, upstream: vec![], node: vec![] };
    let mut cases = [
        case("json c=1", 1, false),
        case("json c=16", 16, false),
        case("sse c=1", 1, true),
        case("sse c=16", 16, true),
    ];
    let slice = Duration::from_secs_f64(arguments.seconds / (ROUNDS * cases.len() * 2) as f64);
    for case in &cases {
        for address in [&upstream.address, &node.address] {
            load::run(address, case.connections, case.streamed, slice / 4).await?;
        }
    }
    for _ in 0..ROUNDS {
        for case in &mut cases {
            case.upstream.push(load::run(&upstream.address, case.connections, case.streamed, slice).await?);
            case.node.push(load::run(&node.address, case.connections, case.streamed, slice).await?);
        }
    }
    let resident = streams::resident_mib(&node).await?;
    print(&cases);
    println!("| 1,000 open streams | resident memory, MiB | | {resident:.1} | |");
    match &arguments.json {
        Some(file) => std::fs::write(file, figures(&cases, resident)),
        None => Ok(()),
    }
}

fn build(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "-p", "outlive-server"]).current_dir(root);
    // Left in place, these make build scripts believe that their package changed, and half the node is built anew.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
    }
    let status = command.status()?;
    if !status.success() {
        return Err(Error::other("the node does not build"));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release").join(format!("outlive{}", std::env::consts::EXE_SUFFIX)))
}

fn print(cases: &[Case]) {
    println!("| load | figure | upstream | through the node | added (min to max over the rounds) |");
    println!("|---|---|---:|---:|---:|");
    for case in cases {
        let name = case.name;
        let row = |figure: &str, value: &dyn Fn(&Slice) -> f64| {
            let (low, high) = case.range(value);
            let (upstream, node) = (median(&case.upstream, value), median(&case.node, value));
            let added = node - upstream;
            println!(
                "| {name} | {figure} | {upstream:.0} | {node:.0} | {added:.0} ({low:.0} to {high:.0}) |"
            );
        };
        row("p50, µs", &p50);
        row("p99, µs", &p99);
        if case.streamed {
            row("first byte p50, µs", &first_p50);
        }
        let (upstream, node) = (median(&case.upstream, &rate), median(&case.node, &rate));
        println!("| {name} | requests/s | {upstream:.0} | {node:.0} | |");
    }
}

fn figures(cases: &[Case; 4], resident: f64) -> String {
    let [json, json_16, sse, sse_16] = cases;
    let whole = sse.added(&p50);
    let first = sse.added(&first_p50);
    let figures = json!({
        "added_p50_us": json.added(&p50),
        "added_p99_us": json.added(&p99),
        "rps_c16": median(&json_16.node, &rate),
        "upstream_rps_c16": median(&json_16.upstream, &rate),
        "sse_added_p50_us": whole,
        "sse_added_p99_us": sse.added(&p99),
        "first_byte_added_us": first,
        "rss_mib_1000_streams": resident,
        "sse_rps_c16": median(&sse_16.node, &rate),
        // The first chunk is counted by the first byte.
        "chunk_us": (whole - first) / (upstream::CHUNKS - 1) as f64,
    });
    format!("{figures:#}\n")
}

impl Case {
    /// The median with the node less the median without it.
    fn added(&self, value: &dyn Fn(&Slice) -> f64) -> f64 {
        median(&self.node, value) - median(&self.upstream, value)
    }

    /// The least and the most that the node added within one round.
    fn range(&self, value: &dyn Fn(&Slice) -> f64) -> (f64, f64) {
        let added =
            self.node.iter().zip(&self.upstream).map(|(node, upstream)| value(node) - value(upstream));
        added.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), one| (low.min(one), high.max(one)))
    }
}

fn median(slices: &[Slice], value: &dyn Fn(&Slice) -> f64) -> f64 {
    let mut values: Vec<f64> = slices.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5)
}

fn p50(slice: &Slice) -> f64 {
    quantile(&slice.whole, 0.5)
}

fn p99(slice: &Slice) -> f64 {
    quantile(&slice.whole, 0.99)
}

fn first_p50(slice: &Slice) -> f64 {
    quantile(&slice.first, 0.5)
}

fn rate(slice: &Slice) -> f64 {
    slice.rate
}

/// The value at `share` of a sorted list; not a number when the list is empty.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}
