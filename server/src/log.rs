//! Logs requests on standard error: as text for people at a terminal, for programs as the core's lines of JSON. The
//! lines of one round of the event loop are written together.

use std::{
    cell::RefCell,
    fmt::Write,
    io::{ErrorKind, IsTerminal, Stderr, Write as _},
};

use clap::ValueEnum;
use outlive::record::{AttemptRecord, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How the node logs requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// As text if standard error is a terminal, else as JSON.
    Auto,
    /// A line of text, in colours on a terminal unless NO_COLOR is set.
    Text,
    /// A line of JSON.
    Json,
}

impl LogFormat {
    /// Logs records in this format. Lines wait for [`flush`].
    pub fn logger(self) -> impl Fn(&Record) {
        let is_text = match self {
            Self::Auto => std::io::stderr().is_terminal(),
            Self::Text => true,
            Self::Json => false,
        };
        let colours = has_colours(&std::io::stderr());
        move |record| {
            let line = if is_text { text(record, colours) } else { record.line() };
            let is_full = LINES.with_borrow_mut(|lines| {
                lines.extend_from_slice(line.as_bytes());
                lines.push(b'\n');
                lines.len() > MAX_WAITING_BYTES
            });
            if is_full {
                flush();
            }
        }
    }
}

/// Bytes of lines that are written although the node is not idle.
const MAX_WAITING_BYTES: usize = 16 * 1024;

/// Most bytes of lines that are kept while standard error takes none.
const MAX_KEPT_BYTES: usize = 1024 * 1024;

/// Bytes of one write: a pipe that can be written takes as many at once (`PIPE_BUF` of Linux).
const PIECE_BYTES: usize = 4096;

thread_local! {
    /// The lines that wait to be written.
    static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes a line for the operator.
pub fn say(line: impl std::fmt::Display) {
    LINES.with_borrow_mut(|lines| {
        // Writing to memory never fails.
        let _ = writeln!(lines, "{line}");
    });
    flush();
}

/// Writes the lines that wait. The node calls it before it waits for anything, so a line waits for a moment only.
///
/// A reader of standard error that hangs or is gone must not stop the node: what does not fit waits, and is lost in the
/// end.
pub fn flush() {
    LINES.with_borrow_mut(|lines| {
        let stderr = std::io::stderr();
        let mut written = 0;
        while let Some(piece) = lines.get(written..).filter(|rest| !rest.is_empty() && takes_bytes(&stderr)) {
            match stderr.lock().write(piece.get(..PIECE_BYTES).unwrap_or(piece)) {
                Ok(bytes) if bytes > 0 => written += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The operator has closed standard error.
                Ok(_) | Err(_) => written = lines.len(),
            }
        }
        lines.drain(..written);
        if lines.len() > MAX_KEPT_BYTES {
            lines.clear();
        }
    });
}

/// Whether a write does not wait.
fn takes_bytes(stderr: &Stderr) -> bool {
    let mut descriptors = [PollFd::new(stderr, PollFlags::OUT)];
    // If the system can't tell, the write does.
    poll(&mut descriptors, Some(&Timespec::default())).map_or(true, |ready| ready > 0)
}

/// Whether output to `stream` is coloured (<https://no-color.org>).
pub fn has_colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const RED: u8 = 31;
const DIM: u8 = 2;

/// The line of a request, and an indented line for each call that failed.
fn text(record: &Record, colours: bool) -> String {
    let paint = |code: u8, text: &str| {
        // Parts of a text may come from a client, whose control characters must not reach the terminal.
        let text: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
        if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text }
    };
    let colour = match record.outcome {
        "answered" => GREEN,
        "failed" => RED,
        _ => YELLOW,
    };
    let started = record.started_at.to_rfc3339();
    let time = started.get(11..19).unwrap_or_default();
    let model = match record.calls.iter().find(|call| call.outcome == "ok") {
        Some(call) => format!("{} by {}", record.model, call.candidate),
        None => record.model.clone(),
    };
    let usage = record.usage();
    let mut facts = format!(
        "{}{}, {} + {} tokens, ${}, {:.2} s",
        record.format,
        if record.stream { " stream" } else { "" },
        usage.total_input(),
        usage.output,
        record.cost(),
        record.duration.as_secs_f64()
    );
    // Writing to a string never fails, here and below.
    if let Some(first) = record.time_to_first_content {
        let _ = write!(facts, ", first content {:.2} s", first.as_secs_f64());
    }
    if !record.caller.is_empty() {
        let _ = write!(facts, ", key {}", record.caller);
    }
    let mut lines = format!(
        "{} {} {model}  {}",
        paint(DIM, time),
        paint(colour, &format!("{:<11}", record.outcome)),
        paint(DIM, &facts)
    );
    for call in record.calls.iter().filter(|call| call.cause.is_some()) {
        let _ = write!(lines, "\n{INDENT}{}", paint(RED, &failure(call)));
    }
    if let Some(content) = &record.content {
        let _ = write!(lines, "\n{INDENT}{}", paint(DIM, &format!("request {}", content.request)));
        let _ = write!(lines, "\n{INDENT}{}", paint(DIM, &format!("answer {}", content.answer)));
    }
    lines
}

/// The width of the time and a space.
const INDENT: &str = "         ";

fn failure(call: &AttemptRecord) -> String {
    let cause = call.cause.as_deref().unwrap_or_default();
    let text = call.text.as_ref().map(|text| format!(" ({text})")).unwrap_or_default();
    format!("{}: {cause}{text}, after {:.2} s", call.candidate, call.duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outlive::{
        model::Candidate,
        money::NanoUsd,
        time::Timestamp,
        usage::{Usage, UsageSource},
    };

    use super::*;

    #[test]
    fn a_request_is_a_line_and_each_failed_call_another() {
        let call = |provider: &str, outcome, cause: Option<&str>| AttemptRecord {
            candidate: Candidate { provider: provider.into(), model: "m".into() },
            span: String::new(),
            was_sent: true,
            outcome,
            status: None,
            cause: cause.map(str::to_owned),
            text: cause.map(|_| "gone\x1b[2J".into()),
            started_at: Timestamp(0),
            duration: Duration::from_millis(20),
            usage: Usage { input: 3, output: 2, ..Usage::default() },
            usage_source: UsageSource::Provider,
            cost: NanoUsd(1_500),
            dropped: Vec::new(),
        };
        let record = Record {
            id: "1".into(),
            trace: None,
            span: String::new(),
            format: "chat",
            model: "default".into(),
            caller: "me".into(),
            stream: true,
            outcome: "answered",
            started_at: Timestamp(1_700_000_000_000),
            duration: Duration::from_millis(1_234),
            time_to_first_content: Some(Duration::from_millis(500)),
            rescues: 0,
            calls: vec![call("a", "server", Some("connection refused")), call("b", "ok", None)],
            content: None,
        };
        assert_eq!(
            text(&record, false),
            "22:13:20 answered    default by b/m  chat stream, 6 + 4 tokens, $0.000003, 1.23 s, first content 0.50 s, \
             key me\n         a/m: connection refused (gone [2J), after 0.02 s"
        );
        assert!(text(&record, true).contains("\x1b[32manswered"));
        assert!(!text(&record, true).contains("\x1b[2J"));
    }
}
