//! The Lambda shell: the ports over DynamoDB and tokio, and Lambda's events as requests.
//!
//! In scope: the runtime API, the table. Everything that Outlive *does* is in the core.
//!
//! An instance serves one event at a time and is frozen in between: nothing may be left to do after an answer.

mod event;
mod platform;
mod summon;

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
    Config, Node,
    body::{Body, BodyError},
    node::Arrival,
};
use outlive_dynamodb::DynamoStore;
use tokio::task::{LocalSet, spawn_local};

use event::{Call, Event};
use platform::Machine;
use summon::Summoner;

/// Pieces of an answer that wait for the client.
const QUEUE: usize = 8;

type Stream = mpsc::Receiver<Result<Bytes, BodyError>>;

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
    let table =
        std::env::var("OUTLIVE_TABLE").map_err(|_| "OUTLIVE_TABLE: not set; allowed: a table's name")?;
    let endpoint = std::env::var("OUTLIVE_DYNAMODB_ENDPOINT").ok();
    let local = endpoint.is_some();
    let aws = outlive_dynamodb::environment().await;
    let store = DynamoStore::new(&aws, endpoint, table);
    if local {
        store.create_table().await?;
    }
    let name = std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default();
    let summoner = Summoner::new(&aws, std::env::var("OUTLIVE_LAMBDA_ENDPOINT").ok(), name);
    let machine = Machine::new(store).frozen(move |log| Box::pin(summoner.clone().summon(log)));
    let node = Node::new(machine, config);
    Runtime::new(service_fn(move |event| answer(node.clone(), event))).run().await
}

/// The file beside the binary, or the one that `OUTLIVE_CONFIG` names.
fn read_config() -> Result<Config, Error> {
    let beside = || PathBuf::from(std::env::var("LAMBDA_TASK_ROOT").unwrap_or_default()).join("agent.toml");
    let path = std::env::var("OUTLIVE_CONFIG").map_or_else(|_| beside(), PathBuf::from);
    let name = path.display().to_string();
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))?;
    Ok(Config::parse(&text, &name, |variable| std::env::var(variable).ok())?)
}

async fn answer(
    node: Node<Machine<DynamoStore>>,
    event: LambdaEvent<Event>,
) -> Result<FunctionResponse<&'static str, Stream>, Error> {
    match event.payload.call()? {
        Call::Tick => {
            node.tick().await?;
            Ok(FunctionResponse::BufferedResponse("ticked"))
        }
        Call::Wake(log) => {
            node.wake(log).await?;
            Ok(FunctionResponse::BufferedResponse("woken"))
        }
        Call::Request(request) => {
            let response = node.handle(*request, Arrival::default()).await;
            Ok(FunctionResponse::StreamingResponse(stream(response)))
        }
    }
}

/// The runtime wants a body that may cross threads, so the node's goes through a channel. When the runtime drops its
/// end, the node's body is dropped too, and with it the work behind it.
fn stream(response: Response<Body>) -> StreamResponse<Stream> {
    let (head, mut body) = response.into_parts();
    let (mut sender, receiver) = mpsc::channel(QUEUE);
    spawn_local(async move {
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let piece = frame.map(|frame| frame.into_data().unwrap_or_default());
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    let metadata_prelude =
        MetadataPrelude { status_code: head.status, headers: head.headers, cookies: Vec::new() };
    StreamResponse { metadata_prelude, stream: receiver }
}
