//! Encodes calls for OpenAI. Azure, DeepSeek and compatible providers share this code. Its formats are in `wire/chat/`
//! and `wire/responses/`.
//!
//! Source: <https://developers.openai.com/api/reference>.

use super::{CallPlan, KeyIn, Quirks, UpstreamCall};
use crate::{
    error::ProviderError,
    price::{self, PriceList},
    provider::{Address, Environment, Vendor},
    wire::{
        Format,
        chat::Dialect,
        prompt::{Effort, Efforts},
        responses::MIN_OUTPUT,
    },
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
    let body = call.body(format, dialect(call.model));
    call.post(format, path(format), body, KeyIn::Authorization)
}

/// The dialect of one of OpenAI's models.
pub(super) fn dialect(model: &str) -> Dialect {
    let known = EFFORTS.iter().find(|(prefix, _)| model.starts_with(prefix));
    Dialect { efforts: known.map_or(Dialect::OPENAI.efforts, |(_, efforts)| *efforts), ..Dialect::OPENAI }
}

/// The efforts that models take, by the beginnings of their names; the first that fits decides
/// (<https://developers.openai.com/api/docs/guides/reasoning>, and the pages of the models). What is missing or has
/// changed is learned from the API's refusals.
const EFFORTS: [(&str, Efforts); 18] = {
    use Effort::{High, Low, Medium, Minimal, Off, Xhigh};
    let (none, upwards) = (Efforts::NONE, Efforts::between(Low, Xhigh));
    let (reasons, pro) = (Efforts::between(Low, High), Efforts::between(Medium, Xhigh));
    [
        ("gpt-3.5", none),
        ("gpt-4", none),
        ("o1", reasons),
        ("o3", reasons),
        ("o4", reasons),
        ("gpt-5-chat", none),
        ("gpt-5-codex", reasons),
        ("gpt-5-pro", Efforts::between(High, High)),
        ("gpt-5.1-codex-max", upwards),
        ("gpt-5.1-codex", reasons),
        ("gpt-5.1", reasons.with(Off)),
        ("gpt-5.2-codex", upwards),
        ("gpt-5.2-pro", pro),
        ("gpt-5.3-codex", upwards),
        ("gpt-5.4-pro", pro),
        // Later models do not take `minimal` any more.
        ("gpt-5.", upwards.with(Off)),
        ("gpt-5", Efforts::between(Minimal, High)),
        ("gpt-6", upwards.with(Off)),
    ]
};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_effort_is_fitted_to_the_model() {
        use Effort::{High, Low, Max, Medium, Minimal, Off, Xhigh};
        for (model, requested, expected) in [
            ("gpt-5-mini", Off, Some(Minimal)),
            ("gpt-5-nano-2025-08-07", Xhigh, Some(High)),
            ("gpt-5", Medium, Some(Medium)),
            ("o4-mini", Off, Some(Low)),
            ("o3", Max, Some(High)),
            ("gpt-5.1", Off, Some(Off)),
            ("gpt-5.1", Minimal, Some(Low)),
            ("gpt-5.2-codex", Off, Some(Low)),
            ("gpt-5.4-mini", Max, Some(Xhigh)),
            ("gpt-5-pro", Low, Some(High)),
            ("gpt-4.1", Off, None),
            ("my-deployment", Minimal, Some(Minimal)),
            ("my-deployment", Max, Some(Xhigh)),
        ] {
            assert_eq!(dialect(model).efforts.fit(requested), expected, "{model} {requested:?}");
        }
    }
}
