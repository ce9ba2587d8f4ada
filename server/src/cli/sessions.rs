//! Runs `outlive sessions`: lists, shows, exports, verifies and imports sessions. `export.rs` has the requests,
//! `verify.rs` the checks.

mod export;
mod verify;

use std::{
    fs::File,
    io::{BufRead, BufReader, Write, stdin, stdout},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use outlive_server::listen;
use serde_json::Value;

use super::{
    NodeOptions,
    client::{ApiRequest, Client},
};
use export::{PagedList, import};
use verify::Verifier;

/// List, show, export, verify and import sessions.
#[derive(Args)]
pub(crate) struct Sessions {
    #[command(subcommand)]
    command: SessionsCommand,
}

#[derive(Subcommand)]
enum SessionsCommand {
    /// List all sessions, one per line.
    List {
        #[command(flatten)]
        nodes: NodeOptions,
    },
    /// Show the state of a session as JSON.
    Show {
        /// The id of the session: sess_… or conv_….
        #[arg(value_parser = parse_id)]
        id: String,
        #[command(flatten)]
        nodes: NodeOptions,
    },
    /// Export the log entries of a session as JSON Lines.
    Export {
        /// The id of the session: sess_… or conv_….
        #[arg(value_parser = parse_id)]
        id: String,
        /// The file to write. Default: standard output.
        file: Option<PathBuf>,
        #[command(flatten)]
        nodes: NodeOptions,
    },
    /// Verify the hash chains and the bodies of all entries of a session.
    Verify {
        /// An exported file, - for standard input, or the id of a session on a node: sess_… or conv_….
        #[arg(value_name = "FILE_OR_ID")]
        source: String,
        #[command(flatten)]
        nodes: NodeOptions,
    },
    /// Import exported entries into a node. Entries that the node already has are skipped.
    Import {
        /// The exported file.
        file: PathBuf,
        #[command(flatten)]
        nodes: NodeOptions,
    },
}

impl Sessions {
    pub(crate) fn run(self) -> Result<(), String> {
        listen::block_on(self.command.run()).map_err(|error| error.to_string())?
    }
}

impl SessionsCommand {
    async fn run(self) -> Result<(), String> {
        match self {
            Self::List { nodes } => list(&nodes.client()?).await,
            Self::Show { id, nodes } => {
                let request = ApiRequest::get(format!("/v1/sessions/{id}"));
                let session = nodes.client()?.send_with_retries(&request).await;
                print_line(&format!("{:#}", session.map_err(|error| error.to_string())?))
            }
            Self::Export { id, file, nodes } => export(&nodes.client()?, &id, file.as_deref()).await,
            Self::Verify { source, nodes } => {
                let verifier = match parse_id(&source) {
                    Ok(id) if !Path::new(&source).exists() => verify_session(&nodes.client()?, &id).await?,
                    _ => verify_file(&source)?,
                };
                print_line(&verifier.to_string())
            }
            Self::Import { file, nodes } => {
                let name = file.display().to_string();
                // Verified to its end before the first entry is sent, so that a damaged file is not imported in part.
                verify_file(&name)?;
                let counts = import(&nodes.client()?, read_lines(&name)?).await?;
                print_line(&format!("{} entries imported, {} already present", counts.imported, counts.known))
            }
        }
    }
}

async fn list(client: &Client) -> Result<(), String> {
    let mut pages = PagedList::new("/v1/sessions".into());
    while let Some(page) = pages.next(client).await? {
        for session in page {
            let damaged = if session.get("damaged").is_some() { "  damaged" } else { "" };
            let text = |name: &str| session.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
            let count = |name: &str| session.get(name).and_then(Value::as_u64).unwrap_or_default();
            let open = count("open_turns");
            let open = if open == 0 { String::new() } else { format!(", {open} open") };
            let line = format!(
                "{}  {}  {} items, {} turns{open}, {} entries  {}{damaged}",
                text("id"),
                utc_text(count("last_active_at")),
                count("items"),
                count("turns"),
                count("entries"),
                text("owner"),
            );
            print_line(line.trim_end())?;
        }
    }
    Ok(())
}

async fn export(client: &Client, id: &str, file: Option<&Path>) -> Result<(), String> {
    let Some(file) = file else { return write_entries(client, id, &mut stdout().lock()).await.map(drop) };
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    // Renamed once it is complete, so that an interrupted export leaves no file that looks like a session.
    let mut partial = file.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    let mut out = create_private_file(&partial).map_err(failed)?;
    let verifier = write_entries(client, id, &mut out).await?;
    out.sync_all().and_then(|()| std::fs::rename(&partial, file)).map_err(failed)?;
    eprintln!("{verifier}");
    Ok(())
}

/// Verifies each entry of a session and writes it as a line.
async fn write_entries(client: &Client, id: &str, out: &mut impl Write) -> Result<Verifier, String> {
    let mut verifier = Verifier::default();
    let mut pages = PagedList::new(format!("/v1/sessions/{id}/entries"));
    while let Some(page) = pages.next(client).await? {
        for entry in page {
            let line = entry.to_string();
            verifier.apply(&line)?;
            writeln!(out, "{line}").map_err(|error| error.to_string())?;
        }
    }
    Ok(verifier)
}

async fn verify_session(client: &Client, id: &str) -> Result<Verifier, String> {
    write_entries(client, id, &mut std::io::sink()).await
}

fn verify_file(name: &str) -> Result<Verifier, String> {
    let mut verifier = Verifier::default();
    for line in read_lines(name)? {
        verifier.apply(&line?).map_err(|reason| format!("{name}: {reason}"))?;
    }
    if verifier.is_empty() { Err(format!("{name}: the file has no entries")) } else { Ok(verifier) }
}

/// The lines of the file `name`, or of standard input if that is `-`.
fn read_lines(name: &str) -> Result<impl Iterator<Item = Result<String, String>>, String> {
    let input: Box<dyn BufRead> = match name {
        "-" => Box::new(BufReader::new(stdin())),
        _ => Box::new(BufReader::new(File::open(name).map_err(|error| format!("{name}: {error}"))?)),
    };
    let name = name.to_owned();
    Ok(input.lines().map(move |line| line.map_err(|error| format!("{name}: {error}"))))
}

/// Prints to stdout and reports a closed pipe as an error, where `println!` would panic.
fn print_line(line: &str) -> Result<(), String> {
    writeln!(stdout().lock(), "{line}").map_err(|error| error.to_string())
}

/// Reads the id of a session. The id of a conversation names the same log.
fn parse_id(text: &str) -> Result<String, String> {
    let log = text.strip_prefix("sess_").or_else(|| text.strip_prefix("conv_"));
    match log.filter(|log| log.len() == 32 && log.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        Some(log) => Ok(format!("sess_{log}")),
        None => Err("allowed: sess_ or conv_ and 32 hexadecimal digits".into()),
    }
}

/// Creates a file that only its owner can read, because it holds conversations.
fn create_private_file(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// A time in UTC, as RFC 3339 writes it.
fn utc_text(unix_seconds: u64) -> String {
    let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Howard Hinnant's civil_from_days, for days after 1970 (<https://howardhinnant.github.io/date_algorithms.html>).
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let (month, year) =
        if month < 10 { (month + 3, era * 400 + year) } else { (month - 9, era * 400 + year + 1) };
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(utc_text(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc_text(951_826_154), "2000-02-29T12:09:14Z");
        assert_eq!(utc_text(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(utc_text(1_735_689_599), "2024-12-31T23:59:59Z");
    }
}
