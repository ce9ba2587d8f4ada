//! The Durable Object of one log: runs the node over the object's own database, for calls and alarms. Callers and the
//! format of calls are in `object_call.rs`.

use std::cell::OnceCell;

#[cfg(feature = "suite")]
use outlive::hex::hex;
use outlive::{Arrival, Node, TickError, platform::Platform};
use worker::{
    DurableObject, Env, Request, Response, Result, State, console_error, durable_object,
    js_sys::futures::{JsFuture, spawn_local},
    web_sys,
};

use crate::{
    config,
    error::ShellError,
    js_http,
    node_store::{NodeStore, SplitStore},
    object_call::{self, ObjectCall},
    platform::WorkersPlatform,
    remote_store,
    store::ObjectStore,
};

/// A log object: the database of one log, and the node that runs on it.
#[durable_object(alarm)]
pub struct Log {
    state: State,
    env: Env,
    node: OnceCell<Node<WorkersPlatform>>,
}

impl DurableObject for Log {
    fn new(state: State, env: Env) -> Self {
        let log = Self { state, env, node: OnceCell::new() };
        // A constructor can't fail; the first call tries again and returns the error.
        let _ = log.node();
        log
    }

    async fn fetch(&self, request: Request) -> Result<Response> {
        let response = match self.handle(request.inner()).await {
            Ok(response) => response,
            Err(error) => error.into_response()?,
        };
        Ok(response.into())
    }

    async fn alarm(&self) -> Result<Response> {
        if let Ok(node) = self.node()
            && let Some(store) = node.platform().store().object_store()
        {
            // Turns before the index, because a person may be waiting for them.
            if let Err(error) = node.wake_due().await {
                console_error!("the alarm could not wake the log: {error}");
            }
            if let Err(error) = store.report_changes().await {
                console_error!("the alarm could not report to the index: {error}");
            }
        }
        Response::empty()
    }
}

impl Log {
    async fn handle(&self, request: &web_sys::Request) -> std::result::Result<web_sys::Response, ShellError> {
        let node = self.node()?;
        let mut head = js_http::request_head(request)?;
        // Removed, so that the core sees the client's headers only.
        let header = head.headers.remove(object_call::HEADER);
        let call = header.as_ref().and_then(|value| ObjectCall::parse(value.to_str().ok()?));
        match call.ok_or(ShellError::InvalidRequest)? {
            ObjectCall::Request(log) => {
                let request = http::Request::from_parts(head, js_http::request_body(request));
                js_http::response_to_js(
                    node.handle(request, Arrival { loopback: false, log: Some(log) }).await,
                )
            }
            ObjectCall::Wake(log) => {
                let node = node.clone();
                // Spawned, so that the caller does not wait for a model. After an eviction the alarm resumes it.
                spawn_local(async move {
                    if let Err(error) = node.wake(log).await {
                        console_error!("a wake failed: {error}");
                    }
                });
                Ok(web_sys::Response::new().map_err(worker::Error::from)?)
            }
            ObjectCall::Tick => match tick(node).await {
                Ok(()) => Ok(web_sys::Response::new().map_err(worker::Error::from)?),
                Err(error) => {
                    console_error!("the tick failed: {error}");
                    Err(ShellError::Unavailable)
                }
            },
            ObjectCall::Store => {
                let text = JsFuture::from(request.text().map_err(worker::Error::from)?).await;
                let json = text.map_err(worker::Error::from)?.as_string().unwrap_or_default();
                let reply = remote_store::handle(store(node)?, &json).await;
                let reply = reply.map_err(|_| ShellError::InvalidRequest)?;
                Ok(worker::ResponseBuilder::new().fixed(reply.into_bytes()).into())
            }
            #[cfg(feature = "suite")]
            ObjectCall::Suite => {
                let mut run = [0; 8];
                node.platform().random(&mut run);
                suite(store(node)?, &hex(&run)).await
            }
        }
    }

    fn node(&self) -> std::result::Result<&Node<WorkersPlatform>, ShellError> {
        if let Some(node) = self.node.get() {
            return Ok(node);
        }
        let store = NodeStore::InObject(SplitStore::open(&self.state, &self.env)?);
        let node = Node::new(WorkersPlatform::new(store), config::load(&self.env)?);
        Ok(self.node.get_or_init(|| node))
    }
}

/// The store of the object in which `node` runs.
fn store(node: &Node<WorkersPlatform>) -> std::result::Result<&ObjectStore, ShellError> {
    node.platform().store().object_store().ok_or(ShellError::Unavailable)
}

/// Runs the tick, and checks logs whose alarm may have been lost, also after a tick that failed.
async fn tick(node: &Node<WorkersPlatform>) -> std::result::Result<(), TickError> {
    let result = node.tick().await;
    node.watch().await?;
    result
}

/// Runs the store suite on this object's database. `run` makes the names of its logs unique.
#[cfg(feature = "suite")]
async fn suite(store: &ObjectStore, run: &str) -> std::result::Result<web_sys::Response, ShellError> {
    let report = outlive::testing::suite::suite(store, run).await;
    let status = if report.failed.is_empty() { 200 } else { 500 };
    let response =
        worker::ResponseBuilder::new().with_status(status).fixed(format!("{report}\n").into_bytes());
    Ok(response.into())
}
