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

/// The failures of a first candidate: before the answer, and in its middle.
const FAULTS: [&str; 8] =
    ["broken", "limited", "overloaded-529", "dead", "early", "halfway", "torn-middle", "stall-middle"];

/// Agents that run at the same time: each is a process of several threads.
const CONCURRENCY: usize = 3;

/// The models of all cases: their names and candidates.
pub(crate) fn models(host: Host, long: bool) -> Vec<(String, Vec<String>)> {
    let mut models: Vec<_> = cases(host, long).iter().map(|case| (case.model(), case.candidates())).collect();
    models.dedup();
    models
}

pub(crate) fn run(suite: &Suite) {
    let elsewhere = match count_connections() {
        Ok(elsewhere) => elsewhere,
        Err(error) => return suite.checks.that("a listener", false, "a port", error),
    };
    suite.each_of(CONCURRENCY, &cases(suite.host, suite.long), |case| check(suite, *case, elsewhere.port));
    let connections = elsewhere.connections.load(Ordering::Relaxed);
    suite.checks.equal("connections of the agents to other hosts than the node", connections, 0);
}

/// Every case in the long tests. Otherwise a loop for each agent and kind, and one that is rescued; on hosts besides the
/// native one, which is the fastest, one loop of each program.
fn cases(host: Host, long: bool) -> Vec<Case> {
    let edit = |agent, kind, fault| Case { agent, kind, fault, task: Task::Edit };
    if host != Host::Native {
        return vec![
            edit(CodingAgent::Claude, "anthropic", None),
            edit(CodingAgent::CodexPatch, "openai", None),
        ];
    }
    let pairs = AGENTS.into_iter().flat_map(|agent| KINDS.map(|kind| (agent, kind)));
    let pairs = pairs.filter(|(agent, kind)| agent.is_translated_to(kind));
    if !long {
        let rescued = AGENTS.into_iter().filter(|agent| agent.is_translated_to(agent.vendor()));
        let rescued = rescued.map(|agent| edit(agent, agent.vendor(), Some("halfway")));
        return pairs.map(|(agent, kind)| edit(agent, kind, None)).chain(rescued).collect();
    }
    let faults = || FAULTS.into_iter().map(Some).chain([None]);
    let tasks =
        |(agent, kind, fault)| [Task::Question, Task::Edit].map(|task| Case { agent, kind, fault, task });
    pairs.flat_map(|(agent, kind)| faults().map(move |fault| (agent, kind, fault))).flat_map(tasks).collect()
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

    /// Whether its requests can be written in the format of this kind of provider.
    fn is_translated_to(self, kind: &str) -> bool {
        match self {
            Self::Claude => false,
            Self::Codex | Self::CodexPatch | Self::CodexProgram => ["openai", "azure"].contains(&kind),
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
        // The tag begins with the kind: the scripted DeepSeek thinks in a field of its own.
        let answering = format!("{}/agent:{}-{}", self.kind, self.kind, self.model());
        match self.fault {
            None => vec![answering],
            Some("dead") => vec![format!("dead/agent:{}", self.model()), answering],
            Some(fault) => vec![format!("{}/{fault}:{}", self.agent.vendor(), self.model()), answering],
        }
    }

    /// How the candidate that fails is named in the requests to it; `None` if no request reaches one.
    fn failing_model(self) -> Option<String> {
        let fault = self.fault.filter(|fault| *fault != "dead")?;
        Some(format!("\"{fault}:{}\"", self.model()))
    }
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
        requests(suite, &case.model()).into_iter().filter_map(|record| record.refusal).collect();
    checks.equal(&format!("{title}: requests that the vendor refused"), refused, Vec::<String>::new());
    if let Some(model) = case.failing_model() {
        checks.that(
            &format!("{title}: the first candidate was called"),
            !requests(suite, &model).is_empty(),
            "a call",
            (),
        );
    }
}

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
