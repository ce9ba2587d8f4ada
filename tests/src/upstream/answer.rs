//! What the upstream says, for each behaviour, as a script of bytes and pauses.

use std::{iter, net::SocketAddr, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};

use super::Behaviour;

/// An answer, and how it goes wrong.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    /// What the head announces; `None`: chunked.
    pub(super) length: Option<usize>,
    /// Where the script begins.
    pub(super) start: Start,
    pub(super) steps: Vec<Step>,
}

/// Where an answer begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Start {
    Head,
    /// Only half of the head is sent.
    HalfHead,
    /// No head is sent.
    Nothing,
}

#[derive(Debug)]
pub(super) enum Step {
    /// Bytes of the body, in one write.
    Send(Vec<u8>),
    Wait(Duration),
    /// The connection is reset.
    Reset,
}

/// Longer than anybody waits, so that whoever sees the end of it has no clock.
const HOLD: Duration = Duration::from_secs(60);

/// Time for what was sent to be read: a reset overtakes it.
const BEFORE_RESET: Duration = Duration::from_millis(100);

/// Between signs of life.
const KEEPALIVE: Duration = Duration::from_millis(200);

/// More than any line of a stream, and than any answer's first event, may have.
const ENDLESS_BYTES: usize = 8 * 1024 * 1024;

/// The pieces of a good answer; the last characters have two and four bytes.
pub const WORDS: [&str; 5] = ["All", " is", " well", " é", "🙂"];

/// What the answer to a request depends on. Whatever else it holds is not looked at, however odd it is.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Question {
    #[serde(default)]
    pub(super) model: String,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

pub(super) fn to(behaviour: Behaviour, question: &Question, elsewhere: SocketAddr) -> Answer {
    if let Some(refusal) = refuse(behaviour, elsewhere) {
        return refusal;
    }
    if question.stream == Some(true) { stream(behaviour, question) } else { whole(behaviour, question) }
}

/// The answers with another status than 200, which a stream is not different in.
fn refuse(behaviour: Behaviour, elsewhere: SocketAddr) -> Option<Answer> {
    use Behaviour as B;
    let html = |status, text: &str| {
        Answer::new(status, "text/html; charset=utf-8", format!("<html><h1>{text}</h1></html>"))
    };
    Some(match behaviour {
        B::Limited => Answer::error(429, "requests", "rate_limit_exceeded", None).with("retry-after", "7"),
        B::LimitedMs => {
            Answer::error(429, "tokens", "rate_limit_exceeded", None).with("retry-after-ms", "1500")
        }
        B::Broken => html(500, "500 Internal Server Error"),
        B::Overloaded => {
            Answer::error(503, "server_error", "server_is_overloaded", None).with("retry-after", "3")
        }
        B::Overloaded529 => Answer::error(529, "overloaded_error", "overloaded", None),
        B::Quota => Answer::error(402, "insufficient_quota", "insufficient_quota", None),
        B::BadKey => Answer::error(401, "invalid_request_error", "invalid_api_key", None),
        B::Gone => Answer::error(404, "invalid_request_error", "model_not_found", None),
        B::CallerError => {
            Answer::error(400, "invalid_request_error", "decimal_above_max_value", Some("temperature"))
        }
        B::Context => {
            Answer::error(400, "invalid_request_error", "context_length_exceeded", Some("messages"))
        }
        B::Redirect => {
            html(307, "Moved").with("location", &format!("http://{elsewhere}/v1/chat/completions"))
        }
        B::Silent => Answer { start: Start::Nothing, ..Answer::hold() },
        B::StallHeaders => Answer { start: Start::HalfHead, ..Answer::hold() },
        B::StallBody => Answer::hold(),
        B::Html200 => html(200, "Welcome"),
        B::Empty200 => Answer::new(200, "application/json", String::new()),
        _ => return None,
    })
}

