//! Writes a provider's answer with its fault, as pieces of bytes with pauses. Chooses neither the text nor the fault.

use std::{collections::VecDeque, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::{
    Bill,
    body::{AnswerBody, BodyEnd},
};
use crate::{
    fault_plan::ProviderFault,
    invariants::bounded::{self, Call},
    machine::Clock,
    model::RequestedCall,
    world::World,
};

/// An answer that is being written.
pub(super) struct AnswerWriter<'a> {
    pub(super) world: &'a Rc<World>,
    pub(super) clock: &'a Rc<Clock>,
    pub(super) call: Call,
    pub(super) bill: Option<Bill>,
    pub(super) pieces: VecDeque<(Duration, Bytes)>,
    pub(super) end: BodyEnd,
    /// Pieces up to the first content, if it is not the last one.
    pub(super) head: Option<usize>,
    /// Tokens of input and of output.
    pub(super) tokens: (u64, u64),
    /// Whether the answer has its usage.
    pub(super) is_whole: bool,
}

impl AnswerWriter<'_> {
    pub(super) fn whole(mut self, status: u16, kind: &'static str, text: &str) -> Response<AnswerBody> {
        self.write(text);
        self.respond(status, kind)
    }

    pub(super) fn json(mut self, text: &str, fault: Option<ProviderFault>) -> Response<AnswerBody> {
        let body = json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": self.tokens.0, "completion_tokens": self.tokens.1},
        });
        let body = body.to_string();
        let half = || body.chars().take(body.len() / 2).collect::<String>();
        match fault {
            None => {
                self.write(&body);
                self.is_whole = true;
            }
            Some(ProviderFault::Thinks) => {
                self.think("\n");
                self.write(&body);
                self.is_whole = true;
            }
            Some(ProviderFault::KeepAlivesForever) => self.keep_alive("\n", bounded::TOTAL.as_secs() * 2),
            Some(ProviderFault::ErrorFirst | ProviderFault::ErrorMiddle) => {
                self.write(r#"{"error":{"message":"no","code":"server_error"}}"#);
            }
            Some(ProviderFault::CutEarly | ProviderFault::CutMiddle) => {
                self.write(&half());
                self.end = BodyEnd::Reset;
            }
            Some(ProviderFault::KeepAlives | ProviderFault::Stall) => {
                self.write("\n\n");
                self.end = BodyEnd::Open;
            }
            Some(_) => self.write(&half()),
        }
        self.respond(200, "application/json")
    }

    pub(super) fn stream(
        mut self,
        words: &[String],
        calls: &[RequestedCall],
        fault: Option<ProviderFault>,
    ) -> Response<AnswerBody> {
        let chunk = |delta: Value, finish: Option<&str>| {
            json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
                   "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
            .to_string()
        };
        let (ending, keep_alive) = match self.world.network_random.borrow_mut().range(0..3) {
            0 => ("\r\n", ": keep-alive\r\n\r\n"),
            1 => ("\r", ": keep-alive\r\r"),
            _ => ("\n", ": keep-alive\n\n"),
        };
        let event = |data: &str| format!("data: {data}{ending}{ending}");
        self.write(&event(&chunk(json!({"role": "assistant", "content": ""}), None)));
        let words = words.iter().map(|word| json!({"content": word}));
        let call_deltas = calls.iter().enumerate().flat_map(|(index, call)| call.deltas(index));
        let deltas: Vec<Value> = words.chain(call_deltas).collect();
        let middle = deltas.len() / 2;
        // A fault replaces one delta, the first or the middle one; the deltas before it are written as they are.
        for (number, delta) in deltas.into_iter().enumerate() {
            let now = |at: usize| number == at;
            match fault {
                Some(ProviderFault::CutEarly) if now(0) => return self.respond_then_reset(),
                Some(ProviderFault::KeepAlivesForever) if now(0) => {
                    self.keep_alive(keep_alive, bounded::TOTAL.as_secs() * 2);
                    return self.respond(200, STREAM);
                }
                Some(ProviderFault::Thinks) if now(0) => {
                    self.think(keep_alive);
                    self.write(&event(&chunk(delta, None)));
                }
                Some(ProviderFault::KeepAlives) if now(0) => {
                    for _ in 0..200 {
                        self.write(keep_alive);
                    }
                    return self.respond_then_stall();
                }
                Some(ProviderFault::ErrorFirst) if now(0) => {
                    self.write(&event(r#"{"error":{"message":"no","code":"server_is_overloaded"}}"#));
                    return self.respond(200, STREAM);
                }
                Some(ProviderFault::CutMiddle | ProviderFault::HalfJson) if now(middle) => {
                    return self.respond_then_reset();
                }
                Some(ProviderFault::NoEnd) if now(middle) => return self.respond(200, STREAM),
                Some(ProviderFault::Stall) if now(middle) => return self.respond_then_stall(),
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
            self.head.get_or_insert(self.pieces.len());
            self.write(keep_alive);
        }
        let reason = if calls.is_empty() { "stop" } else { "tool_calls" };
        self.write(&event(&chunk(json!({}), Some(reason))));
        let (input, output) = self.tokens;
        let usage = json!({"choices": [], "usage": {"prompt_tokens": input, "completion_tokens": output}});
        self.write(&event(&usage.to_string()));
        self.is_whole = true;
        let last = self.world.network_random.borrow_mut().range(0..3);
        match last {
            // Some vendors omit the last event, and some leave the connection open after it.
            0 => {}
            1 => {
                self.write(&event("[DONE]"));
                self.end = BodyEnd::Open;
            }
            _ => self.write(&event("[DONE]")),
        }
        self.respond(200, STREAM)
    }

    fn respond_then_reset(mut self) -> Response<AnswerBody> {
        self.end = BodyEnd::Reset;
        self.respond(200, STREAM)
    }

    fn respond_then_stall(mut self) -> Response<AnswerBody> {
        self.end = BodyEnd::Open;
        self.respond(200, STREAM)
    }

    /// Sends keep-alives for some seconds.
    fn think(&mut self, keep_alive: &str) {
        let seconds = self.world.network_random.borrow_mut().range(1..8);
        self.keep_alive(keep_alive, seconds);
    }

    /// Sends a keep-alive every second.
    fn keep_alive(&mut self, text: &str, seconds: u64) {
        let piece = (Duration::from_secs(1), Bytes::copy_from_slice(text.as_bytes()));
        self.pieces.extend((0..seconds).map(|_| piece.clone()));
    }

    /// Sends `text` after a moment, cut into pieces wherever the cuts fall.
    fn write(&mut self, text: &str) {
        let mut pause = Duration::from_millis(self.world.network_random.borrow_mut().range(0..60));
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let size = usize::try_from(self.world.plan.chunk).unwrap_or(1).max(1);
        for start in (0..bytes.len()).step_by(size) {
            let piece = bytes.slice(start..bytes.len().min(start + size));
            self.pieces.push_back((std::mem::take(&mut pause), piece));
        }
    }

    fn respond(self, status: u16, kind: &'static str) -> Response<AnswerBody> {
        let answer = AnswerBody {
            world: Rc::clone(self.world),
            clock: Rc::clone(self.clock),
            head: self.head.unwrap_or(self.pieces.len()),
            pieces: self.pieces,
            end: self.end,
            pause: None,
            call: Some(self.call),
            bill: self.bill,
            is_whole: self.is_whole,
        };
        let mut response = Response::new(answer);
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }
}

const STREAM: &str = "text/event-stream";
