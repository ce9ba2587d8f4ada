//! An HTTP client that returns every byte as it came, and inspects every answer for secrets and missing headers.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpStream},
    sync::Mutex,
    thread,
    time::Duration,
};

use serde_json::Value;

/// A client of one node, with the rules that its answers broke.
pub(crate) struct Client {
    port: u16,
    /// Secrets that must be in no answer.
    canaries: &'static [&'static str],
    broken_rules: Mutex<Vec<String>>,
}

/// A request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// What the node sent. Status 0: not HTTP; then the body says why.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body ended as the head announced.
    pub(crate) whole: bool,
    /// Bytes after the head.
    raw_body_bytes: usize,
}

/// Longer than any answer takes, also at the end of a queue.
const TIMEOUT: Duration = Duration::from_secs(180);

impl Request {
    /// A GET without a key.
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), ..Self::default() }
    }

    /// A POST of JSON without a key.
    pub(crate) fn post(path: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        let post = Self { method: "POST", path: path.into(), body: body.into(), ..Self::default() };
        post.with("content-type", "application/json")
    }

    /// With another method.
    pub(crate) fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    /// With one more header.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a caller's key.
    pub(crate) fn key(self, key: &str) -> Self {
        self.with("authorization", &format!("Bearer {key}"))
    }

    fn head(&self, port: u16) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if self.method != "GET" || !self.body.is_empty() {
            head += &format!("content-length: {}\r\n", self.body.len());
        }
        head + "connection: close\r\n\r\n"
    }
}

impl Client {
    pub(crate) fn new(port: u16, canaries: &'static [&'static str]) -> Self {
        Self { port, canaries, broken_rules: Mutex::default() }
    }

    /// Sends a request and reads the answer to its end.
    pub(crate) fn send(&self, request: &Request) -> Answer {
        let answer = self.exchange(request).unwrap_or_else(|error| Answer {
            body: format!("no answer: {error}").into_bytes(),
            ..Answer::default()
        });
        self.inspect(request, &answer);
        answer
    }

    /// Sends a request, reads until the answer contains `text`, and disconnects. False: the answer ended without it.
    pub(crate) fn disconnect_after(&self, request: &Request, text: &str) -> io::Result<bool> {
        let mut stream = self.connect()?;
        stream.write_all(&[request.head(self.port).as_bytes(), &request.body].concat())?;
        let found = read_until(&mut stream, &mut Vec::new(), text)?;
        stream.shutdown(Shutdown::Both)?;
        Ok(found)
    }

    /// Sends a request, runs `action` once the answer contains `text`, and reads the answer to its end.
    pub(crate) fn send_and_act(&self, request: &Request, text: &str, action: impl FnOnce()) -> Answer {
        let exchange = || -> io::Result<Option<Answer>> {
            let mut stream = self.connect()?;
            stream.write_all(&[request.head(self.port).as_bytes(), &request.body].concat())?;
            let mut received = Vec::new();
            if read_until(&mut stream, &mut received, text)? {
                action();
                read_whole(&mut stream, &mut received, false)?;
            }
            Ok(parse(&received, false))
        };
        exchange().unwrap_or_default().unwrap_or_default()
    }

    /// The rules that answers broke, whatever their check expected.
    pub(crate) fn broken_rules(&self) -> Vec<String> {
        self.broken_rules.lock().map(|rules| rules.clone()).unwrap_or_default()
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(stream)
    }

    fn exchange(&self, request: &Request) -> io::Result<Answer> {
        let mut stream = self.connect()?;
        let mut writer = stream.try_clone()?;
        let mut bytes = Vec::new();
        // Read while writing: a node that refuses a large body answers before all of it is sent.
        let read = thread::scope(|scope| {
            scope.spawn(|| {
                let head = request.head(self.port);
                writer.write_all(&[head.as_bytes(), &request.body].concat())
            });
            let read = read_whole(&mut stream, &mut bytes, request.method == "HEAD");
            // Ends the writer, which would otherwise wait for its timeout.
            drop(stream.shutdown(Shutdown::Both));
            read
        });
        // After a part of the answer, the check decides about a reset.
        if let Err(error) = read
            && bytes.is_empty()
        {
            return Err(error);
        }
        parse(&bytes, request.method == "HEAD")
            .ok_or_else(|| io::Error::other(format!("not HTTP: {:?}", String::from_utf8_lossy(&bytes))))
    }

    fn inspect(&self, request: &Request, answer: &Answer) {
        let broke = |rule: &str| {
            if let Ok(mut rules) = self.broken_rules.lock() {
                rules.push(format!("{rule}: {} {} -> {answer:?}", request.method, request.path));
            }
        };
        let headers = answer.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
        let all = headers.chain([answer.text()]).collect::<String>();
        if self.canaries.iter().any(|canary| all.contains(canary)) {
            broke("an answer contains a secret");
        }
        // 413 may be the platform's own answer, and 0 is no answer.
        if !matches!(answer.status, 0 | 413) {
            if answer.header("x-request-id").is_empty() || answer.header("x-request-id") == "req_upstream" {
                broke("an answer without its own x-request-id");
            }
            let named_twice = answer.header("request-id") == answer.header("x-request-id");
            if request.path.starts_with("/v1/messages") && !named_twice {
                broke("an answer to Anthropic's clients without request-id");
            }
            if answer.header("x-outlive-node").is_empty() {
                broke("an answer without x-outlive-node");
            }
        }
    }
}

