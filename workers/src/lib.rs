//! Outlive on Cloudflare.
//!
//! ```text
//!            ┌─ stateless ──► Node here
//! client ─► Worker
//!            └─ a log ──────► Log object ─ alarm ─► Index object
//!  cron ──► Worker ─────────► (one per log)         (256 of them)
//! ```
//! The Worker answers requests that need no log, and forwards all others to the one object of their log. An object
//! runs the same node over its own SQLite database. Each object reports its changes to an index after the fact, so
//! that no single object is on the path of all requests.
//!
//! In scope: the ports of [`outlive::platform`], and the route of a request to the right object. Out of scope:
//! behaviour.

// What `#[wasm_bindgen]`, `#[event]` and `#[durable_object]` expand to is neither documented nor free of `unsafe`.
#![allow(unsafe_code, missing_docs)]

mod config;
mod error;
mod head_json;
mod http;
mod index;
mod js_http;
mod log_object;
mod node_store;
mod object_call;
mod platform;
mod remote_store;
mod socket;
mod store;

use std::cell::OnceCell;

use outlive::{Arrival, Node, Placement, body::Body};
use worker::{Context, Env, Result, ScheduleContext, ScheduledEvent, console_error, event, web_sys};

use error::ShellError;
use node_store::NodeStore;
use object_call::{MAX_TRIES, ObjectCall};
use platform::WorkersPlatform;
use remote_store::RemoteStore;

/// Answers a request from the internet.
#[event(fetch)]
async fn fetch(request: web_sys::Request, env: Env, _: Context) -> Result<web_sys::Response> {
    match handle(&request, &env).await {
        Ok(response) => Ok(response),
        Err(error) => error.into_response(),
    }
}

/// The Cron Trigger. It runs the tick in the object of the node's own log, because the tick appends an entry there.
#[event(scheduled)]
async fn scheduled(_: ScheduledEvent, env: Env, _: ScheduleContext) {
    let tick = async { object_call::send(&env, node(&env)?.log(), ObjectCall::Tick, None, MAX_TRIES).await };
    match tick.await {
        Ok(response) if response.ok() => (),
        Ok(response) => console_error!("the tick failed with status {}", response.status()),
        Err(error) => console_error!("the tick failed: {error}"),
    }
}

async fn handle(request: &web_sys::Request, env: &Env) -> Result<web_sys::Response, ShellError> {
    let node = node(env)?;
    let head = js_http::request_head(request)?;
    #[cfg(feature = "suite")]
    if head.uri.path() == "/suite" {
        return object_call::send(env, node.log(), ObjectCall::Suite, None, MAX_TRIES).await;
    }
    if let Some(socket) = node.socket(&head, Arrival::default()) {
        return match socket {
            Ok(socket) => socket::open(&node, socket, env),
            Err(response) => js_http::response_to_js(response),
        };
    }
    match node.place(&head) {
        Placement::Anywhere => {
            let request = ::http::Request::from_parts(head, js_http::request_body(request));
            js_http::response_to_js(node.handle(request, Arrival::default()).await)
        }
        Placement::Log(log) => object_call::forward(env, log, request).await,
        Placement::InBody => match node.place_by_body(&head, js_http::request_body(request)).await {
            Ok((Placement::Log(log), body)) => object_call::forward_buffered(env, log, &head, body).await,
            Ok((Placement::Anywhere | Placement::InBody, body)) => {
                let request = ::http::Request::from_parts(head, Body::from(body));
                js_http::response_to_js(node.handle(request, Arrival::default()).await)
            }
            Err(response) => js_http::response_to_js(response),
        },
    }
}

/// The node of this isolate. Made at the first request, and again at the next one while that fails.
fn node(env: &Env) -> Result<Node<WorkersPlatform>, ShellError> {
    thread_local! {
        static NODE: OnceCell<Node<WorkersPlatform>> = const { OnceCell::new() };
    }
    NODE.with(|cell| {
        if let Some(node) = cell.get() {
            return Ok(node.clone());
        }
        let node =
            Node::new(WorkersPlatform::new(NodeStore::InWorker(RemoteStore::new(env)?)), config::load(env)?);
        Ok(cell.get_or_init(|| node).clone())
    })
}
