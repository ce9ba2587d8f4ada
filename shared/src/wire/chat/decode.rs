//! Decodes answers to chat completions requests into deltas.

use std::{borrow::Cow, collections::BTreeSet};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    error::{ErrorClass, ProviderError},
    json::{IsPresent, LossyStr},
    usage::Usage,
    wire::{
        Signal,
        decoder::{no_error, parse_answer, truncated_json},
        delta::{Delta, Stop},
        openai::{InputDetails, OutputDetails, usage},
    },
};

/// Decodes one answer stream: classifies each event and extracts its deltas.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Choices without a finish reason so far.
    open: BTreeSet<u64>,
    /// Any choice has finished.
    finished: bool,
    /// The start was sent to the sink.
    started: bool,
    /// The vendor's index and the id of each call.
    calls: Vec<(u64, String)>,
}

impl Decoder {
    /// Classifies the event with this data; `sink` receives what it adds to the first choice, in order.
    pub fn decode(&mut self, data: &[u8], sink: &mut dyn FnMut(Delta<'_>)) -> Signal {
        if data == b"[DONE]" {
            return Signal::Done;
        }
        let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(data) else {
            return truncated_json();
        };
        if let Err(error) = no_error(chunk.error) {
            return Signal::Error(error);
        }
        let mut signal = Signal::Frame;
        for mut choice in chunk.choices.into_iter().flatten() {
            if !self.started {
                self.started = true;
                sink(Delta::Start { id: chunk.id.0.clone(), model: chunk.model.0.clone() });
            }
            let delta = choice.delta.take().unwrap_or_default();
            // Content of further choices counts for the signal, since the client gets their chunks, but has no delta.
            if delta.is_content() && signal == Signal::Frame {
                signal = Signal::Content;
            }
            if choice.index == 0 {
                self.delta(delta, sink);
            }
            if choice.finish_reason.0.is_empty() {
                self.open.insert(choice.index);
                continue;
            }
            if choice.index == 0 {
                sink(Delta::Stop(stop(&choice.finish_reason.0, !self.calls.is_empty())));
            }
            self.open.remove(&choice.index);
            self.finished = true;
            signal = Signal::Finish;
        }
        if let Some(usage) = chunk.usage {
            sink(Delta::Usage(usage.into()));
        }
        signal
    }

    /// Whether every choice has finished, so that the answer is complete without `[DONE]`, which some compatible
    /// servers leave out.
    pub fn is_complete(&self) -> bool {
        self.finished && self.open.is_empty()
    }

    fn delta(&mut self, delta: MessageJson<'_>, sink: &mut dyn FnMut(Delta<'_>)) {
        for text in [delta.reasoning_content.0, delta.reasoning.0] {
            if !text.is_empty() {
                sink(Delta::Reasoning(text));
            }
        }
        if !delta.content.0.is_empty() {
            sink(Delta::Text(delta.content.0));
        }
        if !delta.refusal.0.is_empty() {
            sink(Delta::Refusal(delta.refusal.0));
        }
        for call in delta.tool_calls.into_iter().flatten() {
            self.call(call, sink);
        }
    }

    /// Assigns a fragment to the call of its index. Servers with Mistral's dialect leave the index out and mean the
    /// last call; others give every call the index 0 and an id of its own.
    fn call(&mut self, call: ToolCallJson<'_>, sink: &mut dyn FnMut(Delta<'_>)) {
        let function = call.function.unwrap_or_default();
        let id = call.id.0;
        let known = match call.index {
            Some(index) => self.calls.iter().rposition(|(known, _)| *known == index),
            None => self.calls.len().checked_sub(1),
        };
        let same = |at: &usize| id.is_empty() || self.calls.get(*at).is_some_and(|(_, known)| *known == *id);
        let index = known.filter(same).unwrap_or_else(|| {
            let index = self.calls.len();
            self.calls.push((call.index.unwrap_or(index as u64), id.to_string()));
            sink(Delta::Call { index, id: id.clone(), name: function.name.0 });
            index
        });
        let json = function.arguments.map(arguments).unwrap_or_default();
        if !json.is_empty() {
            sink(Delta::Arguments { index, json });
        }
    }
}

/// Reads arguments: a string with JSON, or from some servers the object itself.
fn arguments(raw: &RawValue) -> Cow<'_, str> {
    match raw.get() {
        "null" => Cow::Borrowed(""),
        text if text.starts_with('"') => serde_json::from_str::<LossyStr<'_>>(text).unwrap_or_default().0,
        text => Cow::Borrowed(text),
    }
}

