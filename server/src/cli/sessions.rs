//! `outlive sessions`: looks at sessions, takes them out of a node and into another, and checks that they are whole.

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
    Nodes,
    client::{Call, Client},
};
use export::{Pages, import};
use verify::Verified;

/// Look at sessions, and move them.
#[derive(Args)]
pub(crate) struct Sessions {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One line for each session.
    List {
        #[command(flatten)]
        nodes: Nodes,
    },
    /// All that is known of a session.
    Show {
        /// The session: sess_… or conv_….
        #[arg(value_parser = parse_id)]
        id: String,
        #[command(flatten)]
        nodes: Nodes,
    },
    /// Write a session's entries as JSON Lines.
    Export {
        /// The session: sess_… or conv_….
        #[arg(value_parser = parse_id)]
        id: String,
        /// Where to; the standard output without it.
        file: Option<PathBuf>,
        #[command(flatten)]
        nodes: Nodes,
    },
    /// Check that each entry follows from the one before, and that each body is what its entry says.
    Verify {
        /// A file that was exported, - for the standard input, or a session: sess_… or conv_….
        what: String,
        #[command(flatten)]
        nodes: Nodes,
    },
    /// Take exported entries in. What is there already changes nothing.
    Import {
        /// The file that was exported.
        file: PathBuf,
        #[command(flatten)]
        nodes: Nodes,
    },
}

impl Sessions {
    pub(crate) fn run(self) -> Result<(), String> {
        listen::block_on(self.command.run()).map_err(|error| error.to_string())?
    }
}

impl Command {
    async fn run(self) -> Result<(), String> {
        match self {
            Self::List { nodes } => list(&nodes.client()?).await,
            Self::Show { id, nodes } => {
                let session = ask(&nodes.client()?, &format!("/v1/sessions/{id}")).await?;
                print(&format!("{session:#}"))
            }
            Self::Export { id, file, nodes } => export(&nodes.client()?, &id, file.as_deref()).await,
            Self::Verify { what, nodes } => {
                let verified = match parse_id(&what) {
                    Ok(id) if !Path::new(&what).exists() => verify_session(&nodes.client()?, &id).await?,
                    _ => verify_file(&what)?,
                };
                print(&verified.to_string())
            }
            Self::Import { file, nodes } => {
                let name = file.display().to_string();
                // Nothing is sent of a file that is not whole.
                verify_file(&name)?;
                let (appended, known) = import(&nodes.client()?, lines(&name)?).await?;
                print(&format!("{appended} entries taken in, {known} were there"))
            }
        }
    }
}

async fn list(client: &Client) -> Result<(), String> {
    let mut pages = Pages::new("/v1/sessions".into());
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
                time(count("last_active_at")),
                count("items"),
                count("turns"),
                count("entries"),
                text("owner"),
            );
            print(line.trim_end())?;
        }
    }
    Ok(())
}

async fn export(client: &Client, id: &str, file: Option<&Path>) -> Result<(), String> {
    let Some(file) = file else { return write_entries(client, id, &mut stdout().lock()).await.map(drop) };
    let wrong = |error: std::io::Error| format!("{}: {error}", file.display());
    // Under another name until it is whole.
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut out = private(&part).map_err(wrong)?;
    let verified = write_entries(client, id, &mut out).await?;
    out.sync_all().and_then(|()| std::fs::rename(&part, file)).map_err(wrong)?;
    eprintln!("{verified}");
    Ok(())
}

async fn write_entries(client: &Client, id: &str, out: &mut impl Write) -> Result<Verified, String> {
    let mut verified = Verified::default();
    let mut pages = Pages::new(format!("/v1/sessions/{id}/entries"));
    while let Some(page) = pages.next(client).await? {
        for entry in page {
            let line = entry.to_string();
            verified.apply(&line)?;
            writeln!(out, "{line}").map_err(|error| error.to_string())?;
        }
    }
    Ok(verified)
}

async fn verify_session(client: &Client, id: &str) -> Result<Verified, String> {
    write_entries(client, id, &mut std::io::sink()).await
}

fn verify_file(name: &str) -> Result<Verified, String> {
    let mut verified = Verified::default();
    for line in lines(name)? {
        verified.apply(&line?).map_err(|why| format!("{name}: {why}"))?;
    }
    if verified.is_empty() { Err(format!("{name}: there is no entry in it")) } else { Ok(verified) }
}

/// The lines of a file.
fn lines(name: &str) -> Result<impl Iterator<Item = Result<String, String>>, String> {
    let wrong = |error: std::io::Error| format!("{name}: {error}");
    let input: Box<dyn BufRead> = match name {
        "-" => Box::new(BufReader::new(stdin())),
        _ => Box::new(BufReader::new(File::open(name).map_err(wrong)?)),
    };
    let name = name.to_owned();
    Ok(input.lines().map(move |line| line.map_err(|error| format!("{name}: {error}"))))
}

async fn ask(client: &Client, path: &str) -> Result<Value, String> {
    client.ask(&Call::get(path)).await.map_err(|error| error.to_string())
}

fn print(line: &str) -> Result<(), String> {
    writeln!(stdout().lock(), "{line}").map_err(|error| error.to_string())
}

/// A session's id; a conversation's is another name for it.
fn parse_id(text: &str) -> Result<String, String> {
    let log = text.strip_prefix("sess_").or_else(|| text.strip_prefix("conv_"));
    match log.filter(|log| log.len() == 32 && log.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        Some(log) => Ok(format!("sess_{log}")),
        None => Err("allowed: sess_ or conv_ and 32 hexadecimal digits".into()),
    }
}

/// Makes a file that only this user can read: it holds conversations.
fn private(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// A time as RFC 3339 writes it, in UTC.
fn time(unix_seconds: u64) -> String {
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
    fn times_are_read_by_people() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(951_826_154), "2000-02-29T12:09:14Z");
        assert_eq!(time(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(time(1_735_689_599), "2024-12-31T23:59:59Z");
    }
}
