//! The Lambda shell: runs the node as a function, with its logs in DynamoDB.
//!
//! In scope: Lambda's events and response streams, the configuration beside the binary, the function's invoking itself.
//! Out of scope: what a node does (the core), its logs (`outlive-dynamodb`), its clock, random bytes and HTTP client
//! (`outlive-machine`).
//!
//! An instance serves one event at a time and is frozen in between, so no work may be left after an answer.

mod event;
mod wake_invoker;

use std::{future::poll_fn, path::PathBuf, pin::Pin, process::ExitCode};

use bytes::Bytes;
use futures_channel::mpsc;
use futures_util::SinkExt;
use http::Response;
use http_body::Body as _;
use lambda_runtime::{
    Error, FunctionResponse, LambdaEvent, MetadataPrelude, Runtime, StreamResponse, service_fn,
};
use outlive::{
    Arrival, Config, Node,
    body::{Body, BodyError},
};
use outlive_dynamodb::DynamoStore;
use outlive_machine::Machine;
use tokio::task::{LocalSet, spawn_local};

use event::{Event, Invocation};
use wake_invoker::WakeInvoker;

/// Chunks of a response that wait for the client.
const MAX_QUEUED_CHUNKS: usize = 8;

type ResponseStream = mpsc::Receiver<Result<Bytes, BodyError>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match LocalSet::new().run_until(run()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Error> {
    let config = read_config()?;
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    let table =
        std::env::var("OUTLIVE_TABLE").map_err(|_| "OUTLIVE_TABLE: not set; allowed: a table's name")?;
    let endpoint = std::env::var("OUTLIVE_DYNAMODB_ENDPOINT").ok();
    let is_local = endpoint.is_some();
    let aws = outlive_dynamodb::sdk_config().await;
    let store = DynamoStore::new(&aws, endpoint, table);
    if is_local {
        store.create_table().await?;
    }
    let name = std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default();
    let invoker = WakeInvoker::new(&aws, std::env::var("OUTLIVE_LAMBDA_ENDPOINT").ok(), name);
    let machine =
        Machine::new(store).with_wake_elsewhere(move |log| Box::pin(invoker.clone().wake_elsewhere(log)));
    let node = Node::new(machine, config);
    Runtime::new(service_fn(move |event| handle(node.clone(), event))).run().await
}

/// The file beside the binary, or the one that `OUTLIVE_CONFIG` names.
fn read_config() -> Result<Config, Error> {
    let beside = || PathBuf::from(std::env::var("LAMBDA_TASK_ROOT").unwrap_or_default()).join("agent.toml");
    let path = std::env::var("OUTLIVE_CONFIG").map_or_else(|_| beside(), PathBuf::from);
    let name = path.display().to_string();
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))?;
    Ok(Config::parse(&text, &name, |variable| std::env::var(variable).ok())?)
}

async fn handle(
    node: Node<Machine<DynamoStore>>,
    event: LambdaEvent<Event>,
) -> Result<FunctionResponse<&'static str, ResponseStream>, Error> {
    match event.payload.into_invocation()? {
        Invocation::Tick => {
            node.tick().await?;
            Ok(FunctionResponse::BufferedResponse("ticked"))
        }
        Invocation::Wake(log) => {
            node.wake(log).await?;
            Ok(FunctionResponse::BufferedResponse("woken"))
        }
        Invocation::Request(request) => {
            let response = node.handle(*request, Arrival::default()).await;
            Ok(FunctionResponse::StreamingResponse(stream(response)))
        }
    }
}

/// Passes the node's response to the runtime through a channel, since the runtime requires a body that is `Send`. When
/// the runtime drops the receiver, the node's body is dropped too, which cancels the work behind it.
fn stream(response: Response<Body>) -> StreamResponse<ResponseStream> {
    let (head, mut body) = response.into_parts();
    let (mut sender, receiver) = mpsc::channel(MAX_QUEUED_CHUNKS);
    spawn_local(async move {
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let chunk = frame.map(|frame| frame.into_data().unwrap_or_default());
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
    });
    let metadata_prelude =
        MetadataPrelude { status_code: head.status, headers: head.headers, cookies: Vec::new() };
    StreamResponse { metadata_prelude, stream: receiver }
}
