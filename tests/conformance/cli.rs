//! The command line: talking to the agent, and moving sessions. It is the same program whatever the node runs on.

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
    talking(suite);
    mistakes(suite);
    cancelling(suite);
    if let Err(error) = moving(suite) {
        suite.checks.that("moving a session", false, "files and a second node", error);
    }
    killed(suite);
}

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program that the node is, too.
fn program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |target| root.join(target));
    target.join("release/outlive")
}

/// The program as a script runs it: nobody is at a terminal.
fn command(key: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).env("OUTLIVE_KEY", key);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn url(suite: &Suite) -> String {
    format!("http://127.0.0.1:{}", suite.node.port)
}

/// Runs to the end, with `input`. Exit code -1: it did not run, or did not end.
fn outlive(key: &str, arguments: &[&str], input: &str) -> (i32, String, String) {
    let run = || -> io::Result<Output> {
        let mut child = command(key, arguments).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        child.wait_with_output()
    };
    match run() {
        Ok(output) => (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ),
        Err(error) => (-1, String::new(), error.to_string()),
    }
}

fn conversation(stderr: &str) -> String {
    let mut words = stderr.split_whitespace();
    words.find(|word| word.starts_with("conv_")).unwrap_or_default().to_owned()
}

fn items(suite: &Suite, conversation: &str) -> usize {
    let path = format!("/v1/conversations/{conversation}/items?limit=100");
    suite.ask(Request::get(path)).json()["data"].as_array().map_or(0, Vec::len)
}

fn talking(suite: &Suite) {
    let checks = &suite.checks;
    let (url, answer) = (url(suite), format!("{}\n", WORDS.concat()));
    let (code, out, err) = outlive(FULL, &["chat", "--url", &url, "--model", "plain", "How are you?"], "");
    checks.equal("one message", (code, out.as_str()), (0, answer.as_str()));
    checks.that("who answered, and how much", err.contains("tokens"), "a line with tokens", &err);
    let chat = ["chat", "--url", &format!("{url}/v1/"), "--model", "plain"];
    let (code, out, err) = outlive(FULL, &chat, "one\n\n/help\ntwo\n/quit\nthree\n");
    checks.equal("two lines", (code, out), (0, answer.repeat(2)));
    let id = conversation(&err);
    checks.equal("in one conversation", items(suite, &id), 4);
    let more = [&chat[..], &["--conversation", &id, "three"]].concat();
    checks.equal("a conversation that is gone on with", outlive(FULL, &more, "").0, 0);
    checks.equal("its items", items(suite, &id), 6);
    let dead = dead();
    let two = ["chat", "--url", &dead, "--url", &url, "--model", "plain", "x"];
    checks.equal("the next node", outlive(FULL, &two, "").1, answer);
    checks.equal("colours are for terminals", err.contains('\x1b'), false);
}

/// A URL where nobody is.
fn dead() -> String {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    format!("http://127.0.0.1:{}", free.map_or(1, |address| address.port()))
}

fn mistakes(suite: &Suite) {
    let (url, dead) = (url(suite), dead());
    let zeros = "0".repeat(32);
    let nobody = format!("conv_{zeros}");
    let cases: [(&str, &[&str], &str, i32, &str); 10] = [
        ("no node", &["chat", "--url", &dead, "x"], FULL, 1, "outlive serve"),
        ("no node for sessions", &["sessions", "list", "--url", &dead], FULL, 1, "outlive serve"),
        ("no URL", &["chat", "--url", "localhost", "x"], FULL, 2, "--url"),
        ("a wrong key", &["chat", "--url", &url, "x"], "key-of-nobody", 1, "--key-env"),
        ("a key without the scope", &["sessions", "list", "--url", &url], INFERENCE, 1, "admin"),
        (
            "no conversation",
            &["chat", "--url", &url, "--conversation", &nobody, "x"],
            FULL,
            1,
            "no conversation",
        ),
        (
            "a model that fails",
            &["chat", "--url", &url, "--model", "only-broken-streamed", "x"],
            FULL,
            1,
            "candidate",
        ),
        ("no session", &["sessions", "show", "--url", &url, &nobody], FULL, 1, "no session"),
        ("no id", &["sessions", "show", "--url", &url, "x"], FULL, 2, "sess_"),
        ("no file", &["sessions", "verify", "/nowhere"], FULL, 1, "/nowhere"),
    ];
    for (case, arguments, key, code, text) in cases {
        let (saw, _, err) = outlive(key, arguments, "");
        suite.checks.that(
            case,
            saw == code && err.contains(text),
            &format!("{code} and {text:?}"),
            (saw, err),
        );
    }
}

/// A chat whose first word was seen, and that word.
fn begun(suite: &Suite) -> io::Result<(Child, String)> {
    let url = url(suite);
    let mut child = command(FULL, &["chat", "--url", &url, "--model", "steady", "Go on."]).spawn()?;
    drop(child.stdin.take());
    let mut first = [0; 1];
    child.stdout.as_mut().ok_or_else(|| io::Error::other("no stdout"))?.read_exact(&mut first)?;
    Ok((child, String::from_utf8_lossy(&first).into_owned()))
}

fn cancelling(suite: &Suite) {
    let checks = &suite.checks;
    let run = || -> io::Result<(Option<i32>, String, String)> {
        let (child, first) = begun(suite)?;
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
                "an interrupt cancels",
                code == Some(1) && cut && err.contains("cancelled"),
                "half an answer",
                (code, out, &err),
            );
            let path = format!("/v1/sessions/{}", conversation(&err).replacen("conv_", "sess_", 1));
            let session = suite.ask(Request::get(path)).json();
            checks.equal(
                "what was cancelled has ended so",
                session["responses"][0]["status"].as_str(),
                Some("cancelled"),
            );
        }
        Err(error) => checks.that("an interrupt cancels", false, "half an answer", error),
    }
}

