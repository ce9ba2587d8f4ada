//! Anything that speaks OpenAI's chat completions: OpenRouter, vLLM, Ollama, Groq, Mistral.

use super::{KeyIn, UpstreamCall, UpstreamRequest, openai};
use crate::{
    error::ProviderError,
    provider::{Address, Vendor},
    wire::{Format, chat::Dialect},
};

/// Most of them do not know OpenAI's new name for the limit.
const DIALECT: Dialect = Dialect { limit: "max_tokens", ..Dialect::OPENAI };

/// Anything that speaks OpenAI's chat completions.
pub const VENDOR: Vendor = Vendor {
    kind: "compatible",
    address: Address::Given("the URL before /chat/completions"),
    needs_key: false,
    environment: None,
    options: &[],
    facts: |_| None,
    encode,
    classify: openai::classify,
    continues: |_, _| false,
};

/// The call that `order` makes here.
fn encode(order: &UpstreamCall<'_>) -> Result<UpstreamRequest, ProviderError> {
    let format = match order.request.format {
        Format::Chat | Format::Responses | Format::Messages => Format::Chat,
        Format::Embeddings => Format::Embeddings,
        Format::TokenCount => return Err(super::unsupported("it does not count tokens in this way")),
    };
    let body = order.body(format, DIALECT)?;
    order.post(format, openai::path(format), body, KeyIn::Authorization)
}
