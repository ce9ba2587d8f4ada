//! Holds the commands beside `serve` and `check`, and the options of those that talk to nodes over HTTP. `main.rs` parses
//! the command line.

pub(crate) mod chat;
pub(crate) mod check;
mod client;
pub(crate) mod key;
mod retry;
pub(crate) mod sessions;

use clap::Args;
use http::{HeaderValue, Uri};

use client::Client;

/// The options that name the nodes and the key of a command.
#[derive(Args)]
pub(crate) struct NodeOptions {
    /// The base URL of a node. Repeat the option to name more nodes: when one fails, the command goes on with the next.
    #[arg(long, default_value = "http://127.0.0.1:8080", value_parser = parse_base_url)]
    url: Vec<String>,
    /// The environment variable that holds the API key. No key is sent if the variable is not set.
    #[arg(long, default_value = "OUTLIVE_KEY", value_name = "NAME")]
    key_env: String,
}

impl NodeOptions {
    fn client(self) -> Result<Client, String> {
        let key = std::env::var(&self.key_env).ok().filter(|key| !key.is_empty());
        let key = key.map(|key| format!("Bearer {key}").parse()).transpose();
        let mut authorization: Option<HeaderValue> =
            key.map_err(|_| format!("{}: allowed: visible ASCII characters", self.key_env))?;
        if let Some(authorization) = &mut authorization {
            authorization.set_sensitive(true);
        }
        Ok(Client::new(self.url, authorization))
    }
}

/// Reads a node's base URL. A trailing `/v1` is dropped, because OpenAI's SDKs have it in theirs.
fn parse_base_url(text: &str) -> Result<String, String> {
    let base = text.trim_end_matches('/');
    let base = base.strip_suffix("/v1").unwrap_or(base);
    let uri: Uri = base.parse().map_err(|error| format!("{error}"))?;
    let http = matches!(uri.scheme_str(), Some("http" | "https"));
    if !http || uri.authority().is_none() || uri.query().is_some() {
        return Err("allowed: a URL such as http://127.0.0.1:8080".into());
    }
    Ok(base.to_owned())
}
