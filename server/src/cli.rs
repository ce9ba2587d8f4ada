//! The commands that talk to nodes over HTTP, whatever these run on.

pub(crate) mod chat;
mod client;
mod patience;
pub(crate) mod sessions;

use clap::Args;
use http::Uri;

use client::Client;

/// Whom to talk to, and as whom.
#[derive(Args)]
pub(crate) struct Nodes {
    /// The URL of a node. May be given several times: when one is gone, the next is asked.
    #[arg(long, default_value = "http://127.0.0.1:8080", value_parser = parse_url)]
    url: Vec<String>,
    /// The environment variable that holds the key to send. Without it no key is sent.
    #[arg(long, default_value = "OUTLIVE_KEY", value_name = "NAME")]
    key_env: String,
}

impl Nodes {
    fn client(self) -> Result<Client, String> {
        let key = std::env::var(&self.key_env).ok().filter(|key| !key.is_empty());
        let key = key.map(|key| format!("Bearer {key}").parse()).transpose();
        let mut key: Option<http::HeaderValue> =
            key.map_err(|_| format!("{}: allowed: visible ASCII characters", self.key_env))?;
        if let Some(key) = &mut key {
            key.set_sensitive(true);
        }
        Ok(Client::new(self.url, key))
    }
}

/// A base URL, without what clients of OpenAI have at its end.
fn parse_url(text: &str) -> Result<String, String> {
    let base = text.trim_end_matches('/');
    let base = base.strip_suffix("/v1").unwrap_or(base);
    let uri: Uri = base.parse().map_err(|error| format!("{error}"))?;
    let http = matches!(uri.scheme_str(), Some("http" | "https"));
    if !http || uri.authority().is_none() || uri.query().is_some() {
        return Err("allowed: a URL such as http://127.0.0.1:8080".into());
    }
    Ok(base.to_owned())
}
