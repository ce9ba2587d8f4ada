//! Parses the command line of `outlive`, and runs `serve` (the native node) and `check`. The commands that talk to
//! nodes are in `cli/`.

mod cli;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use outlive::{Config, Node};
use outlive_machine::Machine;
use outlive_server::{listen, store::SqliteStore, telemetry::Exporter};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

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
    /// Check the configuration file and print what the node would do with it.
    Check(ConfigFile),
    /// Talk to the agent.
    Chat(cli::chat::Chat),
    /// List, show, export, verify and import sessions.
    Sessions(cli::sessions::Sessions),
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    file: ConfigFile,
    /// The directory for the node's logs. It is created if it does not exist.
    #[arg(long, default_value = "data")]
    data: PathBuf,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration file. If the default file does not exist, every key has its default value.
    #[arg(long, default_value = "agent.toml")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Check(file)) => file.read().map(|config| println!("{config}")),
        Some(Command::Serve(serve)) => serve.run(),
        Some(Command::Chat(chat)) => chat.run(),
        Some(Command::Sessions(sessions)) => sessions.run(),
        None => cli.serve.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
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
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && name == "agent.toml" => {
                String::new()
            }
            Err(error) => return Err(format!("{name}: {error}")),
        };
        Config::parse(&text, &name, |variable| std::env::var(variable).ok()).map_err(|m| m.to_string())
    }
}

impl Serve {
    fn run(self) -> Result<(), String> {
        let config = self.file.read()?;
        if config.keys.is_empty() && !self.listen.ip().is_loopback() {
            let address = self.listen;
            return Err(format!(
                "--listen {address}: without a [[key]], anyone who reaches this address can spend your money; \
                 allowed: a loopback address such as 127.0.0.1:{}, or a [[key]] in the configuration",
                address.port()
            ));
        }
        create_private_dir(&self.data).map_err(|error| format!("--data {}: {error}", self.data.display()))?;
        let file = self.data.join("outlive.db");
        let store = SqliteStore::open(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        listen::block_on(async {
            let listener =
                TcpListener::bind(self.listen).await.map_err(|e| format!("--listen {}: {e}", self.listen))?;
            let address = listener.local_addr().map_err(|error| error.to_string())?;
            let stop = stop_signal().map_err(|error| error.to_string())?;
            eprintln!("{config}");
            // The socket is bound: the kernel queues connections from here on, although none is accepted yet.
            println!("ready http://{address}");
            let exporter = Exporter::from_environment(|name| std::env::var(name).ok())?;
            let mut machine = Machine::new(store);
            if let Some(exporter) = exporter.clone() {
                machine = machine.watched(move |record| exporter.export(record));
            }
            listen::serve(Node::new(machine, config), listener, stop).await;
            // After the last request, so that its spans are exported too.
            if let Some(exporter) = exporter {
                exporter.shut_down().await;
            }
            Ok(())
        })
        .map_err(|error| error.to_string())?
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
