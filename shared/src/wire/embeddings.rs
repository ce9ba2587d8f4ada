//! Checks answers with OpenAI's embeddings, and counts their tokens. They are passed on unchanged and never translated,
//! since vectors of two models cannot be compared.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    decoder::{no_error, parse_answer},
    delta::Delta,
};
use crate::{
    error::{ErrorClass, ProviderError},
    json::IsPresent,
    usage::Usage,
};

#[derive(Deserialize)]
struct EmbeddingsAnswer<'a> {
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(default)]
    data: IsPresent,
    #[serde(default)]
    usage: Option<Counts>,
}

#[derive(Deserialize)]
struct Counts {
    #[serde(default)]
    prompt_tokens: Option<u64>,
}

/// Fails unless the answer has embeddings; sends its usage to `sink`.
pub fn decode(body: &[u8], sink: &mut dyn FnMut(Delta<'_>)) -> Result<(), ProviderError> {
    let answer: EmbeddingsAnswer<'_> = parse_answer(body, "a list of embeddings")?;
    no_error(answer.error)?;
    if !answer.data.0 {
        return Err(ProviderError::new(ErrorClass::Server, "the provider's answer has no embeddings"));
    }
    if let Some(tokens) = answer.usage.and_then(|usage| usage.prompt_tokens) {
        sink(Delta::Usage(Usage { input: tokens, ..Usage::default() }));
    }
    Ok(())
}
