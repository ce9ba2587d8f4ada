//! The black-box tests: one node on its real runtime, met over HTTP only, between clients and a scripted provider.
//!
//! 1. gateway: every way in which a provider answers or fails, as JSON and as a stream
//! 2. formats: the same in the other formats that clients speak
//! 3. providers: every kind of provider in every format
//! 4. mock: a provider that nobody here wrote, and its failures
//! 5. errors: what callers do wrong
//! 6. callers: who may do what, on every route
//! 7. money: budgets, and limits of keys
//! 8. operations: health, readiness, status, the minute's trigger
//! 9. conversations: their API, concurrency, and what a killed node still knows
//! 10. responses: turns, their streams, and what becomes of them when the client or the node is gone
//! 11. deleting: what is deleted is gone, also from the disk, and also when the node is killed meanwhile
//! 12. schedules: their API, and fires that come by themselves
//! 13. sessions: all of them, and their entries
//! 14. cli: the command line, on the native host
//! 15. sdk: the official clients of OpenAI and Anthropic, unchanged, and what their types and Open Responses demand
//! 16. console: the page at `/console`, in a real browser
//! 17. tools: what models may have the node do, on servers that are what they should be, and on others
//! 18. history: what vendors are told again of what they and others have said
//! 19. sockets: WebSockets, and what becomes of responses when they or the node are gone
//!
//! Prints a line for each failed case; the last line is `N passed, M failed`.

// A test may stop at the first surprise.
#![allow(clippy::indexing_slicing)]

mod callers;
mod checks;
mod cli;
mod client;
mod console;
mod conversations;
mod deleting;
mod errors;
mod formats;
mod gateway;
mod history;
mod mcp;
mod mock;
mod money;
mod node;
mod operations;
mod providers;
mod responses;
mod schedules;
mod sdk;
mod sessions;
mod sockets;
mod suite;
mod tools;

use std::process::ExitCode;

use clap::Parser;

use node::Host;
use suite::Suite;

/// Tests one node from the outside.
#[derive(Parser)]
struct Options {
    /// The platform that the node runs on.
    #[arg(long)]
    host: Host,
    /// Run these topics only.
    #[arg(long)]
    only: Vec<String>,
}

type Topic = (&'static str, fn(&mut Suite));

const TOPICS: [Topic; 19] = [
    ("gateway", |suite| gateway::run(suite)),
    ("formats", |suite| formats::run(suite)),
    ("providers", |suite| providers::run(suite)),
    ("mock", |suite| mock::run(suite)),
    ("errors", |suite| errors::run(suite)),
    ("callers", |suite| callers::run(suite)),
    ("money", |suite| money::run(suite)),
    ("operations", |suite| operations::run(suite)),
    ("conversations", conversations::run),
    ("responses", responses::run),
    ("deleting", deleting::run),
    ("sessions", |suite| sessions::run(suite)),
    ("cli", cli::run),
    ("schedules", |suite| schedules::run(suite)),
    ("sdk", |suite| sdk::run(suite)),
    ("console", |suite| console::run(suite)),
    ("tools", tools::run),
    ("history", |suite| history::run(suite)),
    ("sockets", sockets::run),
];

fn main() -> ExitCode {
    let options = Options::parse();
    let mut suite = match Suite::start(options.host) {
        Ok(suite) => suite,
        Err(error) => {
            println!("FAILED {} does not start: {error}", options.host.name());
            println!("0 passed, 1 failed");
            return ExitCode::FAILURE;
        }
    };
    for (name, topic) in TOPICS {
        if options.only.is_empty() || options.only.iter().any(|only| only == name) {
            let start = std::time::Instant::now();
            topic(&mut suite);
            eprintln!("{}: {name} took {:.1} s", options.host.name(), start.elapsed().as_secs_f64());
        }
    }
    suite.end()
}
