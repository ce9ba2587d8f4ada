//! The answer to a chat completions request, as deltas.

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

/// Follows one answer stream: says what each event is, and what it adds.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Choices that have begun and not yet finished.
    open: BTreeSet<u64>,
    finished: bool,
    started: bool,
    /// The vendor's index of each call, and its id.
    calls: Vec<(u64, String)>,
}

impl Decoder {
    /// What the event with this data is. `sink` gets what it adds to the first choice, in order.
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

    /// Whether every choice was finished, so that the end of the connection is the end of the answer. Some compatible
    /// servers leave `[DONE]` out.
    pub fn is_complete(&self) -> bool {
        self.finished && self.open.is_empty()
    }

    fn delta(&mut self, delta: Message<'_>, sink: &mut dyn FnMut(Delta<'_>)) {
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

    /// A fragment belongs to the call of its index. Servers in Mistral's dialect leave the index out and mean the last
    /// call; some give every call the index 0 and another id.
    fn call(&mut self, call: ToolCall<'_>, sink: &mut dyn FnMut(Delta<'_>)) {
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

/// Arguments are a string of JSON; some servers send the object itself.
fn arguments(raw: &RawValue) -> Cow<'_, str> {
    match raw.get() {
        "null" => Cow::Borrowed(""),
        text if text.starts_with('"') => serde_json::from_str::<LossyStr<'_>>(text).unwrap_or_default().0,
        text => Cow::Borrowed(text),
    }
}

/// Some servers say `stop` after a call; a `length` is never turned into anything else, since the call may be cut.
fn stop(word: &str, called: bool) -> Stop {
    match word {
        "length" => Stop::Length,
        "content_filter" => Stop::Filter,
        "tool_calls" | "function_call" => Stop::ToolCalls,
        _ if called => Stop::ToolCalls,
        _ => Stop::End,
    }
}

/// Whether a whole answer is one, and what it says: vendors and the proxies before them send HTML, nothing, half a
/// JSON, or an error with status 200.
pub fn decode_whole(body: &[u8], sink: &mut dyn FnMut(Delta<'_>)) -> Result<(), ProviderError> {
    let answer: Chunk<'_> = parse_answer(body, "a chat completion")?;
    no_error(answer.error)?;
    let choices = answer.choices.unwrap_or_default();
    if choices.is_empty() || choices.iter().any(|choice| choice.message.is_none()) {
        return Err(ProviderError::new(
            ErrorClass::Server,
            "the provider answered a completion without choices",
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

/// A chunk of a stream, and a whole answer.
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
    delta: Option<Message<'a>>,
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(borrow, default)]
    finish_reason: LossyStr<'a>,
}

#[derive(Default, Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: LossyStr<'a>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
    #[serde(borrow, default)]
    refusal: LossyStr<'a>,
    /// DeepSeek's name.
    #[serde(borrow, default)]
    reasoning_content: LossyStr<'a>,
    /// OpenRouter's.
    #[serde(borrow, default)]
    reasoning: LossyStr<'a>,
    #[serde(default)]
    function_call: IsPresent,
    #[serde(default)]
    audio: IsPresent,
}

impl Message<'_> {
    fn is_content(&self) -> bool {
        let Self { content, tool_calls, refusal, reasoning_content, reasoning, function_call, audio } = self;
        let words = [content, refusal, reasoning_content, reasoning].iter().any(|words| !words.0.is_empty());
        words || function_call.0 || audio.0 || tool_calls.as_ref().is_some_and(|calls| !calls.is_empty())
    }
}

#[derive(Deserialize)]
struct ToolCall<'a> {
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

/// What OpenAI and DeepSeek call their counts. All of them may be missing or null.
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
    /// DeepSeek's.
    #[serde(default)]
    prompt_cache_hit_tokens: Option<u64>,
}

impl From<Counts> for Usage {
    fn from(counts: Counts) -> Self {
        let cached = counts.prompt_tokens_details.and_then(|details| details.cached_tokens);
        let cached = cached.or(counts.prompt_cache_hit_tokens);
        usage(counts.prompt_tokens, cached, counts.completion_tokens, counts.completion_tokens_details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deltas(events: &[&str]) -> Vec<Delta<'static>> {
        let (mut decoder, mut seen) = (Decoder::default(), Vec::new());
        for data in events {
            let signal = decoder.decode(data.as_bytes(), &mut |delta| seen.push(delta.into_owned()));
            assert!(!matches!(signal, Signal::Error(_)), "{data}: {signal:?}");
        }
        seen
    }

    #[test]
    fn events_have_their_signal() {
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
    fn calls_are_told_apart_in_every_dialect() {
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
    fn counts_do_not_overlap() {
        let usage = |counts: &str| {
            let seen = deltas(&[&format!(r#"{{"choices":[],"usage":{counts}}}"#)]);
            let Some(Delta::Usage(usage)) = seen.first() else { panic!("{counts}") };
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
    }

    #[test]
    fn an_answer_must_be_one() {
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
