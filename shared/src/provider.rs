//! Providers: how each vendor is called, and what its failures mean.
//!
//! A vendor's file encodes a call and classifies an error; what an answer says is read by its wire format. No client is
//! in here.

pub mod anthropic;
pub mod azure;
pub mod compatible;
pub mod deepseek;
pub mod demo;
pub mod openai;
mod order;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::{
    config::ProviderKind,
    error::{Class, ProviderError},
};
use order::KeyIn;
pub use order::{Order, Upstream};

/// The call that `order` makes.
pub fn encode(order: &Order<'_>) -> Result<Upstream, ProviderError> {
    match order.provider.kind {
        ProviderKind::OpenAi => openai::encode(order),
        ProviderKind::Azure => azure::encode(order),
        ProviderKind::Anthropic => anthropic::encode(order),
        ProviderKind::DeepSeek => deepseek::encode(order),
        ProviderKind::Compatible => compatible::encode(order),
        ProviderKind::Demo => Err(unsupported("it is built in")),
    }
}

/// What an answer of a provider with a status other than success means.
pub fn classify(kind: ProviderKind, status: StatusCode, headers: &HeaderMap, body: &Bytes) -> ProviderError {
    match kind {
        ProviderKind::Anthropic => anthropic::classify(status, headers, body),
        _ => openai::classify(status, headers, body),
    }
}

/// The error for a request that can't be put into a provider's words.
fn unsupported(why: impl Into<String>) -> ProviderError {
    ProviderError::new(Class::Unsupported, why)
}
