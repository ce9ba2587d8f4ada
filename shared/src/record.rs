//! Describes a request that has ended, and writes it as a line of JSON. Exporting it as spans is left to the shells.

use std::time::Duration;

use serde::Serialize;

use crate::{
    model::Candidate,
    money::NanoUsd,
    time::Timestamp,
    trace::Trace,
    usage::{Usage, UsageSource},
};

/// A request that has ended, and its upstream calls. It holds content only if the configuration sets `log_content`.
#[derive(Clone, Debug)]
pub struct Record {
    /// The request's id.
    pub id: String,
    /// The client's trace, if it sent one.
    pub trace: Option<Trace>,
    /// The request's span id: 16 hexadecimal digits.
    pub span: String,
    /// The wire format's name.
    pub format: &'static str,
    /// The model that the client requested.
    pub model: String,
    /// The name of the caller's key.
    pub caller: String,
    /// Whether the client requested a stream.
    pub stream: bool,
    /// `answered`, `failed`, `interrupted` or, if the client disconnected, `cancelled`.
    pub outcome: &'static str,
    /// When the request arrived.
    pub started_at: Timestamp,
    /// From `started_at` to the end of the answer.
    pub duration: Duration,
    /// From `started_at` to the first content.
    pub time_to_first_content: Option<Duration>,
    /// How often an interrupted answer was continued by another call.
    pub rescues: u64,
    /// The upstream calls, in the order in which they ended.
    pub calls: Vec<AttemptRecord>,
    /// The request's and the answer's text, if the configuration sets `log_content`.
    pub content: Option<Content>,
}

/// One upstream call.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    /// The candidate that was called.
    pub candidate: Candidate,
    /// The call's span id, as sent to the provider: 16 hexadecimal digits.
    pub span: String,
    /// Whether the request was sent to the provider.
    pub was_sent: bool,
    /// `ok`, `cancelled` or the name of the error's class.
    pub outcome: &'static str,
    /// The HTTP status, if the provider answered with an error.
    pub status: Option<u16>,
    /// Why the call failed, in the node's words.
    pub cause: Option<String>,
    /// The provider's own text about it, if the configuration sets `log_content`.
    pub text: Option<Box<str>>,
    /// When the call began.
    pub started_at: Timestamp,
    /// From `started_at` to the end of the call.
    pub duration: Duration,
    /// The tokens it is billed for.
    pub usage: Usage,
    /// Where these are known from.
    pub usage_source: UsageSource,
    /// What it cost.
    pub cost: NanoUsd,
    /// The fields of the client's request that it left out.
    pub dropped: Vec<String>,
}

/// The text of a request and its answer, each truncated to [`MAX_CONTENT_BYTES`].
#[derive(Clone, Debug, Serialize)]
pub struct Content {
    /// The request's body.
    pub request: String,
    /// The answer's text, followed by its tool calls.
    pub answer: String,
}

/// Longest text that is logged: Workers keep 256 KB of a request's log lines.
pub const MAX_CONTENT_BYTES: usize = 32 * 1024;

impl Content {
    /// Truncates `text` to [`MAX_CONTENT_BYTES`], at a character boundary.
    pub(crate) fn cut(text: &str) -> String {
        text.get(..text.floor_char_boundary(MAX_CONTENT_BYTES)).unwrap_or_default().to_owned()
    }
}

impl Record {
    /// The tokens of all calls together.
    pub fn usage(&self) -> Usage {
        self.calls.iter().fold(Usage::default(), |mut sum, call| {
            sum += call.usage;
            sum
        })
    }

    /// Where the tokens are known from: estimated if those of any call are.
    pub fn usage_source(&self) -> UsageSource {
        self.calls.iter().map(|call| call.usage_source).max().unwrap_or_default()
    }

    /// The cost of all calls together.
    pub fn cost(&self) -> NanoUsd {
        self.calls.iter().fold(NanoUsd(0), |sum, call| sum.saturating_add(call.cost))
    }

    /// The record as a line of JSON.
    pub fn line(&self) -> String {
        let usage = self.usage();
        let line = RecordLine {
            event: "request",
            id: &self.id,
            trace_id: self.trace.as_ref().map(|trace| trace.id.as_str()),
            format: self.format,
            model: &self.model,
            key: &self.caller,
            stream: self.stream,
            outcome: self.outcome,
            attempts: self.calls.iter().map(AttemptLine::of).collect(),
            rescues: self.rescues,
            dropped: self.calls.last().map_or(&[], |call| &call.dropped),
            input_tokens: usage.total_input(),
            output_tokens: usage.output,
            usage_source: self.usage_source().name(),
            cost_usd: self.cost().to_string(),
            first_ms: self.time_to_first_content.map(millis),
            total_ms: millis(self.duration),
            content: self.content.as_ref(),
        };
        // Strings and numbers always serialise.
        serde_json::to_string(&line).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct RecordLine<'a> {
    event: &'static str,
    id: &'a str,
    trace_id: Option<&'a str>,
    format: &'static str,
    model: &'a str,
    key: &'a str,
    stream: bool,
    outcome: &'static str,
    attempts: Vec<AttemptLine<'a>>,
    rescues: u64,
    /// What the last call left out of the client's request.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    dropped: &'a [String],
    input_tokens: u64,
    output_tokens: u64,
    usage_source: &'static str,
    cost_usd: String,
    first_ms: Option<u64>,
    total_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a Content>,
}

#[derive(Serialize)]
struct AttemptLine<'a> {
    candidate: String,
    outcome: &'static str,
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    ms: u64,
}

impl<'a> AttemptLine<'a> {
    fn of(call: &'a AttemptRecord) -> Self {
        let AttemptRecord { candidate, outcome, status, cause, text, duration, .. } = call;
        Self {
            candidate: candidate.to_string(),
            outcome,
            status: *status,
            cause: cause.as_deref(),
            text: text.as_deref(),
            ms: millis(*duration),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