/// Reads a finish reason. Some servers send `stop` after a call. `length` always stays, since the call may be
/// truncated.
fn stop(reason: &str, has_calls: bool) -> Stop {
    match reason {
        "length" => Stop::Length,
        "content_filter" => Stop::Filter,
        "tool_calls" | "function_call" => Stop::ToolCalls,
        _ if has_calls => Stop::ToolCalls,
        _ => Stop::End,
    }
}

/// Decodes a completion that is not streamed. Fails if the body is not one: vendors and their proxies send HTML, empty
/// bodies, truncated JSON and errors with status 200.
pub fn decode_whole(body: &[u8], sink: &mut dyn FnMut(Delta<'_>)) -> Result<(), ProviderError> {
    let answer: Chunk<'_> = parse_answer(body, "a chat completion")?;
    no_error(answer.error)?;
    let choices = answer.choices.unwrap_or_default();
    if choices.is_empty() || choices.iter().any(|choice| choice.message.is_none()) {
        return Err(ProviderError::new(
            ErrorClass::Server,
            "the provider's completion has no choices or no message",
        ));
    }
    sink(Delta::Start { id: answer.id.0, model: answer.model.0 });
    let mut decoder = Decoder::default();
    if let Some(choice) = choices.into_iter().next() {
        decoder.delta(choice.message.unwrap_or_default(), sink);
        sink(Delta::Stop(stop(&choice.finish_reason.0, !decoder.calls.is_empty())));
    }
    if let Some(usage) = answer.usage {
        sink(Delta::Usage(usage.into()));
    }
    Ok(())
}

/// A chunk of a stream, or a completion that is not streamed.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    id: LossyStr<'a>,
    #[serde(borrow, default)]
    model: LossyStr<'a>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    usage: Option<Counts>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow, default)]
    delta: Option<MessageJson<'a>>,
    #[serde(borrow, default)]
    message: Option<MessageJson<'a>>,
    #[serde(borrow, default)]
    finish_reason: LossyStr<'a>,
}

#[derive(Default, Deserialize)]
struct MessageJson<'a> {
    #[serde(borrow, default)]
    content: LossyStr<'a>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<ToolCallJson<'a>>>,
    #[serde(borrow, default)]
    refusal: LossyStr<'a>,
    /// DeepSeek's name for reasoning.
    #[serde(borrow, default)]
    reasoning_content: LossyStr<'a>,
    /// OpenRouter's name for reasoning.
    #[serde(borrow, default)]
    reasoning: LossyStr<'a>,
    #[serde(default)]
    function_call: IsPresent,
    #[serde(default)]
    audio: IsPresent,
}

impl MessageJson<'_> {
    /// Whether it has a piece of an answer, in any field.
    fn is_content(&self) -> bool {
        let Self { content, tool_calls, refusal, reasoning_content, reasoning, function_call, audio } = self;
        let has_text = [content, refusal, reasoning_content, reasoning].iter().any(|text| !text.0.is_empty());
        has_text || function_call.0 || audio.0 || tool_calls.as_ref().is_some_and(|calls| !calls.is_empty())
    }
}

#[derive(Deserialize)]
struct ToolCallJson<'a> {
    #[serde(default)]
    index: Option<u64>,
    #[serde(borrow, default)]
    id: LossyStr<'a>,
    #[serde(borrow, default)]
    function: Option<Function<'a>>,
}

#[derive(Default, Deserialize)]
struct Function<'a> {
    #[serde(borrow, default)]
    name: LossyStr<'a>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
}

/// The token counts of OpenAI and DeepSeek. Any of them may be missing or null.
#[derive(Deserialize)]
struct Counts {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<InputDetails>,
    #[serde(default)]
    completion_tokens_details: Option<OutputDetails>,
    /// DeepSeek's name for cached tokens.
    #[serde(default)]
    prompt_cache_hit_tokens: Option<u64>,
}

