//! Encodes calls for any provider with OpenAI's chat completions: vLLM, Groq, Mistral.

use super::{CallPlan, KeyIn, UpstreamCall, openai};
use crate::{
    error::ProviderError,
    price::{self, Facts},
    provider::{Address, Vendor},
    wire::{Format, chat::Dialect},
};

/// Most of them do not know OpenAI's newer name `max_completion_tokens`.
pub(super) const DIALECT: Dialect = Dialect { limit: "max_tokens", hints: false, ..Dialect::OPENAI };

/// Any provider with OpenAI's chat completions.
pub const VENDOR: Vendor = Vendor {
    kind: "compatible",
    address: Address::Configured("the URL before /chat/completions"),
    needs_key: false,
    environment: None,
    options: &[],
    facts: |model| Some(Facts { thinks: price::thinks(model), ..Facts::UNKNOWN }),
    reports_cost: false,
    plan,
    image_tokens: super::image_tokens,
    takes_prefill: |_, _| false,
};

/// Plans a call of this vendor.
pub(super) fn plan(call: &UpstreamCall<'_>) -> Result<CallPlan, ProviderError> {
    let format = match call.request.format {
        Format::Chat | Format::Responses | Format::Messages => Format::Chat,
        Format::Embeddings => Format::Embeddings,
        Format::TokenCount => return Err(super::unsupported("its API counts no tokens in this format")),
    };
    let body = call.body(format, DIALECT);
    call.post(format, openai::path(format), body, KeyIn::Authorization)
}
