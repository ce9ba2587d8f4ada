//! Encodes calls for Azure OpenAI, which has OpenAI's formats under its own URLs and its own header for the key.
//!
//! A model is a deployment. With `api_version` the path names the deployment, as in the older API; without it the v1
//! API is used. Source: <https://learn.microsoft.com/en-us/azure/ai-foundry/openai/reference>.

use super::{KeyIn, UpstreamCall, UpstreamRequest, openai};
use crate::{
    error::ProviderError,
    provider::{Address, Environment, Vendor},
    wire::{Format, chat::Dialect},
};

/// OpenAI's models at Azure.
pub const VENDOR: Vendor = Vendor {
    kind: "azure",
    address: Address::Configured("https://NAME.openai.azure.com"),
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
    takes_prefill: |_, _| false,
};

/// Encodes a call for this vendor.
fn encode(call: &UpstreamCall<'_>) -> Result<UpstreamRequest, ProviderError> {
    let version = call.provider.api_version.as_deref();
    let format = match call.request.format {
        // The older API has no `/responses`.
        Format::Responses if call.prompt.is_none() && version.is_none() => Format::Responses,
        Format::Chat | Format::Responses | Format::Messages => Format::Chat,
        Format::Embeddings => Format::Embeddings,
        Format::TokenCount => return Err(super::unsupported("its API counts no tokens in this format")),
    };
    let body = call.body(format, Dialect::OPENAI)?;
    let path = openai::path(format);
    let path = match version {
        Some(version) => format!("/openai/deployments/{}{path}?api-version={version}", call.model),
        None => format!("/openai/v1{path}"),
    };
    call.post(format, &path, body, KeyIn::Header("api-key"))
}