fn whole(behaviour: Behaviour, question: &Question) -> Answer {
    use Behaviour as B;
    let body = completion(behaviour, question).to_string();
    let (half, full) = (body.as_bytes()[..body.len() / 2].to_vec(), body.len());
    let answer = |length, steps| Answer { length, steps, ..Answer::new(200, JSON, String::new()) };
    match behaviour {
        B::Early => answer(Some(full), vec![Step::Wait(BEFORE_RESET), Step::Reset]),
        B::Halfway => answer(Some(full), vec![Step::Send(half), Step::Wait(BEFORE_RESET), Step::Reset]),
        B::StallMiddle => answer(Some(full), vec![Step::Send(half), Step::Wait(HOLD), Step::Reset]),
        B::KeepaliveOnly | B::KeepaliveMiddle => answer(None, keepalives(b"\n")),
        B::EofMiddle | B::TornMiddle | B::HalfJson => answer(None, vec![Step::Send(half)]),
        B::ErrorFirst | B::ErrorMiddle => Answer::new(200, JSON, in_band().to_string()),
        B::EndlessLine | B::EndlessMiddle => Answer::new(200, JSON, "x".repeat(ENDLESS_BYTES)),
        B::Bytewise => answer(None, bytewise(body.into_bytes())),
        _ => Answer::new(200, JSON, body),
    }
}

fn stream(behaviour: Behaviour, question: &Question) -> Answer {
    use Behaviour as B;
    let events = Events { model: &question.model };
    let usage = question.stream_options.as_ref().is_some_and(|options| options.include_usage);
    let role = events.delta(json!({"role": "assistant", "content": "", "refusal": null}));
    let words = WORDS.map(|word| events.delta(json!({"content": word})));
    let begun = || [role.clone(), words[0].clone(), words[1].clone()].map(Step::Send);
    let end = |reason: &str| {
        let mut end = vec![events.chunk(json!([{"index": 0, "delta": {}, "finish_reason": reason}]), None)];
        if usage {
            end.push(events.chunk(json!([]), Some(USAGE)));
        }
        end.push(b"data: [DONE]\n\n".to_vec());
        end
    };
    let good = || [vec![role.clone()], words.to_vec(), end("stop")].concat();
    let send = |events: Vec<Vec<u8>>| events.into_iter().map(Step::Send).collect::<Vec<_>>();
    let after = |steps: Vec<Step>| begun().into_iter().chain(steps).collect::<Vec<_>>();
    let line_end = |end: &str| {
        let text = String::from_utf8_lossy(&good().concat()).replace('\n', end);
        text.split_inclusive(&end.repeat(2)).map(|event| event.as_bytes().to_vec()).collect()
    };
    let steps = match behaviour {
        B::Early => vec![Step::Send(role), Step::Wait(BEFORE_RESET), Step::Reset],
        B::KeepaliveOnly => iter::once(Step::Send(role)).chain(keepalives(b": keep-alive\n\n")).collect(),
        B::KeepaliveMiddle => after(keepalives(b": keep-alive\n\n")),
        B::Halfway => after(vec![Step::Wait(BEFORE_RESET), Step::Reset]),
        B::StallMiddle => after(vec![Step::Wait(HOLD), Step::Reset]),
        B::EofMiddle => after(vec![]),
        B::TornMiddle => {
            let mut torn = words[2][..words[2].len() / 2].to_vec();
            torn.extend_from_slice(&words[3]);
            after([vec![torn], end("stop")].concat().into_iter().map(Step::Send).collect())
        }
        B::EndlessLine => vec![Step::Send(role), Step::Send(endless())],
        B::EndlessMiddle => after(vec![Step::Send(endless())]),
        B::ErrorFirst => send(vec![event(&in_band())]),
        B::ErrorMiddle => after(vec![Step::Send(event(&in_band()))]),
        B::HalfJson => vec![Step::Send(words[0][..words[0].len() / 2].to_vec())],
        B::NoDone => {
            let mut events = good();
            events.pop();
            send(events)
        }
        B::DoneThenOpen => send(good()).into_iter().chain([Step::Wait(HOLD)]).collect(),
        B::Slow => {
            let beats = (0..600).flat_map(|_| [Step::Send(words[0].clone()), Step::Wait(BEFORE_RESET)]);
            iter::once(Step::Send(role)).chain(beats).collect()
        }
        B::Bytewise => bytewise(good().concat()),
        B::Crlf => send(line_end("\r\n")),
        B::Cr => send(line_end("\r")),
        B::Comments => {
            let commented = good().into_iter().flat_map(|event| [b": PROCESSING\n\n".to_vec(), event]);
            send(commented.collect())
        }
        B::Tools => {
            let fragments = TOOL_FRAGMENTS.iter().map(|(index, id, name, arguments)| {
                let mut call = json!({"index": index, "function": {"arguments": arguments}});
                if !id.is_empty() {
                    call["id"] = json!(id);
                    call["type"] = json!("function");
                    call["function"]["name"] = json!(name);
                }
                events.delta(json!({"tool_calls": [call]}))
            });
            send([vec![role], fragments.collect(), end("tool_calls")].concat())
        }
        B::Refusal => {
            let words = ["I can't", " do that."].map(|word| events.delta(json!({"refusal": word})));
            send([vec![role], words.to_vec(), end("stop")].concat())
        }
        _ => send(good()),
    };
    Answer { length: None, steps, ..Answer::new(200, "text/event-stream; charset=utf-8", String::new()) }
}

