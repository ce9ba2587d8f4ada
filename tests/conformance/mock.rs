//! A provider that nobody here wrote: aimock (<https://aimock.copilotkit.dev>), with the failures that it can make.

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
    formats::{Format, Heard, calls, hear},
    suite::Suite,
};

/// The kinds of providers that it can be, and where their API begins.
pub(crate) const KINDS: [(&str, &str); 5] =
    [("openai", "/v1"), ("azure", ""), ("anthropic", "/v1"), ("deepseek", "/v1"), ("compatible", "/v1")];

/// Its models that fail, each in its own way; `mock.json` says how.
pub(crate) const FAILING: [&str; 5] = ["drop", "malformed", "disconnect", "limited", "cut"];

/// Requests to the models that fail by chance.
const FLOOD: usize = 60;

/// The running program.
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
        // Both fail only when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The model with one candidate of a kind.
pub(crate) fn alone(kind: &str, model: &str) -> String {
    format!("mock-{kind}-{model}")
}

/// The model with a candidate that fails, and one behind it that works.
pub(crate) fn backed(kind: &str, model: &str) -> String {
    format!("via-mock-{kind}-{model}")
}

pub(crate) fn run(suite: &Suite) {
    let forms = [Format::Chat, Format::Messages, Format::Responses].map(|form| [(form, false), (form, true)]);
    let mut cases = Vec::new();
    for (number, (kind, _)) in KINDS.into_iter().enumerate() {
        for (at, (format, stream)) in forms.into_iter().flatten().enumerate() {
            cases.push((format, stream, alone(kind, "plain"), "plain"));
            cases.push((format, stream, alone(kind, "tools"), "tools"));
            // Who has failed is not asked first again, so each kind begins with another format.
            if at == number {
                cases.extend(FAILING.map(|model| (format, stream, backed(kind, model), "plain")));
            }
        }
    }
    suite.each(&cases, |(format, stream, model, expected)| {
        let answer = format.ask(suite, &format.question(model, *stream));
        let case = format!("mock: {format:?} to {model}, stream {stream}");
        suite.checks.equal(&format!("{case}, status"), answer.status, 200);
        suite.checks.equal(&case, heard(*format, *stream, &answer), whole(*format, expected));
        // The mock cuts only streams.
        let fails = model.starts_with("via-") && (*stream || !model.ends_with("-cut"));
        let saved = answer.header("x-outlive-attempts") == "2" || answer.text().contains("\"x-outlive\":");
        suite.checks.equal(&format!("{case}, somebody else was asked"), saved, fails);
    });
    flood(suite);
}

/// Many requests to models that fail more often than not: with one that works behind them all are answered, and without it
/// each is answered or told.
fn flood(suite: &Suite) {
    let numbers: Vec<usize> = (0..FLOOD).collect();
    suite.each(&numbers, |number| {
        let format = [Format::Chat, Format::Messages, Format::Responses][number % 3];
        let stream = number % 2 == 0;
        let answer = format.ask(suite, &format.question("via-flaky", stream));
        let case =
            format!("mock: flaky, {format:?}, stream {stream}, by {}", answer.header("x-outlive-provider"));
        suite.checks.equal(&case, heard(format, stream, &answer), whole(format, "plain"));
        let answer = format.ask(suite, &format.question("flaky", stream));
        if answer.status == 200 {
            let heard = heard(format, stream, &answer);
            let told = heard.ends == 0 && heard.errors == 1 && WORDS.concat().starts_with(&heard.text);
            let case = format!("mock: only flaky, {format:?}, stream {stream}");
            suite.checks.that(
                &case,
                told || heard == whole(format, "plain"),
                "a whole answer or an error",
                heard,
            );
        } else {
            suite.checks.that(
                "mock: only flaky, an error",
                answer.status >= 429,
                "429 or 5xx",
                answer.status,
            );
        }
    });
}

/// What is understood of an answer; the mock counts tokens in its own way, or not at all.
fn heard(format: Format, stream: bool, answer: &Answer) -> Heard {
    Heard { tokens: (0, 0), ..hear(format, stream, answer) }
}

fn whole(format: Format, model: &str) -> Heard {
    let [end, called] = match format {
        Format::Chat => ["stop", "tool_calls"],
        Format::Messages => ["end_turn", "tool_use"],
        Format::Responses => ["completed", "completed"],
    };
    let plain = Heard { text: WORDS.concat(), stop: end.into(), ends: 1, ..Heard::default() };
    match model {
        "tools" => Heard { text: String::new(), calls: calls(), stop: called.into(), ..plain },
        _ => plain,
    }
}
