//! Decides which text and notes of a turn's events are shown, so that no word appears twice. Writes nothing itself.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What the terminal writes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ScreenOutput {
    /// More of the answer.
    Text(String),
    /// A line about the answer.
    Note(String),
}

/// What the user has seen of one turn.
///
/// A node that can't continue an answer starts it again, with the same output indexes. Nothing is shown as long as the
/// new text repeats the old.
#[derive(Debug, Default)]
pub(super) struct Screen {
    /// The text shown of each output item, by output index.
    shown_text: BTreeMap<u64, String>,
    /// The item that is being repeated, by output index, and its text so far.
    repetition: Option<(u64, String)>,
    shown_notes: BTreeSet<String>,
}

/// Longest text of a tool call's arguments or error in a note.
const MAX_DETAIL_CHARS: usize = 120;

impl Screen {
    /// What `event` adds to the screen.
    pub(super) fn apply(&mut self, event: &Value) -> Vec<ScreenOutput> {
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
        let index = event.get("output_index").and_then(Value::as_u64).unwrap_or_default();
        match text("type") {
            "response.output_item.added" => {
                let item = event.get("item").unwrap_or(&Value::Null);
                let mut outputs = self.item_added(index, item_type(item) == "message");
                if item_type(item) == "mcp_call" {
                    outputs.extend(self.note_once(format!("{} …", call_label(item))));
                }
                outputs
            }
            "response.output_text.delta" | "response.refusal.delta" => self.text_delta(index, text("delta")),
            "response.output_text.done" | "response.refusal.done" => self.text_done(index),
            "response.output_item.done" => {
                let note = event.get("item").and_then(call_result);
                note.and_then(|note| self.note_once(note)).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn item_added(&mut self, index: u64, is_message: bool) -> Vec<ScreenOutput> {
        // An index that is already on the screen means that the answer starts again.
        if self.shown_text.contains_key(&index) {
            if is_message {
                self.repetition = Some((index, String::new()));
                return Vec::new();
            }
            return self.start_over(index, None);
        }
        if !is_message {
            return Vec::new();
        }
        let previous = self.shown_text.values().next_back();
        let needs_line_break = previous.is_some_and(|text| !text.is_empty() && !text.ends_with('\n'));
        self.shown_text.insert(index, String::new());
        if needs_line_break { vec![ScreenOutput::Text("\n".into())] } else { Vec::new() }
    }

    fn text_delta(&mut self, index: u64, delta: &str) -> Vec<ScreenOutput> {
        let shown = self.shown_text.entry(index).or_default();
        let Some((_, repeated)) = self.repetition.as_mut().filter(|(at, _)| *at == index) else {
            shown.push_str(delta);
            return vec![ScreenOutput::Text(delta.to_owned())];
        };
        repeated.push_str(delta);
        if shown.starts_with(repeated.as_str()) {
            return Vec::new();
        }
        // The repetition is longer than what is shown, or different from it.
        let repeated = std::mem::take(repeated);
        self.repetition = None;
        match repeated.strip_prefix(shown.as_str()) {
            Some(new) => {
                let new = new.to_owned();
                *shown = repeated;
                vec![ScreenOutput::Text(new)]
            }
            None => self.start_over(index, Some(repeated)),
        }
    }

    /// A repetition that ends before all shown text was repeated is a different answer.
    fn text_done(&mut self, index: u64) -> Vec<ScreenOutput> {
        match self.repetition.take() {
            Some((at, repeated)) if at == index && self.shown_text.get(&index) != Some(&repeated) => {
                self.start_over(index, Some(repeated))
            }
            Some((at, repeated)) if at != index => {
                self.repetition = Some((at, repeated));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// Discards the shown text from item `index` on, and shows `text` in its place.
    fn start_over(&mut self, index: u64, text: Option<String>) -> Vec<ScreenOutput> {
        self.shown_text.retain(|at, _| *at < index);
        let mut outputs = vec![ScreenOutput::Note("the answer starts over".into())];
        if let Some(text) = text {
            outputs.push(ScreenOutput::Text(text.clone()));
            self.shown_text.insert(index, text);
        }
        outputs
    }

    fn note_once(&mut self, note: String) -> Option<ScreenOutput> {
        self.shown_notes.insert(note.clone()).then_some(ScreenOutput::Note(note))
    }
}

fn item_type(item: &Value) -> &str {
    item.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// A tool call as `server.function(arguments)`.
fn call_label(item: &Value) -> String {
    let text = |name: &str| item.get(name).and_then(Value::as_str);
    let server = text("server_label").map(|label| format!("{label}.")).unwrap_or_default();
    let arguments = truncate(text("arguments").unwrap_or_default());
    format!("{server}{}({arguments})", text("name").unwrap_or_default())
}

/// The note for a finished item; `None` unless it is a call.
fn call_result(item: &Value) -> Option<String> {
    let result = match item_type(item) {
        "function_call" | "mcp_approval_request" => "waits for you".to_owned(),
        "mcp_call" => match item.get("error").filter(|error| !error.is_null()) {
            Some(error) => {
                let message = error.as_str().map_or_else(|| error.to_string(), str::to_owned);
                format!("failed: {}", truncate(&message))
            }
            None => item.get("status").and_then(Value::as_str).unwrap_or("completed").to_owned(),
        },
        _ => return None,
    };
    Some(format!("{}: {result}", call_label(item)))
}

fn truncate(text: &str) -> String {
    let mut truncated: String = text.chars().take(MAX_DETAIL_CHARS).collect();
    if truncated.len() < text.len() {
        truncated.push('…');
    }
    truncated
}

/// The line after a turn: provider, model, tokens and cost, as far as the response has them.
pub(super) fn usage_line(response: &Value) -> String {
    let text = |path: &str| response.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    let extension = |name: &str| text(&format!("/x-outlive/{name}"));
    let mut parts: Vec<String> = Vec::new();
    match (extension("provider"), extension("model").or(text("/model"))) {
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

    /// Compares everything that is shown, with notes in brackets.
    fn check(events: &[Value], expected: &str) {
        let mut screen = Screen::default();
        let outputs = events.iter().flat_map(|event| screen.apply(event));
        let shown: String = outputs
            .map(|output| match output {
                ScreenOutput::Text(text) => text,
                ScreenOutput::Note(note) => format!("[{note}]"),
            })
            .collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn repeated_text_is_shown_once() {
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
    fn different_text_is_announced_and_shown_whole() {
        let again = "[the answer starts over]";
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
    fn each_note_about_a_call_is_shown_once() {
        let call = |status: &str, error: Value| {
            json!({"type": "mcp_call", "server_label": "files", "name": "read", "arguments": "{\"path\":\"x\"}",
                   "status": status, "error": error})
        };
        let event = |suffix: &str, item: Value| {
            let name = format!("response.output_item.{suffix}");
            json!({"type": name, "output_index": 0, "item": item})
        };
        let events = [
            event("added", call("in_progress", Value::Null)),
            event("done", call("completed", Value::Null)),
            event("done", call("completed", Value::Null)),
        ];
        check(&events, r#"[files.read({"path":"x"}) …][files.read({"path":"x"}): completed]"#);
        check(&[event("done", call("failed", json!("gone")))], r#"[files.read({"path":"x"}): failed: gone]"#);
    }

    #[test]
    fn the_usage_line_has_what_the_response_has() {
        let usage = json!({"input_tokens": 12, "output_tokens": 34});
        let whole = json!({"model": "m-1", "usage": usage,
                           "x-outlive": {"provider": "openai", "model": "m", "cost_usd": "0.0012"}});
        assert_eq!(usage_line(&whole), "openai/m · 12 + 34 tokens · $0.0012");
        assert_eq!(usage_line(&json!({"model": "m-1", "usage": usage})), "m-1 · 12 + 34 tokens");
        assert_eq!(usage_line(&json!({"usage": null})), "");
    }
}
