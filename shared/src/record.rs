//! What became of a request: a line of JSON on every host, and spans where a host exports them.

use std::time::Duration;

use serde::Serialize;

use crate::{model::Candidate, money::NanoUsd, time::Timestamp, trace::Trace, usage::Usage};

/// A request that has ended, and the calls that were made for it. Nothing that was said is in it, unless the configuration
/// has `log_content`.
#[derive(Clone, Debug)]
pub struct Record {
    /// The request's id.
    pub id: String,
    /// The trace that its client has begun, if it has.
    pub trace: Option<Trace>,
    /// Its own id within a trace: 16 hexadecimal digits.
    pub span: String,
    /// The wire format's name.
    pub format: &'static str,
    /// The model that was asked.
    pub model: String,
    /// Whose key it came with.
    pub caller: String,
    /// Whether the answer came in pieces.
    pub stream: bool,
    /// `answered`, `failed`, `interrupted` or, when the client left, `cancelled`.
    pub outcome: &'static str,
    /// When it came.
    pub started_at: Timestamp,
    /// From then to its end.
    pub duration: Duration,
    /// From then to its first content.
    pub time_to_first_content: Option<Duration>,
    /// How often an answer that broke off was taken up again.
    pub rescues: u64,
    /// The calls of providers, in the order in which they ended.
    pub calls: Vec<AttemptRecord>,
    /// What was said, if that is to be known.
    pub content: Option<Content>,
}

/// One call of a provider.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    /// Who was called.
    pub candidate: Candidate,
    /// Its id within the trace: 16 hexadecimal digits, as the provider sees it.
    pub span: String,
    /// Whether anything was sent.
    pub was_sent: bool,
    /// `ok`, `cancelled` or the class of its error.
    pub outcome: &'static str,
    /// The status of an error.
    pub status: Option<u16>,
    /// When it began.
    pub started_at: Timestamp,
    /// From then to its end.
    pub duration: Duration,
    /// The tokens it used.
    pub usage: Usage,
    /// What it cost.
    pub cost: NanoUsd,
}

/// What was said, each part cut to [`MAX_CONTENT_BYTES`].
#[derive(Clone, Debug, Serialize)]
pub struct Content {
    /// The request's body.
    pub request: String,
    /// The words of the answer, and its calls.
    pub answer: String,
}

/// Most of a text that is logged: Workers keep 256 KB of a request's lines.
pub const MAX_CONTENT_BYTES: usize = 32 * 1024;

impl Content {
    /// The beginning of a text, at most [`MAX_CONTENT_BYTES`] of it.
    pub(crate) fn cut(text: &str) -> String {
        text.get(..text.floor_char_boundary(MAX_CONTENT_BYTES)).unwrap_or_default().to_owned()
    }
}

impl Record {
    /// The tokens of all calls.
    pub fn usage(&self) -> Usage {
        self.calls.iter().fold(Usage::default(), |mut sum, call| {
            sum += call.usage;
            sum
        })
    }

    /// The cost of all calls.
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
            input_tokens: usage.total_input(),
            output_tokens: usage.output,
            cost_usd: self.cost().to_string(),
            first_ms: self.time_to_first_content.map(millis),
            total_ms: millis(self.duration),
            content: self.content.as_ref(),
        };
        // Names and numbers can always be written.
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
    attempts: Vec<AttemptLine>,
    rescues: u64,
    input_tokens: u64,
    output_tokens: u64,
    cost_usd: String,
    first_ms: Option<u64>,
    total_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a Content>,
}

#[derive(Serialize)]
struct AttemptLine {
    candidate: String,
    outcome: &'static str,
    status: Option<u16>,
    ms: u64,
}

impl AttemptLine {
    fn of(call: &AttemptRecord) -> Self {
        let AttemptRecord { candidate, outcome, status, duration: took, .. } = call;
        Self { candidate: candidate.to_string(), outcome, status: *status, ms: millis(*took) }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
