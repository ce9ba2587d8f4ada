//! Checks coding agents that other people wrote, headless, with the configuration of `docs/clients.md`: a question, and a
//! loop that reads and edits a file, over each kind of provider and with a first candidate that fails.

mod program;

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use outlive_tests::upstream::{Record, WORDS};
use sha2::{Digest, Sha256};

use crate::{node::Host, suite::Suite};
use program::Run;

/// A coding agent, in one of the forms in which it calls its tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodingAgent {
    /// Claude Code: functions, and instructions within the conversation.
    Claude,
    /// Codex with a model that it does not know: functions, some of them in a group.
    Codex,
    /// Codex with a model that edits files with a tool of free text.
    CodexPatch,
    /// Codex with a model whose tools are part of its input; one of them takes a program.
    CodexProgram,
}

/// What an agent is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Question,
    Edit,
}

/// One run of an agent.
#[derive(Clone, Copy, Debug)]
struct Case {
    agent: CodingAgent,
    /// The kind of the provider that answers.
    kind: &'static str,
    /// How the candidate before it fails, which is one of the agent's own vendor.
    fault: Option<&'static str>,
    task: Task,
}

const AGENTS: [CodingAgent; 4] =
    [CodingAgent::Claude, CodingAgent::Codex, CodingAgent::CodexPatch, CodingAgent::CodexProgram];

/// The kinds of providers; `good` is the one that is only compatible with OpenAI's chat completions.
const KINDS: [&str; 5] = ["anthropic", "openai", "azure", "deepseek", "good"];

/// The failures of a first candidate before its answer.
const EARLY_FAULTS: [&str; 5] = ["broken", "limited", "overloaded-529", "dead", "early"];

/// The failures of a first candidate in the middle of its answer.
const MIDDLE_FAULTS: [&str; 3] = ["halfway", "torn-middle", "stall-middle"];

/// Agents that run at the same time: each is a process of several threads.
const CONCURRENCY: usize = 3;

/// The models of all cases: their names and candidates.
pub(crate) fn models(host: Host, long: bool) -> Vec<(String, Vec<String>)> {
    let mut models: Vec<_> = cases(host, long).iter().map(|case| (case.model(), case.candidates())).collect();
    models.dedup();
    models
}

pub(crate) fn run(suite: &Suite) {
    check_configuration(suite);
    let elsewhere = match count_connections() {
        Ok(elsewhere) => elsewhere,
        Err(error) => return suite.checks.that("a listener", false, "a port", error),
    };
    // An instance of a function serves one request at a time.
    let concurrency = if suite.host == Host::Lambda { 1 } else { CONCURRENCY };
    suite.each_of(concurrency, &cases(suite.host, suite.long), |case| check(suite, *case, elsewhere.port));
    let connections = elsewhere.connections.load(Ordering::Relaxed);
    suite.checks.equal("connections of the agents to other hosts than the node", connections, 0);
}

/// In the long tests, a loop for each agent, kind and fault, and questions. Otherwise a loop for each agent and kind, and one that is rescued; on hosts besides the
/// native one, which is the fastest, one loop of each program.
fn cases(host: Host, long: bool) -> Vec<Case> {
    let edit = |agent, kind, fault| Case { agent, kind, fault, task: Task::Edit };
    if host != Host::Native {
        // Each over the other's vendor.
        return vec![
            edit(CodingAgent::Claude, "openai", None),
            edit(CodingAgent::CodexPatch, "anthropic", None),
        ];
    }
    let pairs = AGENTS.into_iter().flat_map(|agent| KINDS.map(|kind| (agent, kind)));
    if !long {
        let rescued = AGENTS.map(|agent| edit(agent, agent.vendor(), Some("halfway")));
        return pairs.map(|(agent, kind)| edit(agent, kind, None)).chain(rescued).collect();
    }
    let faults = || EARLY_FAULTS.into_iter().chain(MIDDLE_FAULTS).map(Some).chain([None]);
    let edits = pairs.clone().flat_map(|(agent, kind)| faults().map(move |fault| edit(agent, kind, fault)));
    let questions = pairs.flat_map(|(agent, kind)| {
        [None, Some("halfway")].map(|fault| Case { agent, kind, fault, task: Task::Question })
    });
    edits.chain(questions).collect()
}

impl CodingAgent {
    /// The vendor whose format it speaks.
    fn vendor(self) -> &'static str {
        match self {
            Self::Claude => "anthropic",
            Self::Codex | Self::CodexPatch | Self::CodexProgram => "openai",
        }
    }

    /// What the names of its models begin with. Codex chooses the form of its tools by it.
    fn slug(self) -> &'static str {
        match self {
            Self::Claude => "claude",
            Self::Codex => "codex",
            Self::CodexPatch => "gpt-5.5",
            Self::CodexProgram => "gpt-6-astra",
        }
    }

    /// The script of a loop that reads the file and replaces `two` by `three`, in this agent's tools.
    fn editing_script(self, file: &str) -> String {
        let read = format!(r#"call exec_command {{"cmd": "cat '{file}'"}}"#);
        let patch =
            format!("*** Begin Patch\n*** Update File: {file}\n@@\n one\n-two\n+three\n*** End Patch\n");
        match self {
            Self::Claude => format!(
                r#"call Read {{"file_path": "{file}"}}
then
call Edit {{"file_path": "{file}", "old_string": "two", "new_string": "three"}}"#
            ),
            Self::Codex => {
                format!("{read}\nthen\ncall exec_command {{\"cmd\": \"sed -i s/two/three/ '{file}'\"}}")
            }
            Self::CodexPatch => format!("{read}\nthen\ncall apply_patch {}", json(&patch)),
            Self::CodexProgram => {
                let read = format!("text(await tools.exec_command({{cmd: \"cat '{file}'\"}}));");
                let patch = format!("text(await tools.apply_patch({}));", json(&patch));
                format!("call exec {}\nthen\ncall exec {}", json(&read), json(&patch))
            }
        }
    }
}