const JSON: &str = "application/json";

/// The fragments of two calls: index, id and name (in the first only), arguments.
const TOOL_FRAGMENTS: [(u64, &str, &str, &str); 6] = [
    (0, "call_1", "weather", ""),
    (0, "", "", "{\"city\":"),
    (1, "call_2", "clock", ""),
    (0, "", "", " \"Zürich\"}"),
    (1, "", "", "{\"zone\": "),
    (1, "", "", "\"CET\"}"),
];

/// Tokens in and out.
const USAGE: (u64, u64) = (7, 5);

fn usage((input, output): (u64, u64)) -> Value {
    json!({
        "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    })
}

fn completion(behaviour: Behaviour, question: &Question) -> Value {
    let mut message =
        json!({"role": "assistant", "content": WORDS.concat(), "refusal": null, "annotations": []});
    let mut reason = "stop";
    match behaviour {
        Behaviour::Tools => {
            message["content"] = Value::Null;
            message["tool_calls"] = json!([
                {"id": "call_1", "type": "function",
                 "function": {"name": "weather", "arguments": "{\"city\": \"Zürich\"}"}},
                {"id": "call_2", "type": "function",
                 "function": {"name": "clock", "arguments": "{\"zone\": \"CET\"}"}},
            ]);
            reason = "tool_calls";
        }
        Behaviour::Refusal => {
            message["content"] = Value::Null;
            message["refusal"] = json!("I can't do that.");
        }
        _ => {}
    }
    json!({
        "id": "chatcmpl-C0nf0rm", "object": "chat.completion", "created": 1_700_000_000, "model": question.model,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": reason}],
        "usage": usage(USAGE), "service_tier": "default", "system_fingerprint": "fp_0",
    })
}

/// The events of one stream.
struct Events<'a> {
    model: &'a str,
}

impl Events<'_> {
    fn delta(&self, delta: Value) -> Vec<u8> {
        self.chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}]), None)
    }

    fn chunk(&self, choices: Value, tokens: Option<(u64, u64)>) -> Vec<u8> {
        event(&json!({
            "id": "chatcmpl-C0nf0rm", "object": "chat.completion.chunk", "created": 1_700_000_000,
            "model": self.model, "service_tier": "default", "system_fingerprint": "fp_0",
            "choices": choices, "usage": tokens.map(usage),
        }))
    }
}

fn event(data: &Value) -> Vec<u8> {
    format!("data: {data}\n\n").into_bytes()
}

/// An error where an answer should be.
fn in_band() -> Value {
    json!({"error": {"message": "The server had an error.", "type": "server_error", "param": null, "code": null}})
}

fn endless() -> Vec<u8> {
    [b"data: ".to_vec(), vec![b'x'; ENDLESS_BYTES]].concat()
}

fn bytewise(bytes: Vec<u8>) -> Vec<Step> {
    bytes.into_iter().map(|byte| Step::Send(vec![byte])).collect()
}

/// Signs of life for [`HOLD`].
fn keepalives(text: &[u8]) -> Vec<Step> {
    let count = HOLD.as_millis() / KEEPALIVE.as_millis();
    let beats = (0..count).flat_map(|_| [Step::Send(text.to_vec()), Step::Wait(KEEPALIVE)]);
    beats.chain([Step::Reset]).collect()
}

impl Answer {
    fn new(status: u16, content_type: &str, body: String) -> Self {
        Self {
            status,
            headers: vec![("content-type", content_type.to_owned())],
            length: Some(body.len()),
            start: Start::Head,
            steps: vec![Step::Send(body.into_bytes())],
        }
    }

    fn error(status: u16, kind: &str, code: &str, param: Option<&str>) -> Self {
        let message = "the scripted upstream refuses";
        let body = json!({"error": {"message": message, "type": kind, "param": param, "code": code}});
        Self::new(status, JSON, body.to_string())
    }

    /// A stream whose body does not come.
    fn hold() -> Self {
        let steps = vec![Step::Wait(HOLD), Step::Reset];
        Self { length: None, steps, ..Self::new(200, "text/event-stream; charset=utf-8", String::new()) }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}
