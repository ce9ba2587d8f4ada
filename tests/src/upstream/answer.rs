//! What the upstream says, for each behaviour, as a script of bytes and pauses.

mod chat;
mod messages;
mod responses;

use std::{iter, net::SocketAddr, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use super::Behaviour;

/// An answer, and how it goes wrong.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Why the request can't be answered, if it is the request's fault.
    pub(super) refusal: Option<String>,
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

#[derive(Clone, Debug)]
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

/// Between the words of a steady answer.
const PACE: Duration = Duration::from_millis(500);

/// Between signs of life.
const KEEPALIVE: Duration = Duration::from_millis(200);

/// More than any line of a stream, and than any answer's first event, may have.
const ENDLESS_BYTES: usize = 8 * 1024 * 1024;

/// The pieces of a good answer; the last characters have two and four bytes.
pub const WORDS: [&str; 5] = ["All", " is", " well", " é", "🙂"];

/// The words after which an answer breaks that breaks in its middle.
const BROKEN_AFTER: usize = 2;

/// The pieces of an answer that a schema is asked for.
const JSON_WORDS: [&str; 5] = ["{\"city\":", " \"Zürich\"", ", \"degrees\"", ": 21", "}"];

/// The pieces of an answer to a question with an image.
const IMAGE_WORDS: [&str; 5] = ["I", " see", " an", " image", "."];

/// What the answer to a request depends on. Whatever else it holds is not looked at, however odd it is.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Question {
    #[serde(default)]
    pub(super) model: String,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    /// The most tokens that the answer may have; a word is one.
    #[serde(default, alias = "max_completion_tokens", alias = "max_output_tokens")]
    max_tokens: Option<usize>,
    /// What the path says.
    #[serde(skip)]
    pub(super) format: Format,
    /// Whether a schema is asked for, and whether an image is shown.
    #[serde(skip)]
    pub(super) schema: bool,
    #[serde(skip)]
    pub(super) image: bool,
    /// Whether thoughts are asked for.
    #[serde(skip)]
    pub(super) effort: bool,
}

impl Question {
    /// The pieces of a good answer to it.
    fn words(&self) -> &'static [&'static str] {
        let words = match self {
            Self { schema: true, .. } => &JSON_WORDS,
            Self { image: true, .. } => &IMAGE_WORDS,
            _ => &WORDS,
        };
        self.max_tokens.and_then(|most| words.get(..most.max(BROKEN_AFTER))).unwrap_or(words)
    }

    /// Whether a limit cuts its answer.
    fn is_cut(&self) -> bool {
        self.words().len() < WORDS.len()
    }
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

pub(super) fn to(behaviour: Behaviour, question: &Question, elsewhere: SocketAddr) -> Answer {
    if let Some(refusal) = refuse(behaviour, question.format, elsewhere) {
        return refusal;
    }
    if question.stream == Some(true) { stream(behaviour, question) } else { whole(behaviour, question) }
}

