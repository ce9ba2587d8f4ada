//! Encodes calls for DeepSeek, which has OpenAI's chat completions, requires earlier thoughts in the prompt, and takes
//! a prefill.
//!
//! Source: <https://api-docs.deepseek.com>.

use super::{CallPlan, KeyIn, UpstreamCall, openai};
use crate::{
    error::ProviderError,
    price::{self, PriceList},
    provider::{Address, Environment, Vendor},
    wire::{Format, chat::Dialect, prompt::Efforts},
};

/// DeepSeek.
pub const VENDOR: Vendor = Vendor {
    kind: "deepseek",
    address: Address::Fixed("https://api.deepseek.com"),
    needs_key: true,
    environment: Some(Environment { rank: 2, key: "DEEPSEEK_API_KEY", url: None, model: "deepseek-flash" }),
    options: &[],
    facts: |model| price::facts(PriceList::DeepSeek, model),
    reports_cost: false,
    plan,
    image_tokens: super::image_tokens,
    takes_prefill: |_, _| true,
};

/// Its efforts and the switch: <https://api-docs.deepseek.com/guides/thinking_mode>.
const DIALECT: Dialect = Dialect {
    limit: "max_tokens",
    replays_reasoning: true,
    prefix: true,
    schemas: false,
    developer: false,
    efforts: Efforts::ALL,
    thinking_switch: true,
    hints: false,
};

/// Plans a call of this vendor.
fn plan(call: &UpstreamCall<'_>) -> Result<CallPlan, ProviderError> {
    match call.request.format {
        Format::Chat | Format::Responses | Format::Messages => {}
        Format::Embeddings => return Err(super::unsupported("its API has no embeddings")),
        Format::TokenCount => return Err(super::unsupported("its API counts no tokens in this format")),
    }
    let body = call.body(Format::Chat, DIALECT);
    // Only the beta API takes a prefill.
    let beta = if call.has_prefill() { "/beta" } else { "" };
    let path = format!("{beta}{}", openai::path(Format::Chat));
    call.post(Format::Chat, &path, body, KeyIn::Authorization)
}
