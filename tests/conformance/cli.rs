//! Checks the command line, which is the same program on every host: chats, mistakes, and moving sessions.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use outlive_tests::upstream::WORDS;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    client::Request,
    node::Host,
    suite::{FULL, INFERENCE, Suite},
};

pub(crate) fn run(suite: &mut Suite) {
    if suite.host != Host::Native {
        return;
    }
    chats(suite);
    mistakes(suite);
    if let Err(error) = first_minutes(suite) {
        suite.checks.that("the first minutes of an operator", false, "files and a node", error);
    }
    interrupted_chat(suite);
    if let Err(error) = moved_session(suite) {
        suite.checks.that("a session can be moved", false, "files and a second node", error);
    }
    killed_node(suite);
}

/// Longer than any chat takes.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The path of the program, which is also the node.
pub(crate) fn program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |target| root.join(target));
    target.join("release/outlive")
}

/// The program as a script runs it, without a terminal.
fn command(key: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).env("OUTLIVE_KEY", key);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn url(suite: &Suite) -> String {
    format!("http://127.0.0.1:{}", suite.node.port)
}

/// Runs the program with `input` on stdin. Returns exit code, stdout and stderr; -1 if there is no exit code.
fn outlive(key: &str, arguments: &[&str], input: &str) -> (i32, String, String) {
    let run = || -> io::Result<Output> {
        let mut child = command(key, arguments).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        child.wait_with_output()
    };
    result(run())
}

/// Exit code, stdout and stderr of a program; -1 if there is no exit code.
pub(crate) fn result(output: io::Result<Output>) -> (i32, String, String) {
    match output {
        Ok(output) => (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ),
        Err(error) => (-1, String::new(), error.to_string()),
    }
}

/// The conversation that the program names on stderr.
fn conversation(stderr: &str) -> String {
    let mut words = stderr.split_whitespace();
    words.find(|word| word.starts_with("conv_")).unwrap_or_default().to_owned()
}

/// The number of items of a conversation.
fn items(suite: &Suite, conversation: &str) -> usize {
    let path = format!("/v1/conversations/{conversation}/items?limit=100");
    suite.ask(Request::get(path)).json()["data"].as_array().map_or(0, Vec::len)
}

fn chats(suite: &Suite) {
    let checks = &suite.checks;
    let (url, answer) = (url(suite), format!("{}\n", WORDS.concat()));
    let (code, out, err) = outlive(FULL, &["chat", "--url", &url, "--model", "plain", "How are you?"], "");
    checks.equal("chat with one message: exit code and answer", (code, out.as_str()), (0, answer.as_str()));
    checks.that(
        "chat with one message: provider and tokens on stderr",
        err.contains("tokens"),
        "a line with tokens",
        &err,
    );
    let chat = ["chat", "--url", &format!("{url}/v1/"), "--model", "plain"];
    let (code, out, err) = outlive(FULL, &chat, "one\n\n/help\ntwo\n/quit\nthree\n");
    checks.equal("chat of two lines: exit code and answers", (code, out), (0, answer.repeat(2)));
    let id = conversation(&err);
    checks.equal("chat of two lines: items of its conversation", items(suite, &id), 4);
    let more = [&chat[..], &["--conversation", &id, "three"]].concat();
    checks.equal("chat in an existing conversation: exit code", outlive(FULL, &more, "").0, 0);
    checks.equal("chat in an existing conversation: items", items(suite, &id), 6);
    let closed_url = closed_url();
    let two = ["chat", "--url", &closed_url, "--url", &url, "--model", "plain", "x"];
    checks.equal(
        "chat with a second URL when the first node is down: answer",
        outlive(FULL, &two, "").1,
        answer,
    );
    checks.equal("chat without a terminal: colours on stderr", err.contains('\x1b'), false);
}

/// A URL without a listener.
fn closed_url() -> String {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    format!("http://127.0.0.1:{}", free.map_or(1, |address| address.port()))
}

