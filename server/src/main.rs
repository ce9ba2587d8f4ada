//! Parses the command line of `outlive`, and runs `serve` (the native node) and `check`. The commands that talk to
//! nodes are in `cli/`.

mod cli;

use std::{io::ErrorKind, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use outlive::{Config, Node};
use outlive_machine::Machine;
use outlive_server::{
    bind, guide, listen,
    log::{self, LogFormat},
    store::SqliteStore,
    telemetry::Exporter,
};
use tokio::signal::unix::{SignalKind, signal};

/// Keeps an AI agent alive.
#[derive(Parser)]
#[command(name = "outlive", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Run the node (the default).
    Serve(Serve),
    /// Check the configuration file, and print what the node would do with it and what it can spend.
    Check(ConfigFile),
    /// Talk to the agent.
    Chat(cli::chat::Chat),
    /// List, show, export, verify and import sessions.
    Sessions(cli::sessions::Sessions),
    /// Make keys for callers.
    Key(cli::key::Keys),
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    file: ConfigFile,
    /// The directory for the node's logs. It is created if it does not exist.
    #[arg(long, default_value = "data")]
    data: PathBuf,
    /// The address to listen on. A host name stands for all of its addresses, and port 0 for a free port.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    listen: String,
    /// How requests are logged on standard error.
    #[arg(long, default_value = "auto", value_name = "FORMAT")]
    log: LogFormat,
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration file. If the default file does not exist, every key has its default value.
    #[arg(long, default_value = DEFAULT_FILE, value_name = "FILE")]
    config: PathBuf,
}

/// The configuration file that need not exist.
const DEFAULT_FILE: &str = "agent.toml";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Check(file)) => file.read().and_then(|config| cli::check::run(&config)),
        Some(Command::Serve(serve)) => serve.run(),
        Some(Command::Chat(chat)) => chat.run(),
        Some(Command::Sessions(sessions)) => sessions.run(),
        Some(Command::Key(keys)) => keys.run(),
        None => cli.serve.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            log::say(message);
            ExitCode::FAILURE
        }
    }
}

impl ConfigFile {
    fn read(&self) -> Result<Config, String> {
        let name = self.config.display().to_string();
        let text = match std::fs::read_to_string(&self.config) {
            Ok(text) => text,
            // A file that the operator names must exist.
            Err(error) if error.kind() == ErrorKind::NotFound && name == DEFAULT_FILE => {
                log::say(format_args!("there is no {name} here, so every key has its default value"));
                String::new()
            }
            Err(error) => {
                return Err(format!(
                    "--config {name}: {error}; allowed: a text file that this user can read"
                ));
            }
        };
        Config::parse(&text, &name, |variable| std::env::var(variable).ok()).map_err(|m| m.to_string())
    }
}

impl Serve {
    fn run(self) -> Result<(), String> {
        let config = self.file.read()?;
        let addresses = bind::resolve(&self.listen)?;
        let reachable = addresses.iter().find(|address| !address.ip().is_loopback());
        if let Some(address) = reachable.filter(|_| config.keys.is_empty()) {
            return Err(format!(
                "--listen {}: without a [[key]], anyone who reaches this address can spend your money; allowed: a \
                 loopback address such as 127.0.0.1:{}, or a [[key]] in the configuration, which 'outlive key new' \
                 makes",
                self.listen,
                address.port()
            ));
        }
        listen::block_on(async {
            // Before the data is opened, so that a second start fails because of the port and leaves no directory.
            let bound = bind::bind(&addresses).await?;
            for failure in &bound.failures {
                log::say(format_args!("warning: {failure}"));
            }
            let url = bound.listeners.first().and_then(|listener| listener.local_addr().ok());
            let url = url.map(bind::local_url).ok_or("the listener has no address")?;
            create_private_dir(&self.data).map_err(|error| self.data_error(&error))?;
            let file = self.data.join("outlive.db");
            let store = SqliteStore::open(&file).map_err(|error| self.data_error(&error))?;
            let stop = stop_signal().map_err(|error| error.to_string())?;
            log::say(&config);
            // The socket is bound: the kernel queues connections from here on, although none is accepted yet.
            println!("ready {url}");
            log::say(guide::first_steps(&config, &url));
            let exporter = Exporter::from_environment(|name| std::env::var(name).ok())?;
            let mut machine = Machine::new(store).with_log(self.log.logger());
            if let Some(exporter) = exporter.clone() {
                machine = machine.watched(move |record| exporter.export(record));
            }
            listen::serve(Node::new(machine, config), bound.listeners, stop).await;
            // After the last request, so that its spans are exported too.
            if let Some(exporter) = exporter {
                exporter.shut_down().await;
            }
            Ok(())
        })
        .map_err(|error| error.to_string())?
    }

    fn data_error(&self, error: &dyn std::fmt::Display) -> String {
        format!("--data {}: {error}; allowed: a directory that this user can write", self.data.display())
    }
}

/// Installs the signal handlers. The future resolves at the first SIGTERM or SIGINT.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Creates a directory that only its owner can read, because it holds conversations.
fn create_private_dir(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
