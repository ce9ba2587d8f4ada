//! Calls the Durable Object of a log, from the Worker or from another object, and tries again where that is safe.
//! Knows nothing of what an object does with a call: that is in `log_object.rs`.

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

use crate::{error::ShellError, js_http, platform::sleep};

/// The binding of the log objects in wrangler.toml.
const BINDING: &str = "LOGS";

/// The header that carries an [`ObjectCall`]. The Worker overwrites it on each call, so a client can't set it, and an
/// object is reached through the Worker only.
pub(crate) const HEADER: &str = "x-outlive-errand";

/// Tries of a call that is safe to repeat. A restarting object is back within a second.
pub(crate) const MAX_TRIES: u32 = 4;

/// The pause before the second try; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Forwards a client's request to the object of `log`. The body is streamed; the object limits its size.
pub(crate) async fn forward(env: &Env, log: LogId, request: &Request) -> Result<Response, ShellError> {
    let headers = Headers::new_with_headers(&request.headers()).map_err(Error::from)?;
    headers.set(HEADER, &ObjectCall::Request(log).to_string()).map_err(Error::from)?;
    let init = RequestInit::new();
    init.set_headers(&headers);
    // Only reads are repeated: any other request may have taken effect, and its body can't be sent twice.
    let tries = if matches!(request.method().as_str(), "GET" | "HEAD") { MAX_TRIES } else { 1 };
    fetch_with_retries(env, log, tries, || {
        Request::new_with_request_and_init(request, &init).map_err(Error::from)
    })
    .await
}

/// Like [`forward`], for a request whose body was read to find its log.
pub(crate) async fn forward_buffered(
    env: &Env,
    log: LogId,
    head: &request::Parts,
    body: Bytes,
) -> Result<Response, ShellError> {
    let headers = js_http::headers_to_js(&head.headers)?;
    headers.set(HEADER, &ObjectCall::Request(log).to_string()).map_err(Error::from)?;
    let init = RequestInit::new();
    init.set_method(head.method.as_str());
    init.set_headers(&headers);
    init.set_body(&Uint8Array::from(body.as_ref()));
    let url = head.uri.to_string();
    fetch_with_retries(env, log, 1, || Request::new_with_str_and_init(&url, &init).map_err(Error::from)).await
}

/// Sends a call of the node itself to the object of `log`, at most `tries` times; 1 if repeating it would do harm.
pub(crate) async fn send(
    env: &Env,
    log: LogId,
    call: ObjectCall,
    body: Option<&str>,
    tries: u32,
) -> Result<Response, ShellError> {
    let headers = Headers::new().map_err(Error::from)?;
    headers.set(HEADER, &call.to_string()).map_err(Error::from)?;
    let init = RequestInit::new();
    init.set_method("POST");
    init.set_headers(&headers);
    if let Some(body) = body {
        init.set_body(&JsValue::from_str(body));
    }
    fetch_with_retries(env, log, tries, || {
        Request::new_with_str_and_init("https://log/", &init).map_err(Error::from)
    })
    .await
}

/// The namespace of the log objects.
pub(crate) fn namespace(env: &Env) -> worker::Result<ObjectNamespace> {
    env.durable_object(BINDING)
}

async fn fetch_with_retries(
    env: &Env,
    log: LogId,
    tries: u32,
    request: impl Fn() -> worker::Result<Request>,
) -> Result<Response, ShellError> {
    let (objects, name) = (namespace(env)?, log.to_string());
    let mut pause = FIRST_PAUSE;
    for tries_left in (0..tries).rev() {
        // A stub that has thrown stays broken, so each try makes a new one.
        let stub: Stub = objects.get_by_name(&name)?;
        match stub.fetch_with_request(request()?.into()).await {
            Ok(response) => return Ok(response.into()),
            Err(error) if tries_left > 0 && is_retryable(&error) => sleep(pause).await,
            Err(error) => return Err(error.into()),
        }
        pause *= 2;
    }
    Err(ShellError::Unavailable)
}

/// Whether the platform marks the error as retryable. An overloaded object is excluded: more calls would make it worse.
/// Source: <https://developers.cloudflare.com/durable-objects/best-practices/error-handling/>
fn is_retryable(error: &Error) -> bool {
    let error = error.to_js_value();
    let is_set = |name: &str| Reflect::get(&error, &name.into()).is_ok_and(|value| value.is_truthy());
    is_set("retryable") && !is_set("overloaded")
}

/// What a call asks the object of a log to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ObjectCall {
    /// Answer a client's request, which the Worker has placed at this log.
    Request(LogId),
    /// Run the tick of the scheduled trigger.
    Tick,
    /// Do what is due in this log. The response does not wait for it.
    Wake(LogId),
    /// Run the call of the store that the body holds.
    Store,
    /// Run the store suite.
    #[cfg(feature = "suite")]
    Suite,
}

impl ObjectCall {
    /// Reads what `Display` wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "tick" => Some(Self::Tick),
            "store" => Some(Self::Store),
            #[cfg(feature = "suite")]
            "suite" => Some(Self::Suite),
            _ => {
                let (call, log) = text.split_once(' ')?;
                let log = LogId::parse(log)?;
                match call {
                    "request" => Some(Self::Request(log)),
                    "wake" => Some(Self::Wake(log)),
                    _ => None,
                }
            }
        }
    }
}

impl fmt::Display for ObjectCall {
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
