//! Checks an independent mock of providers and the failures that it makes: aimock (<https://aimock.copilotkit.dev>).

use std::{
    env,
    io::{Error, Read, Result, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use outlive_tests::upstream::WORDS;

use crate::{
    client::Answer,
    formats::{Format, ParsedAnswer, calls, parse_answer},
    suite::Suite,
};

/// The kinds of providers that it mocks, and the paths of their APIs.
pub(crate) const KINDS: [(&str, &str); 5] =
    [("openai", "/v1"), ("azure", ""), ("anthropic", "/v1"), ("deepseek", "/v1"), ("compatible", "/v1")];

/// Its failing models; `mock.json` says how each fails.
pub(crate) const FAILING: [&str; 5] = ["drop", "malformed", "disconnect", "limited", "cut"];

/// The number of requests to the models that fail at random.
const FLAKY_REQUESTS: usize = 60;

/// The mock's process.
pub(crate) struct Mock {
    process: Child,
    pub(crate) port: u16,
}

impl Mock {
    /// Starts it and waits until it answers.
    pub(crate) fn start() -> Result<Self> {
        let modules = env::var("OUTLIVE_NODE_MODULES")
            .map_err(|_| Error::other("OUTLIVE_NODE_MODULES is not set: run `cargo xtask test`"))?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let process = Command::new("node")
            .arg(Path::new(&modules).join("@copilotkit/aimock/dist/cli.js"))
            .args(["--port", &port.to_string(), "--chunk-size", "4", "--log-level", "silent", "--fixtures"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/mock.json"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let mock = Self { process, port };
        let start = Instant::now();
        while !mock.answers() {
            if start.elapsed() > Duration::from_secs(30) {
                return Err(Error::other("aimock does not answer"));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(mock)
    }

    fn answers(&self) -> bool {
        let ask = || -> Result<[u8; 12]> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            stream.write_all(b"GET /health HTTP/1.1\r\nhost: mock\r\nconnection: close\r\n\r\n")?;
            let mut head = [0; 12];
            stream.read_exact(&mut head).map(|()| head)
        };
        ask().is_ok_and(|head| &head == b"HTTP/1.1 200")
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        // Both fail only if the process has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The model whose one candidate is this model of the mock.
pub(crate) fn single_candidate(kind: &str, model: &str) -> String {
    format!("mock-{kind}-{model}")
}

/// The model with a failing candidate of the mock, and then a working one.
pub(crate) fn with_second_candidate(kind: &str, model: &str) -> String {
    format!("via-mock-{kind}-{model}")
}

pub(crate) fn run(suite: &Suite) {
    let forms = [Format::Chat, Format::Messages, Format::Responses].map(|form| [(form, false), (form, true)]);
    let mut cases = Vec::new();
    for (number, (kind, _)) in KINDS.into_iter().enumerate() {
        for (at, (format, stream)) in forms.into_iter().flatten().enumerate() {
            cases.push((format, stream, single_candidate(kind, "plain"), "plain"));
            cases.push((format, stream, single_candidate(kind, "tools"), "tools"));
            // The node tries a candidate last once it has failed, so each kind fails in one format only, its own.
            if at == number {
                cases.extend(
                    FAILING.map(|model| (format, stream, with_second_candidate(kind, model), "plain")),
                );
            }
        }
    }
    suite.each(&cases, |(format, stream, model, expected)| {
        let answer = format.ask(suite, &format.question(model, *stream));
        let case = format!("mock: {format:?} to {model}, stream {stream}");
        suite.checks.equal(&format!("{case}: status"), answer.status, 200);
        suite.checks.equal(
            &format!("{case}: answer"),
            parsed(*format, *stream, &answer),
            whole(*format, expected),
        );
        // The mock truncates only streams.
        let fails = model.starts_with("via-") && (*stream || !model.ends_with("-cut"));
        let failed_over =
            answer.header("x-outlive-attempts") == "2" || answer.text().contains("\"x-outlive\":");
        suite.checks.equal(&format!("{case}: another candidate was tried"), failed_over, fails);
    });
    flaky(suite);
}

/// Many requests to models that mostly fail: with a working candidate each gets its answer, and without one each gets
/// its answer or an error.
fn flaky(suite: &Suite) {
    let numbers: Vec<usize> = (0..FLAKY_REQUESTS).collect();
    suite.each(&numbers, |number| {
        let format = [Format::Chat, Format::Messages, Format::Responses][number % 3];
        let stream = number % 2 == 0;
        let answer = format.ask(suite, &format.question("via-flaky", stream));
        let case = format!(
            "mock: answer of a flaky model with a working candidate, {format:?}, stream {stream}, by {}",
            answer.header("x-outlive-provider")
        );
        suite.checks.equal(&case, parsed(format, stream, &answer), whole(format, "plain"));
        let answer = format.ask(suite, &format.question("flaky", stream));
        if answer.status == 200 {
            let parsed = parsed(format, stream, &answer);
            let ended_with_error =
                parsed.ends == 0 && parsed.errors == 1 && WORDS.concat().starts_with(&parsed.text);
            let case =
                format!("mock: answer of a model with flaky candidates only, {format:?}, stream {stream}");
            suite.checks.that(
                &case,
                ended_with_error || parsed == whole(format, "plain"),
                "a whole answer, or its beginning and an error",
                parsed,
            );
        } else {
            suite.checks.that(
                "mock: status of an error, flaky candidates only",
                answer.status >= 429,
                "429 or 5xx",
                answer.status,
            );
        }
    });
}

/// The parsed answer without its tokens, which the mock counts in its own way or not at all.
fn parsed(format: Format, stream: bool, answer: &Answer) -> ParsedAnswer {
    ParsedAnswer { tokens: (0, 0), ..parse_answer(format, stream, answer) }
}

fn whole(format: Format, model: &str) -> ParsedAnswer {
    let [end, called] = match format {
        Format::Chat => ["stop", "tool_calls"],
        Format::Messages => ["end_turn", "tool_use"],
        Format::Responses => ["completed", "completed"],
    };
    let plain = ParsedAnswer { text: WORDS.concat(), stop: end.into(), ends: 1, ..ParsedAnswer::default() };
    match model {
        "tools" => ParsedAnswer { text: String::new(), calls: calls(), stop: called.into(), ..plain },
        _ => plain,
    }
}
