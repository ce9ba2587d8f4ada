//! What is measured: the upstream alone, and whatever can stand in front of it.

use std::{
    fs,
    io::{Error, ErrorKind, Result},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    child::Process,
    load::{self, Question},
};

/// A server that answers chat completions for the model `bench`.
pub(crate) struct Subject {
    /// Its name in the table and in the figures.
    pub(crate) name: &'static str,
    /// Where it listens, as `127.0.0.1:PORT`.
    pub(crate) address: String,
    /// Lines that its requests have in their head.
    pub(crate) headers: String,
    /// The server.
    pub(crate) process: Process,
}

/// How long a peer may take to start.
const START: Duration = Duration::from_secs(120);

impl Subject {
    /// The upstream itself.
    pub(crate) fn upstream() -> Result<Self> {
        Self::ready("upstream", Command::new(std::env::current_exe()?).arg("upstream"))
    }

    /// A process that only copies bytes.
    pub(crate) fn relay(upstream: &str) -> Result<Self> {
        Self::ready("relay", Command::new(std::env::current_exe()?).args(["relay", upstream]))
    }

    /// The native node.
    pub(crate) fn node(program: &Path, upstream: &str, scratch: &Path) -> Result<Self> {
        let config = configuration(upstream, scratch)?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(config);
        Self::ready("node", command.arg("--data").arg(scratch.join("data")))
    }

    /// Portkey's gateway from npm, below `modules`: <https://github.com/Portkey-AI/gateway>.
    pub(crate) async fn portkey(modules: &Path, upstream: &str) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new("node");
        command.arg(modules.join("@portkey-ai/gateway/build/start-server.js"));
        command.args([format!("--port={port}"), "--headless".to_owned()]);
        command.env("TRUSTED_CUSTOM_HOSTS", "127.0.0.1").env("NODE_ENV", "production");
        let headers = format!(
            "authorization: Bearer none\r\nx-portkey-provider: openai\r\nx-portkey-custom-host: http://{upstream}/v1\r\n"
        );
        Self::answering("portkey", command, port, headers).await
    }

    /// LiteLLM's proxy from PyPI: <https://docs.litellm.ai/docs/simple_proxy>.
    pub(crate) async fn litellm(program: &Path, upstream: &str, scratch: &Path) -> Result<Self> {
        let port = free_port()?;
        let config = scratch.join("litellm.yaml");
        let model = |name: &str, model: &str| {
            format!(
                "  - model_name: {name}\n    litellm_params:\n      model: openai/{model}\n      api_base: http://{upstream}/v1\n      api_key: none\n"
            )
        };
        fs::write(&config, format!("model_list:\n{}{}", model("bench", "constant"), model("slow", "slow")))?;
        let mut command = Command::new(program);
        command.arg("--config").arg(config).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        // Neither waits for a network that may not be there, nor says anything about each request.
        command.envs([("LITELLM_LOCAL_MODEL_COST_MAP", "True"), ("LITELLM_LOG", "ERROR")]);
        command.args(["--telemetry", "False"]);
        // It does not start without a key of some length.
        let key = "sk-0123456789abcdef0123456789abcdef";
        command.env("LITELLM_MASTER_KEY", key);
        Self::answering("litellm", command, port, format!("authorization: Bearer {key}\r\n")).await
    }

    fn ready(name: &'static str, command: &mut Command) -> Result<Self> {
        let (process, address) = Process::start_ready(command)?;
        Ok(Self { name, address, headers: String::new(), process })
    }

    /// Waits until a server that does not say so answers.
    async fn answering(name: &'static str, mut command: Command, port: u16, headers: String) -> Result<Self> {
        let process = Process::start(command.stdout(std::process::Stdio::null()))?;
        let mut subject = Self { name, address: format!("127.0.0.1:{port}"), headers, process };
        let start = Instant::now();
        loop {
            match load::run(&subject, Question::Chat, 1, false, Duration::ZERO).await {
                Ok(_) => return Ok(subject),
                Err(error) if error.kind() != ErrorKind::ConnectionRefused => return Err(error),
                Err(_) if subject.process.has_ended()? => {
                    return Err(Error::other(format!("{name} has ended")));
                }
                Err(_) if start.elapsed() > START => {
                    return Err(Error::other(format!("{name} does not answer")));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

/// Writes a node's configuration.
pub(crate) fn configuration(upstream: &str, scratch: &Path) -> Result<PathBuf> {
    let file = scratch.join("agent.toml");
    fs::write(&file, configured(upstream))?;
    Ok(file)
}

/// Writes the configuration of a node that nobody reaches over loopback: it wants [`KEY`].
pub(crate) fn configuration_with_key(upstream: &str, scratch: &Path) -> Result<PathBuf> {
    let file = scratch.join("agent-with-key.toml");
    let key = format!("\n[[key]]\nname = \"bench\"\nsha256 = \"{KEY_DIGEST}\"\nscopes = [\"inference\"]\n");
    fs::write(&file, configured(upstream) + &key)?;
    Ok(file)
}

/// What the bench may ask for with, and its SHA-256.
pub(crate) const KEY: &str = "bench-0123456789";
const KEY_DIGEST: &str = "53bce7d0bec8cf1325ade9685106837fb20377112ea7deb6399fa49e891b5c59";

/// A node's configuration with the upstream as its only provider.
pub(crate) fn configured(upstream: &str) -> String {
    format!(
        "[agent]\nname = \"bench\"\nmodel = \"bench\"\n\n[[provider]]\nname = \"constant\"\nkind = \"compatible\"\nbase_url = \"http://{upstream}/v1\"\n\n\
         [[model]]\nname = \"bench\"\ncandidates = [\"constant/constant\"]\n\n\
         [[model]]\nname = \"slow\"\ncandidates = [\"constant/slow\"]\n"
    )
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
