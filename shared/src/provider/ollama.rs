//! Describes Ollama, which runs models on the operator's own machines, with OpenAI's chat completions and embeddings.
//!
//! It cuts off the beginning of a prompt that is longer than its context (`OLLAMA_CONTEXT_LENGTH`) and says nothing.
//! Source: <https://docs.ollama.com/api/openai-compatibility>.

use super::compatible;
use crate::provider::{Address, Facts, Vendor};

/// Ollama. Its models have no price, unless the operator sets one.
pub const VENDOR: Vendor = Vendor {
    kind: "ollama",
    address: Address::Fixed("http://127.0.0.1:11434/v1"),
    needs_key: false,
    environment: None,
    options: &[],
    facts: |_| Some(Facts::FREE),
    reports_cost: false,
    plan: compatible::plan,
    image_tokens: super::image_tokens,
    takes_prefill: |_, _| false,
};
