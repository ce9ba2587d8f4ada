use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What is to be shown next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// More of the answer.
    Text(String),
    /// A line about it.
    Note(String),
}

/// Decides what of a turn's events is shown, so that no word is shown twice.
///
/// A node that could not continue an answer begins it anew, under the same numbers. As long as it says the same words again,
/// nothing is shown.
#[derive(Debug, Default)]
pub(super) struct Screen {
    /// What was shown of each item.
    said: BTreeMap<u64, String>,
    /// The item that is said anew, and how far.
    anew: Option<(u64, String)>,
    /// Notes that were shown.
    noted: BTreeSet<String>,
}

/// Most characters of a call's arguments that are shown.
const MAX_ARGUMENTS: usize = 120;

impl Screen {
    /// What the event brings.
    pub(super) fn apply(&mut self, event: &Value) -> Vec<Show> {
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
        let index = event.get("output_index").and_then(Value::as_u64).unwrap_or_default();
        match text("type") {
            "response.output_item.added" => {
                let item = event.get("item").unwrap_or(&Value::Null);
                let mut shows = self.begin(index, kind(item) == "message");
                if kind(item) == "mcp_call" {
                    shows.extend(self.note(format!("{} …", named(item))));
                }
                shows
            }
            "response.output_text.delta" | "response.refusal.delta" => self.more(index, text("delta")),
            "response.output_text.done" | "response.refusal.done" => self.end(index),
            "response.output_item.done" => {
                let note = event.get("item").and_then(ended);
                note.and_then(|note| self.note(note)).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn begin(&mut self, index: u64, is_text: bool) -> Vec<Show> {
        if self.said.contains_key(&index) {
            if is_text {
                self.anew = Some((index, String::new()));
                return Vec::new();
            }
            return self.start_over(index, None);
        }
        if !is_text {
            return Vec::new();
        }
        let glued =
            self.said.values().next_back().is_some_and(|said| !said.is_empty() && !said.ends_with('\n'));
        self.said.insert(index, String::new());
        if glued { vec![Show::Text("\n".into())] } else { Vec::new() }
    }

    fn more(&mut self, index: u64, text: &str) -> Vec<Show> {
        let said = self.said.entry(index).or_default();
        let Some((_, again)) = self.anew.as_mut().filter(|(at, _)| *at == index) else {
            said.push_str(text);
            return vec![Show::Text(text.to_owned())];
        };
        again.push_str(text);
        if said.starts_with(again.as_str()) {
            return Vec::new();
        }
        let again = std::mem::take(again);
        self.anew = None;
        match again.strip_prefix(said.as_str()) {
            Some(new) => {
                let new = new.to_owned();
                *said = again;
                vec![Show::Text(new)]
            }
            None => self.start_over(index, Some(again)),
        }
    }

    /// An item that was said anew and is shorter than before is another one.
    fn end(&mut self, index: u64) -> Vec<Show> {
        match self.anew.take() {
            Some((at, again)) if at == index && self.said.get(&index) != Some(&again) => {
                self.start_over(index, Some(again))
            }
            Some((at, again)) if at != index => {
                self.anew = Some((at, again));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// What was shown from `index` on does not count any more.
    fn start_over(&mut self, index: u64, text: Option<String>) -> Vec<Show> {
        self.said.retain(|at, _| *at < index);
        let mut shows = vec![Show::Note("the answer was begun anew".into())];
        if let Some(text) = text {
            shows.push(Show::Text(text.clone()));
            self.said.insert(index, text);
        }
        shows
    }

    fn note(&mut self, note: String) -> Option<Show> {
        self.noted.insert(note.clone()).then_some(Show::Note(note))
    }
}

fn kind(item: &Value) -> &str {
    item.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// What a call is called.
fn named(item: &Value) -> String {
    let text = |name: &str| item.get(name).and_then(Value::as_str);
    let server = text("server_label").map(|label| format!("{label}.")).unwrap_or_default();
    let arguments = short(text("arguments").unwrap_or_default());
    format!("{server}{}({arguments})", text("name").unwrap_or_default())
}

/// The line for an item that has ended, if it gets one.
fn ended(item: &Value) -> Option<String> {
    let state = match kind(item) {
        "function_call" | "mcp_approval_request" => "waits for you".to_owned(),
        "mcp_call" => match item.get("error").filter(|error| !error.is_null()) {
            Some(error) => {
                let message = error.as_str().map_or_else(|| error.to_string(), str::to_owned);
                format!("failed: {}", short(&message))
            }
            None => item.get("status").and_then(Value::as_str).unwrap_or("completed").to_owned(),
        },
        _ => return None,
    };
    Some(format!("{}: {state}", named(item)))
}

fn short(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_ARGUMENTS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// The line after a turn: who answered, how much was used, what it cost.
pub(super) fn bill(response: &Value) -> String {
    let text = |path: &str| response.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    let mark = |name: &str| text(&format!("/x-outlive/{name}"));
    let mut parts: Vec<String> = Vec::new();
    match (mark("provider"), mark("model").or(text("/model"))) {
        (Some(provider), Some(model)) => parts.push(format!("{provider}/{model}")),
        (_, Some(model)) => parts.push(model.to_owned()),
        _ => {}
    }
    let count = |name: &str| response.pointer(&format!("/usage/{name}")).and_then(Value::as_u64);
    if let (Some(input), Some(output)) = (count("input_tokens"), count("output_tokens")) {
        parts.push(format!("{input} + {output} tokens"));
    }
    let cost = response.pointer("/x-outlive/cost_usd").filter(|cost| !cost.is_null());
    parts.extend(
        cost.map(|cost| format!("${}", cost.as_str().map_or_else(|| cost.to_string(), str::to_owned))),
    );
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn added(index: u64) -> Value {
        json!({"type": "response.output_item.added", "output_index": index, "item": {"type": "message"}})
    }

    fn delta(index: u64, text: &str) -> Value {
        json!({"type": "response.output_text.delta", "output_index": index, "delta": text})
    }

    fn done(index: u64) -> Value {
        json!({"type": "response.output_text.done", "output_index": index})
    }

    /// All that is shown, notes in brackets.
    fn check(events: &[Value], expected: &str) {
        let mut screen = Screen::default();
        let shows = events.iter().flat_map(|event| screen.apply(event));
        let shown: String = shows
            .map(|show| match show {
                Show::Text(text) => text,
                Show::Note(note) => format!("[{note}]"),
            })
            .collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn words_are_shown_once() {
        check(&[added(0), delta(0, "Hel"), delta(0, "lo"), done(0)], "Hello");
        check(&[added(0), delta(0, "a"), done(0), added(1), delta(1, "b"), done(1)], "a\nb");
        check(
            &[added(0), delta(0, "Hello "), added(0), delta(0, "Hel"), delta(0, "lo you"), done(0)],
            "Hello you",
        );
        check(
            &[
                added(0),
                delta(0, "a"),
                done(0),
                added(1),
                delta(1, "b"),
                added(0),
                delta(0, "a"),
                done(0),
                added(1),
                delta(1, "bc"),
                done(1),
            ],
            "a\nbc",
        );
    }

    #[test]
    fn other_words_are_marked_and_shown_whole() {
        let again = "[the answer was begun anew]";
        check(
            &[added(0), delta(0, "Hello"), added(0), delta(0, "He"), delta(0, "y"), done(0)],
            &format!("Hello{again}Hey"),
        );
        check(&[added(0), delta(0, "Hello"), added(0), delta(0, "He"), done(0)], &format!("Hello{again}He"));
        check(
            &[
                added(0),
                delta(0, "a"),
                done(0),
                added(1),
                delta(1, "b"),
                added(0),
                delta(0, "c"),
                done(0),
                added(1),
                delta(1, "d"),
            ],
            &format!("a\nb{again}c\nd"),
        );
    }

    #[test]
    fn calls_are_told_once() {
        let call = |status: &str, error: Value| {
            json!({"type": "mcp_call", "server_label": "files", "name": "read", "arguments": "{\"path\":\"x\"}",
                   "status": status, "error": error})
        };
        let event = |kind: &str, item: Value| json!({"type": format!("response.output_item.{kind}"), "output_index": 0, "item": item});
        let events = [
            event("added", call("in_progress", Value::Null)),
            event("done", call("completed", Value::Null)),
            event("done", call("completed", Value::Null)),
        ];
        check(&events, r#"[files.read({"path":"x"}) …][files.read({"path":"x"}): completed]"#);
        check(&[event("done", call("failed", json!("gone")))], r#"[files.read({"path":"x"}): failed: gone]"#);
    }

    #[test]
    fn the_bill_says_what_is_known() {
        let usage = json!({"input_tokens": 12, "output_tokens": 34});
        let whole = json!({"model": "m-1", "usage": usage,
                           "x-outlive": {"provider": "openai", "model": "m", "cost_usd": "0.0012"}});
        assert_eq!(bill(&whole), "openai/m · 12 + 34 tokens · $0.0012");
        assert_eq!(bill(&json!({"model": "m-1", "usage": usage})), "m-1 · 12 + 34 tokens");
        assert_eq!(bill(&json!({"usage": null})), "");
    }
}
