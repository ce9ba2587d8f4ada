//! Azure OpenAI: OpenAI's formats at an address and with a key of its own.
//!
//! A model here is a deployment. With `api_version` the older addresses are used, which name the deployment in the path;
//! without, the v1 API. Source: <https://learn.microsoft.com/en-us/azure/ai-foundry/openai/reference>.

use super::{KeyIn, UpstreamCall, UpstreamRequest, openai};
use crate::{
    error::ProviderError,
    provider::{Address, Environment, Vendor},
    wire::{Format, chat::Dialect},
};

/// OpenAI's models at Azure.
pub const VENDOR: Vendor = Vendor {
    kind: "azure",
    address: Address::Given("https://NAME.openai.azure.com"),
    needs_key: true,
    environment: Some(Environment {
        rank: 3,
        key: "AZURE_OPENAI_API_KEY",
        url: Some("AZURE_OPENAI_ENDPOINT"),
        model: "gpt-5-mini",
    }),
    options: &["api_version"],
    facts: openai::VENDOR.facts,
    encode,
    classify: openai::classify,
    continues: |_, _| false,
};

/// The call that `order` makes here.
fn encode(order: &UpstreamCall<'_>) -> Result<UpstreamRequest, ProviderError> {
    let version = order.provider.api_version.as_deref();
    let format = match order.request.format {
        // The older addresses know no responses.
        Format::Responses if order.prompt.is_none() && version.is_none() => Format::Responses,
        Format::Chat | Format::Responses | Format::Messages => Format::Chat,
        Format::Embeddings => Format::Embeddings,
        Format::TokenCount => return Err(super::unsupported("it does not count tokens in this way")),
    };
    let body = order.body(format, Dialect::OPENAI)?;
    let path = openai::path(format);
    let path = match version {
        Some(version) => format!("/openai/deployments/{}{path}?api-version={version}", order.model),
        None => format!("/openai/v1{path}"),
    };
    order.post(format, &path, body, KeyIn::Header("api-key"))
}
