//! Runs the scripted provider alone, for manual tests: prints its base URL and serves until it is killed.

use clap::Parser;
use outlive_tests::upstream::Upstream;

/// A provider that answers as the model in the request says.
#[derive(Parser)]
struct Options {
    /// Where to listen on 127.0.0.1; 0 picks a free port.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

fn main() -> std::io::Result<()> {
    let upstream = Upstream::start(Options::parse().port)?;
    println!("ready {}", upstream.base_url());
    loop {
        std::thread::park();
    }
}
