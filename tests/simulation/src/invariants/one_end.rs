//! Checks that a request ends in exactly one terminal event, and that an answer with a clean end is whole.

use std::fmt;

use serde_json::Value;

use crate::{
    client::{PartialResponse, ResponseEnd},
    provider::{PRICED, THINKER, answer_words},
    world::World,
};

/// The answer to a chat request, as its client reads it.
#[derive(Debug)]
pub(crate) struct ChatOutcome {
    pub(crate) end: ResponseEnd,
    pub(crate) status: Option<u16>,
    /// The provider that the answer names.
    pub(crate) provider: Option<String>,
    /// The text, as far as it came.
    text: String,
    /// Terminal events: `[DONE]` or an error; a whole JSON answer is one too.
    done: usize,
    errors: usize,
    /// The answer ended because the client's limit was reached.
    at_limit: bool,
    /// The answer has the mark of a rescue.
    rescued: bool,
    /// An event came after a terminal event.
    trailing: bool,
    raw: String,
}

impl ChatOutcome {
    /// Reads a response to a request that asked for a stream or not.
    pub(crate) fn of(received: PartialResponse, stream: bool) -> Self {
        let raw = String::from_utf8_lossy(&received.body).into_owned();
        let head = received.head.as_ref();
        let status = head.map(|head| head.status.as_u16());
        let header = head.and_then(|head| head.headers.get("x-outlive-provider")?.to_str().ok());
        let mut outcome = Self {
            end: received.end,
            status,
            provider: header.map(str::to_owned),
            text: String::new(),
            done: 0,
            errors: 0,
            at_limit: false,
            rescued: false,
            trailing: false,
            raw,
        };
        let raw = outcome.raw.clone();
        if stream && status == Some(200) {
            raw.split("\n\n")
                .filter_map(|event| event.strip_prefix("data: "))
                .for_each(|data| outcome.event(data));
        } else if let Ok(body) = serde_json::from_str::<Value>(&raw) {
            outcome.errors = usize::from(body.get("error").is_some());
            let text = body.pointer("/choices/0/message/content").and_then(Value::as_str);
            outcome.done = usize::from(text.is_some());
            outcome.text = text.unwrap_or_default().to_owned();
        }
        outcome
    }

    fn event(&mut self, data: &str) {
        self.trailing |= self.done + self.errors > 0;
        let chunk = serde_json::from_str::<Value>(data).unwrap_or_default();
        if data == "[DONE]" {
            self.done += 1;
        } else if chunk.get("error").is_some() {
            self.errors += 1;
        } else {
            let reason = chunk.pointer("/choices/0/finish_reason").and_then(Value::as_str);
            self.at_limit |= reason == Some("length");
            self.rescued |= chunk.get("x-outlive").is_some();
            self.text +=
                chunk.pointer("/choices/0/delta/content").and_then(Value::as_str).unwrap_or_default();
        }
    }

    /// Whether the client has its answer.
    pub(crate) fn is_whole(&self) -> bool {
        self.end == ResponseEnd::Clean && self.status == Some(200) && self.done == 1 && self.errors == 0
    }

    /// Whether the stream began and ended with an error.
    pub(crate) fn is_broken(&self) -> bool {
        self.end == ResponseEnd::Clean && self.status == Some(200) && self.errors == 1
    }
}

impl fmt::Display for ChatOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { end, status, provider, text, done, errors, .. } = self;
        write!(f, "{end:?} {status:?} by {provider:?}: {text:?}, {done} done, {errors} errors")
    }
}

/// Checks the outcome of a chat request.
pub(crate) fn one_end(world: &World, content: &str, stream: bool, outcome: &ChatOutcome) {
    let bad = |why: &str| world.violation(format_args!("client {content}: {why}; {outcome}"));
    if outcome.raw.contains("canary-secret") {
        // The clients of the simulation are admins, who may see a provider's text.
        bad("a key in a provider's error text was shown");
    }
    // A provider that continues an answer of another one puts its own name at the end.
    let by_first_provider = outcome.provider.as_deref().map(|name| answer_words(name, content).concat());
    let expected: Vec<String> = (0..world.plan.providers.len())
        .map(|number| format!("p{number}"))
        .chain([PRICED, THINKER].map(str::to_owned))
        .map(|name| answer_words(&name, content).concat())
        .filter(|text| outcome.rescued || outcome.done == 0 || by_first_provider.as_ref() == Some(text))
        .collect();
    if !outcome.text.is_empty() && !expected.iter().any(|text| text.starts_with(&outcome.text)) {
        bad("the text is not a beginning of what the provider sent");
    }
    // A client that disconnected or was cut off has no claim to a terminal event.
    match outcome.end {
        ResponseEnd::Left => world.count("clients that disconnected"),
        ResponseEnd::Cut => world.count("connections cut by a crash"),
        ResponseEnd::Down => {}
        ResponseEnd::Clean => {
            if outcome.done + outcome.errors != 1 || outcome.trailing {
                bad("there is not exactly one terminal event at the end");
            }
            if outcome.rescued {
                world.count("rescued answers");
            }
            // Only the requests of the priced provider have a limit. An answer that broke off close to it ends there.
            let at_limit = outcome.at_limit && content.starts_with(PRICED);
            if at_limit {
                world.count("answers that broke off at the client's limit");
            } else if outcome.done == 1 && !expected.contains(&outcome.text) {
                bad("the answer ended cleanly and is not whole");
            }
            if stream && outcome.is_broken() {
                world.count("streams that ended with an error event");
            }
        }
    }
}