/// Out of one node, and into another.
fn moving(suite: &Suite) -> io::Result<()> {
    let checks = &suite.checks;
    let url = url(suite);
    let id = conversation(&outlive(FULL, &["chat", "--url", &url, "--model", "plain", "é"], "").2);
    let session = id.replacen("conv_", "sess_", 1);
    let list = outlive(FULL, &["sessions", "list", "--url", &url], "").1;
    checks.that("listed", list.lines().any(|line| line.starts_with(&session)), &session, &list);
    let shown = outlive(FULL, &["sessions", "show", "--url", &url, &id], "").1;
    let shown: Value = serde_json::from_str(&shown).unwrap_or_default();
    checks.equal("shown", shown["id"].as_str(), Some(session.as_str()));

    let directory = tempfile::Builder::new().prefix("outlive-").tempdir()?;
    let file = directory.path().join("session.jsonl").display().to_string();
    checks.equal("exported", outlive(FULL, &["sessions", "export", "--url", &url, &id, &file], "").0, 0);
    let exported = fs::read_to_string(&file)?;
    checks.equal("its lines", exported.lines().count() as u64, shown["entries"].as_u64().unwrap_or_default());
    let piped = outlive(FULL, &["sessions", "export", "--url", &url, &session], "").1;
    checks.equal("exported to a pipe", &piped, &exported);
    let verify = |input: &str| outlive(FULL, &["sessions", "verify", "-"], input);
    let whole = verify(&exported);
    checks.that("verified", whole.0 == 0 && whole.1.starts_with("verified: "), "0", &whole);
    checks.equal(
        "verified where it is",
        outlive(FULL, &["sessions", "verify", "--url", &url, &id], "").1,
        whole.1,
    );

    let lines: Vec<&str> = exported.lines().collect();
    let second = lines.get(1).copied().unwrap_or_default();
    let bad = |change: &dyn Fn(&str) -> String| exported.replace(second, &change(second));
    let origin = "conformance.0";
    for (case, text) in [
        ("a changed body", bad(&|line| line.replacen("\"body\":\"ey", "\"body\":\"ez", 1))),
        ("a changed header", bad(&|line| line.replacen("\"header\":\"01", "\"header\":\"02", 1))),
        ("a changed hash", bad(&|line| line.replacen("\"hash\":\"", "\"hash\":\"0", 1))),
        ("half a line", bad(&|line| line.get(..line.len() / 2).unwrap_or_default().to_owned())),
    ] {
        let (code, out, err) = verify(&text);
        let named = err.contains("line 2")
            && (case == "half a line" || err.contains(&format!("entry 2 of {origin}")));
        checks.that(case, code == 1 && named, "1, and the entry", (code, out, err));
    }
    let lost = exported.replacen(&format!("{second}\n"), "", 1);
    let (code, _, err) = verify(&lost);
    checks.that("a lost line", code == 1 && err.contains("line 2"), "1, and the line", (code, err));
    let damaged = directory.path().join("damaged.jsonl").display().to_string();
    fs::write(&damaged, lost)?;
    checks.equal(
        "damaged, not imported",
        outlive(FULL, &["sessions", "import", "--url", &url, &damaged], "").0,
        1,
    );
    let known = outlive(FULL, &["sessions", "import", "--url", &url, &file], "");
    checks.that("imported again", known.1.starts_with("0 entries imported"), "0 entries", &known);

    let other = Second::start(directory.path())?;
    let taken = outlive("", &["sessions", "import", "--url", &other.url, &file], "");
    checks.that("imported elsewhere", taken.0 == 0 && taken.1.ends_with(" 0 already present\n"), "0", &taken);
    let back = outlive("", &["sessions", "export", "--url", &other.url, &id], "").1;
    checks.equal("the same elsewhere", back, exported);
    let (code, out, err) = outlive("", &["chat", "--url", &other.url, "hello"], "");
    checks.that(
        "the demo provider answers",
        code == 0 && !out.trim().is_empty(),
        "an answer",
        (code, out, err),
    );
    Ok(())
}

/// A second node, with nothing but defaults.
struct Second {
    process: Child,
    url: String,
}

impl Second {
    fn start(directory: &Path) -> io::Result<Self> {
        let mut command = Command::new(program());
        command.args(["serve", "--data", "second", "--listen", "127.0.0.1:0"]).current_dir(directory);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn()?;
        let printed = process.stdout.take().ok_or_else(|| io::Error::other("no stdout"))?;
        let mut ready = String::new();
        BufReader::new(printed).read_line(&mut ready)?;
        let url = ready.trim().trim_start_matches("ready ").to_owned();
        Ok(Self { process, url })
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `kill -9` of the node in the middle of an answer: whoever talks to it sees each word once.
fn killed(suite: &mut Suite) {
    let run = |suite: &mut Suite| -> io::Result<(Option<i32>, String, String)> {
        let (mut child, first) = begun(suite)?;
        suite.node.crash()?;
        let start = Instant::now();
        while child.try_wait()?.is_none() && start.elapsed() < PATIENCE {
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
                "killed, each word once",
                (code, out),
                (Some(0), format!("{}\n", WORDS.concat())),
            );
            suite.checks.that("killed, and told", err.contains("the connection broke"), "a line", err);
        }
        Err(error) => suite.checks.that("killed, each word once", false, "an answer", error),
    }
}
