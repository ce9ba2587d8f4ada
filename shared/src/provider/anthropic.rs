//! Encodes calls for Anthropic. Its formats are in `wire/messages/`.
//!
//! Source: <https://platform.claude.com/docs/en/api/overview>.

use http::{HeaderName, HeaderValue};

use super::{CallPlan, KeyIn, UpstreamCall, Vendor, unsupported};
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
    options: &["beta", "caller_betas"],
    facts: |model| price::facts(PriceList::Anthropic, model),
    reports_cost: false,
    plan,
    image_tokens,
    takes_prefill: |model, prompt| takes_prefill(model) && prompt.effort.is_none(),
};

/// The API version that this file implements.
const VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");

/// Plans a call of this vendor.
fn plan(call: &UpstreamCall<'_>) -> Result<CallPlan, ProviderError> {
    let (format, path) = match call.request.format {
        Format::Chat | Format::Responses | Format::Messages => (Format::Messages, "/messages"),
        Format::TokenCount => (Format::TokenCount, "/messages/count_tokens"),
        Format::Embeddings => return Err(unsupported("its API has no embeddings")),
    };
    let body = call.messages_body(format, dialect(call.model, call.most_output));
    let mut plan = call.post(format, path, body, KeyIn::Header("x-api-key"))?;
    let headers = plan.request.headers_mut();
    headers.insert(HeaderName::from_static("anthropic-version"), VERSION);
    let (betas, dropped) = betas(call);
    if let Some(betas) = HeaderValue::from_str(&betas).ok().filter(|betas| !betas.is_empty()) {
        headers.insert(HeaderName::from_static("anthropic-beta"), betas);
    }
    plan.dropped = dropped;
    Ok(plan)
}

/// The betas of a call: the provider's own, then those of the caller that may be sent. Also returns the names of those
/// that are left out because a budget can't price what they turn on.
fn betas(call: &UpstreamCall<'_>) -> (String, Vec<String>) {
    let own = call.provider.beta.as_ref().and_then(|beta| beta.to_str().ok()).unwrap_or_default();
    let mut names: Vec<&str> = own.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let mut dropped = Vec::new();
    let sends_callers = matches!(call.request.format, Format::Messages | Format::TokenCount);
    let callers = call.request.betas.iter().map(String::as_str);
    for name in callers.filter(|name| sends_callers && call.provider.caller_betas.allows(name)) {
        if call.is_priced && !PRICED_BETAS.iter().any(|prefix| name.starts_with(prefix)) {
            dropped.push(format!("anthropic-beta: {name}"));
        } else if !names.contains(&name) {
            names.push(name);
        }
    }
    (names.join(","), dropped)
}

/// Beginnings of betas that turn on nothing but tokens at the usual prices. What others turn on is billed on top:
/// searches, the execution of code, a larger context, faster answers.
#[rustfmt::skip]
const PRICED_BETAS: &[&str] = &[
    "adaptive-thinking-", "advanced-tool-use-", "claude-code-", "context-management-", "effort-", "extended-cache-ttl-",
    "fine-grained-tool-streaming-", "interleaved-thinking-", "max-tokens-", "mid-conversation-system-", "oauth-",
    "output-128k-", "prompt-caching-", "redact-thinking-", "structured-outputs-", "thinking-", "token-counting-",
    "token-efficient-tools-", "tool-examples-",
];

/// What the model accepts.
fn dialect(model: &str, most_output: Option<u64>) -> Dialect {
    let (version, family) = (version(model), family(model));
    Dialect {
        max_output: most_output.unwrap_or(if version >= (4, 0) { OUTPUT_OF_4 } else { OUTPUT_OF_3 }),
        adaptive: version >= (4, 6),
        fixed_sampling: version >= (4, 7),
        schemas: version >= (4, 1),
        system_messages: version >= (4, 8),
        forced_calls: version < family.refuses_forced_calls,
        no_thinking: if version < family.refuses_disabled { Some("disabled") } else { family.no_thinking },
    }
}

/// From which version on the models of a family refuse what the older ones take.
struct Family {
    name: &'static str,
    /// `tool_choice` of the types `any` and `tool`.
    refuses_forced_calls: (u32, u32),
    /// `thinking` of the type `disabled`.
    refuses_disabled: (u32, u32),
    /// The type that replaces it; `None` if the models always think.
    no_thinking: Option<&'static str>,
}

/// No version so far.
const NEVER: (u32, u32) = (u32::MAX, u32::MAX);

/// The families (<https://platform.claude.com/docs/en/models/opus-5-5/whats-new-opus-5-5>, and the same for each model).
#[rustfmt::skip]
const FAMILIES: [Family; 4] = [
    Family { name: "haiku", refuses_forced_calls: NEVER, refuses_disabled: NEVER, no_thinking: None },
    Family { name: "sonnet", refuses_forced_calls: (5, 5), refuses_disabled: (5, 5), no_thinking: Some("between_tools") },
    Family { name: "fable", refuses_forced_calls: (5, 1), refuses_disabled: (5, 0), no_thinking: None },
    Family { name: "mythos", refuses_forced_calls: (5, 1), refuses_disabled: (5, 0), no_thinking: None },
];

/// Opus, and every family that the table does not know.
const OTHERS: Family =
    Family { name: "", refuses_forced_calls: (5, 5), refuses_disabled: (5, 5), no_thinking: None };

fn family(model: &str) -> &'static Family {
    FAMILIES.iter().find(|family| model.contains(family.name)).unwrap_or(&OTHERS)
}

/// The output tokens of an answer that every model since version 4 takes, and every one since version 3, for models that
/// neither the table nor a `[[price]]` knows (<https://platform.claude.com/docs/en/about-claude/models/overview>).
const OUTPUT_OF_4: u64 = 32_000;
const OUTPUT_OF_3: u64 = 4_096;

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

    #[test]
    fn families_differ_in_what_they_refuse() {
        for (model, forced_calls, no_thinking) in [
            ("claude-haiku-5-5", true, Some("disabled")),
            ("claude-sonnet-5", true, Some("disabled")),
            ("claude-sonnet-5-5", false, Some("between_tools")),
            ("claude-opus-5", true, Some("disabled")),
            ("claude-opus-5-5-20260922", false, None),
            ("claude-fable-5", true, None),
            ("claude-fable-5-1", false, None),
            ("claude-mythos-5-1", false, None),
            ("next", false, None),
        ] {
            let dialect = dialect(model, None);
            assert_eq!((dialect.forced_calls, dialect.no_thinking), (forced_calls, no_thinking), "{model}");
        }
    }

    #[test]
    fn a_model_outside_the_table_has_a_limit_too() {
        for (model, known, expected) in [
            ("claude-opus-9", None, OUTPUT_OF_4),
            ("claude-3-opus-latest", None, OUTPUT_OF_3),
            ("claude-opus-9", Some(9), 9),
        ] {
            assert_eq!(dialect(model, known).max_output, expected, "{model}");
        }
    }
}
