//! What a cold start of the Lambda function takes, and its memory.
//!
//! The other side is Lambda's runtime API, as far as one function needs it
//! (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>). A function is ready when it asks for its first
//! event: there the platform's init phase ends. The time that the platform takes to fetch it is not in the figure.

use std::{
    cell::{Cell, RefCell},
    future::pending,
    io::{Error, Result},
    path::Path,
    process::{Command, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::timeout,
};

use crate::{child::Process, report::median, subject::configuration, wire::Wire};

/// How often it is started; the median counts.
const STARTS: usize = 11;

/// Requests that it answers before its memory is looked at.
const REQUESTS: usize = 50;

/// How long one start with its requests may take.
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
    let config = configuration(upstream, scratch)?;
    let (mut ready, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut command = Command::new(program);
        command.env_clear().env("OUTLIVE_CONFIG", &config).stdout(Stdio::null()).envs([
            ("AWS_LAMBDA_RUNTIME_API", listener.local_addr()?.to_string().as_str()),
            ("AWS_LAMBDA_FUNCTION_NAME", "outlive"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "none"),
            ("AWS_SECRET_ACCESS_KEY", "none"),
            ("OUTLIVE_TABLE", "outlive"),
        ]);
        let start = Instant::now();
        let process = Process::start(&mut command)?;
        let platform = Rc::new(Invocations::default());
        timeout(PATIENCE, platform.clone().run(listener))
            .await
            .map_err(|_| Error::other("the function does not answer its events"))??;
        let asked = platform.asked.borrow().ok_or_else(|| Error::other("the function asked for nothing"))?;
        ready.push((asked - start).as_secs_f64() * 1e3);
        resident.push(process.resident_mib()?);
    }
    Ok(Figures { ready_ms: median(ready), rss_mib: median(resident) })
}

/// The platform, as one instance of a function sees it.
#[derive(Default)]
struct Invocations {
    /// When the first event was asked for.
    asked: RefCell<Option<Instant>>,
    /// Events that were answered.
    answered: Cell<usize>,
    done: Notify,
}

impl Invocations {
    /// Takes connections until all events are answered.
    async fn run(self: Rc<Self>, listener: TcpListener) -> Result<()> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    connections.spawn_local(self.clone().connection(accepted?.0));
                }
                Some(ended) = connections.join_next() => ended.map_err(Error::other)??,
                () = self.done.notified() => return Ok(()),
            }
        }
    }

    async fn connection(self: Rc<Self>, stream: TcpStream) -> Result<()> {
        let mut wire = Wire::new(stream)?;
        while let Some(head) = wire.head().await? {
            if head.first_line.starts_with("GET") {
                self.asked.borrow_mut().get_or_insert_with(Instant::now);
                if self.answered.get() == REQUESTS {
                    self.done.notify_one();
                    pending::<()>().await;
                }
                wire.stream.write_all(event(self.answered.get()).as_bytes()).await?;
                continue;
            }
            match head.length {
                Some(length) => drop(wire.body(length, []).await?),
                None => drop(wire.chunks().await?),
            }
            if !head.first_line.ends_with("/response HTTP/1.1") {
                return Err(Error::other(format!("the function failed: {}", head.first_line)));
            }
            self.answered.set(self.answered.get() + 1);
            wire.stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await?;
        }
        Ok(())
    }
}

/// A chat request to the function's URL.
fn event(number: usize) -> String {
    let body = r#"{\"model\":\"bench\",\"messages\":[{\"role\":\"user\",\"content\":\"Say what you always say.\"}]}"#;
    let event = format!(
        r#"{{"version":"2.0","rawPath":"/v1/chat/completions","headers":{{"content-type":"application/json","host":"127.0.0.1"}},"requestContext":{{"http":{{"method":"POST"}}}},"body":"{body}","isBase64Encoded":false}}"#
    );
    format!(
        "HTTP/1.1 200 OK\r\nlambda-runtime-aws-request-id: {number}\r\nlambda-runtime-deadline-ms: 4000000000000\r\n\
         lambda-runtime-invoked-function-arn: arn:aws:lambda:us-east-1:1:function:outlive\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{event}",
        event.len()
    )
}