/// The answers with another status than 200, which a stream is not different in.
fn refuse(behaviour: Behaviour, format: Format, elsewhere: SocketAddr) -> Option<Answer> {
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
    let body = question.format.whole(behaviour, question).to_string();
    let (half, full) = (body.as_bytes()[..body.len() / 2].to_vec(), body.len());
    let answer = |length, steps| Answer { length, steps, ..Answer::new(200, JSON, String::new()) };
    match behaviour {
        B::Early => answer(Some(full), vec![Step::Wait(BEFORE_RESET), Step::Reset]),
        B::Halfway => answer(Some(full), vec![Step::Send(half), Step::Wait(BEFORE_RESET), Step::Reset]),
        B::StallMiddle => answer(Some(full), vec![Step::Send(half), Step::Wait(HOLD), Step::Reset]),
        B::KeepaliveOnly | B::KeepaliveMiddle => answer(None, keepalives(b"\n")),
        B::EofMiddle | B::TornMiddle | B::HalfJson => answer(None, vec![Step::Send(half)]),
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

fn stream(behaviour: Behaviour, question: &Question) -> Answer {
    use Behaviour as B;
    let Pieces { opening, thoughts, words, tools, refusal, end, end_of_tools, end_of_refusal, error } =
        question.format.pieces(question);
    let begun = || [opening.clone(), words[0].clone(), words[1].clone()].map(Step::Send);
    let good = || [vec![opening.clone()], thoughts.clone(), words.clone(), end.clone()].concat();
    let send = |events: Vec<Vec<u8>>| events.into_iter().map(Step::Send).collect::<Vec<_>>();
    let after = |steps: Vec<Step>| begun().into_iter().chain(steps).collect::<Vec<_>>();
    let line_end = |end: &str| {
        let text = String::from_utf8_lossy(&good().concat()).replace('\n', end);
        text.split_inclusive(&end.repeat(2)).map(|event| event.as_bytes().to_vec()).collect()
    };
    let steps = match behaviour {
        B::Early => vec![Step::Send(opening), Step::Wait(BEFORE_RESET), Step::Reset],
        B::KeepaliveOnly => iter::once(Step::Send(opening)).chain(keepalives(b": keep-alive\n\n")).collect(),
        B::KeepaliveMiddle => after(keepalives(b": keep-alive\n\n")),
        B::Halfway => after(vec![Step::Wait(BEFORE_RESET), Step::Reset]),
        B::StallMiddle => after(vec![Step::Wait(HOLD), Step::Reset]),
        B::EofMiddle => after(vec![]),
        B::TornMiddle => {
            let mut torn = words[2][..words[2].len() / 2].to_vec();
            torn.extend_from_slice(&words[3]);
            after([vec![torn], end].concat().into_iter().map(Step::Send).collect())
        }
        B::EndlessLine => vec![Step::Send(opening), Step::Send(endless())],
        B::EndlessMiddle => after(vec![Step::Send(endless())]),
        B::ErrorFirst => send(vec![error]),
        B::ErrorMiddle => after(vec![Step::Send(error)]),
        B::HalfJson => vec![Step::Send(words[0][..words[0].len() / 2].to_vec())],
        B::NoDone => {
            let mut events = good();
            events.pop();
            send(events)
        }
        B::DoneThenOpen => send(good()).into_iter().chain([Step::Wait(HOLD)]).collect(),
        B::Slow => {
            let beats = (0..600).flat_map(|_| [Step::Send(words[0].clone()), Step::Wait(BEFORE_RESET)]);
            iter::once(Step::Send(opening)).chain(beats).collect()
        }
        B::Steady => {
            let paced = words.clone().into_iter().flat_map(|word| [Step::Wait(PACE), Step::Send(word)]);
            iter::once(Step::Send(opening)).chain(paced).chain(send(end)).collect()
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

/// Tokens in and out.
const USAGE: (u64, u64) = (7, 5);

/// The pieces of a refusal.
const REFUSAL: [&str; 2] = ["I can't", " do that."];

/// The pieces of thoughts.
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

/// The events that streams are put together from.
struct Pieces {
    opening: Vec<u8>,
    /// What comes before the words if thoughts are asked for.
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

/// An event that is named for its type.
pub(super) fn named(data: &Value) -> Vec<u8> {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default()).into_bytes()
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
            refusal: None,
            headers: vec![("content-type", content_type.to_owned())],
            length: Some(body.len()),
            start: Start::Head,
            steps: vec![Step::Send(body.into_bytes())],
        }
    }

    fn error(format: Format, status: u16, kind: &str, code: &str, param: Option<&str>) -> Self {
        Self::new(status, JSON, format.error(status, kind, code, param).to_string())
    }

    /// An error in words of a vendor's own.
    pub(super) fn refused(format: Format, status: u16, message: &str) -> Self {
        let mut error = format.error(status, "invalid_request_error", "", None);
        error["error"]["message"] = message.into();
        let refusal = (status == 400).then(|| message.to_owned());
        Self { refusal, ..Self::new(status, JSON, error.to_string()) }
    }

    /// A stream.
    pub(super) fn streamed(steps: Vec<Step>) -> Self {
        Self { length: None, steps, ..Self::new(200, "text/event-stream; charset=utf-8", String::new()) }
    }

    /// A stream whose body does not come.
    fn hold() -> Self {
        Self::streamed(vec![Step::Wait(HOLD), Step::Reset])
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}
