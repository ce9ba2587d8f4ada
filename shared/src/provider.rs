//! Providers: accounts at vendors of models. A vendor's file says how it is called and what its errors mean.
//!
//! A new vendor is one file with a [`Vendor`] in it, and its line in [`VENDORS`]. What an answer says is read by its wire
//! format. No HTTP client is in here.

pub mod anthropic;
pub mod azure;
pub mod compatible;
pub mod deepseek;
pub mod demo;
pub mod openai;
mod upstream;

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};

use crate::{
    error::{ErrorClass, ProviderError},
    money::Budget,
    price::Facts,
    secret::Secret,
    wire::Prompt,
};
use upstream::KeyIn;
pub use upstream::{UpstreamCall, UpstreamRequest};

/// Every vendor, in the order in which the configuration's errors list their kinds.
pub const VENDORS: [&Vendor; 6] = [
    &openai::VENDOR,
    &azure::VENDOR,
    &anthropic::VENDOR,
    &deepseek::VENDOR,
    &compatible::VENDOR,
    &demo::VENDOR,
];

/// A vendor of models: all that the rest of the node asks of it.
pub struct Vendor {
    /// The `kind` of its providers in `agent.toml`.
    pub kind: &'static str,
    /// Where its API is.
    pub address: Address,
    /// Whether a provider without a key is a mistake.
    pub needs_key: bool,
    /// How a provider is made of the environment, where the file names none.
    pub environment: Option<Environment>,
    /// The keys of `[[provider]]` that only this vendor knows.
    pub options: &'static [&'static str],
    /// What is known of one of its models; `None` if the model is unknown.
    pub facts: fn(model: &str) -> Option<Facts>,
    /// The call that an order makes.
    pub encode: fn(&UpstreamCall<'_>) -> Result<UpstreamRequest, ProviderError>,
    /// What an answer with a status other than success means.
    pub classify: fn(StatusCode, &HeaderMap, &Bytes) -> ProviderError,
    /// Whether a model continues an assistant's message at the end of the prompt, word for word.
    pub continues: fn(model: &str, prompt: &Prompt) -> bool,
}

/// Where a vendor's API is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// At one URL for everybody, unless the operator gives another one.
    At(&'static str),
    /// At a URL that the operator must give; the text says what is allowed.
    Given(&'static str),
    /// In this process.
    BuiltIn,
}

/// The environment variables that make a provider of a vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Its place among the candidates of the model `default`.
    pub rank: u8,
    /// The variable with the key.
    pub key: &'static str,
    /// The variable with the URL, if the operator must give one.
    pub url: Option<&'static str>,
    /// The model that is asked.
    pub model: &'static str,
}

impl PartialEq for Vendor {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

impl fmt::Debug for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)
    }
}

impl Vendor {
    /// Whether its answers come from this process.
    pub fn is_built_in(&self) -> bool {
        self.address == Address::BuiltIn
    }

    /// The URL of its API, for those that have one for everybody.
    pub fn url(&self) -> Option<Uri> {
        match self.address {
            Address::At(url) => Some(Uri::from_static(url)),
            Address::Given(_) | Address::BuiltIn => None,
        }
    }
}

/// `[[provider]]`: an account at a vendor.
#[derive(Clone, Debug)]
pub struct Provider {
    /// The name that candidates and the status use.
    pub name: String,
    /// Whose account it is.
    pub vendor: &'static Vendor,
    /// Where its API begins, without a slash at the end. `None` for a provider that needs no network.
    pub base_url: Option<Uri>,
    /// The keys that are sent to it, and to nobody else; each is used while the ones before it are refused.
    pub keys: Vec<Secret>,
    /// Azure's `api-version`. Without it the v1 API is used, which has none.
    pub api_version: Option<String>,
    /// What is sent to Anthropic as `anthropic-beta`.
    pub beta: Option<HeaderValue>,
    /// What may be spent here.
    pub budget: Option<Budget>,
}

impl Provider {
    /// A provider of which nothing else is known.
    pub fn new(name: &str, vendor: &'static Vendor) -> Self {
        Self {
            name: name.into(),
            vendor,
            base_url: None,
            keys: Vec::new(),
            api_version: None,
            beta: None,
            budget: None,
        }
    }
}

/// The error for a request that can't be put into a provider's words.
fn unsupported(why: impl Into<String>) -> ProviderError {
    ProviderError::new(ErrorClass::Unsupported, why)
}
