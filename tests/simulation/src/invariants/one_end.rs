//! Every request ends in exactly one terminal event, and an answer that claims to be whole is.

use std::fmt;

use serde_json::Value;

use crate::{
    client::{End, Seen},
    provider::{PAID, words},
    world::World,
};

/// An answer to a chat request, as a client understands it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    pub(crate) status: Option<u16>,
    /// Who answered.
    pub(crate) provider: Option<String>,
    /// The text, as far as it came.
    text: String,
    /// Terminal events: `[DONE]` or an error; a whole JSON answer is one too.
    done: usize,
    errors: usize,
    /// The answer says that it was taken up again.
    rescued: bool,
    /// Something came after a terminal event.
    trailing: bool,
    raw: String,
}

impl Outcome {
    pub(crate) fn of(seen: Seen, stream: bool) -> Self {
        let raw = String::from_utf8_lossy(&seen.body).into_owned();
        let head = seen.head.as_ref();
        let status = head.map(|head| head.status.as_u16());
        let header = head.and_then(|head| head.headers.get("x-outlive-provider")?.to_str().ok());
        let mut outcome = Self {
            end: seen.end,
            status,
            provider: header.map(str::to_owned),
            text: String::new(),
            done: 0,
            errors: 0,
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
            self.rescued |= chunk.get("x-outlive").is_some();
            self.text +=
                chunk.pointer("/choices/0/delta/content").and_then(Value::as_str).unwrap_or_default();
        }
    }

    /// Whether the client has its answer.
    pub(crate) fn is_whole(&self) -> bool {
        self.end == End::Clean && self.status == Some(200) && self.done == 1 && self.errors == 0
    }

    /// Whether a stream broke after it had begun.
    pub(crate) fn is_broken(&self) -> bool {
        self.end == End::Clean && self.status == Some(200) && self.errors == 1
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { end, status, provider, text, done, errors, .. } = self;
        write!(f, "{end:?} {status:?} by {provider:?}: {text:?}, {done} done, {errors} errors")
    }
}

pub(crate) fn one_end(world: &World, content: &str, stream: bool, outcome: &Outcome) {
    let bad = |why: &str| world.violation(format_args!("client {content}: {why}; {outcome}"));
    if outcome.raw.contains("canary-secret") {
        bad("the provider's text was shown");
    }
    // Who takes an answer up puts its own name at the end.
    let begun = outcome.provider.as_deref().map(|name| words(name, content).concat());
    let expected: Vec<String> = (0..world.schedule.providers.len())
        .map(|number| format!("p{number}"))
        .chain([PAID.to_owned()])
        .map(|name| words(&name, content).concat())
        .filter(|text| outcome.rescued || outcome.done == 0 || begun.as_ref() == Some(text))
        .collect();
    if !outcome.text.is_empty() && !expected.iter().any(|text| text.starts_with(&outcome.text)) {
        bad("the text is not what the provider said");
    }
    match outcome.end {
        End::Left => world.saw("clients that left"),
        End::Cut => world.saw("connections that a crash cut"),
        End::Down => {}
        End::Clean => {
            if outcome.done + outcome.errors != 1 || outcome.trailing {
                bad("there is not exactly one terminal event, as the last");
            }
            if outcome.rescued {
                world.saw("answers that were taken up again");
            }
            if outcome.done == 1 && !expected.contains(&outcome.text) {
                bad("the answer claims to be whole and is not");
            }
            if stream && outcome.is_broken() {
                world.saw("streams that broke, and said so");
            }
        }
    }
}