impl Answer {
    /// The value of a header; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body; null if it is not JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Status, `error.code` and `error.param` of an error in OpenAI's or Anthropic's shape. For any other body the code
    /// says what is wrong with it.
    pub(crate) fn error(&self) -> (u16, String, Option<String>) {
        let body = self.json();
        let error = &body["error"];
        if body["type"] == "error" {
            return self.anthropic_error(&body);
        }
        let filled = |name: &str| error[name].as_str().is_some_and(|text| !text.is_empty());
        if !filled("message") || !filled("type") || !filled("code") || error.get("param").is_none() {
            return (self.status, format!("not an error in OpenAI's shape: {}", self.text()), None);
        }
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        (self.status, text("code").unwrap_or_default(), text("param"))
    }

    /// The same for an error in Anthropic's shape, to which the node adds the code.
    fn anthropic_error(&self, body: &Value) -> (u16, String, Option<String>) {
        let error = &body["error"];
        let whole = ["type", "message", "code"].iter().all(|name| error[name].is_string());
        if !whole || !body["request_id"].is_string() {
            return (self.status, format!("not an error in Anthropic's shape: {body}"), None);
        }
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        (self.status, text("code").unwrap_or_default(), text("param"))
    }

    /// `retry-after` in seconds.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        self.header("retry-after").parse().ok()
    }
}

/// Reads until the answer contains `text`. False: it ended without it.
fn read_until(stream: &mut TcpStream, received: &mut Vec<u8>, text: &str) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    while !received.windows(text.len()).any(|window| window == text.as_bytes()) {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(false);
        }
        received.extend_from_slice(&buffer[..count]);
    }
    Ok(true)
}

/// Reads to the end of the answer or of the connection: not every server closes it at once although asked to.
fn read_whole(stream: &mut TcpStream, bytes: &mut Vec<u8>, is_head: bool) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut length = None;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&buffer[..count]);
        if length.is_none() {
            length = parse(bytes, is_head).map(|answer| {
                let announced = answer.header("content-length").parse().ok();
                let head = bytes.len() - answer.raw_body_bytes;
                if is_head { Some(head) } else { announced.map(|length: usize| head + length) }
            });
        }
        let done = match length {
            None => false,
            Some(Some(length)) => bytes.len() >= length,
            // Chunked: all of it is parsed only if it ends like the last chunk.
            Some(None) => {
                bytes.ends_with(b"0\r\n\r\n") && parse(bytes, is_head).is_some_and(|answer| answer.whole)
            }
        };
        if done {
            return Ok(());
        }
    }
}

fn parse(bytes: &[u8], is_head: bool) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let body = &bytes[end + 4..];
    if status == 100 {
        return parse(body, is_head);
    }
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
    let mut answer = Answer { status, headers, raw_body_bytes: body.len(), ..Answer::default() };
    (answer.body, answer.whole) = if answer.header("transfer-encoding").contains("chunked") {
        join_chunks(body)
    } else {
        let announced = answer.header("content-length").parse().ok();
        (body.to_vec(), is_head || announced.is_some_and(|length: usize| length == body.len()))
    };
    Some(answer)
}

/// The content of the chunks, and whether the last chunk has come.
fn join_chunks(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let line = String::from_utf8_lossy(&rest[..end]);
        let Ok(size) = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16) else { break };
        rest = &rest[end + 2..];
        if size == 0 {
            return (body, true);
        }
        body.extend_from_slice(&rest[..size.min(rest.len())]);
        let Some(next) = rest.get(size + 2..) else { break };
        rest = next;
    }
    (body, false)
}
