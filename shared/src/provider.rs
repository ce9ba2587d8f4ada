//! Encodes calls for the vendors of models, in one file for each vendor, and classifies refusals of all of them.
//!
//! A new vendor is one file with a [`Vendor`] and a line in [`VENDORS`]. Sends nothing: the gateway does. `wire/` reads
//! successful answers.

pub mod anthropic;
pub mod azure;
pub mod compatible;
pub mod deepseek;
pub mod demo;
mod error_text;
pub mod ollama;
pub mod openai;
pub mod openrouter;
mod quirks;
mod refusal;
mod upstream;

use std::fmt;

use http::{HeaderValue, Uri};

use crate::{
    error::{ErrorClass, ProviderError},
    money::Budget,
    price::Facts,
    secret::Secret,
    wire::Prompt,
};
pub(crate) use error_text::error_text;
pub use quirks::Quirks;
pub use refusal::classify;
use upstream::KeyIn;
pub use upstream::{CallPlan, CallSize, UpstreamCall, UpstreamRequest};

/// Every vendor, in the order in which the configuration's errors list their kinds.
pub const VENDORS: [&Vendor; 8] = [
    &openai::VENDOR,
    &azure::VENDOR,
    &anthropic::VENDOR,
    &deepseek::VENDOR,
    &openrouter::VENDOR,
    &ollama::VENDOR,
    &compatible::VENDOR,
    &demo::VENDOR,
];

/// A vendor of models: everything that differs between vendors.
pub struct Vendor {
    /// The `kind` of its providers in `agent.toml`.
    pub kind: &'static str,
    /// The address of its API.
    pub address: Address,
    /// Whether its providers need a key.
    pub needs_key: bool,
    /// The environment variables that make a provider, for a file without any; `None` if there are none.
    pub environment: Option<Environment>,
    /// The keys of `[[provider]]` that only this vendor has.
    pub options: &'static [&'static str],
    /// The price and limits of one of its models; `None` if the model is unknown.
    pub facts: fn(model: &str) -> Option<Facts>,
    /// Whether it says in its usage what an answer cost, in dollars. That is billed instead of the price.
    pub reports_cost: bool,
    /// Plans the HTTP request of a call.
    pub plan: fn(&UpstreamCall<'_>) -> Result<CallPlan, ProviderError>,
    /// Upper bound of the tokens of an image, with its width and height in pixels if they are known.
    pub image_tokens: fn(model: &str, pixels: Option<(u32, u32)>) -> u64,
    /// Whether a model takes a prefill: continues an assistant's message at the end of the prompt word for word.
    pub takes_prefill: fn(model: &str, prompt: &Prompt) -> bool,
}

/// The address of a vendor's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// One URL for all accounts, which the operator may override.
    Fixed(&'static str),
    /// A URL that the operator must configure; the text describes it in errors.
    Configured(&'static str),
    /// None: this process answers itself.
    BuiltIn,
}

/// The environment variables that make a provider of a vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Its position among the candidates of the model `default`, lowest first.
    pub rank: u8,
    /// The variable with the key.
    pub key: &'static str,
    /// The variable with the URL, if the vendor has no fixed one.
    pub url: Option<&'static str>,
    /// The model that is called.
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
    /// Whether this process answers itself, without a network.
    pub fn is_built_in(&self) -> bool {
        self.address == Address::BuiltIn
    }

    /// The URL of its API, if it is the same for all accounts.
    pub fn url(&self) -> Option<Uri> {
        match self.address {
            Address::Fixed(url) => Some(Uri::from_static(url)),
            Address::Configured(_) | Address::BuiltIn => None,
        }
    }
}

/// `[[provider]]`: an account at a vendor.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Its name in candidates and in the status.
    pub name: String,
    /// The vendor.
    pub vendor: &'static Vendor,
    /// The base URL of its API, without a slash at the end; `None` for a provider that is built in.
    pub base_url: Option<Uri>,
    /// Its keys, which are sent to this provider only. Each is used while the ones before it are refused.
    pub keys: Vec<Secret>,
    /// Azure's `api-version`; `None` selects the v1 API, which has no versions.
    pub api_version: Option<String>,
    /// The value of Anthropic's header `anthropic-beta`.
    pub beta: Option<HeaderValue>,
    /// Which values of a caller's `anthropic-beta` are sent beside it.
    pub caller_betas: CallerBetas,
    /// The budget of this provider.
    pub budget: Option<Budget>,
}

/// Which betas of a caller reach Anthropic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CallerBetas {
    /// All of them.
    #[default]
    Pass,
    /// None.
    None,
    /// Those in the list.
    Only(Vec<String>),
}

impl CallerBetas {
    /// Whether a beta of this name is sent.
    pub fn allows(&self, name: &str) -> bool {
        match self {
            Self::Pass => true,
            Self::None => false,
            Self::Only(names) => names.iter().any(|allowed| allowed == name),
        }
    }
}

impl Provider {
    /// A provider without URL, keys, options or budget.
    pub fn new(name: &str, vendor: &'static Vendor) -> Self {
        Self {
            name: name.into(),
            vendor,
            base_url: None,
            keys: Vec::new(),
            api_version: None,
            beta: None,
            caller_betas: CallerBetas::default(),
            budget: None,
        }
    }
}

/// The tokens of an image as far as vendors without a rule of their own are known to count them: one for each 28 by 28
/// pixels, at most 16,384 (<https://github.com/QwenLM/Qwen3-VL>).
fn image_tokens(_: &str, pixels: Option<(u32, u32)>) -> u64 {
    const MOST: u64 = 16_384;
    pixels.map_or(MOST, |(width, height)| squares(width, height, 28).min(MOST))
}

/// How many squares with sides of `side` pixels cover an image.
fn squares(width: u32, height: u32, side: u32) -> u64 {
    u64::from(width.div_ceil(side)).saturating_mul(u64::from(height.div_ceil(side)))
}

/// The error for a request that the provider's format can't express.
fn unsupported(why: impl Into<String>) -> ProviderError {
    ProviderError::new(ErrorClass::Unsupported, why)
}
