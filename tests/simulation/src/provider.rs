//! Providers that answer in OpenAI's format, as well or as badly as the schedule says.

use std::{
    collections::VecDeque,
    future::pending,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use outlive::{body::Body, platform::HttpError};
use serde_json::{Value, json};

use crate::{
    executor::Sleep,
    invariants::{answered, bounded::Call, fires},
    machine::Clock,
    model::{self, Wanted},
    schedule::ProviderFault,
    world::{OUTSIDE, World},
};

/// What a provider that is well answers to `content`.
pub(crate) fn words(provider: &str, content: &str) -> Vec<String> {
    vec!["All ".into(), "is ".into(), "well: ".into(), "é🙂 ".into(), format!("{content} "), provider.into()]
}

pub(crate) async fn answer(
    world: &Rc<World>,
    clock: &Rc<Clock>,
    mut request: Request<Body>,
    connect: Duration,
) -> Result<Response<Answer>, HttpError> {
    let host = request.uri().host().unwrap_or_default().to_owned();
    let name = host.trim_end_matches(".test").to_owned();
    // The one that is paid for fails as the first does.
    let number = match name.as_str() {
        PAID => 0,
        name => name.trim_start_matches('p').parse::<usize>().unwrap_or(usize::MAX),
    };
    let frame = std::future::poll_fn(|cx| Pin::new(request.body_mut()).poll_frame(cx)).await;
    let body = frame.and_then(Result::ok).and_then(|frame| frame.into_data().ok()).unwrap_or_default();
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let content = question(&asked);
    answered(world, &asked);
    if content == fires::PROMPT && world.is_faulty() && world.words.borrow_mut().chance(30) {
        // Who asks can't end itself.
        let dying = Rc::clone(world);
        world.executor.spawn(OUTSIDE, async move { dying.crash() });
        return pending().await;
    }
    let messages = asked.get("messages").and_then(Value::as_array).map_or(0, Vec::len);
    let round = model::round(&asked);
    let call = Call::begin(world, &name, content, messages, round, interrupted(&asked).is_some());
    let wanted = model::wanted(world, &asked, content);
    let pause = world.network.borrow_mut().range(1..200);
    world.executor.sleep(Duration::from_millis(pause)).await;
    let fault = world.schedule.fault(number, world.elapsed());
    world.note(format_args!("{name} asked, {fault:?}"));
    let words = match interrupted(&asked) {
        Some(begun) => rest(world, &words(&name, content).concat(), begun),
        // Some call without a word.
        None if !wanted.is_empty() && pause.is_multiple_of(2) => Vec::new(),
        None => words(&name, content),
    };
    let stream = asked.get("stream") == Some(&Value::Bool(true));
    let tokens = (body.len() as u64 / 4, words.len() as u64);
    let script = Script { world, clock, call, pieces: VecDeque::new(), end: End::Clean, tokens };
    let works = !matches!(
        fault,
        Some(
            ProviderFault::Refused
                | ProviderFault::BlackHole
                | ProviderFault::Limited(_)
                | ProviderFault::Status(_)
                | ProviderFault::HtmlError
                | ProviderFault::EmptyBody
        )
    );
    if works && name == PAID {
        // Whatever becomes of the answer, it is billed.
        world.budget.borrow_mut().billed(tokens).unwrap_or_else(|why| world.violation(why));
    }
    match fault {
        Some(ProviderFault::Refused) => Err(HttpError::Connect("refused".into())),
        Some(ProviderFault::BlackHole) if pause < 100 => {
            world.executor.sleep(connect).await;
            Err(HttpError::ConnectTimeout)
        }
        Some(ProviderFault::BlackHole) => pending().await,
        Some(ProviderFault::Limited(retry_after)) => {
            let error =
                json!({"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}});
            let mut response = script.whole(429, "application/json", &error.to_string());
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            Ok(response)
        }
        Some(ProviderFault::Status(status)) => {
            let error = json!({"error": {"message": "canary-secret", "type": "x", "code": "y"}});
            Ok(script.whole(status, "application/json", &error.to_string()))
        }
        Some(ProviderFault::HtmlError) => Ok(script.whole(200, "text/html", "<html>oops</html>")),
        Some(ProviderFault::EmptyBody) => Ok(script.whole(200, "application/json", "")),
        fault if stream => Ok(script.stream(&words, &wanted, fault)),
        fault => Ok(script.json(&words.concat(), fault)),
    }
}

/// What the client asked last.
fn question(asked: &Value) -> &str {
    let messages = asked.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let users = messages.iter().rev().filter(|message| message.get("role") == Some(&"user".into()));
    // What was asked and not answered comes before it in the same message.
    let mut texts = users.filter_map(|message| {
        let content = message.get("content")?;
        content.as_str().or_else(|| content.as_array()?.last()?.get("text")?.as_str())
    });
    texts.find(|text| !text.starts_with(TOLD)).unwrap_or_default()
}

/// How a request begins that is to go on with an answer.
const TOLD: &str = "Your previous response was interrupted";

/// The provider that costs money.
pub(crate) const PAID: &str = "paid";

/// What was already said, if the request is to go on with it.
fn interrupted(asked: &Value) -> Option<&str> {
    let messages = asked.get("messages")?.as_array()?;
    let [.., begun, told] = messages.as_slice() else { return None };
    is_told(told).then(|| begun.get("content")?.as_str())?
}

/// Whether a message says nothing but that the answer was interrupted.
pub(crate) fn is_told(message: &Value) -> bool {
    message.get("content").and_then(Value::as_str).is_some_and(|text| text.starts_with(TOLD))
}

/// How a model goes on: with what comes next, with its last word again, or from the beginning.
fn rest(world: &World, whole: &str, begun: &str) -> Vec<String> {
    let manner = world.network.borrow_mut().range(0..3);
    // The last word is the provider's name, and so another's here.
    let Some(next) = whole.strip_prefix(begun) else { return vec![String::new()] };
    let last = begun.trim_end().rsplit(' ').next().unwrap_or_default();
    let text = match manner {
        0 => next.to_owned(),
        1 if last.chars().filter(|c| c.is_alphabetic()).count() > 1 && !begun.ends_with(' ') => {
            format!("{last}{next}")
        }
        1 => next.to_owned(),
        _ => whole.to_owned(),
    };
    text.split_inclusive(' ').map(str::to_owned).collect()
}

/// Writes an answer.
struct Script<'a> {
    world: &'a Rc<World>,
    clock: &'a Rc<Clock>,
    call: Call,
    pieces: VecDeque<(Duration, Bytes)>,
    end: End,
    /// In and out.
    tokens: (u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Clean,
    Broken,
    Never,
}

impl Script<'_> {
    fn whole(mut self, status: u16, kind: &'static str, text: &str) -> Response<Answer> {
        self.write(text);
        self.respond(status, kind)
    }

    fn json(mut self, text: &str, fault: Option<ProviderFault>) -> Response<Answer> {
        let body = json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": self.tokens.0, "completion_tokens": self.tokens.1},
        });
        let body = body.to_string();
        let half = || body.chars().take(body.len() / 2).collect::<String>();
        match fault {
            None => self.write(&body),
            Some(ProviderFault::ErrorFirst | ProviderFault::ErrorMiddle) => {
                self.write(r#"{"error":{"message":"no","code":"server_error"}}"#);
            }
            Some(ProviderFault::CutEarly | ProviderFault::CutMiddle) => {
                self.write(&half());
                self.end = End::Broken;
            }
            Some(ProviderFault::KeepAlives | ProviderFault::Stall) => {
                self.write("\n\n");
                self.end = End::Never;
            }
            Some(_) => self.write(&half()),
        }
        self.respond(200, "application/json")
    }

    fn stream(
        mut self,
        words: &[String],
        wanted: &[Wanted],
        fault: Option<ProviderFault>,
    ) -> Response<Answer> {
        let chunk = |delta: Value, finish: Option<&str>| {
            json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
                   "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
            .to_string()
        };
        let (ending, keep_alive) = match self.world.network.borrow_mut().range(0..3) {
            0 => ("\r\n", ": keep-alive\r\n\r\n"),
            1 => ("\r", ": keep-alive\r\r"),
            _ => ("\n", ": keep-alive\n\n"),
        };
        let event = |data: &str| format!("data: {data}{ending}{ending}");
        self.write(&event(&chunk(json!({"role": "assistant", "content": ""}), None)));
        let words = words.iter().map(|word| json!({"content": word}));
        let calls = wanted.iter().enumerate().flat_map(|(index, call)| call.deltas(index));
        let deltas: Vec<Value> = words.chain(calls).collect();
        let middle = deltas.len() / 2;
        for (number, delta) in deltas.into_iter().enumerate() {
            let now = |at: usize| number == at;
            match fault {
                Some(ProviderFault::CutEarly) if now(0) => return self.broken(),
                Some(ProviderFault::KeepAlives) if now(0) => {
                    for _ in 0..200 {
                        self.write(keep_alive);
                    }
                    return self.silent();
                }
                Some(ProviderFault::ErrorFirst) if now(0) => {
                    self.write(&event(r#"{"error":{"message":"no","code":"server_is_overloaded"}}"#));
                    return self.respond(200, STREAM);
                }
                Some(ProviderFault::CutMiddle | ProviderFault::HalfJson) if now(middle) => {
                    return self.broken();
                }
                Some(ProviderFault::NoEnd) if now(middle) => return self.respond(200, STREAM),
                Some(ProviderFault::Stall) if now(middle) => return self.silent(),
                Some(ProviderFault::ErrorMiddle) if now(middle) => {
                    self.write(&event(r#"{"error":{"message":"no","code":500}}"#));
                    return self.respond(200, STREAM);
                }
                Some(ProviderFault::TornEvent) if now(middle) => {
                    self.write("data: {\"choices\":[{\"delta\":{\"con");
                    self.write(&event(&chunk(delta, None)));
                    return self.respond(200, STREAM);
                }
                _ => self.write(&event(&chunk(delta, None))),
            }
            self.write(keep_alive);
        }
        let reason = if wanted.is_empty() { "stop" } else { "tool_calls" };
        self.write(&event(&chunk(json!({}), Some(reason))));
        let (input, output) = self.tokens;
        let usage = json!({"choices": [], "usage": {"prompt_tokens": input, "completion_tokens": output}});
        self.write(&event(&usage.to_string()));
        let last = self.world.network.borrow_mut().range(0..3);
        match last {
            // Some leave the last event out, some leave the connection open after it.
            0 => {}
            1 => {
                self.write(&event("[DONE]"));
                self.end = End::Never;
            }
            _ => self.write(&event("[DONE]")),
        }
        self.respond(200, STREAM)
    }

    fn broken(mut self) -> Response<Answer> {
        self.end = End::Broken;
        self.respond(200, STREAM)
    }

    fn silent(mut self) -> Response<Answer> {
        self.end = End::Never;
        self.respond(200, STREAM)
    }

    /// Sends `text` after a moment, cut into pieces wherever the cuts fall.
    fn write(&mut self, text: &str) {
        let mut pause = Duration::from_millis(self.world.network.borrow_mut().range(0..60));
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let size = usize::try_from(self.world.schedule.chunk).unwrap_or(1).max(1);
        for start in (0..bytes.len()).step_by(size) {
            let piece = bytes.slice(start..bytes.len().min(start + size));
            self.pieces.push_back((std::mem::take(&mut pause), piece));
        }
    }

    fn respond(self, status: u16, kind: &'static str) -> Response<Answer> {
        let answer = Answer {
            world: Rc::clone(self.world),
            clock: Rc::clone(self.clock),
            pieces: self.pieces,
            end: self.end,
            pause: None,
            _call: Some(self.call),
        };
        let mut response = Response::new(answer);
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }
}

const STREAM: &str = "text/event-stream";

/// The body of a provider's answer, as the network brings it.
pub(crate) struct Answer {
    world: Rc<World>,
    clock: Rc<Clock>,
    pieces: VecDeque<(Duration, Bytes)>,
    end: End,
    pause: Option<Sleep>,
    /// It is under way until this is gone.
    _call: Option<Call>,
}

impl Answer {
    /// A whole JSON answer of somebody who is no provider.
    pub(crate) fn whole(world: &Rc<World>, clock: &Rc<Clock>, status: u16, text: &str) -> Response<Self> {
        let (world, clock) = (Rc::clone(world), Rc::clone(clock));
        let pieces = [(Duration::ZERO, Bytes::copy_from_slice(text.as_bytes()))].into();
        let mut response =
            Response::new(Self { world, clock, pieces, end: End::Clean, pause: None, _call: None });
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        if this.pause.is_none() {
            match (this.pieces.front(), this.end) {
                (Some((pause, _)), _) => this.pause = Some(this.world.executor.sleep(*pause)),
                (None, End::Clean) => return Poll::Ready(None),
                (None, End::Broken) => return Poll::Ready(Some(Err(HttpError::Broken("reset".into())))),
                (None, End::Never) => return Poll::Pending,
            }
        }
        if let Some(pause) = &mut this.pause
            && Pin::new(pause).poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        this.pause = None;
        this.clock.look();
        let piece = this.pieces.pop_front().map(|(_, bytes)| Ok(Frame::data(bytes)));
        Poll::Ready(piece)
    }
}