impl From<Counts> for Usage {
    fn from(counts: Counts) -> Self {
        let mut details = counts.prompt_tokens_details.unwrap_or_default();
        details.cached_tokens = details.cached_tokens.or(counts.prompt_cache_hit_tokens);
        usage(counts.prompt_tokens, Some(details), counts.completion_tokens, counts.completion_tokens_details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deltas(events: &[&str]) -> Vec<Delta<'static>> {
        let (mut decoder, mut deltas) = (Decoder::default(), Vec::new());
        for data in events {
            let signal = decoder.decode(data.as_bytes(), &mut |delta| deltas.push(delta.into_owned()));
            assert!(!matches!(signal, Signal::Error(_)), "{data}: {signal:?}");
        }
        deltas
    }

    #[test]
    fn events_are_classified() {
        let mut decoder = Decoder::default();
        let mut check = |data: &str, expected: Signal| {
            assert_eq!(decoder.decode(data.as_bytes(), &mut |_| ()), expected, "{data}");
        };
        check(r#"{"choices":[],"prompt_filter_results":[]}"#, Signal::Frame);
        check(
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
            Signal::Frame,
        );
        check(r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#, Signal::Content);
        check(r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#, Signal::Content);
        check(r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#, Signal::Content);
        check(r#"{"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}"#, Signal::Finish);
        check(r#"{"choices":[],"usage":{}}"#, Signal::Frame);
        check("[DONE]", Signal::Done);
        assert!(!decoder.is_complete(), "choice 0 is still open");
        decoder.decode(br#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#, &mut |_| ());
        assert!(decoder.is_complete());
        for (data, class) in [
            (r#"{"error":{"code":429}}"#, ErrorClass::RateLimited),
            (r#"{"error":{"type":"overloaded_error"}}"#, ErrorClass::Overloaded),
            (r#"{"error":"oops"}"#, ErrorClass::Server),
            (r#"{"choices":[{"del"#, ErrorClass::Truncated),
        ] {
            let Signal::Error(error) = decoder.decode(data.as_bytes(), &mut |_| ()) else { panic!("{data}") };
            assert_eq!(error.class, class, "{data}");
        }
    }

    #[test]
    fn calls_are_distinguished_in_every_dialect() {
        let two = vec![
            Delta::Start { id: "c".into(), model: "m".into() },
            Delta::Call { index: 0, id: "a".into(), name: "f".into() },
            Delta::Arguments { index: 0, json: "{}".into() },
            Delta::Call { index: 1, id: "b".into(), name: "g".into() },
            Delta::Arguments { index: 1, json: "{\"x\":1}".into() },
        ];
        let chunk = |calls: &str| {
            format!(
                r#"{{"id":"c","model":"m","choices":[{{"index":0,"delta":{{"tool_calls":[{calls}]}}}}]}}"#
            )
        };
        let by_index = [
            chunk(r#"{"index":0,"id":"a","function":{"name":"f","arguments":""}}"#),
            chunk(r#"{"index":0,"function":{"arguments":"{}"}}"#),
            chunk(r#"{"index":1,"id":"b","function":{"name":"g","arguments":null}}"#),
            chunk(r#"{"index":1,"function":{"arguments":"{\"x\":1}"}}"#),
        ];
        let without_index = [
            chunk(r#"{"id":"a","function":{"name":"f","arguments":"{}"}}"#),
            chunk(r#"{"id":"b","function":{"name":"g","arguments":{"x":1}}}"#),
        ];
        let always_zero = [
            chunk(r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}"#),
            chunk(r#"{"index":0,"id":"b","function":{"name":"g","arguments":"{\"x\":1}"}}"#),
        ];
        for events in [by_index.as_slice(), &without_index, &always_zero] {
            assert_eq!(deltas(&events.iter().map(String::as_str).collect::<Vec<_>>()), two);
        }
    }

    #[test]
    fn input_tokens_exclude_cached_and_written_ones() {
        let usage = |counts: &str| {
            let deltas = deltas(&[&format!(r#"{{"choices":[],"usage":{counts}}}"#)]);
            let Some(Delta::Usage(usage)) = deltas.first() else { panic!("{counts}") };
            *usage
        };
        let expected = Usage { input: 6, cache_read: 4, output: 5, reasoning: 2, ..Usage::default() };
        assert_eq!(
            usage(
                r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}"#
            ),
            expected
        );
        assert_eq!(
            usage(
                r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_cache_hit_tokens":4,"prompt_cache_miss_tokens":6,"completion_tokens_details":null}"#
            ),
            Usage { reasoning: 0, ..expected }
        );
        assert_eq!(
            usage(
                r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":1,"cache_write_tokens":7}}"#
            ),
            Usage { input: 2, cache_read: 1, cache_write: 7, output: 5, ..Usage::default() }
        );
    }

    #[test]
    fn bodies_that_are_no_completion_are_errors() {
        let check = |body: &[u8]| decode_whole(body, &mut |_| ());
        assert_eq!(check(b"\n\n{\"choices\":[{\"message\":{}}]}"), Ok(()));
        for bad in [
            "",
            " \n",
            "<html>",
            "{\"choices\":[",
            "{}",
            "{\"choices\":[]}",
            "{\"choices\":[{}]}",
            "[]",
            "null",
        ] {
            assert_eq!(check(bad.as_bytes()).unwrap_err().class, ErrorClass::Server, "{bad}");
        }
        assert_eq!(
            check(br#"{"error":{"code":"rate_limit_exceeded"}}"#).unwrap_err().class,
            ErrorClass::RateLimited
        );
    }
}
