//! Plans the answer of each behaviour, as bytes and pauses. `connection.rs` sends it.

mod chat;
mod messages;
mod question;
mod responses;

use std::{iter, net::SocketAddr, time::Duration};

use serde_json::Value;

pub(super) use self::question::Question;
use super::Behaviour;

/// A planned answer, with its failure.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The error, if the request is refused for its own fault.
    pub(super) refusal: Option<String>,
    pub(super) headers: Vec<(&'static str, String)>,
    /// The announced length of the body in bytes; `None`: chunked.
    pub(super) length: Option<usize>,
    /// How much of the head is sent.
    pub(super) start: AnswerStart,
    pub(super) steps: Vec<AnswerStep>,
}

/// How much of the head is sent before the steps.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AnswerStart {
    Head,
    /// Half of the head.
    HalfHead,
    /// No byte of the head.
    Nothing,
}

/// A step after the head.
#[derive(Clone, Debug)]
pub(super) enum AnswerStep {
    /// Bytes of the body, in one write.
    Send(Vec<u8>),
    Wait(Duration),
    /// The connection is reset.
    Reset,
}

/// Longer than any client waits: a client that sees the end of it has no timeout.
const HOLD: Duration = Duration::from_secs(60);

/// Time for the client to read what was sent, because a reset discards it.
const BEFORE_RESET: Duration = Duration::from_millis(100);

/// Pause between the words of a steady answer.
const WORD_PAUSE: Duration = Duration::from_millis(500);

/// How long a model thinks: longer than the suite's timeouts of the first token and between events.
const THINKING: Duration = Duration::from_secs(4);

/// Pause between keep-alives.
const KEEPALIVE_PAUSE: Duration = Duration::from_millis(200);

/// More than the limit of a line of a stream and of the events before the first content.
const ENDLESS_BYTES: usize = 8 * 1024 * 1024;

/// The pieces of a good answer; the last characters have two and four bytes.
pub const WORDS: [&str; 5] = ["All", " is", " well", " é", "🙂"];

/// The number of words before an answer breaks in its middle.
const BROKEN_AFTER: usize = 2;

/// The pieces of an answer to a request with a schema.
const JSON_WORDS: [&str; 5] = ["{\"city\":", " \"Zürich\"", ", \"degrees\"", ": 21", "}"];

/// The pieces of an answer to a request with an image.
const IMAGE_WORDS: [&str; 5] = ["I", " see", " an", " image", "."];

/// The answer of a behaviour. `redirect_target` is where the behaviour `redirect` points to.
pub(super) fn to(behaviour: Behaviour, question: &Question, redirect_target: SocketAddr) -> Answer {
    if let Some(refusal) = refuse(behaviour, question.format, redirect_target) {
        return refusal;
    }
    if question.stream == Some(true) { stream(behaviour, question) } else { whole(behaviour, question) }
}

/// The answers that are the same with and without a stream: errors, and answers without a usable body.
fn refuse(behaviour: Behaviour, format: Format, redirect_target: SocketAddr) -> Option<Answer> {
    use Behaviour as B;
    let html = |status, text: &str| {
        Answer::new(status, "text/html; charset=utf-8", format!("<html><h1>{text}</h1></html>"))
    };
    Some(match behaviour {
        B::Limited => {
            Answer::error(format, 429, "requests", "rate_limit_exceeded", None).with("retry-after", "7")
        }
        B::LimitedMs => {
            Answer::error(format, 429, "tokens", "rate_limit_exceeded", None).with("retry-after-ms", "1500")
        }
        B::Broken => html(500, "500 Internal Server Error"),
        B::Overloaded => {
            Answer::error(format, 503, "server_error", "server_is_overloaded", None).with("retry-after", "3")
        }
        B::Overloaded529 => Answer::error(format, 529, "overloaded_error", "overloaded", None),
        B::Quota => Answer::error(format, 402, "insufficient_quota", "insufficient_quota", None),
        B::BadKey => Answer::error(format, 401, "invalid_request_error", "invalid_api_key", None),
        B::Gone => Answer::error(format, 404, "invalid_request_error", "model_not_found", None),
        B::CallerError => Answer::error(
            format,
            400,
            "invalid_request_error",
            "decimal_above_max_value",
            Some("temperature"),
        ),
        B::Context => {
            Answer::error(format, 400, "invalid_request_error", "context_length_exceeded", Some("messages"))
        }
        B::Policy => {
            Answer::error(format, 400, "invalid_request_error", "content_policy_violation", Some("messages"))
        }
        B::TooLarge => html(413, "413 Request Entity Too Large"),
        B::Redirect => {
            html(307, "Moved").with("location", &format!("http://{redirect_target}/v1/chat/completions"))
        }
        B::Silent => Answer { start: AnswerStart::Nothing, ..Answer::hold() },
        B::StallHeaders => Answer { start: AnswerStart::HalfHead, ..Answer::hold() },
        B::StallBody => Answer::hold(),
        B::Html200 => html(200, "Welcome"),
        B::Empty200 => Answer::new(200, "application/json", String::new()),
        _ => return None,
    })
}