/// Mistakes of a user: exit code and a hint on stderr.
fn mistakes(suite: &Suite) {
    let (url, closed_url) = (url(suite), closed_url());
    let zeros = "0".repeat(32);
    let unknown = format!("conv_{zeros}");
    let cases: [(&str, &[&str], &str, i32, &str); 10] = [
        ("chat: the node is down", &["chat", "--url", &closed_url, "x"], FULL, 1, "outlive serve"),
        ("sessions: the node is down", &["sessions", "list", "--url", &closed_url], FULL, 1, "outlive serve"),
        ("chat: a URL without a scheme", &["chat", "--url", "localhost", "x"], FULL, 2, "--url"),
        ("chat: an unknown key", &["chat", "--url", &url, "x"], "key-of-nobody", 1, "--key-env"),
        ("sessions: a key without the scope", &["sessions", "list", "--url", &url], INFERENCE, 1, "admin"),
        (
            "chat: an unknown conversation",
            &["chat", "--url", &url, "--conversation", &unknown, "x"],
            FULL,
            1,
            "no conversation",
        ),
        (
            "chat: a model that fails",
            &["chat", "--url", &url, "--model", "only-broken-streamed", "x"],
            FULL,
            1,
            "candidate",
        ),
        (
            "sessions: an unknown session",
            &["sessions", "show", "--url", &url, &unknown],
            FULL,
            1,
            "no session",
        ),
        ("sessions: an id of another kind", &["sessions", "show", "--url", &url, "x"], FULL, 2, "sess_"),
        ("sessions: a file that does not exist", &["sessions", "verify", "/nowhere"], FULL, 1, "/nowhere"),
    ];
    for (case, arguments, key, code, text) in cases {
        let (actual, _, err) = outlive(key, arguments, "");
        suite.checks.that(
            case,
            actual == code && err.contains(text),
            &format!("{code} and {text:?}"),
            (actual, err),
        );
    }
}

