//! Tests one node on its real runtime from the outside: over HTTP only, between clients and a scripted provider.
//!
//! 1. gateway: each answer and each failure of a provider, as JSON and as a stream
//! 2. formats: the other formats of clients, over a provider of chat completions
//! 3. providers: each kind of provider in each format
//! 4. mock: an independent mock provider and its failures
//! 5. errors: the errors of callers
//! 6. callers: the scopes of keys, on each route
//! 7. money: budgets, a killed node, and rate limits of keys
//! 8. operations: health, readiness, status, the tick
//! 9. conversations: their API, concurrent writes, a killed node
//! 10. responses: turns, their streams, disconnected clients, a killed node
//! 11. deleting: deleted content is gone from the API and the disk, also after a kill
//! 12. schedules: their API and their fires
//! 13. sessions: the operator's list of them, and their entries
//! 14. cli: the command line, on the native host
//! 15. sdk: the official clients of OpenAI and Anthropic, their types, the AI SDK, and the cases of Open Responses
//! 16. console: the page at `/console`, in a real browser
//! 17. tools: calls that the node makes, on MCP servers that behave and on others that do not
//! 18. history: the conversation that is sent to each vendor again
//! 19. sockets: WebSockets, their disconnects, a killed node
//! 20. coding_agents: Claude Code and Codex, as their users run them
//! 21. real_model: a small model, in the long tests
//!
//! Prints a line for each failed check; the last line is `N passed, M failed`.

// A test may panic where a fixture is not as expected.
#![allow(clippy::indexing_slicing)]

mod callers;
mod checks;
mod cli;
mod client;
mod coding_agents;
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
mod real_model;
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
    /// Run only these topics.
    #[arg(long)]
    only: Vec<String>,
    /// Run the cases of the long tests as well.
    #[arg(long)]
    long: bool,
}

type Topic = (&'static str, fn(&mut Suite));

const TOPICS: [Topic; 21] = [
    ("gateway", |suite| gateway::run(suite)),
    ("formats", |suite| formats::run(suite)),
    ("providers", |suite| providers::run(suite)),
    ("mock", |suite| mock::run(suite)),
    ("errors", |suite| errors::run(suite)),
    ("callers", |suite| callers::run(suite)),
    ("money", money::run),
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
    ("coding_agents", |suite| coding_agents::run(suite)),
    ("real_model", |suite| real_model::run(suite)),
];

fn main() -> ExitCode {
    let options = Options::parse();
    let mut suite = match Suite::start(options.host, options.long) {
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
            suite.checks.topic = name;
            topic(&mut suite);
            eprintln!("{}: {name} took {:.1} s", options.host.name(), start.elapsed().as_secs_f64());
        }
    }
    suite.end()
}