/// An answer that is not streamed.
fn whole(behaviour: Behaviour, question: &Question) -> Answer {
    use Behaviour as B;
    let body = question.format.whole(behaviour, question).to_string();
    let (half, full) = (body.as_bytes()[..body.len() / 2].to_vec(), body.len());
    let answer = |length, steps| Answer { length, steps, ..Answer::new(200, JSON, String::new()) };
    match behaviour {
        B::Early => answer(Some(full), vec![AnswerStep::Wait(BEFORE_RESET), AnswerStep::Reset]),
        B::Halfway => answer(
            Some(full),
            vec![AnswerStep::Send(half), AnswerStep::Wait(BEFORE_RESET), AnswerStep::Reset],
        ),
        B::StallMiddle => {
            answer(Some(full), vec![AnswerStep::Send(half), AnswerStep::Wait(HOLD), AnswerStep::Reset])
        }
        B::Thinks => {
            let blanks = keepalives_for(THINKING, b"\n");
            answer(None, blanks.chain([AnswerStep::Send(body.into_bytes())]).collect())
        }
        B::KeepaliveOnly | B::KeepaliveMiddle => answer(None, keepalives(b"\n")),
        B::EofMiddle | B::TornMiddle | B::HalfJson => answer(None, vec![AnswerStep::Send(half)]),
        B::ErrorFirst | B::ErrorMiddle => Answer::new(200, JSON, question.format.in_band().to_string()),
        B::EndlessLine | B::EndlessMiddle => Answer::new(200, JSON, "x".repeat(ENDLESS_BYTES)),
        B::Bytewise => answer(None, bytewise(body.into_bytes())),
        _ => Answer::new(200, JSON, body),
    }
}

/// An answer of status 200 in JSON.
pub(super) fn json(body: &str) -> Answer {
    Answer::new(200, JSON, body.to_owned())
}

/// A streamed answer. The failures in the middle come after the opening and two words.
fn stream(behaviour: Behaviour, question: &Question) -> Answer {
    use Behaviour as B;
    let Pieces { opening, thoughts, words, tools, refusal, end, end_of_tools, end_of_refusal, error } =
        question.format.pieces(question);
    let opened = || [opening.clone(), words[0].clone(), words[1].clone()].map(AnswerStep::Send);
    let good = || [vec![opening.clone()], thoughts.clone(), words.clone(), end.clone()].concat();
    let send = |events: Vec<Vec<u8>>| events.into_iter().map(AnswerStep::Send).collect::<Vec<_>>();
    let after = |steps: Vec<AnswerStep>| opened().into_iter().chain(steps).collect::<Vec<_>>();
    let line_end = |end: &str| {
        let text = String::from_utf8_lossy(&good().concat()).replace('\n', end);
        text.split_inclusive(&end.repeat(2)).map(|event| event.as_bytes().to_vec()).collect()
    };
    let steps = match behaviour {
        B::Early => vec![AnswerStep::Send(opening), AnswerStep::Wait(BEFORE_RESET), AnswerStep::Reset],
        B::KeepaliveOnly => {
            iter::once(AnswerStep::Send(opening)).chain(keepalives(b": keep-alive\n\n")).collect()
        }
        B::Thinks => iter::once(AnswerStep::Send(opening.clone()))
            .chain(keepalives_for(THINKING, b": keep-alive\n\n"))
            .chain(send([words.clone(), end.clone()].concat()))
            .collect(),
        B::KeepaliveMiddle => after(keepalives(b": keep-alive\n\n")),
        B::Halfway => after(vec![AnswerStep::Wait(BEFORE_RESET), AnswerStep::Reset]),
        B::StallMiddle => after(vec![AnswerStep::Wait(HOLD), AnswerStep::Reset]),
        B::EofMiddle => after(vec![]),
        B::TornMiddle => {
            let mut torn = words[2][..words[2].len() / 2].to_vec();
            torn.extend_from_slice(&words[3]);
            after([vec![torn], end].concat().into_iter().map(AnswerStep::Send).collect())
        }
        B::EndlessLine => vec![AnswerStep::Send(opening), AnswerStep::Send(endless())],
        B::EndlessMiddle => after(vec![AnswerStep::Send(endless())]),
        B::ErrorFirst => send(vec![error]),
        B::ErrorMiddle => after(vec![AnswerStep::Send(error)]),
        B::HalfJson => vec![AnswerStep::Send(words[0][..words[0].len() / 2].to_vec())],
        B::NoDone => {
            let mut events = good();
            events.pop();
            send(events)
        }
        B::DoneThenOpen => send(good()).into_iter().chain([AnswerStep::Wait(HOLD)]).collect(),
        B::Slow => {
            let repeats =
                (0..600).flat_map(|_| [AnswerStep::Send(words[0].clone()), AnswerStep::Wait(BEFORE_RESET)]);
            iter::once(AnswerStep::Send(opening)).chain(repeats).collect()
        }
        B::Steady => {
            let paced = words
                .clone()
                .into_iter()
                .flat_map(|word| [AnswerStep::Wait(WORD_PAUSE), AnswerStep::Send(word)]);
            iter::once(AnswerStep::Send(opening)).chain(paced).chain(send(end)).collect()
        }
        B::Bytewise => bytewise(good().concat()),
        B::Crlf => send(line_end("\r\n")),
        B::Cr => send(line_end("\r")),
        B::Comments => {
            let commented = good().into_iter().flat_map(|event| [b": PROCESSING\n\n".to_vec(), event]);
            send(commented.collect())
        }
        B::Tools => send([vec![opening], tools, end_of_tools].concat()),
        B::Refusal => send([vec![opening], refusal, end_of_refusal].concat()),
        _ => send(good()),
    };
    Answer::streamed(steps)
}

