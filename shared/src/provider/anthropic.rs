//! Encodes calls for Anthropic. Its formats are in `wire/messages/`.
//!
//! Source: <https://platform.claude.com/docs/en/api/overview>.

use http::{HeaderName, HeaderValue};

use super::{KeyIn, UpstreamCall, UpstreamRequest, Vendor, unsupported};
use crate::{
    error::ProviderError,
    price::{self, PriceList},
    provider::{Address, Environment},
    wire::{Format, messages::Dialect},
};

/// Anthropic.
pub const VENDOR: Vendor = Vendor {
    kind: "anthropic",
    address: Address::Fixed("https://api.anthropic.com/v1"),
    needs_key: true,
    environment: Some(Environment {
        rank: 1,
        key: "ANTHROPIC_API_KEY",
        url: None,
        model: "claude-haiku-4-5",
    }),
    options: &["beta"],
    facts: |model| price::facts(PriceList::Anthropic, model),
    encode,
    image_tokens,
    takes_prefill: |model, prompt| takes_prefill(model) && prompt.effort.is_none(),
};

/// The API version that this file implements.
const VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");

/// Encodes a call for this vendor.
fn encode(call: &UpstreamCall<'_>) -> Result<UpstreamRequest, ProviderError> {
    let (format, path) = match call.request.format {
        Format::Chat | Format::Responses | Format::Messages => (Format::Messages, "/messages"),
        Format::TokenCount => (Format::TokenCount, "/messages/count_tokens"),
        Format::Embeddings => return Err(unsupported("its API has no embeddings")),
    };
    let body = call.messages_body(format, dialect(call.model))?;
    let mut upstream = call.post(format, path, body, KeyIn::Header("x-api-key"))?;
    let headers = upstream.request.headers_mut();
    headers.insert(HeaderName::from_static("anthropic-version"), VERSION);
    if let Some(beta) = &call.provider.beta {
        headers.insert(HeaderName::from_static("anthropic-beta"), beta.clone());
    }
    Ok(upstream)
}

/// What the model accepts.
fn dialect(model: &str) -> Dialect {
    let version = version(model);
    Dialect {
        max_output: (VENDOR.facts)(model).and_then(|facts| facts.output_tokens),
        adaptive: version >= (4, 6),
        fixed_sampling: version >= (4, 7),
        schemas: version >= (4, 1),
        system_messages: version >= (4, 8),
    }
}

/// Upper bound of the tokens of an image: a token for each 750 pixels, of images that the vendor has scaled down to what
/// the model takes (<https://platform.claude.com/docs/en/build-with-claude/vision>).
fn image_tokens(model: &str, pixels: Option<(u32, u32)>) -> u64 {
    let most = if version(model) >= (4, 7) { 4_784 } else { 1_600 };
    pixels.map_or(most, |(width, height)| {
        let area = u64::from(width).saturating_mul(u64::from(height)).div_ceil(750);
        // Images with a side below a square count as that square.
        area.max(super::squares(width, height, 28)).min(most)
    })
}

/// Whether the model takes a prefill. From 4.6 on it rejects an assistant's message at the end of the prompt
/// (<https://platform.claude.com/docs/en/build-with-claude/streaming>).
fn takes_prefill(model: &str) -> bool {
    version(model) < (4, 6)
}

/// The model's version, from names such as `claude-haiku-4-5-20251001`, `claude-3-7-sonnet-latest` and
/// `claude-opus-5`. A name without a version counts as the newest.
fn version(model: &str) -> (u32, u32) {
    let mut numbers = model.split(['-', '.', '@']).filter_map(|part| {
        // Longer numbers are dates.
        part.parse::<u32>().ok().filter(|_| part.len() <= 2)
    });
    match numbers.next() {
        Some(major) => (major, numbers.next().unwrap_or_default()),
        None => (u32::MAX, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_names() {
        for (model, expected) in [
            ("claude-haiku-4-5-20251001", (4, 5)),
            ("claude-3-7-sonnet-latest", (3, 7)),
            ("claude-opus-4-20250514", (4, 0)),
            ("claude-opus-5", (5, 0)),
            ("claude-sonnet-4.6", (4, 6)),
            ("next", (u32::MAX, 0)),
        ] {
            assert_eq!(version(model), expected, "{model}");
        }
    }
}
