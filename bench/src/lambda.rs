//! The Lambda function: what its cold start takes, and its memory.
//!
//! The other side is Lambda's runtime API, as far as one instance needs it
//! (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>). A function is ready when it asks for its first
//! event: there the platform's init phase ends. The time that the platform takes to fetch it is not in the figure.

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
    load::SAID,
    report::median,
    subject::{KEY, configuration_with_key},
    wire::Wire,
};

/// How often it is started; the median counts.
const STARTS: usize = 11;

/// Requests that it answers before its memory is looked at.
const REQUESTS: usize = 50;

/// How long one start, or one answer, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was measured.
pub(crate) struct Figures {
    /// From the start of the process to its asking for the first event; the median, in milliseconds.
    pub(crate) ready_ms: f64,
    /// Resident memory after [`REQUESTS`] chat requests, in MiB.
    pub(crate) rss_mib: f64,
}

/// Starts the function at `program` again and again.
pub(crate) async fn measure(program: &Path, upstream: &str, scratch: &Path) -> Result<Figures> {
    let config = configuration_with_key(upstream, scratch)?;
    let chat = json!({"model": "bench", "messages": [{"role": "user", "content": SAID}]});
    let (mut ready, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let start = Instant::now();
        let function = Function::start(program, &config, None).await?;
        for _ in 0..REQUESTS {
            function.ask("/v1/chat/completions", &chat).await?;
        }
        let asked = function.platform.asked.get();
        let asked = asked.ok_or_else(|| Error::other("the function asked for nothing"))?;
        ready.push((asked - start).as_secs_f64() * 1e3);
        resident.push(function.process.resident_mib()?);
    }
    Ok(Figures { ready_ms: median(ready), rss_mib: median(resident) })
}

/// One instance of the function.
pub(crate) struct Function {
    process: Process,
    platform: Rc<Invocations>,
    /// Ends with this.
    _serving: JoinSet<Result<()>>,
}

impl Function {
    /// Starts the function at `program`, which keeps its logs at the endpoint `dynamodb` if there is one.
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
        let platform = Rc::<Invocations>::default();
        let mut serving = JoinSet::new();
        serving.spawn_local(Rc::clone(&platform).serve(listener));
        Ok(Self { process, platform, _serving: serving })
    }

    /// Posts `body` to the function's URL and gives the whole answer, which must be a 200.
    pub(crate) async fn ask(&self, path: &str, body: &Value) -> Result<Vec<u8>> {
        let answer = timeout(PATIENCE, self.platform.invoke(event(path, body))).await;
        let answer = answer.map_err(|_| Error::other("the function does not answer its events"))??;
        // Between head and body the function writes eight zeros.
        let head = answer.windows(8).position(|window| window == [0; 8]).unwrap_or(answer.len());
        let (head, body) = answer.split_at(head);
        let prelude: Value = serde_json::from_slice(head)?;
        let body = body.get(8..).unwrap_or_default().to_vec();
        if prelude.get("statusCode") != Some(&json!(200)) {
            return Err(Error::other(format!("{path}: {prelude} {}", String::from_utf8_lossy(&body))));
        }
        Ok(body)
    }
}

/// The platform, as one instance of a function sees it: one event at a time.
#[derive(Default)]
struct Invocations {
    /// When the first event was asked for.
    asked: Cell<Option<Instant>>,
    event: RefCell<Option<String>>,
    answer: RefCell<Option<Result<Vec<u8>>>>,
    put: Notify,
    answered: Notify,
}

impl Invocations {
    async fn invoke(&self, event: String) -> Result<Vec<u8>> {
        *self.event.borrow_mut() = Some(event);
        self.put.notify_one();
        loop {
            self.answered.notified().await;
            if let Some(answer) = self.answer.take() {
                return answer;
            }
        }
    }

    async fn serve(self: Rc<Self>, listener: TcpListener) -> Result<()> {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            connections.spawn_local(Rc::clone(&self).connection(stream));
        }
    }

    async fn connection(self: Rc<Self>, stream: TcpStream) -> Result<()> {
        let mut wire = Wire::new(stream)?;
        while let Some(head) = wire.head().await? {
            if head.first_line.starts_with("GET") {
                self.asked.set(self.asked.get().or_else(|| Some(Instant::now())));
                let event = loop {
                    if let Some(event) = self.event.take() {
                        break event;
                    }
                    self.put.notified().await;
                };
                wire.stream.write_all(event.as_bytes()).await?;
                continue;
            }
            let body = wire.whole(&head).await?;
            let answer = if head.first_line.ends_with("/response HTTP/1.1") {
                Ok(body)
            } else {
                Err(Error::other(format!("the function failed: {}", head.first_line)))
            };
            wire.stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await?;
            *self.answer.borrow_mut() = Some(answer);
            self.answered.notify_one();
        }
        Ok(())
    }
}

/// A POST to the function's URL.
fn event(path: &str, body: &Value) -> String {
    let event = json!({
        "version": "2.0",
        "rawPath": path,
        "headers": {"content-type": "application/json", "authorization": format!("Bearer {KEY}")},
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
