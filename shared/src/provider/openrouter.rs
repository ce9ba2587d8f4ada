//! Encodes calls for OpenRouter, which has other vendors' models under OpenAI's chat completions. Its keep-alives are
//! comments (`: OPENROUTER PROCESSING`), which the decoder of events skips.
//!
//! Every answer says what it cost, and that is billed
//! (<https://openrouter.ai/docs/cookbook/administration/usage-accounting>). What is reserved before comes from the
//! table of the model's vendor. A provider behind OpenRouter may be dearer, so under a budget the call excludes those.

use super::{CallPlan, KeyIn, UpstreamCall, compatible, openai};
use crate::{
    error::ProviderError,
    money::NanoUsd,
    price::{self, PriceList, Rates},
    provider::{Address, Environment, Facts, Vendor},
    wire::Format,
};

/// OpenRouter.
pub const VENDOR: Vendor = Vendor {
    kind: "openrouter",
    address: Address::Fixed("https://openrouter.ai/api/v1"),
    needs_key: true,
    environment: Some(Environment {
        rank: 4,
        key: "OPENROUTER_API_KEY",
        url: None,
        model: "openai/gpt-5-mini",
    }),
    options: &[],
    facts,
    reports_cost: true,
    plan,
    image_tokens: super::image_tokens,
    takes_prefill: |_, _| false,
};

/// Plans a call of this vendor.
fn plan(call: &UpstreamCall<'_>) -> Result<CallPlan, ProviderError> {
    let format = match call.request.format {
        Format::Chat | Format::Responses | Format::Messages => Format::Chat,
        Format::Embeddings => Format::Embeddings,
        Format::TokenCount => return Err(super::unsupported("its API counts no tokens in this format")),
    };
    let mut body = call.body(format, compatible::DIALECT);
    if let (Format::Chat, Some(rates)) = (format, call.max_price) {
        // A budget refuses a request that has the field itself.
        body = body.with_field("provider", max_price(rates));
    }
    call.post(format, openai::path(format), body, KeyIn::Authorization)
}

/// The preference for providers with at most these rates: if there is none, the request fails
/// (<https://openrouter.ai/docs/guides/routing/provider-selection>).
fn max_price(rates: Rates) -> String {
    // In dollars for a million tokens; a rate is in nano-dollars for a thousand.
    let dollars = |rate: u64| NanoUsd(rate.saturating_mul(1000));
    let (prompt, completion) = (dollars(rates.input), dollars(rates.output));
    format!(r#"{{"max_price":{{"prompt":{prompt},"completion":{completion}}}}}"#)
}

/// The price and limits of `vendor/model`, from the table of its vendor.
fn facts(model: &str) -> Option<Facts> {
    let (name, variant) = model.split_once(':').unwrap_or((model, ""));
    match variant {
        "free" => return Some(Facts::FREE),
        // They only choose among the providers of the model.
        "" | "nitro" | "floor" | "exacto" => {}
        // Others cost more, such as `online`, which searches the web.
        _ => return None,
    }
    match name.split_once('/')? {
        ("openai", name) => price::facts(PriceList::OpenAi, name),
        // Anthropic's own names have no points: `claude-opus-4.8` is its `claude-opus-4-8`.
        ("anthropic", name) => price::facts(PriceList::Anthropic, &name.replace('.', "-")),
        ("deepseek", name) => price::facts(PriceList::DeepSeek, name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_those_of_the_models_vendor() {
        let output = |model: &str| Some(facts(model)?.price?.rates.output);
        assert_eq!(output("openai/gpt-5-mini"), Some(2_000_000));
        assert_eq!(output("anthropic/claude-opus-4.8"), Some(25_000_000));
        assert_eq!(output("anthropic/claude-opus-4.8:nitro"), Some(25_000_000));
        assert_eq!(output("meta-llama/llama-4:free"), Some(0));
        for unknown in ["meta-llama/llama-4", "openai/gpt-5-mini:online", "gpt-5-mini", "openrouter/auto"] {
            assert_eq!(output(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_price_is_written_in_dollars_for_a_million_tokens() {
        let rates = Rates { input: 250_000, output: 2_000_000, ..Rates::default() };
        assert_eq!(max_price(rates), r#"{"max_price":{"prompt":0.25,"completion":2.00}}"#);
    }
}