/// `text` as a JSON string.
fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Case {
    /// The model that the agent requests: one for each case, since a candidate that has failed is tried last.
    fn model(self) -> String {
        let Self { agent, kind, fault, task } = self;
        format!("{}-{kind}-{}-{task:?}", agent.slug(), fault.unwrap_or("none")).to_lowercase()
    }

    fn candidates(self) -> Vec<String> {
        let answering = format!("{}/{}", self.kind, self.answering_model());
        match self.fault {
            None => vec![answering],
            Some("dead") => vec![format!("dead/agent:{}", self.model()), answering],
            Some(fault) => vec![format!("{}/{fault}:{}", self.agent.vendor(), self.model()), answering],
        }
    }

    /// The provider's model that answers. The tag begins with the kind: the scripted DeepSeek thinks in a field of its own.
    /// For Anthropic it is a model of the price table, with a date of its own: Codex names no limit of its answer.
    fn answering_model(self) -> String {
        if self.kind == "anthropic" {
            let digest: [u8; 32] = Sha256::digest(self.model()).into();
            let [first, second, third, ..] = digest;
            return format!("claude-opus-4-8-{:08}", u32::from_be_bytes([0, first, second, third]));
        }
        format!("agent:{}-{}", self.kind, self.model())
    }

    /// How the candidate that fails is named in the requests to it; `None` if no request reaches one.
    fn failing_model(self) -> Option<String> {
        let fault = self.fault.filter(|fault| *fault != "dead")?;
        Some(format!("\"{fault}:{}\"", self.model()))
    }
}

/// Checks that a node takes the configuration of the recipes.
fn check_configuration(suite: &Suite) {
    if suite.host != Host::Native {
        return;
    }
    let (code, _, err) = program::check_node_configuration();
    suite.checks.equal(
        "outlive check with the recipe's agent.toml: exit code and mistakes",
        (code, err.as_str()),
        (0, ""),
    );
}

fn check(suite: &Suite, case: Case, elsewhere: u16) {
    let title = format!(
        "{:?} over {}, fault {}, {:?}",
        case.agent,
        case.kind,
        case.fault.unwrap_or("none"),
        case.task
    );
    let checks = &suite.checks;
    let run = match Run::prepare(case.agent, &case.model(), suite.node.port, elsewhere) {
        Ok(run) => run,
        Err(error) => return checks.that(&title, false, "a directory and the recipe", error),
    };
    let file = run.directory().join("notes.txt");
    let prompt = match case.task {
        Task::Question => "How are you?".to_owned(),
        Task::Edit => format!("Edit the notes.\n{}", case.agent.editing_script(&file.display().to_string())),
    };
    if let Err(error) = fs::write(&file, "one\ntwo\n") {
        return checks.that(&title, false, "a file", error);
    }
    let output = match run.execute(&prompt) {
        Ok(output) => output,
        Err(error) => return checks.that(&title, false, "a process", error),
    };
    checks.that(&format!("{title}: exit code"), output.status.success(), "success", &output);
    match case.task {
        Task::Question => {
            let answer = String::from_utf8_lossy(&output.stdout);
            checks.equal(&format!("{title}: answer"), answer.trim(), WORDS.concat());
        }
        Task::Edit => {
            let contents = fs::read_to_string(&file).unwrap_or_default();
            checks.equal(&format!("{title}: contents of the file"), contents, "one\nthree\n");
        }
    }
    let refused: Vec<String> =
        requests(suite, &case.answering_model()).into_iter().filter_map(|record| record.refusal).collect();
    checks.equal(&format!("{title}: requests that the vendor refused"), refused, Vec::<String>::new());
    let Some(model) = case.failing_model() else { return };
    checks.that(
        &format!("{title}: the first candidate was called"),
        !requests(suite, &model).is_empty(),
        "a call",
        (),
    );
    // A reset may overtake the words before it, but hardly in each of three rounds.
    let breaks_off = case.fault.is_some_and(|fault| MIDDLE_FAULTS.contains(&fault));
    if breaks_off && case.task == Task::Edit {
        // Otherwise the agent has repeated the request itself.
        let continued =
            requests(suite, &case.answering_model()).iter().any(|record| record.mentions(BEGINNING));
        checks.that(
            &format!("{title}: the node continued the answer"),
            continued,
            "a request with its beginning",
            (),
        );
    }
}

/// What a candidate says before it fails in the middle.
const BEGINNING: &str = "All is";

/// The requests to the models that have `text` in their name.
fn requests(suite: &Suite, text: &str) -> Vec<Record> {
    suite.upstream.records().mentioning(text)
}

/// A listener that counts the connections to it.
struct Listener {
    port: u16,
    connections: Arc<AtomicUsize>,
}

/// Starts the listener that the agents get as their proxy: every request to another host than this one arrives there.
fn count_connections() -> std::io::Result<Listener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    thread::spawn(move || {
        while listener.accept().is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    Ok(Listener { port, connections })
}
