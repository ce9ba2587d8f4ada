//! Runs one coding agent in a directory of its own, with the recipe of `docs/clients.md`, and stops all its processes.

use std::{
    env, fs,
    io::{Error, Result},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::CodingAgent;
use crate::{cli, suite::FULL};

/// The recipes, whose blocks the agents are configured with.
const RECIPES: &str = include_str!("../../../docs/clients.md");

/// The address of the node in the recipes.
const RECIPE_ADDRESS: &str = "http://127.0.0.1:8080";

/// Seconds that a run may take: it takes two on an idle machine. `timeout` ends it, so that no run survives the suite.
const TIMEOUT_SECONDS: &str = "90";

/// A directory with the agent's home and its working directory, and the script that starts it.
pub(super) struct Run {
    directory: TempDir,
    script: String,
    modules: PathBuf,
    /// The port of the proxy for all other hosts.
    elsewhere: u16,
}

impl Run {
    /// Writes the recipe's configuration, for the node at `port` and its `model`.
    pub(super) fn prepare(agent: CodingAgent, model: &str, port: u16, elsewhere: u16) -> Result<Self> {
        let modules = env::var("OUTLIVE_CODING_AGENTS")
            .map_err(|_| Error::other("OUTLIVE_CODING_AGENTS is not set: run `cargo xtask test`"))?;
        let directory = tempfile::Builder::new().prefix("outlive-coding-").tempdir()?;
        fs::create_dir_all(directory.path().join("home/.codex"))?;
        fs::create_dir(directory.path().join("work"))?;
        let address = format!("http://127.0.0.1:{port}");
        let recipe = |heading: &str, language: &str, own_model: &str| {
            let block = block(heading, language)?;
            // A recipe that lacks what is replaced here would run against another node.
            if !block.contains(RECIPE_ADDRESS) || !block.contains(own_model) {
                return Err(Error::other(format!(
                    "the recipe of {heading} lacks {RECIPE_ADDRESS} or {own_model}"
                )));
            }
            Ok(block.replace(RECIPE_ADDRESS, &address).replace(own_model, model))
        };
        let script = match agent {
            CodingAgent::Claude => {
                let commands = recipe("Claude Code", "sh", "claude-opus-4-8")?;
                let Some(commands) = commands.trim_end().strip_suffix("\nclaude") else {
                    return Err(Error::other("the recipe of Claude Code does not end with `claude`"));
                };
                // npm's script puts the program in place, and no script of a package is run.
                let program = "exec node \"$MODULES/@anthropic-ai/claude-code/cli-wrapper.cjs\"";
                format!("{commands}\n{program} --permission-mode acceptEdits --print \"$PROMPT\"")
            }
            CodingAgent::Codex | CodingAgent::CodexPatch | CodingAgent::CodexProgram => {
                let config = recipe("Codex", "toml", "gpt-5.5")?;
                fs::write(directory.path().join("home/.codex/config.toml"), config)?;
                let program = "exec \"$MODULES/.bin/codex\" exec";
                format!(
                    "{program} --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox \"$PROMPT\""
                )
            }
        };
        Ok(Self { directory, script, modules: modules.into(), elsewhere })
    }

    /// The directory that the agent works in.
    pub(super) fn directory(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    /// Runs the agent to its end, or for [`TIMEOUT_SECONDS`].
    pub(super) fn execute(&self, prompt: &str) -> Result<Output> {
        let proxy = format!("http://127.0.0.1:{}", self.elsewhere);
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", TIMEOUT_SECONDS, "sh", "-c", &self.script])
            .current_dir(self.directory())
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.directory.path().join("home"))
            .env("MODULES", &self.modules)
            .env("PROMPT", prompt)
            .env("OUTLIVE_KEY", FULL)
            .env("NO_PROXY", "127.0.0.1")
            .envs(["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"].map(|name| (name, &proxy)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let child = command.spawn()?;
        let group = Pid::from_raw(child.id().cast_signed());
        let output = child.wait_with_output();
        if let Some(group) = group {
            // Fails if no process is left, which is the rule.
            let _ = kill_process_group(group, Signal::KILL);
        }
        output
    }
}

/// Runs `outlive check` with the recipe's configuration of the node. Returns exit code, stdout and stderr.
pub(super) fn check_node_configuration() -> (i32, String, String) {
    let check = || -> Result<Output> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("agent.toml");
        fs::write(&file, block("The node", "toml")?)?;
        let mut command = Command::new(cli::program());
        command.args(["check", "--config"]).arg(file);
        command.envs(["ANTHROPIC_API_KEY", "OPENAI_API_KEY"].map(|name| (name, "any"))).output()
    };
    cli::result(check())
}

/// The first block of code in a language below a heading of the recipes.
fn block(heading: &str, language: &str) -> Result<String> {
    let section =
        RECIPES.split("\n## ").find_map(|section| section.strip_prefix(heading)?.strip_prefix('\n'));
    let start = format!("```{language}\n");
    let block = section.and_then(|section| section.split_once(&start)?.1.split_once("```"));
    let (block, _) = block
        .ok_or_else(|| Error::other(format!("docs/clients.md: {heading} has no block of {language}")))?;
    Ok(block.to_owned())
}