/// What a new operator meets: mistakes that say what to do, a key, and a node that names a first request that works.
fn first_minutes(suite: &Suite) -> io::Result<()> {
    let checks = &suite.checks;
    let directory = tempfile::Builder::new().prefix("outlive-").tempdir()?;
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let taken = other.local_addr()?.to_string();
    let file = |name: &str, text: &str| fs::write(directory.path().join(name), text);
    file("wrong.toml", "[agent]\nnmae = \"a\"\n")?;
    file(
        "unset.toml",
        "[[provider]]\nname = \"openai\"\nkind = \"openai\"\napi_key = { env = \"NOT_SET_HERE\" }\n",
    )?;
    file("data", "a file")?;
    let run = |arguments: &[&str]| {
        let mut command = command("", arguments);
        command.env_remove("OPENAI_API_KEY").current_dir(directory.path()).stdin(Stdio::null());
        command.output()
    };
    let cases: [(&str, &[&str], i32, &str); 9] = [
        ("a flag that does not exist", &["--port", "8080"], 2, "--help"),
        ("a file that does not exist", &["--config", "nope.toml"], 1, "--config nope.toml"),
        ("a directory instead of a file", &["check", "--config", "."], 1, "allowed: a text file"),
        (
            "a misspelt key",
            &["check", "--config", "wrong.toml"],
            1,
            "wrong.toml:2: agent.nmae: unknown key; did you mean \"name\"?",
        ),
        (
            "a key that is not set",
            &["check", "--config", "unset.toml"],
            1,
            "the environment variable NOT_SET_HERE is not set",
        ),
        ("a port in use", &["--listen", &taken], 1, "choose another port"),
        ("an address without a port", &["--listen", "localhost"], 1, "allowed: HOST:PORT"),
        ("an open address without a key", &["--listen", "0.0.0.0:0"], 1, "outlive key new"),
        ("data that is not a directory", &["--listen", "127.0.0.1:0"], 1, "allowed: a directory"),
    ];
    for (case, arguments, code, text) in cases {
        let output = run(arguments)?;
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        let good = output.status.code() == Some(code) && err.contains(text) && !err.contains("panicked");
        checks.that(
            &format!("start: {case}"),
            good,
            &format!("{code} and {text:?}"),
            (output.status.code(), err),
        );
    }

    let made = run(&["key", "new", "--name", "boss"])?;
    let shown = String::from_utf8_lossy(&made.stderr).into_owned();
    let key = shown.split_whitespace().find_map(|word| word.strip_prefix("OUTLIVE_KEY=")).unwrap_or_default();
    let table = String::from_utf8_lossy(&made.stdout).into_owned();
    checks.that(
        "key new: the key is only on stderr",
        key.starts_with("sk-outlive-") && !table.contains(key),
        "a key",
        &shown,
    );
    file("agent.toml", &table)?;
    let node = SecondNode::start(directory.path(), "localhost:0")?;
    let steps = node.log_with("request  ")?;
    let request = steps.split_once("request  ").map_or("", |(_, request)| request);
    let answer = |key: &str| {
        let output = Command::new("sh").args(["-c", request]).env("OUTLIVE_KEY", key).output()?;
        io::Result::Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    checks.that("start: the printed request works", answer(key)?.contains("[DONE]"), "a stream", &steps);
    checks.that("start: it needs the key", answer("wrong")?.contains("invalid_api_key"), "a refusal", &steps);
    checks.that(
        "start: the console is named",
        steps.contains(&format!("{}/console", node.url)),
        "its URL",
        &steps,
    );
    Ok(())
}

/// A running chat whose answer has begun, and the first byte of it.
fn start_chat(suite: &Suite) -> io::Result<(Child, String)> {
    let url = url(suite);
    let mut child = command(FULL, &["chat", "--url", &url, "--model", "steady", "Go on."]).spawn()?;
    drop(child.stdin.take());
    let mut first = [0; 1];
    child.stdout.as_mut().ok_or_else(|| io::Error::other("no stdout"))?.read_exact(&mut first)?;
    Ok((child, String::from_utf8_lossy(&first).into_owned()))
}

fn interrupted_chat(suite: &Suite) {
    let checks = &suite.checks;
    let run = || -> io::Result<(Option<i32>, String, String)> {
        let (child, first) = start_chat(suite)?;
        let pid = Pid::from_raw(child.id().cast_signed()).ok_or_else(|| io::Error::other("no process"))?;
        kill_process(pid, Signal::INT)?;
        let output = child.wait_with_output()?;
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((output.status.code(), first + &String::from_utf8_lossy(&output.stdout), err))
    };
    match run() {
        Ok((code, out, err)) => {
            let cut = WORDS.concat().starts_with(out.trim_end()) && out.trim_end() != WORDS.concat();
            checks.that(
                "interrupted chat: exit code and truncated answer",
                code == Some(1) && cut && err.contains("cancelled"),
                "exit code 1 and a truncated answer",
                (code, out, &err),
            );
            let path = format!("/v1/sessions/{}", conversation(&err).replacen("conv_", "sess_", 1));
            let session = suite.ask(Request::get(path)).json();
            checks.equal(
                "interrupted chat: status of the response",
                session["responses"][0]["status"].as_str(),
                Some("cancelled"),
            );
        }
        Err(error) => checks.that(
            "interrupted chat: exit code and truncated answer",
            false,
            "exit code 1 and a truncated answer",
            error,
        ),
    }
}

/// The case whose damaged line has no entry that could be named.
const HALF_LINE: &str = "sessions verify: half a line";

/// Exports a session from one node and imports it into another.
fn moved_session(suite: &Suite) -> io::Result<()> {
    let checks = &suite.checks;
    let url = url(suite);
    let id = conversation(&outlive(FULL, &["chat", "--url", &url, "--model", "plain", "é"], "").2);
    let session = id.replacen("conv_", "sess_", 1);
    let list = outlive(FULL, &["sessions", "list", "--url", &url], "").1;
    checks.that(
        "sessions list: the session is listed",
        list.lines().any(|line| line.starts_with(&session)),
        &session,
        &list,
    );
    let shown = outlive(FULL, &["sessions", "show", "--url", &url, &id], "").1;
    let shown: Value = serde_json::from_str(&shown).unwrap_or_default();
    checks.equal("sessions show: id", shown["id"].as_str(), Some(session.as_str()));

    let directory = tempfile::Builder::new().prefix("outlive-").tempdir()?;
    let file = directory.path().join("session.jsonl").display().to_string();
    checks.equal(
        "sessions export: exit code",
        outlive(FULL, &["sessions", "export", "--url", &url, &id, &file], "").0,
        0,
    );
    let exported = fs::read_to_string(&file)?;
    checks.equal(
        "sessions export: number of lines",
        exported.lines().count() as u64,
        shown["entries"].as_u64().unwrap_or_default(),
    );
    let piped = outlive(FULL, &["sessions", "export", "--url", &url, &session], "").1;
    checks.equal("sessions export to stdout: the same lines", &piped, &exported);
    let verify = |input: &str| outlive(FULL, &["sessions", "verify", "-"], input);
    let whole = verify(&exported);
    checks.that(
        "sessions verify: exit code and output",
        whole.0 == 0 && whole.1.starts_with("verified: "),
        "0",
        &whole,
    );
    checks.equal(
        "sessions verify on the node: output",
        outlive(FULL, &["sessions", "verify", "--url", &url, &id], "").1,
        whole.1,
    );

    // Each kind of damage is done to the second line.
    let lines: Vec<&str> = exported.lines().collect();
    let second = lines.get(1).copied().unwrap_or_default();
    let with_second_line = |change: &dyn Fn(&str) -> String| exported.replace(second, &change(second));
    let origin = "conformance.0";
    for (case, text) in [
        (
            "sessions verify: a changed body",
            with_second_line(&|line| line.replacen("\"body\":\"ey", "\"body\":\"ez", 1)),
        ),
        (
            "sessions verify: a changed header",
            with_second_line(&|line| line.replacen("\"header\":\"01", "\"header\":\"02", 1)),
        ),
        (
            "sessions verify: a changed hash",
            with_second_line(&|line| line.replacen("\"hash\":\"", "\"hash\":\"0", 1)),
        ),
        (HALF_LINE, with_second_line(&|line| line.get(..line.len() / 2).unwrap_or_default().to_owned())),
    ] {
        let (code, out, err) = verify(&text);
        let is_named =
            err.contains("line 2") && (case == HALF_LINE || err.contains(&format!("entry 2 of {origin}")));
        checks.that(case, code == 1 && is_named, "exit code 1 and the entry", (code, out, err));
    }
    let without_second_line = exported.replacen(&format!("{second}\n"), "", 1);
    let (code, _, err) = verify(&without_second_line);
    checks.that(
        "sessions verify: a missing line",
        code == 1 && err.contains("line 2"),
        "exit code 1 and the line",
        (code, err),
    );
    let damaged = directory.path().join("damaged.jsonl").display().to_string();
    fs::write(&damaged, without_second_line)?;
    checks.equal(
        "sessions import of a damaged file: exit code",
        outlive(FULL, &["sessions", "import", "--url", &url, &damaged], "").0,
        1,
    );
    let known = outlive(FULL, &["sessions", "import", "--url", &url, &file], "");
    checks.that(
        "sessions import of known entries: output",
        known.1.starts_with("0 entries imported"),
        "0 entries",
        &known,
    );

    let other = SecondNode::start(directory.path(), "127.0.0.1:0")?;
    let imported = outlive("", &["sessions", "import", "--url", &other.url, &file], "");
    checks.that(
        "sessions import into another node: exit code and output",
        imported.0 == 0 && imported.1.ends_with(" 0 already present\n"),
        "0",
        &imported,
    );
    let exported_again = outlive("", &["sessions", "export", "--url", &other.url, &id], "").1;
    checks.equal("sessions export from another node: the same lines", exported_again, exported);
    let (code, out, err) = outlive("", &["chat", "--url", &other.url, "hello"], "");
    checks.that(
        "chat with a node of the default configuration: exit code and answer",
        code == 0 && !out.trim().is_empty(),
        "an answer",
        (code, out, err),
    );
    Ok(())
}

/// A second node, with the `agent.toml` of its directory or the default configuration.
struct SecondNode {
    process: Child,
    url: String,
    log: PathBuf,
}

impl SecondNode {
    fn start(directory: &Path, listen: &str) -> io::Result<Self> {
        let log = directory.join("second.log");
        let mut command = Command::new(program());
        command.args(["serve", "--data", "second", "--listen", listen]).current_dir(directory);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(fs::File::create(&log)?);
        let mut process = command.spawn()?;
        let printed = process.stdout.take().ok_or_else(|| io::Error::other("no stdout"))?;
        let mut ready = String::new();
        BufReader::new(printed).read_line(&mut ready)?;
        let url = ready.trim().trim_start_matches("ready ").to_owned();
        Ok(Self { process, url, log })
    }

    /// What the node has printed on stderr, as soon as that contains `text`.
    fn log_with(&self, text: &str) -> io::Result<String> {
        let start = Instant::now();
        loop {
            let log = fs::read_to_string(&self.log)?;
            if log.contains(text) || start.elapsed() > TIMEOUT {
                return Ok(log);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for SecondNode {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `kill -9` of the node in the middle of an answer: the chat shows each word once.
fn killed_node(suite: &mut Suite) {
    let run = |suite: &mut Suite| -> io::Result<(Option<i32>, String, String)> {
        let (mut child, first) = start_chat(suite)?;
        suite.node.crash()?;
        let start = Instant::now();
        while child.try_wait()?.is_none() && start.elapsed() < TIMEOUT {
            thread::sleep(Duration::from_millis(50));
        }
        let _ = child.kill();
        let output = child.wait_with_output()?;
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((output.status.code(), first + &String::from_utf8_lossy(&output.stdout), err))
    };
    match run(suite) {
        Ok((code, out, err)) => {
            suite.checks.equal(
                "chat over a killed node: exit code and answer",
                (code, out),
                (Some(0), format!("{}\n", WORDS.concat())),
            );
            suite.checks.that(
                "chat over a killed node: the break is reported on stderr",
                err.contains("the connection broke"),
                "a line",
                err,
            );
        }
        Err(error) => {
            suite.checks.that("chat over a killed node: exit code and answer", false, "an answer", error)
        }
    }
}
