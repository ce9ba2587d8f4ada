//! What the Worker asks of the object that keeps a log.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::request;
use outlive::entry::LogId;
use wasm_bindgen::JsValue;
use worker::{
    Env, Error, ObjectNamespace, Stub,
    js_sys::{Reflect, Uint8Array},
    web_sys::{Headers, Request, RequestInit, Response},
};

use crate::{platform::sleep, refusal::Refusal, wire};

/// The namespace of the objects that keep logs, as wrangler.toml binds it.
const LOGS: &str = "LOGS";

/// Says why an object is called. The Worker sets it on each call, over whatever a client wrote there, and an object is
/// reached through the Worker only.
pub(crate) const HEADER: &str = "x-outlive-errand";

/// Tries of a call that may be repeated, and the pause after the first; it doubles. A restarting object is back within
/// a second.
pub(crate) const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(100);

/// Hands a client's request to the object that keeps `log`. The bodies stream through without being looked at here; the
/// object ends a request body that is too large.
pub(crate) async fn forward(env: &Env, log: LogId, request: &Request) -> Result<Response, Refusal> {
    let headers = Headers::new_with_headers(&request.headers()).map_err(Error::from)?;
    headers.set(HEADER, &Errand::Request(log).to_string()).map_err(Error::from)?;
    let init = RequestInit::new();
    init.set_headers(&headers);
    // What only reads may be asked twice. Anything else may have been done, and its body can't be sent again.
    let tries = if matches!(request.method().as_str(), "GET" | "HEAD") { TRIES } else { 1 };
    call(env, log, tries, || Request::new_with_request_and_init(request, &init).map_err(Error::from)).await
}

/// Like [`forward`], where the body has been read to know which log it is about.
pub(crate) async fn forward_read(
    env: &Env,
    log: LogId,
    head: &request::Parts,
    body: Bytes,
) -> Result<Response, Refusal> {
    let headers = wire::outgoing(&head.headers)?;
    headers.set(HEADER, &Errand::Request(log).to_string()).map_err(Error::from)?;
    let init = RequestInit::new();
    init.set_method(head.method.as_str());
    init.set_headers(&headers);
    init.set_body(&Uint8Array::from(body.as_ref()));
    let url = head.uri.to_string();
    call(env, log, 1, || Request::new_with_str_and_init(&url, &init).map_err(Error::from)).await
}

/// Sends the object that keeps `log` on an errand of our own, at most `tries` times: once, where doing it twice would matter.
pub(crate) async fn run(
    env: &Env,
    log: LogId,
    errand: Errand,
    body: Option<&str>,
    tries: u32,
) -> Result<Response, Refusal> {
    let headers = Headers::new().map_err(Error::from)?;
    headers.set(HEADER, &errand.to_string()).map_err(Error::from)?;
    let init = RequestInit::new();
    init.set_method("POST");
    init.set_headers(&headers);
    if let Some(body) = body {
        init.set_body(&JsValue::from_str(body));
    }
    call(env, log, tries, || Request::new_with_str_and_init("https://log/", &init).map_err(Error::from)).await
}

/// The objects that keep logs.
pub(crate) fn objects(env: &Env) -> worker::Result<ObjectNamespace> {
    env.durable_object(LOGS)
}

async fn call(
    env: &Env,
    log: LogId,
    tries: u32,
    request: impl Fn() -> worker::Result<Request>,
) -> Result<Response, Refusal> {
    let (objects, name) = (objects(env)?, log.to_string());
    let mut pause = PAUSE;
    for left in (0..tries).rev() {
        // A stub is of no use any more once it has thrown.
        let stub: Stub = objects.get_by_name(&name)?;
        match stub.fetch_with_request(request()?.into()).await {
            Ok(response) => return Ok(response.into()),
            Err(error) if left > 0 && passes(&error) => sleep(pause).await,
            Err(error) => return Err(error.into()),
        }
        pause *= 2;
    }
    Err(Refusal::Unavailable)
}

/// Whether the platform says that asking again may help. An overloaded object is not helped by more calls.
/// Source: <https://developers.cloudflare.com/durable-objects/best-practices/error-handling/>
fn passes(error: &Error) -> bool {
    let error = error.to_js_value();
    let says = |name: &str| Reflect::get(&error, &name.into()).is_ok_and(|value| value.is_truthy());
    says("retryable") && !says("overloaded")
}

/// Why an object is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    /// A client's request, placed at this log.
    Request(LogId),
    /// The scheduled trigger.
    Tick,
    /// What is due in this log is to be done. The answer does not wait for it.
    Wake(LogId),
    /// A call of the store.
    Store,
    /// The store suite.
    #[cfg(feature = "suite")]
    Suite,
}

impl Errand {
    /// Reads what `Display` wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "tick" => Some(Self::Tick),
            "store" => Some(Self::Store),
            #[cfg(feature = "suite")]
            "suite" => Some(Self::Suite),
            _ => {
                let (errand, log) = text.split_once(' ')?;
                let log = LogId::parse(log)?;
                match errand {
                    "request" => Some(Self::Request(log)),
                    "wake" => Some(Self::Wake(log)),
                    _ => None,
                }
            }
        }
    }
}

impl fmt::Display for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(log) => write!(f, "request {log}"),
            Self::Tick => f.write_str("tick"),
            Self::Wake(log) => write!(f, "wake {log}"),
            Self::Store => f.write_str("store"),
            #[cfg(feature = "suite")]
            Self::Suite => f.write_str("suite"),
        }
    }
}
