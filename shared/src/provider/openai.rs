//! Encodes calls for OpenAI. Azure, DeepSeek and compatible providers share this code. Its formats are in `wire/chat/` and `wire/responses/`.
//!
//! Source: <https://developers.openai.com/api/reference>.

use super::{KeyIn, UpstreamCall, UpstreamRequest};
use crate::{
    error::ProviderError,
    price::{self, PriceList},
    provider::{Address, Environment, Vendor},
    wire::{Format, chat::Dialect},
};

/// OpenAI itself.
pub const VENDOR: Vendor = Vendor {
    kind: "openai",
    address: Address::Fixed("https://api.openai.com/v1"),
    needs_key: true,
    environment: Some(Environment { rank: 0, key: "OPENAI_API_KEY", url: None, model: "gpt-5-mini" }),
    options: &[],
    facts: |model| price::facts(PriceList::OpenAi, model),
    encode,
    takes_prefill: |_, _| false,
};

/// Encodes a call for this vendor.
fn encode(call: &UpstreamCall<'_>) -> Result<UpstreamRequest, ProviderError> {
    let format = match call.request.format {
        Format::Responses if call.prompt.is_none() => Format::Responses,
        Format::Chat | Format::Responses | Format::Messages => Format::Chat,
        Format::Embeddings => Format::Embeddings,
        Format::TokenCount => return Err(super::unsupported("its API counts no tokens in this format")),
    };
    let body = call.body(format, Dialect::OPENAI)?;
    call.post(format, path(format), body, KeyIn::Authorization)
}

/// The path of a format's endpoint, under the base URL.
pub(super) fn path(format: Format) -> &'static str {
    match format {
        Format::Chat | Format::Messages | Format::TokenCount => "/chat/completions",
        Format::Responses => "/responses",
        Format::Embeddings => "/embeddings",
    }
}