const JSON: &str = "application/json";

/// Tokens of input and of output.
const USAGE: (u64, u64) = (7, 5);

/// The pieces of a refusal.
const REFUSAL: [&str; 2] = ["I can't", " do that."];

/// The pieces of the thoughts.
const THOUGHTS: [&str; 2] = ["They ask", " how I am."];

/// The calls of an answer with tools: id, name, arguments in pieces.
const CALLS: [(&str, &str, [&str; 2]); 2] =
    [("call_1", "weather", ["{\"city\":", " \"Zürich\"}"]), ("call_2", "clock", ["{\"zone\": ", "\"CET\"}"])];

/// The wire format of a question and its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    #[default]
    Chat,
    Messages,
    Responses,
}

impl Format {
    fn whole(self, behaviour: Behaviour, question: &Question) -> Value {
        match self {
            Self::Chat => chat::whole(behaviour, question),
            Self::Messages => messages::whole(behaviour, question),
            Self::Responses => responses::whole(behaviour, question),
        }
    }

    fn pieces(self, question: &Question) -> Pieces {
        match self {
            Self::Chat => chat::pieces(question),
            Self::Messages => messages::pieces(question),
            Self::Responses => responses::pieces(question),
        }
    }

    fn error(self, status: u16, kind: &str, code: &str, param: Option<&str>) -> Value {
        match self {
            Self::Chat | Self::Responses => chat::error(kind, code, param),
            Self::Messages => messages::error(status, code),
        }
    }

    fn in_band(self) -> Value {
        match self {
            Self::Chat | Self::Responses => chat::in_band(),
            Self::Messages => messages::in_band(),
        }
    }
}

/// The events of which a stream is composed.
struct Pieces {
    opening: Vec<u8>,
    /// Events before the words, if the request asks for thoughts.
    thoughts: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    tools: Vec<Vec<u8>>,
    refusal: Vec<Vec<u8>>,
    end: Vec<Vec<u8>>,
    end_of_tools: Vec<Vec<u8>>,
    end_of_refusal: Vec<Vec<u8>>,
    error: Vec<u8>,
}

/// An event without a name.
pub(super) fn plain(data: &Value) -> Vec<u8> {
    format!("data: {data}\n\n").into_bytes()
}

/// An event named after its type.
pub(super) fn named(data: &Value) -> Vec<u8> {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default()).into_bytes()
}

fn endless() -> Vec<u8> {
    [b"data: ".to_vec(), vec![b'x'; ENDLESS_BYTES]].concat()
}

fn bytewise(bytes: Vec<u8>) -> Vec<AnswerStep> {
    bytes.into_iter().map(|byte| AnswerStep::Send(vec![byte])).collect()
}

/// Keep-alives for [`HOLD`], then a reset.
fn keepalives(text: &[u8]) -> Vec<AnswerStep> {
    keepalives_for(HOLD, text).chain([AnswerStep::Reset]).collect()
}

fn keepalives_for(time: Duration, text: &[u8]) -> impl Iterator<Item = AnswerStep> {
    let count = time.as_millis() / KEEPALIVE_PAUSE.as_millis();
    (0..count).flat_map(|_| [AnswerStep::Send(text.to_vec()), AnswerStep::Wait(KEEPALIVE_PAUSE)])
}

impl Answer {
    fn new(status: u16, content_type: &str, body: String) -> Self {
        Self {
            status,
            refusal: None,
            headers: vec![("content-type", content_type.to_owned())],
            length: Some(body.len()),
            start: AnswerStart::Head,
            steps: vec![AnswerStep::Send(body.into_bytes())],
        }
    }

    fn error(format: Format, status: u16, kind: &str, code: &str, param: Option<&str>) -> Self {
        Self::new(status, JSON, format.error(status, kind, code, param).to_string())
    }

    /// An error of status `status` with the vendor's own message.
    pub(super) fn refused(format: Format, status: u16, message: &str) -> Self {
        let mut error = format.error(status, "invalid_request_error", "", None);
        error["error"]["message"] = message.into();
        let refusal = (status == 400).then(|| message.to_owned());
        Self { refusal, ..Self::new(status, JSON, error.to_string()) }
    }

    /// A stream.
    pub(super) fn streamed(steps: Vec<AnswerStep>) -> Self {
        Self { length: None, steps, ..Self::new(200, "text/event-stream; charset=utf-8", String::new()) }
    }

    /// A stream without a body.
    fn hold() -> Self {
        Self::streamed(vec![AnswerStep::Wait(HOLD), AnswerStep::Reset])
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}
