//! Starts the servers under load: the upstream, a relay, the node, and other gateways in front of it. Sends no load
//! but the first request that shows a gateway to be up.

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
    load::{self, RequestKind},
};

/// A server that answers chat completions for the model `bench`.
pub(crate) struct Subject {
    /// Name in the table and in the figures.
    pub(crate) name: &'static str,
    /// Its address, as `127.0.0.1:PORT`.
    pub(crate) address: String,
    /// Additional lines of each request's head.
    pub(crate) headers: String,
    /// The server's process.
    pub(crate) process: Process,
}

/// How long another gateway may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(120);

impl Subject {
    /// The upstream itself.
    pub(crate) fn upstream() -> Result<Self> {
        Self::start_ready("upstream", Command::new(std::env::current_exe()?).arg("upstream"))
    }

    /// A process that copies bytes to and from the upstream.
    pub(crate) fn relay(upstream: &str) -> Result<Self> {
        Self::start_ready("relay", Command::new(std::env::current_exe()?).args(["relay", upstream]))
    }

    /// The native node.
    pub(crate) fn node(program: &Path, upstream: &str, scratch: &Path) -> Result<Self> {
        let config = write_config(upstream, scratch)?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(config);
        Self::start_ready("node", command.arg("--data").arg(scratch.join("data")))
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
        Self::start_polled("portkey", command, port, headers).await
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
        // Without these it downloads its price table at the start, and prints a line for each request.
        command.envs([("LITELLM_LOCAL_MODEL_COST_MAP", "True"), ("LITELLM_LOG", "ERROR")]);
        command.args(["--telemetry", "False"]);
        // LiteLLM does not start with a short key.
        let key = "sk-0123456789abcdef0123456789abcdef";
        command.env("LITELLM_MASTER_KEY", key);
        Self::start_polled("litellm", command, port, format!("authorization: Bearer {key}\r\n")).await
    }

    /// A server that prints its address when it is ready.
    fn start_ready(name: &'static str, command: &mut Command) -> Result<Self> {
        let (process, address) = Process::start_ready(command)?;
        Ok(Self { name, address, headers: String::new(), process })
    }

    /// A server that prints nothing when it is ready: it is ready when it accepts a request.
    async fn start_polled(
        name: &'static str,
        mut command: Command,
        port: u16,
        headers: String,
    ) -> Result<Self> {
        let process = Process::start(command.stdout(std::process::Stdio::null()))?;
        let mut subject = Self { name, address: format!("127.0.0.1:{port}"), headers, process };
        let start = Instant::now();
        loop {
            match load::run(&subject, RequestKind::Chat, 1, false, Duration::ZERO).await {
                Ok(_) => return Ok(subject),
                Err(error) if error.kind() != ErrorKind::ConnectionRefused => return Err(error),
                Err(_) if subject.process.has_exited()? => {
                    return Err(Error::other(format!("{name} has exited")));
                }
                Err(_) if start.elapsed() > START_TIMEOUT => {
                    return Err(Error::other(format!("{name} does not respond")));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

/// Writes the configuration of a node that serves loopback without a key.
pub(crate) fn write_config(upstream: &str, scratch: &Path) -> Result<PathBuf> {
    let file = scratch.join("agent.toml");
    fs::write(&file, config_text(upstream))?;
    Ok(file)
}

/// Writes the configuration of a node that is not reached over loopback, and so requires [`API_KEY`].
pub(crate) fn write_config_with_key(upstream: &str, scratch: &Path) -> Result<PathBuf> {
    let file = scratch.join("agent-with-key.toml");
    let key =
        format!("\n[[key]]\nname = \"bench\"\nsha256 = \"{API_KEY_SHA256}\"\nscopes = [\"inference\"]\n");
    fs::write(&file, config_text(upstream) + &key)?;
    Ok(file)
}

/// The bench's API key for nodes that require one, and its SHA-256.
pub(crate) const API_KEY: &str = "bench-0123456789";
const API_KEY_SHA256: &str = "53bce7d0bec8cf1325ade9685106837fb20377112ea7deb6399fa49e891b5c59";

/// A node's configuration with the upstream as its only provider.
pub(crate) fn config_text(upstream: &str) -> String {
    format!(
        "[agent]\nname = \"bench\"\nmodel = \"bench\"\n\n[[provider]]\nname = \"constant\"\nkind = \"compatible\"\nbase_url = \"http://{upstream}/v1\"\n\n\
         [[model]]\nname = \"bench\"\ncandidates = [\"constant/constant\"]\n\n\
         [[model]]\nname = \"slow\"\ncandidates = [\"constant/slow\"]\n"
    )
}

/// A port that was free at the time of the call.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
