//! Decides whether, and plans how, another call continues an interrupted answer. Pure; `relay.rs` and `gateway.rs` make the
//! call.

use super::splice::Splice;
use crate::{
    model::{Model, Rescue},
    provider::Vendor,
    usage::BYTES_PER_TOKEN,
    wire::{
        Block, Format, Prompt, Request, Transcript,
        prompt::{Message, Part, Role},
    },
};

/// The prompt that asks for the rest of an answer, and the splice that joins the rest to the beginning.
pub(super) struct Continuation {
    pub(super) prompt: Prompt,
    pub(super) splice: Splice,
}

/// Whether an answer that was continued `rescues` times before may be continued once more: each candidate may break off
/// once, and one of them once more.
pub(super) fn is_allowed(model: &Model, rescues: usize) -> bool {
    model.rescue == Rescue::Continue && rescues <= model.candidates.len()
}

/// Whether `answer` has used up the client's limit, except for too few tokens to ask for. Then the answer has ended: a
/// model that writes on to its limit stops there too.
pub(super) fn is_at_limit(request: &Request, answer: &Transcript) -> bool {
    is_text(answer) && tokens_left(request.max_output, answer).is_some_and(|left| left < MIN_REST_TOKENS)
}

/// Whether `answer` has text and thoughts only: the client may already have executed a tool call that it was shown, and
/// a refusal has no rest.
fn is_text(answer: &Transcript) -> bool {
    answer.blocks.iter().all(|block| matches!(block, Block::Text(_) | Block::Reasoning(_)))
}

/// The tokens that the client's limit leaves for the rest of an answer.
fn tokens_left(limit: Option<u64>, answer: &Transcript) -> Option<u64> {
    Some(limit?.saturating_sub(answer.bytes() as u64 / BYTES_PER_TOKEN))
}

/// How a model of this vendor is asked to continue `answer`; `None` if that could repeat or lose something.
pub(super) fn plan(
    request: &Request,
    answer: &Transcript,
    vendor: &Vendor,
    model: &str,
) -> Option<Continuation> {
    let mut prompt = request.prompt().ok()?.clone();
    if !prompt.untranslatable.is_empty() || answer.is_too_long() || !is_text(answer) {
        return None;
    }
    // Anthropic's clients send thoughts back with every later request, and the API refuses a thought without its
    // signature.
    let is_unsigned = |block: &Block| match block {
        Block::Reasoning(thought) => thought.signature.is_none() && thought.redacted.is_none(),
        _ => false,
    };
    if request.format == Format::Messages && answer.blocks.last().is_some_and(is_unsigned) {
        return None;
    }
    let text = answer.text();
    if text.is_empty() {
        return Some(Continuation { prompt, splice: Splice::after_instruction(String::new()) });
    }
    let supports_prefill = (vendor.takes_prefill)(model, &prompt);
    // With a response format, a model without prefill writes a whole new document instead of the rest.
    if prompt.format.is_some() && !supports_prefill {
        return None;
    }
    prompt.max_output = tokens_left(prompt.max_output, answer);
    if is_at_limit(request, answer) {
        return None;
    }
    let assistant =
        |text: &str| Message { role: Role::Assistant, parts: vec![Part::Text(text.to_owned().into())] };
    if supports_prefill {
        // The vendors refuse white space at the end of a prefill.
        prompt.messages.push(assistant(text.trim_end()));
        return Some(Continuation { splice: Splice::after_prefill(&text), prompt });
    }
    prompt.messages.push(assistant(&text));
    let start = text.char_indices().rev().nth(QUOTED_CHARS).map_or(0, |(at, _)| at);
    let tail = text.get(start..).unwrap_or_default();
    let instruction = format!(
        "Your previous response was interrupted and ended with [{tail}]. Continue from where you left off. \
         Write only what comes next, and repeat nothing."
    );
    prompt.messages.push(Message { role: Role::User, parts: vec![Part::Text(instruction.into())] });
    Some(Continuation { splice: Splice::after_instruction(text), prompt })
}

/// Characters of the answer's end that are quoted: enough for the model to find the place, and cheap.
const QUOTED_CHARS: usize = 200;

/// Fewest tokens to ask for: a shorter rest is not worth a call.
const MIN_REST_TOKENS: u64 = 16;
