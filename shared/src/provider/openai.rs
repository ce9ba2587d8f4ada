//! Encodes calls for OpenAI. Azure, DeepSeek and compatible providers share this code. Its formats are in `wire/chat/`
//! and `wire/responses/`.
//!
//! Source: <https://developers.openai.com/api/reference>.

use super::{CallPlan, KeyIn, Quirks, UpstreamCall};
use crate::{
    error::ProviderError,
    price::{self, PriceList},
    provider::{Address, Environment, Vendor},
    wire::{Format, chat::Dialect, responses::MIN_OUTPUT},
};

/// OpenAI itself.
pub const VENDOR: Vendor = Vendor {
    kind: "openai",
    address: Address::Fixed("https://api.openai.com/v1"),
    needs_key: true,
    environment: Some(Environment { rank: 0, key: "OPENAI_API_KEY", url: None, model: "gpt-5-mini" }),
    options: &[],
    facts: |model| price::facts(PriceList::OpenAi, model),
    reports_cost: false,
    plan,
    image_tokens,
    takes_prefill: |_, _| false,
};

/// Plans a call of this vendor.
fn plan(call: &UpstreamCall<'_>) -> Result<CallPlan, ProviderError> {
    let format = format(call)?;
    let body = call.body(format, Dialect::OPENAI);
    call.post(format, path(format), body, KeyIn::Authorization)
}

/// The format in which a call is made. The API takes functions for its reasoning models in responses only, so requests
/// of other vendors' formats become responses; a chat request stays one until the API refuses its functions.
pub(super) fn format(call: &UpstreamCall<'_>) -> Result<Format, ProviderError> {
    let Quirks { lacks_responses, needs_responses, .. } = call.quirks;
    match call.request.format {
        Format::Embeddings => Ok(Format::Embeddings),
        Format::TokenCount => Err(super::unsupported("its API counts no tokens in this format")),
        Format::Chat if *needs_responses && call.request.has_tools => Ok(Format::Responses),
        Format::Chat => Ok(Format::Chat),
        Format::Responses | Format::Messages if *lacks_responses => Ok(Format::Chat),
        Format::Responses if call.prompt.is_none() => Ok(Format::Responses),
        Format::Responses | Format::Messages => {
            // Responses have no stop sequences, and no answers as short as the shortest of other formats.
            let is_short = call.max_output().is_some_and(|most| most < MIN_OUTPUT);
            let has_stops = call.prompt.map_or(call.request.has_stops, |prompt| !prompt.stop.is_empty());
            Ok(if is_short || has_stops { Format::Chat } else { Format::Responses })
        }
    }
}

/// Upper bound of the tokens of an image (<https://platform.openai.com/docs/guides/images-vision>). The older models
/// count tiles of 512 by 512 pixels, after they have scaled the image into 2,048 by 2,048 and its shorter side to 768;
/// the newer ones count patches of 32 by 32, by a factor of their own.
fn image_tokens(model: &str, pixels: Option<(u32, u32)>) -> u64 {
    const MOST_TILES: u64 = 8;
    let tiles = pixels.map_or(MOST_TILES, |(width, height)| {
        let (width, height) = (f64::from(width.max(1)), f64::from(height.max(1)));
        let scale = (2048.0 / width.max(height)).min(768.0 / width.min(height)).min(1.0);
        let tiles = |side: f64| (side * scale / 512.0).ceil();
        // Scaled sides are at most 2,048, so the product is small.
        ((tiles(width) * tiles(height)) as u64).clamp(1, MOST_TILES)
    });
    let patches =
        |most: u64| pixels.map_or(most, |(width, height)| super::squares(width, height, 32).min(most));
    // The factors in percent.
    let patched = |most: u64, percent: u64| patches(most).saturating_mul(percent).div_ceil(100);
    let is = |prefix: &str| model.starts_with(prefix);
    if is("gpt-4o-mini") {
        2_833 + 5_667 * tiles
    } else if is("gpt-4.1-nano") || is("gpt-5-nano") {
        patched(1_536, 246)
    } else if is("gpt-4.1-mini") || is("gpt-5-mini") {
        patched(1_536, 162)
    } else if is("o4-mini") {
        patched(1_536, 172)
    } else if is("gpt-4") || is("o1") || is("o3") || is("gpt-5-chat") || model == "gpt-5" {
        85 + 170 * tiles
    } else {
        patched(10_000, 120)
    }
}

/// The path of a format's endpoint, under the base URL.
pub(super) fn path(format: Format) -> &'static str {
    match format {
        Format::Chat | Format::Messages | Format::TokenCount => "/chat/completions",
        Format::Responses => "/responses",
        Format::Embeddings => "/embeddings",
    }
}
