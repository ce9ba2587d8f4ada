//! Measures the Lambda function's cold start and memory, over as much of Lambda's runtime API as one instance needs
//! (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>).
//!
//! A function is ready when it requests its first event, which ends the platform's init phase. The figure does not
//! contain the time in which the platform downloads the function.

use std::{
    cell::{Cell, RefCell},
    io::{Error, Result},
    path::Path,
    process::{Command, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::timeout,
};

use crate::{
    child::Process,
    connection::Connection,
    load::PROMPT,
    report::median,
    subject::{API_KEY, write_config_with_key},
};

/// Cold starts; the figures are medians over them.
const STARTS: usize = 11;

/// Requests of each instance before its memory is measured.
const REQUESTS_PER_START: usize = 50;

/// How long a start together with its first response, or any later response, may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The function's figures, each a median over [`STARTS`].
pub(crate) struct LambdaFigures {
    /// From the start of the process to its request for the first event, in milliseconds.
    pub(crate) ready_ms: f64,
    /// Resident memory after [`REQUESTS_PER_START`] chat requests, in MiB.
    pub(crate) rss_mib: f64,
}

/// Starts the function at `program` [`STARTS`] times, one instance after the other.
pub(crate) async fn measure(program: &Path, upstream: &str, scratch: &Path) -> Result<LambdaFigures> {
    let config = write_config_with_key(upstream, scratch)?;
    let chat = json!({"model": "bench", "messages": [{"role": "user", "content": PROMPT}]});
    let (mut ready, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let start = Instant::now();
        let function = Function::start(program, &config, None).await?;
        for _ in 0..REQUESTS_PER_START {
            function.post("/v1/chat/completions", &chat).await?;
        }
        let ready_at = function.runtime_api.first_poll_at.get();
        let ready_at = ready_at.ok_or_else(|| Error::other("the function requested no event"))?;
        ready.push((ready_at - start).as_secs_f64() * 1e3);
        resident.push(function.process.resident_mib()?);
    }
    Ok(LambdaFigures { ready_ms: median(ready), rss_mib: median(resident) })
}

/// One running instance of the function.
pub(crate) struct Function {
    process: Process,
    runtime_api: Rc<RuntimeApi>,
    /// Serves the runtime API; dropping it stops the server.
    _serving: JoinSet<Result<()>>,
}

impl Function {
    /// Starts the function at `program`, with its store at the endpoint `dynamodb` if one is given.
    pub(crate) async fn start(program: &Path, config: &Path, dynamodb: Option<&str>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut command = Command::new(program);
        command.env_clear().env("OUTLIVE_CONFIG", config).stdout(Stdio::null()).envs([
            ("AWS_LAMBDA_RUNTIME_API", listener.local_addr()?.to_string().as_str()),
            ("AWS_LAMBDA_FUNCTION_NAME", "outlive"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "none"),
            ("AWS_SECRET_ACCESS_KEY", "none"),
            ("OUTLIVE_TABLE", "outlive"),
        ]);
        command.envs(dynamodb.map(|endpoint| ("OUTLIVE_DYNAMODB_ENDPOINT", endpoint)));
        let process = Process::start(&mut command)?;
        let runtime_api = Rc::<RuntimeApi>::default();
        let mut serving = JoinSet::new();
        serving.spawn_local(Rc::clone(&runtime_api).serve(listener));
        Ok(Self { process, runtime_api, _serving: serving })
    }

    /// Posts `body` to the function's URL and returns the response's body; any status but 200 is an error.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Vec<u8>> {
        let response = timeout(TIMEOUT, self.runtime_api.invoke(event_response(path, body))).await;
        let response =
            response.map_err(|_| Error::other("the function does not respond to its events"))??;
        // A streamed response has a JSON prelude, eight zero bytes, and the body.
        let prelude_end = response.windows(8).position(|window| window == [0; 8]).unwrap_or(response.len());
        let (prelude, body) = response.split_at(prelude_end);
        let prelude: Value = serde_json::from_slice(prelude)?;
        let body = body.get(8..).unwrap_or_default().to_vec();
        if prelude.get("statusCode") != Some(&json!(200)) {
            return Err(Error::other(format!("{path}: {prelude} {}", String::from_utf8_lossy(&body))));
        }
        Ok(body)
    }
}

/// The runtime API, as one instance of a function sees it: one event at a time.
#[derive(Default)]
struct RuntimeApi {
    /// When the function requested its first event.
    first_poll_at: Cell<Option<Instant>>,
    event: RefCell<Option<String>>,
    response: RefCell<Option<Result<Vec<u8>>>>,
    event_added: Notify,
    response_added: Notify,
}

impl RuntimeApi {
    /// Hands the function an event and waits for its response.
    async fn invoke(&self, event: String) -> Result<Vec<u8>> {
        *self.event.borrow_mut() = Some(event);
        self.event_added.notify_one();
        loop {
            self.response_added.notified().await;
            if let Some(response) = self.response.take() {
                return response;
            }
        }
    }

    async fn serve(self: Rc<Self>, listener: TcpListener) -> Result<()> {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            connections.spawn_local(Rc::clone(&self).handle_connection(stream));
        }
    }

    async fn handle_connection(self: Rc<Self>, stream: TcpStream) -> Result<()> {
        let mut connection = Connection::new(stream)?;
        while let Some(head) = connection.read_head().await? {
            if head.first_line.starts_with("GET") {
                // The function polls for its next event.
                self.first_poll_at.set(self.first_poll_at.get().or_else(|| Some(Instant::now())));
                let event = loop {
                    if let Some(event) = self.event.take() {
                        break event;
                    }
                    self.event_added.notified().await;
                };
                connection.stream.write_all(event.as_bytes()).await?;
                continue;
            }
            let body = connection.read_body(&head).await?;
            let response = if head.first_line.ends_with("/response HTTP/1.1") {
                Ok(body)
            } else {
                Err(Error::other(format!("the function failed: {}", head.first_line)))
            };
            connection.stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await?;
            *self.response.borrow_mut() = Some(response);
            self.response_added.notify_one();
        }
        Ok(())
    }
}

/// The runtime API's response to a poll: the event of a POST to the function's URL.
fn event_response(path: &str, body: &Value) -> String {
    let event = json!({
        "version": "2.0",
        "rawPath": path,
        "headers": {"content-type": "application/json", "authorization": format!("Bearer {API_KEY}")},
        "requestContext": {"http": {"method": "POST"}},
        "body": body.to_string(),
        "isBase64Encoded": false,
    })
    .to_string();
    format!(
        "HTTP/1.1 200 OK\r\nlambda-runtime-aws-request-id: 1\r\nlambda-runtime-deadline-ms: 4000000000000\r\n\
         lambda-runtime-invoked-function-arn: arn:aws:lambda:us-east-1:1:function:outlive\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{event}",
        event.len()
    )
}
