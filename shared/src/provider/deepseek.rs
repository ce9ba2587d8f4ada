//! DeepSeek: OpenAI's format, with thoughts that must come back and answers that can be taken up in the middle.
//!
//! Source: <https://api-docs.deepseek.com>.

use super::{KeyIn, UpstreamCall, UpstreamRequest, openai};
use crate::{
    error::ProviderError,
    price::{self, PriceList},
    provider::{Address, Environment, Vendor},
    wire::{Format, chat::Dialect},
};

/// DeepSeek.
pub const VENDOR: Vendor = Vendor {
    kind: "deepseek",
    address: Address::At("https://api.deepseek.com"),
    needs_key: true,
    environment: Some(Environment { rank: 2, key: "DEEPSEEK_API_KEY", url: None, model: "deepseek-flash" }),
    options: &[],
    facts: |model| price::facts(PriceList::DeepSeek, model),
    encode,
    classify: openai::classify,
    continues: |_, _| true,
};

const DIALECT: Dialect =
    Dialect { limit: "max_tokens", replays_reasoning: true, prefix: true, schemas: false };

/// The call that `order` makes here.
fn encode(order: &UpstreamCall<'_>) -> Result<UpstreamRequest, ProviderError> {
    match order.request.format {
        Format::Chat | Format::Responses | Format::Messages => {}
        Format::Embeddings => return Err(super::unsupported("it has no embeddings")),
        Format::TokenCount => return Err(super::unsupported("it does not count tokens in this way")),
    }
    let body = order.body(Format::Chat, DIALECT)?;
    // Only the beta address writes on from a beginning.
    let beta = if order.continues() { "/beta" } else { "" };
    let path = format!("{beta}{}", openai::path(Format::Chat));
    order.post(Format::Chat, &path, body, KeyIn::Authorization)
}
